//! Model weights for Python, one to one; `forebay.weights` makes frameworks' tensors of what comes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use forebay_gpu::{Address, RawStream, Which};
use forebay_loader::batch::Array as Data;
use forebay_loader::options::{CacheSettings, DEFAULT_PATIENCE};
use forebay_loader::weights::{
    Bad, Budget, DeviceLoading as OnDevice, Loading as Inner, Onto, Settings, Step, Tensor, Wanted,
    Weights as Model,
};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

use crate::array;
use crate::device_array::DeviceArray;
use crate::error::{check, raise};
use crate::fork::Owned;
use crate::wait::{SLICE, stoppable};

/// An open model.
#[pyclass(frozen, module = "forebay._forebay")]
pub(crate) struct Weights {
    model: Owned<Mutex<Option<Arc<Model>>>>,
}

/// What a check counted, in bytes.
type Counted = (u64, u64, u64, u64);

/// One range of indexes for each dimension.
type Part = Option<Vec<(u64, u64)>>;

/// Where a tensor begins in its group's memory: its place among those asked for, the first byte, its bytes.
type Member = (usize, u64, u64);

/// Lists of one value for each tensor.
type Columns<'py> = (
    Bound<'py, PyList>,
    Bound<'py, PyList>,
    Bound<'py, PyList>,
    Bound<'py, PyList>,
    Bound<'py, PyList>,
    Bound<'py, PyList>,
);

/// A cached block that was not what was stored: its file, first byte, bytes, and whether it was fetched again.
type BadBlock = (String, u64, u64, bool);

#[pymethods]
impl Weights {
    #[new]
    #[pyo3(signature = (urls, *, cache_dir, cache_limit, host_memory_limit, storage_options, cache_local))]
    fn new(
        py: Python<'_>,
        urls: Vec<String>,
        cache_dir: PathBuf,
        cache_limit: u64,
        host_memory_limit: u64,
        storage_options: BTreeMap<String, String>,
        cache_local: bool,
    ) -> PyResult<Self> {
        let cache = CacheSettings {
            dir: cache_dir,
            limit_bytes: cache_limit,
            host_memory_limit_bytes: host_memory_limit,
            storage_options,
            patience: DEFAULT_PATIENCE,
        };
        let settings = Settings { urls, cache, cache_local };
        let opened = stoppable(py, move |stop| Model::open(&settings, stop))?;
        Ok(Self { model: Owned::new(Mutex::new(Some(Arc::new(opened)))) })
    }

    /// (name, URL, bytes, version) of each file.
    fn files(&self, py: Python<'_>) -> PyResult<Vec<(String, String, u64, String)>> {
        let model = self.model(py)?;
        let file = |file: &forebay_loader::weights::File| {
            let object = &file.object;
            (file.name.clone(), object.location.to_string(), object.size_bytes, object.id.to_string())
        };
        Ok(model.files().iter().map(file).collect())
    }

