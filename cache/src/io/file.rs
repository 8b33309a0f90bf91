//! An open file and how it may be read: direct where its file system can, buffered where not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::object::GRANULE_BYTES;

/// A file of the cache, opened once and shared by every operation on it.
#[derive(Debug)]
pub struct IoFile {
    file: File,
    path: PathBuf,
    direct: bool,
}

impl IoFile {
    /// Opens (and creates, where `create`) a file with O_DIRECT; buffered where the file system refuses that with EINVAL (tmpfs) or
    /// asks for a larger alignment than a granule.
    pub fn open(path: &Path, create: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).mode(0o600);
        match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) if granule_suffices(&file) => Ok(Self { file, path: path.into(), direct: true }),
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
            _ => Ok(Self { file: options.open(path)?, path: path.into(), direct: false }),
        }
    }

    /// Wraps a file that somebody else opened (a descriptor received from the cache's owner).
    pub fn from_file(file: File, path: PathBuf) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        Ok(Self { file, path, direct: flags.contains(rustix::fs::OFlags::DIRECT) })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True where reads bypass the page cache; offsets and lengths are then multiples of a granule.
    pub fn is_direct(&self) -> bool {
        self.direct
    }
}

/// Asks STATX_DIOALIGN (Linux 6.1); older kernels say nothing, and 4 KiB suits every disk met so far.
fn granule_suffices(file: &File) -> bool {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let Ok(found) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return true };
    if found.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return true;
    }
    let granule = u32::try_from(GRANULE_BYTES).unwrap_or(u32::MAX);
    (1..=granule).contains(&found.stx_dio_offset_align) && found.stx_dio_mem_align <= granule
}
