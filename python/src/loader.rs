//! The loader's calls for Python, one to one; `forebay.DataLoader` gives them their manners.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_gpu::Which;
use forebay_loader::Error;
use forebay_loader::agree::Terms;
use forebay_loader::device::{DecodeOn, DeviceSettings};
use forebay_loader::loader::{Loader as Inner, Next};
use forebay_loader::options::{CacheSettings, DEFAULT_PATIENCE, LoaderOptions, OnError};
use forebay_loader::plan::OrderMode;
use forebay_loader::report::Progress;
use forebay_loader::stats::LoaderStats;
use forebay_loader::trace::{DEFAULT_MOST_EVENTS, Trace, check_place};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::Serialize;

use crate::error::{check, raise};
use crate::fork::Owned;
use crate::wait::{SLICE, interruptibly};
use crate::{batch, notices};

/// One rank's loader. Arguments were checked by `forebay.DataLoader`; `fields` is its JSON.
#[pyclass(frozen, name = "Loader", module = "forebay._forebay")]
pub(crate) struct Loader {
    state: Owned<Mutex<State>>,
    /// What is recorded, and the file that it becomes.
    trace: Option<(Trace, PathBuf)>,
    /// Held by a start and by the stop that follows an interrupted one, so that the stop can't hit a later start.
    starting: Arc<Mutex<()>>,
}

/// A closed loader gives its memory back at once, whoever still has a reference to it; its account stays.
enum State {
    Open(Arc<Inner>),
    Closed(Box<LoaderStats>),
}

impl Loader {
    fn inner(&self, py: Python<'_>) -> PyResult<Arc<Inner>> {
        let state = check(py, self.state.get())?;
        match &*state.lock() {
            State::Open(inner) => Ok(inner.clone()),
            State::Closed(_) => Err(raise(py, &Error::Closed)),
        }
    }

    /// A call that may take long: see `interruptibly`.
    fn call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> PyResult<T> {
        let inner = self.inner(py)?;
        let mut bar = Bar::default();
        let watched = inner.clone();
        let result = interruptibly(py, move || call(&inner), || bar.draw(py, watched.progress()));
        bar.end(py, matches!(result, Ok(Ok(_))))?;
        check(py, result?)
    }
}

