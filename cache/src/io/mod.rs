//! Reads and writes of the cache's files: a trait, an implementation on io_uring, one on blocking calls, and a probe that
//! finds by doing which one works here.
//!
//! The buffer belongs to the operation, not to the future that waits for it: dropping the future frees nothing that
//! the kernel may still write to.

mod blocking;
mod file;
mod hold;
mod mmap;
mod probe;
mod queue;
mod resident;
mod transfer;
mod uring;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::memory::{Lease, Slab};

pub use blocking::Blocking;
pub(crate) use file::is_on;
pub use file::{Alignment, IoFile};
pub use hold::Held;
pub use mmap::{Children, map};
pub use probe::{ENGINE_VARIABLE, Report, open, open_with};
pub use resident::resident_bytes;
pub use uring::{Options, Uring};

/// What moves bytes between files and slabs. Dropping it waits until everything submitted is done.
pub trait BlockIo: Send + Sync + fmt::Debug {
    /// Starts an operation. Never blocks on the disk; may wait for room in a bounded queue.
    fn submit(&self, operation: Operation);

    /// Starts several; an engine may do that with one wake-up and one system call.
    fn submit_all(&self, operations: Vec<Operation>) {
        operations.into_iter().for_each(|operation| self.submit(operation));
    }

    /// Gives the space of `len` bytes at `offset` back: they read as zeros from now on, and the file keeps its size. Blocks until that is
    /// done.
    fn punch(&self, file: &IoFile, offset: u64, len: u64) -> io::Result<()> {
        file.punch(offset, len)
    }

    /// Keeps a file open, and a lock on it, until the kernel has finished what was submitted, also when this process is
    /// killed; ends with the returned value. Blocks for a moment.
    fn hold(&self, file: OwnedFd) -> io::Result<Held> {
        Ok(Held::by_process(file))
    }

    /// What runs, for `stats` and `doctor`: "io_uring" or "blocking".
    fn engine(&self) -> &'static str;

    /// In a forked child: closes what the engine's threads, which don't exist here, had open, so that the child keeps neither
    /// a ring nor the lock that it holds. Does nothing in the process that built the engine. Dropping the engine does it too.
    fn close_in_forked_child(&self) {}
}

/// One read or write on its way, with its buffer.
#[derive(Debug)]
pub enum Operation {
    /// Fills `slab` from `offset`. What lies behind the bytes that came is unspecified. The slab's visible length is left
    /// as it is.
    Read {
        /// Where from; direct files need `offset` and `len` in multiples of the granule.
        file: Arc<IoFile>,
        /// First byte in the file.
        offset: u64,
        /// How many bytes, at most the slab's capacity.
        len: usize,
        /// Where to.
        slab: Slab,
        /// Gets the slab back, with the number of bytes read: less than `len` only at the end of the file.
        done: oneshot::Sender<(Slab, io::Result<usize>)>,
    },
    /// Writes all of `bytes` at `offset`.
    Write {
        /// Where to; direct files need `offset`, the length and the address in multiples of the granule.
        file: Arc<IoFile>,
        /// First byte in the file.
        offset: u64,
        /// What; held until the kernel is done with it.
        bytes: Lease,
        /// Learns how it went; a short write is resubmitted, never reported as success.
        done: oneshot::Sender<io::Result<()>>,
    },
}

impl Operation {
    /// The file it reads or writes.
    pub fn file(&self) -> &Arc<IoFile> {
        match self {
            Self::Read { file, .. } | Self::Write { file, .. } => file,
        }
    }

    /// Answers with an error, giving a read's slab back. Only for operations that the kernel doesn't hold.
    pub fn fail(self, error: io::Error) {
        self.finish(Err(error));
    }

    /// Answers whoever waits; where nobody does, the buffer is dropped here. What the operation held is let go first: whoever
    /// learns that it ended finds file and memory free.
    fn finish(self, result: io::Result<usize>) {
        match self {
            Self::Read { file, slab, done, .. } => {
                drop(file);
                drop(done.send((slab, result)));
            }
            Self::Write { file, bytes, done, .. } => {
                drop((file, bytes));
                drop(done.send(result.map(drop)));
            }
        }
    }

    /// Keeps buffer and file for ever, since the kernel may still use them; whoever waits learns that the thread ended.
    fn leak(self) {
        match self {
            Self::Read { file, slab, .. } => std::mem::forget((file, slab)),
            Self::Write { file, bytes, .. } => std::mem::forget((file, bytes)),
        }
    }
}

/// Reads `len` bytes at `offset` into `slab`; the number is short only at the end of the file. Dropped while it waits, the
/// slab goes back to its region when the read has landed.
pub async fn read(
    io: &dyn BlockIo,
    file: &Arc<IoFile>,
    offset: u64,
    len: usize,
    slab: Slab,
) -> (Option<Slab>, io::Result<usize>) {
    let (done, waiting) = oneshot::channel();
    io.submit(Operation::Read { file: file.clone(), offset, len, slab, done });
    match waiting.await {
        Ok((slab, result)) => (Some(slab), result),
        Err(_) => (None, Err(queue::ended())),
    }
}

/// Writes all of `bytes` at `offset`. Dropped while it waits, the write still lands.
pub async fn write(io: &dyn BlockIo, file: &Arc<IoFile>, offset: u64, bytes: Lease) -> io::Result<()> {
    let (done, waiting) = oneshot::channel();
    io.submit(Operation::Write { file: file.clone(), offset, bytes, done });
    waiting.await.unwrap_or_else(|_| Err(queue::ended()))
}
