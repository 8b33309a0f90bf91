//! All of an object as one file, held in place: for mappings, and for programs that open files by name.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, fchmod, linkat};

use super::crcs;
use crate::error::{Error, Result};
use crate::io::{Children, IoFile, map};
use crate::memory::Lease;
use crate::object::{BLOCK_BYTES, BlockId, ObjectMeta};

/// The rights of a file that others open by name.
const READ_ONLY: u32 = 0o444;

/// Every block of an object, where it lies: none is evicted or rewritten for as long as this is held, by whatever process.
pub struct Whole {
    object: Arc<ObjectMeta>,
    /// None of an empty object.
    file: Option<Arc<IoFile>>,
    /// One per granule.
    crcs: Vec<u32>,
    _held: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Whole({})", self.object.location)
    }
}

impl Whole {
    pub(super) fn new(
        object: Arc<ObjectMeta>,
        file: Arc<IoFile>,
        crcs: Vec<u32>,
        held: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { object, file: Some(file), crcs, _held: held }
    }

    /// Of an object without bytes: the folder has nothing of it, and nothing needs to be held.
    pub(super) fn nothing(object: Arc<ObjectMeta>) -> Self {
        Self { object, file: None, crcs: Vec::new(), _held: Arc::new(()) }
    }

    /// Its bytes as private memory, read as they are touched and not checked; a forked child doesn't have them. Holds this, and `guard` for
    /// longer.
    ///
    /// # Errors
    /// [`Error::Disk`] where the file can't be mapped.
    pub fn map(self: &Arc<Self>, guard: Arc<dyn Any + Send + Sync>) -> Result<Lease> {
        let Some(file) = &self.file else { return Ok(Lease::from_vec(Vec::new())) };
        let held = Arc::new((self.clone(), guard));
        // A child would go on reading when this process has let go.
        let mapped = map(file.file(), self.object.size_bytes, Children::HaveNothing, held);
        mapped.map_err(|error| self.failed("mapping the cached file", error))
    }

    /// The first block that isn't what was stored, in a mapping of it; reads all of it.
    pub fn mismatch(&self, mapped: &[u8]) -> Option<BlockId> {
        let at = crcs::mismatch(mapped, &self.crcs)?;
        let index = u32::try_from(at / BLOCK_BYTES).unwrap_or(u32::MAX);
        Some(BlockId { object: self.object.id, index })
    }

    /// Gives the file another name, under which it can be read and not written. It takes no space; it must be gone before this is.
    pub(super) fn link(&self, path: &Path) -> Result<()> {
        let Some(file) = self.file.as_ref().map(|file| file.file()) else {
            let made =
                File::create_new(path).and_then(|made| Ok(fchmod(&made, Mode::from_raw_mode(READ_ONLY))?));
            return made.map_err(|error| self.failed("making an empty file", error));
        };
        let linked = fchmod(file, Mode::from_raw_mode(READ_ONLY)).and_then(|()| {
            let open = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)
        });
        linked.map_err(|error| {
            self.failed("giving the cached file another name (hard links are needed)", error.into())
        })
    }

    fn failed(&self, what: &str, error: io::Error) -> Error {
        let path = self.file.as_ref().map(|file| file.path().to_owned()).unwrap_or_default();
        let what = format!("{what} of {}", self.object.location);
        Error::Disk { path, what, source: Arc::new(error) }
    }
}