    /// Names, dtypes, shapes, bytes, numbers of their files and first bytes in them of all tensors, in the order of files and of bytes in them.
    /// A list of each: rows would be more objects for Python's collector to go through than most models have.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Columns<'py>> {
        let model = self.model(py)?;
        let column = |of: &dyn Fn(usize, &Tensor) -> PyResult<Bound<'py, PyAny>>| {
            let values: Vec<_> =
                model.tensors().map(|(file, tensor)| of(file, tensor)).collect::<PyResult<_>>()?;
            PyList::new(py, values)
        };
        let number = |number: u64| Ok(number.into_pyobject(py)?.into_any());
        Ok((
            column(&|_, tensor| Ok(PyString::new(py, &tensor.name).into_any()))?,
            column(&|_, tensor| Ok(PyString::intern(py, tensor.dtype.name()).into_any()))?,
            column(&|_, tensor| Ok(PyTuple::new(py, &tensor.shape)?.into_any()))?,
            column(&|_, tensor| number(tensor.bytes()))?,
            column(&|file, _| number(file as u64))?,
            column(&|_, tensor| number(tensor.range.start))?,
        ))
    }

    /// `__metadata__` of a file, by its number; None where it has none.
    fn metadata(&self, py: Python<'_>, file: usize) -> PyResult<Option<BTreeMap<String, String>>> {
        Ok(self.model(py)?.files().get(file).and_then(|file| file.header.metadata.clone()))
    }

    /// Starts to bring tensors, or parts of them, to host memory; as leases, to memory that is used again when they are let go.
    fn load(
        slf: &Bound<'_, Self>,
        wanted: Vec<(usize, Part)>,
        ahead_bytes: u64,
        leases: bool,
    ) -> PyResult<Loading> {
        let py = slf.py();
        let model = slf.get().model(py)?;
        let wanted = wanted_of(wanted);
        let loading = check(py, py.detach(|| model.load(&wanted, ahead_bytes, leases)))?;
        Ok(Loading { weights: slf.clone().unbind(), loading: Owned::new(Mutex::new(Some(loading))) })
    }

    /// Starts to bring tensors, or parts of them, to a device: to memory that the consumer brings, or (`budget`, 0 for as much as they take) to
    /// memory of Forebay's.
    #[pyo3(signature = (wanted, *, device, local_rank, budget))]
    fn load_onto(
        slf: &Bound<'_, Self>,
        wanted: Vec<(usize, Part)>,
        device: &str,
        local_rank: Option<u32>,
        budget: Option<u64>,
    ) -> PyResult<DeviceLoading> {
        let py = slf.py();
        let model = slf.get().model(py)?;
        let wanted = wanted_of(wanted);
        let which = Which::parse(device, local_rank).map_err(|error| raise(py, &error.into()))?;
        let memory = budget.map(|bytes| if bytes == 0 { Budget::All } else { Budget::Bytes(bytes) });
        let loading = check(py, py.detach(|| model.load_onto(&wanted, &Onto { which, memory })))?;
        Ok(DeviceLoading { weights: slf.clone().unbind(), loading: Owned::new(Mutex::new(Some(loading))) })
    }

    /// The bytes of a file, by its number, mapped.
    fn map<'py>(&self, py: Python<'py>, file: usize) -> PyResult<Bound<'py, PyAny>> {
        let model = self.model(py)?;
        array::wrap(py, Data::of_bytes(stoppable(py, move |stop| model.map(file, stop))?))
    }

    /// A file of the model's folder as a plain file.
    fn path(&self, py: Python<'_>, name: String) -> PyResult<PathBuf> {
        let model = self.model(py)?;
        stoppable(py, move |stop| model.path(&name, stop))
    }

    /// Brings its files into the cache: (files, bytes, blocks that were there, that were fetched, that found no room).
    fn prefetch(&self, py: Python<'_>, weights_only: bool) -> PyResult<(usize, u64, u32, u32, u32)> {
        let model = self.model(py)?;
        let brought = stoppable(py, move |stop| model.prefetch(weights_only, stop))?;
        let blocks = brought.blocks;
        Ok((brought.files, brought.bytes, blocks.present, blocks.stored, blocks.declined))
    }

    /// Rereads the weights: bytes (checked, fetched, found no room, read without a checksum), and the bad blocks.
    fn verify(&self, py: Python<'_>) -> PyResult<(Counted, Vec<BadBlock>)> {
        let model = self.model(py)?;
        let checked = stoppable(py, move |stop| model.verify(stop))?;
        let bytes =
            (checked.checked_bytes, checked.fetched_bytes, checked.declined_bytes, checked.read_bytes);
        let row = |bad: Bad| (bad.file, bad.range.start, bad.range.end - bad.range.start, bad.mended);
        Ok((bytes, checked.bad.into_iter().map(row).collect()))
    }

    /// Bytes that came so far: from the host tier, the cache folder, the origin, the kernel's page cache, local files.
    fn came(&self, py: Python<'_>) -> PyResult<(u64, u64, u64, u64, u64)> {
        let model = self.model(py)?;
        let came = model.came();
        let [host, disk, origin, page_cache, file] =
            [&came.host, &came.disk, &came.origin, &came.page_cache, &came.file]
                .map(|bytes| bytes.load(Relaxed));
        Ok((host, disk, origin, page_cache, file))
    }

    /// Lets the versions go.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        check(py, self.model.get())?;
        let_go(&self.model);
        Ok(())
    }
}

impl Weights {
    fn model(&self, py: Python<'_>) -> PyResult<Arc<Model>> {
        let model = check(py, self.model.get())?.lock().clone();
        check(
            py,
            model.ok_or_else(|| forebay_loader::Error::State { message: "the weights are closed".into() }),
        )
    }
}

fn wanted_of(wanted: Vec<(usize, Part)>) -> Vec<Wanted> {
    let ranges = |part: Vec<(u64, u64)>| part.into_iter().map(|(start, end)| start..end).collect();
    wanted.into_iter().map(|(tensor, part)| Wanted { tensor, part: part.map(ranges) }).collect()
}

fn rows(members: &[forebay_loader::weights::Member]) -> Vec<Member> {
    members.iter().map(|member| (member.want, member.offset, member.bytes)).collect()
}

