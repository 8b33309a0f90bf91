//! Reads and writes of the cache's files: a trait, an implementation on io_uring, one on blocking calls.
//!
//! The buffer belongs to the operation, not to the future that waits for it: dropping the future frees nothing that
//! the kernel may still write to.

mod blocking;
mod file;

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::memory::{Lease, Slab};

pub use blocking::Blocking;
pub use file::IoFile;

/// What moves bytes between files and slabs.
pub trait BlockIo: Send + Sync + fmt::Debug {
    /// Starts an operation. Never blocks on the disk; may wait for room in a bounded queue.
    fn submit(&self, operation: Operation);

    /// What runs, for `stats` and `doctor`: "io_uring" or "blocking".
    fn engine(&self) -> &'static str;
}

/// One read or write on its way, with its buffer.
#[derive(Debug)]
pub enum Operation {
    /// Fills `slab` from `offset`. Bytes behind the end of the file read as zeros up to the slab's capacity
    /// are NOT promised: the result says how many bytes came.
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
        /// Where to; direct files need `offset` and the length in multiples of the granule.
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
        match self {
            Self::Read { slab, done, .. } => drop(done.send((slab, Err(error)))),
            Self::Write { done, .. } => drop(done.send(Err(error))),
        }
    }
}

/// Reads `len` bytes at `offset` into `slab`; the number is short only at the end of the file.
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
        Err(_) => (None, Err(io::Error::other("the I/O thread ended"))),
    }
}

/// Writes all of `bytes` at `offset`.
pub async fn write(io: &dyn BlockIo, file: &Arc<IoFile>, offset: u64, bytes: Lease) -> io::Result<()> {
    let (done, waiting) = oneshot::channel();
    io.submit(Operation::Write { file: file.clone(), offset, bytes, done });
    waiting.await.unwrap_or_else(|_| Err(io::Error::other("the I/O thread ended")))
}