#[pymethods]
impl Loader {
    #[new]
    #[pyo3(signature = (
        sources, *, fields, batch_size, mode, seed, drop_last, shuffle_window, canonical_ranks, rank, world_size, local_world_size, num_threads,
        prefetch_factor, decoded_limit, decoded_max_side, timeout, skip_errors, max_errors, cache_dir, cache_limit, host_memory_limit,
        storage_options, trace, device, local_rank, gpu_memory_limit, gpu_decoded_limit, decode_on, jpeg_folders, into_consumers
    ))]
    #[allow(clippy::too_many_arguments)] // One keyword argument per option; Python's side names them all.
    fn new(
        py: Python<'_>,
        sources: Vec<String>,
        fields: &str,
        batch_size: usize,
        mode: &str,
        seed: u64,
        drop_last: bool,
        shuffle_window: Option<u64>,
        canonical_ranks: Option<u32>,
        rank: u32,
        world_size: u32,
        local_world_size: u32,
        num_threads: Option<usize>,
        prefetch_factor: usize,
        decoded_limit: Option<u64>,
        decoded_max_side: Option<u32>,
        timeout: Option<f64>,
        skip_errors: bool,
        max_errors: u64,
        cache_dir: PathBuf,
        cache_limit: u64,
        host_memory_limit: u64,
        storage_options: BTreeMap<String, String>,
        trace: Option<PathBuf>,
        device: Option<&str>,
        local_rank: Option<u32>,
        gpu_memory_limit: Option<u64>,
        gpu_decoded_limit: Option<u64>,
        decode_on: &str,
        jpeg_folders: Vec<PathBuf>,
        into_consumers: bool,
    ) -> PyResult<Self> {
        let unreadable = |what: &str, error: String| raise(py, &Error::config(format!("{what}: {error}")));
        let device = device.map(|device| {
            let which = Which::parse(device, local_rank).map_err(|error| raise(py, &error.into()));
            which.map(|which| DeviceSettings {
                which,
                limit_bytes: gpu_memory_limit,
                decoded_limit_bytes: gpu_decoded_limit,
                decode_on: match decode_on {
                    "gpu" => DecodeOn::Gpu,
                    "auto" => DecodeOn::Auto,
                    _ => DecodeOn::Cpu,
                },
                jpeg_folders,
                into_consumers,
            })
        });
        let options = LoaderOptions {
            sources,
            fields: serde_json::from_str(fields).map_err(|error| unreadable("fields", error.to_string()))?,
            batch_size,
            mode: mode_named(mode)
                .ok_or_else(|| unreadable("shuffle", format!("no order is called {mode:?}")))?,
            seed,
            drop_last,
            shuffle_window,
            canonical_ranks,
            rank,
            world_size,
            local_world_size,
            num_threads,
            prefetch_factor,
            decoded_limit_bytes: decoded_limit,
            decoded_max_side,
            timeout: timeout
                .map(Duration::try_from_secs_f64)
                .transpose()
                .map_err(|error| unreadable("timeout", error.to_string()))?,
            on_error: if skip_errors { OnError::Skip } else { OnError::Raise },
            max_errors,
            device: device.transpose()?,
            cache: CacheSettings {
                dir: cache_dir,
                limit_bytes: cache_limit,
                host_memory_limit_bytes: host_memory_limit,
                storage_options,
                patience: DEFAULT_PATIENCE,
            },
            trace: trace.as_ref().map(|_| Trace::new(DEFAULT_MOST_EVENTS)),
        };
        check(py, options.validate())?;
        let trace = options.trace.clone().zip(trace);
        if let Some((_, path)) = &trace {
            check(py, check_place(path).map_err(|error| not_written(path, &error)))?;
        }
        let inner = interruptibly(py, move || Inner::open(options), || Ok(()))?;
        let state = Mutex::new(State::Open(Arc::new(check(py, inner)?)));
        Ok(Self { state: Owned::new(state), trace, starting: Arc::default() })
    }

    /// Batches per rank of a whole epoch, or None without every shard's count.
    fn batches(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        let inner = self.inner(py)?;
        Ok(py.detach(|| inner.len()))
    }

    /// Gets every shard's count.
    fn count(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, Inner::count)
    }

    /// Starts the next epoch, or goes on where a state was loaded.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        // A start that was interrupted ends behind the interrupt: what it started must not run for nobody.
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let still_wanted = wanted.0.clone();
        let one_at_a_time = self.starting.clone();
        let started = self.call(py, move |inner| {
            let _turn = one_at_a_time.lock();
            let started = inner.start();
            if !still_wanted.load(Ordering::Acquire) {
                inner.stop();
            }
            started
        });
        drop(wanted);
        started
    }

    /// The next batch as (columns, epoch, index, valid, samples), or None where the epoch is over.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let inner = self.inner(py)?;
        loop {
            match check(py, py.detach(|| inner.next(SLICE)))? {
                Next::Batch(batch) => return batch::to_python(py, *batch).map(Some),
                Next::End => return Ok(None),
                Next::Pending => py.check_signals()?,
            }
        }
    }

    /// Leaves the running epoch.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner(py)?;
        py.detach(|| inner.stop());
        Ok(())
    }

    /// Keeps the position in epoch `epoch`; starts any other at 0.
    fn set_epoch(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        let inner = self.inner(py)?;
        py.detach(|| inner.set_epoch(epoch));
        Ok(())
    }

    /// Where the loader stands, as JSON.
    fn state(&self, py: Python<'_>) -> PyResult<String> {
        self.call(py, Inner::state)
    }

    /// Goes on from a state.
    fn load_state(&self, py: Python<'_>, state: String) -> PyResult<()> {
        self.call(py, move |inner| inner.load_state(&state))
    }

    /// The order's hash, equal on ranks that agree.
    fn order_hash(&self, py: Python<'_>) -> PyResult<String> {
        self.call(py, Inner::order_hash)
    }

    /// What every rank must start with, as JSON: see `check_ranks_agree`.
    fn terms(&self, py: Python<'_>) -> PyResult<String> {
        let terms = self.call(py, Inner::terms)?;
        check(py, to_json("terms", &terms))
    }

    /// What ran so far, as JSON; after `close`, what ran until then.
    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let state = check(py, self.state.get())?;
        let stats = py.detach(|| match &*state.lock() {
            State::Open(inner) => to_json("stats", &inner.stats()),
            State::Closed(stats) => to_json("stats", stats),
        });
        check(py, stats)
    }

    /// Ends everything; batches that were handed out stay valid.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner(py)?;
        let ending = inner.clone();
        let end = move || {
            ending.close();
            ending.stats()
        };
        let stats = interruptibly(py, end, || Ok(()))?;
        *check(py, self.state.get())?.lock() = State::Closed(Box::new(stats));
        // The last reference: threads are joined here.
        py.detach(move || drop(inner));
        Ok(())
    }

    /// Writes what was recorded, where that was asked for. For a closed loader.
    fn write_trace(&self, py: Python<'_>) -> PyResult<()> {
        check(py, self.state.get())?;
        let Some((trace, path)) = &self.trace else { return Ok(()) };
        let written = py.detach(|| trace.write(path));
        check(py, written.map(drop).map_err(|error| not_written(path, &error)))
    }
}

