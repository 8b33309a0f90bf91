//! The file of the block index: how it is opened, and the room it keeps.
//!
//! A commit writes pages anew before it lets old ones go, and on a full disk it is a commit that makes room, since an entry goes before its
//! block does. So the file keeps allocated what it has and what its next growth takes (it doubles).

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{BackendError, Database, ReadableDatabase, StorageBackend, TableError};
use rustix::fs::fstat;

use super::index::{BLOCKS, NAMES, OBJECTS};
use super::layout;
use crate::share::fork::{NotInChildren, ParentOnly};

/// An open database.
pub(super) struct Opened {
    // In this order: the database's own lock must not live on in a forked child, and the watch for that ends before the file closes.
    file: Arc<ParentOnly>,
    _watch: NotInChildren,
    database: Database,
}

/// Opens or makes the database at `path`, with so much memory for its pages: redb's own default of 1 GiB would be outside every budget, and the
/// index of a terabyte is 15 MB. One that exists and is whole is opened without a commit: a full disk has no room for one.
pub(super) fn open(path: &Path, page_cache_bytes: usize) -> io::Result<Opened> {
    open_over(path, page_cache_bytes, |file, room| Ok(Roomy { backend: FileBackend::new(file)?, room }))
}

/// The file, which keeps its room for growth also where the database shortens it.
#[derive(Debug)]
struct Roomy {
    backend: FileBackend,
    room: Arc<ParentOnly>,
}

impl StorageBackend for Roomy {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.backend.len()?;
        self.backend.set_len(len)?;
        if len < before {
            // Where somebody else was faster, the next commit looks for room again.
            drop(layout::reserve(self.room.as_fd(), len, len));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }
}

/// As [`open`], over what `backend` makes of the file.
pub(super) fn open_over<B: StorageBackend>(
    path: &Path,
    page_cache_bytes: usize,
    backend: impl FnOnce(File, Arc<ParentOnly>) -> Result<B, redb::DatabaseError>,
) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let made = file.metadata()?.len() == 0;
    let opened = guarded(|| {
        let watch = NotInChildren::watch(file.as_raw_fd())?;
        let other = Arc::new(ParentOnly::new(file.try_clone()?.into())?);
        let backend = backend(file, other.clone())?;
        let database = Database::builder().set_cache_size(page_cache_bytes).create_with_backend(backend)?;
        if !has_tables(&database)? {
            let mut write = database.begin_write()?;
            write.set_quick_repair(true);
            write.open_table(BLOCKS)?;
            write.open_table(OBJECTS)?;
            write.open_table(NAMES)?;
            write.commit()?;
        }
        Ok(Opened { file: other, _watch: watch, database })
    });
    if opened.is_err() && made {
        // Half a database is none.
        layout::remove(path)?;
    }
    opened
}

fn has_tables(database: &Database) -> Result<bool, redb::Error> {
    let read = database.begin_read()?;
    let found = read
        .open_table(BLOCKS)
        .map(drop)
        .and_then(|()| read.open_table(OBJECTS).map(drop))
        .and_then(|()| read.open_table(NAMES).map(drop));
    match found {
        Ok(()) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Opened {
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Bytes that the file takes on disk, or will take with its room for growth.
    pub(super) fn footprint(&self) -> io::Result<u64> {
        let found = fstat(self.file.as_fd())?;
        Ok((found.st_size as u64 * 2).max(found.st_blocks as u64 * 512))
    }

    /// Allocates the holes of the file, and as much again behind its end.
    pub(super) fn reserve(&self) -> io::Result<()> {
        let found = fstat(self.file.as_fd())?;
        let len = found.st_size as u64;
        if (found.st_blocks as u64) * 512 < len * 2 {
            layout::reserve(self.file.as_fd(), 0, len)?;
            layout::reserve(self.file.as_fd(), len, len)?;
        }
        Ok(())
    }
}

/// Runs work on the database; every error, and a panic on a broken file, as an `io::Error`. One with an error number is the disk's; "not
/// connected" is a database that is to be opened again.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::Io(error))) => Err(error),
        // A forked child may still hold the file: not a broken index.
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        Ok(Err(redb::Error::PreviousIo | redb::Error::DatabaseClosed)) => {
            Err(io::ErrorKind::NotConnected.into())
        }
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the block index is broken")),
    }
}
