//! One owner per cache folder: an flock on `LOCK`.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};
use crate::share::fork::ParentOnly;

/// The right to be the owner of a cache folder; given up on drop, and by the kernel when the process ends.
#[derive(Debug)]
pub struct FolderLock {
    /// In a forked child this is another file: the lock is its parent's.
    file: ParentOnly,
    /// Taken here, and so given up here; otherwise the caller gives it up, last of all.
    taken_here: bool,
}

impl FolderLock {
    /// Takes the lock of `dir`, making the folder where it doesn't exist. None where another process holds it.
    pub fn try_acquire(dir: &Path) -> Result<Option<Self>> {
        let refused = |what: &str, error: std::io::Error| Error::CacheDir {
            path: dir.into(),
            what: what.into(),
            source: Arc::new(error),
        };
        std::fs::create_dir_all(dir).map_err(|error| {
            refused("it can't be made; choose a folder where this user may write (cache_dir)", error)
        })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("LOCK"))
            .map_err(|error| {
                refused("it is not writable; choose a folder where this user may write (cache_dir)", error)
            })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let mut lock = Self::from_file(file.into())?;
                lock.taken_here = true;
                Ok(Some(lock))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(refused("its file system offers no locks (flock)", error.into())),
        }
    }

    /// A lock that the caller has taken, as another descriptor of the same open file.
    pub(crate) fn from_file(file: OwnedFd) -> Result<Self> {
        let file = ParentOnly::new(file).map_err(|error| Error::config(error.to_string()))?;
        Ok(Self { file, taken_here: false })
    }

    /// The open lock file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for FolderLock {
    /// By name, not by closing: other references to the open file would keep the lock.
    fn drop(&mut self) {
        if self.taken_here
            && let Err(error) = flock(&self.file, FlockOperation::Unlock)
        {
            tracing::warn!(%error, "the lock of the cache folder could not be given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderLock::try_acquire(&dir.path().join("cache")).unwrap().unwrap();
        assert!(FolderLock::try_acquire(&dir.path().join("cache")).unwrap().is_none());
        drop(first);
        assert!(FolderLock::try_acquire(&dir.path().join("cache")).unwrap().is_some());
    }
}