fn not_written(path: &Path, error: &std::io::Error) -> Error {
    Error::config(format!("trace={:?} can't be written: {error}", path.display().to_string()))
}

fn to_json(what: &str, value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Panic { message: format!("{what} as JSON: {error}") })
}

/// The bar of one call's pass, drawn by `forebay._progress` where that knows how.
#[derive(Default)]
struct Bar {
    drawn: Option<Py<PyAny>>,
}

impl Bar {
    fn draw(&mut self, py: Python<'_>, progress: Option<Progress>) -> PyResult<()> {
        let Some(Progress { what, done_bytes, total_bytes }) = progress else { return Ok(()) };
        let bar = match &self.drawn {
            Some(bar) => bar,
            None => self.drawn.insert(py.import("forebay._progress")?.call_method0("Bar")?.unbind()),
        };
        bar.call_method1(py, "show", (what, done_bytes, total_bytes)).map(drop)
    }

    fn end(&self, py: Python<'_>, whole: bool) -> PyResult<()> {
        self.drawn.as_ref().map_or(Ok(()), |bar| bar.call_method1(py, "end", (whole,)).map(drop))
    }
}

/// True until it is dropped.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn mode_named(name: &str) -> Option<OrderMode> {
    Some(match name {
        "storage" => OrderMode::Storage,
        "shuffle" => OrderMode::Shuffle,
        "sticky" => OrderMode::Sticky,
        "global" => OrderMode::Global,
        _ => return None,
    })
}

/// An error where the `terms` of all ranks, by rank, are not the same.
#[pyfunction]
pub(crate) fn check_ranks_agree(py: Python<'_>, terms: Vec<String>) -> PyResult<()> {
    let read = terms.iter().map(|text| serde_json::from_str::<Terms>(text)).collect::<Result<Vec<_>, _>>();
    let unreadable = |error| Error::State {
        message: format!(
            "a rank's terms can't be read ({error}): run the same release of forebay on every rank"
        ),
    };
    check(py, read.map_err(unreadable).and_then(|terms| forebay_loader::agree::check_ranks_agree(&terms)))
}

/// Cores given to this process by cgroup and affinity, divided by LOCAL_WORLD_SIZE: the default of num_threads.
#[pyfunction]
pub(crate) fn available_threads() -> usize {
    forebay_loader::threads::default_threads()
}

/// What the runtime had to say since the last call, as (level, text); level as in Python's `logging`.
#[pyfunction]
pub(crate) fn take_notices() -> Vec<(u8, String)> {
    notices::take()
}
