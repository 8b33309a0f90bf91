//! Which engine works here, found by doing: a ring is built, and a file in the cache's folder written and read through it.
//!
//! EPERM (a container's seccomp profile, kernel.io_uring_disabled) and ENOSYS mean "not here"; so does a ring that can be built
//! but moves no bytes. What was chosen, and why, is in the [`Report`]: a fallback is never silent.

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use serde::Serialize;
use tokio::sync::oneshot;

use super::{Alignment, BlockIo, Blocking, IoFile, Operation, Options, Uring};
use crate::error::{Error, Result};
use crate::memory::Arena;

/// Environment variable that picks an engine for comparisons, read once at open: "auto" (the default), "io_uring" (an error
/// where it doesn't work) or "blocking".
pub const ENGINE_VARIABLE: &str = "FOREBAY_IO";

/// Threads of the blocking engine: what a disk gains beyond this, the switching between threads loses.
const MOST_BLOCKING_THREADS: usize = 32;

/// What the probe writes and reads: two granules.
const PROBE_BYTES: usize = 8192;

/// What really runs, for `stats` and `forebay doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// "io_uring" or "blocking".
    pub engine: &'static str,
    /// Why it is not io_uring, where it isn't.
    pub reason: Option<String>,
    /// The ring's set-up flags that the kernel took; empty for the blocking engine.
    pub ring_flags: &'static str,
    /// Operations in flight at once.
    pub depth: usize,
    /// Whether files in this folder are read past the page cache.
    pub direct: bool,
    /// Why not, where they aren't.
    pub buffered_because: Option<String>,
    /// What the file system asks of direct I/O, where it says so.
    pub alignment: Option<Alignment>,
    /// The kernel's release, such as "6.1.0-28-amd64".
    pub kernel: String,
}

/// Opens the best engine for files in `folder`, with `depth` operations in flight.
///
/// # Errors
/// Where no file can be made in `folder`, no thread can be had, or [`ENGINE_VARIABLE`] asks for what doesn't exist here.
pub fn open(folder: &Path, depth: usize) -> Result<(Arc<dyn BlockIo>, Report)> {
    open_with(folder, &Options { depth, ..Options::default() })
}

/// As [`open`], with every option of the ring.
pub fn open_with(folder: &Path, options: &Options) -> Result<(Arc<dyn BlockIo>, Report)> {
    let wanted = std::env::var(ENGINE_VARIABLE).unwrap_or_default();
    open_wanted(folder, options, &wanted)
}

fn open_wanted(folder: &Path, options: &Options, wanted: &str) -> Result<(Arc<dyn BlockIo>, Report)> {
    let trial = Trial::new(folder)?;
    let reason = match wanted {
        "blocking" => format!("{ENGINE_VARIABLE}=blocking asks for it"),
        "" | "auto" | "io_uring" => match ring(options, &trial) {
            Ok(engine) => {
                let report = trial.report("io_uring", None, engine.flags(), options.depth);
                return Ok((Arc::new(engine), report));
            }
            Err(reason) if wanted == "io_uring" => {
                return Err(Error::config(format!(
                    "{ENGINE_VARIABLE}=io_uring, but {reason}; unset it to fall back to blocking reads"
                )));
            }
            Err(reason) => reason,
        },
        other => {
            return Err(Error::config(format!(
                "{ENGINE_VARIABLE}={other:?}: \"auto\", \"io_uring\" or \"blocking\" was expected"
            )));
        }
    };
    let threads = options.depth.clamp(1, MOST_BLOCKING_THREADS);
    let failed = |error| trial.error("I/O threads could not be started; check the limit on processes", error);
    let engine = Blocking::new(threads).map_err(failed)?;
    trial.run(&engine).map_err(|error| trial.error("a file written here does not read back", error))?;
    tracing::info!(%reason, "blocking reads instead of io_uring");
    let report = trial.report("blocking", Some(reason), "", threads);
    Ok((Arc::new(engine), report))
}

/// A ring that moved bytes, or why there is none.
fn ring(options: &Options, trial: &Trial) -> Result<Uring, String> {
    let engine = Uring::new(options).map_err(|error| refusal(&error))?;
    trial.run(&engine).map_err(|error| format!("a ring could be built, but its I/O failed: {error}"))?;
    Ok(engine)
}

fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "io_uring is refused here, by the container's seccomp profile or by kernel.io_uring_disabled ({error})"
        ),
        Some(libc::ENOSYS) => format!("this kernel has no io_uring ({error})"),
        Some(libc::ENOMEM) => {
            format!("the ring needs more locked memory than RLIMIT_MEMLOCK allows ({error})")
        }
        _ => format!("io_uring could not be set up ({error})"),
    }
}

/// A file in the cache's folder, gone from it as soon as it is open.
struct Trial {
    file: Arc<IoFile>,
}

impl Trial {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(format!(".probe-{}-{:?}", std::process::id(), std::thread::current().id()));
        let failed = |error: io::Error| Error::CacheDir {
            path: folder.into(),
            what: "no file could be made in it; check that it exists and is writable".into(),
            source: Arc::new(error),
        };
        let file = Arc::new(IoFile::open(&path, true).map_err(failed)?);
        fs::remove_file(&path).map_err(failed)?;
        Ok(Self { file })
    }

    /// Writes a pattern and reads it back through `engine`.
    fn run(&self, engine: &dyn BlockIo) -> io::Result<()> {
        let pattern = |at: usize| (at % 251) as u8;
        // Not shared between runs: an engine that fails may keep what it was given.
        let memory = Arena::new(PROBE_BYTES as u64)
            .and_then(|arena| arena.region("the I/O probe", PROBE_BYTES))
            .map_err(io::Error::other)?;
        let slab = || memory.try_allocate(PROBE_BYTES).ok_or(io::ErrorKind::OutOfMemory);
        let mut bytes = slab()?;
        bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = pattern(at));
        let (done, written) = oneshot::channel();
        let (file, offset) = (self.file.clone(), 0);
        engine.submit(Operation::Write { file, offset, bytes: bytes.freeze(), done });
        match answer(written)? {
            // A full disk is the tier's concern; that its answer came through shows that the engine works.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => return Ok(()),
            result => result?,
        }
        let mut slab = slab()?;
        slab.fill(0);
        let (done, read) = oneshot::channel();
        engine.submit(Operation::Read { file: self.file.clone(), offset, len: PROBE_BYTES, slab, done });
        let (slab, result) = answer(read)?;
        let right = slab.iter().enumerate().all(|(at, &byte)| byte == pattern(at));
        match result? {
            PROBE_BYTES if right => Ok(()),
            moved => {
                Err(io::Error::other(format!("{moved} of {PROBE_BYTES} bytes came back, right: {right}")))
            }
        }
    }

    fn error(&self, what: &str, error: io::Error) -> Error {
        Error::Disk { path: self.file.path().into(), what: what.into(), source: Arc::new(error) }
    }

    fn report(
        &self,
        engine: &'static str,
        reason: Option<String>,
        ring_flags: &'static str,
        depth: usize,
    ) -> Report {
        Report {
            engine,
            reason,
            ring_flags,
            depth,
            direct: self.file.is_direct(),
            buffered_because: self.file.buffered_because().map(Into::into),
            alignment: self.file.alignment(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

/// Parks this thread until the answer comes. tokio's `blocking_recv` would panic where a caller opens the cache in async code.
fn answer<T>(mut waiting: oneshot::Receiver<T>) -> io::Result<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer.map_err(|_| super::queue::ended()),
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, wanted: &str) -> Result<Report> {
        open_wanted(folder, &Options::default(), wanted).map(|(engine, report)| {
            assert_eq!(engine.engine(), report.engine);
            report
        })
    }

    #[test]
    fn the_variable_picks_the_engine_and_the_report_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let report = open(folder.path(), "blocking").unwrap();
        assert_eq!(report.engine, "blocking");
        assert!(report.reason.unwrap().contains(ENGINE_VARIABLE));
        let error = open(folder.path(), "mmap").unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the probe leaves nothing behind");
    }

    #[test]
    fn an_engine_without_a_ring_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let report = open(folder.path(), "").unwrap();
        assert_eq!(report.engine == "blocking", report.reason.is_some(), "{report:?}");
        assert_eq!(report.direct, report.buffered_because.is_none());
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let error = open(Path::new("/nonexistent/forebay"), "").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/forebay"), "{error}");
    }
}