impl Drop for Weights {
    /// Not closed: what the cache still writes, and the device reads, is nothing that other threads of Python wait for.
    fn drop(&mut self) {
        let_go(&self.model);
    }
}

/// Drops what is held, without the GIL.
fn let_go<T: Send>(held: &Owned<Mutex<Option<T>>>) {
    if let Some(last) = held.get().ok().and_then(|held| held.lock().take()) {
        Python::attach(|py| py.detach(move || drop(last)));
    }
}

/// Groups of tensors on their way.
#[pyclass(frozen, module = "forebay._forebay")]
pub(crate) struct Loading {
    /// Stays open as long as nobody closes it.
    weights: Py<Weights>,
    loading: Owned<Mutex<Option<Inner>>>,
}

#[pymethods]
impl Loading {
    /// The next group as (memory, members), waited for; None behind the last one.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyAny>, Vec<Member>)>> {
        let shared = check(py, self.loading.get())?;
        loop {
            let model = self.weights.get().model(py)?;
            let came = py.detach(move || {
                let came = shared.lock().as_mut().map(|loading| loading.next_within(SLICE));
                // The last one where it was closed meanwhile: ending it may wait.
                drop(model);
                came
            });
            match came {
                None => return Ok(None),
                Some(None) => py.check_signals()?,
                Some(Some(loaded)) => {
                    let Some(loaded) = check(py, loaded)? else { return Ok(None) };
                    let members = rows(&loaded.members);
                    return Ok(Some((array::wrap(py, Data::of_bytes(loaded.memory))?, members)));
                }
            }
        }
    }

    /// Stops what is on its way.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        check(py, self.loading.get())?;
        let_go(&self.loading);
        Ok(())
    }
}

/// Groups of tensors on their way to a device.
#[pyclass(frozen, module = "forebay._forebay")]
pub(crate) struct DeviceLoading {
    /// As a [`Loading`]'s.
    weights: Py<Weights>,
    loading: Owned<Mutex<Option<OnDevice>>>,
}

#[pymethods]
impl DeviceLoading {
    /// The next group as (bytes, members); None behind the last one. It is to be filled before the next one is asked for.
    fn next(&self, py: Python<'_>) -> PyResult<Option<(u64, Vec<Member>)>> {
        let _open = self.weights.get().model(py)?;
        let mut loading = check(py, self.loading.get())?.lock();
        let Some(loading) = loading.as_mut() else { return Ok(None) };
        let coming = check(py, loading.next_group())?;
        Ok(coming.map(|coming| (coming.bytes, rows(&coming.members))))
    }

    /// Fills the group into memory of the caller's on the same device: `address` has room for its bytes, and is the caller's to write on that
    /// stream.
    #[allow(unsafe_code)]
    fn fill(&self, py: Python<'_>, address: u64, stream: u64) -> PyResult<()> {
        // Frameworks write the legacy default stream as 0.
        let stream = if stream == 0 { RawStream::LEGACY } else { RawStream(stream) };
        // SAFETY: promised by the caller, which is the package itself.
        self.go_on(py, |loading| unsafe { loading.copy_to(Address(address), stream, SLICE) })
    }

    /// Fills the group into memory of Forebay's: an array of its bytes.
    fn take(&self, py: Python<'_>) -> PyResult<DeviceArray> {
        self.go_on(py, |loading| loading.copy(SLICE)).map(DeviceArray::new)
    }

    /// Bytes that were handed to the bus.
    fn copied_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(check(py, self.loading.get())?.lock().as_ref().map_or(0, OnDevice::copied_bytes))
    }

    /// Stops what is on its way, and waits for what the device reads.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        check(py, self.loading.get())?;
        let_go(&self.loading);
        Ok(())
    }
}

impl Drop for DeviceLoading {
    /// As [`Weights`]'.
    fn drop(&mut self) {
        let_go(&self.loading);
    }
}

impl DeviceLoading {
    fn go_on<T: Send>(
        &self,
        py: Python<'_>,
        mut step: impl FnMut(&mut OnDevice) -> forebay_loader::Result<Step<T>> + Send,
    ) -> PyResult<T> {
        let shared = check(py, self.loading.get())?;
        loop {
            let model = self.weights.get().model(py)?;
            let stepped = py.detach(|| {
                let stepped = shared.lock().as_mut().map(&mut step);
                drop(model);
                stepped
            });
            match stepped {
                None => return Err(raise(py, &forebay_loader::Error::Closed)),
                Some(stepped) => match check(py, stepped)? {
                    Step::More => py.check_signals()?,
                    Step::Done(done) => return Ok(done),
                },
            }
        }
    }
}
