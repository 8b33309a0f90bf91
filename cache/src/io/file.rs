//! An open file and how it may be read: direct where its file system can, buffered where not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate};
use serde::Serialize;

use crate::object::GRANULE_BYTES;

/// File systems in memory. Newer kernels accept O_DIRECT on them and copy from the page cache all the same.
pub(super) const IN_MEMORY: [i128; 2] = [0x0102_1994, 0x8584_58f6];

/// What a file system says that direct I/O on a file needs, in bytes (STATX_DIOALIGN, Linux 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Alignment {
    /// Of the buffer's address.
    pub memory_bytes: u32,
    /// Of offset and length.
    pub offset_bytes: u32,
}

/// A file of the cache, opened once and shared by every operation on it.
#[derive(Debug)]
pub struct IoFile {
    file: File,
    path: PathBuf,
    buffered_because: Option<String>,
}

impl IoFile {
    /// Opens (and creates, where `create`) a file with O_DIRECT; buffered where the file system refuses that with EINVAL,
    /// lives in memory (tmpfs), or asks for a larger alignment than a granule.
    pub fn open(path: &Path, create: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(0o600);
        match Self::open_with(path, options.clone()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                made_writable(path, || Self::open_with(path, options)).unwrap_or(Err(error))
            }
            opened => opened,
        }
    }

    /// As [`Self::open`], a file that is there and only read.
    pub fn open_readable(path: &Path) -> io::Result<Self> {
        Self::open_with(path, OpenOptions::new().read(true).clone())
    }

    fn open_with(path: &Path, options: OpenOptions) -> io::Result<Self> {
        let because = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => match refusal(&file) {
                None => return Ok(Self { file, path: path.into(), buffered_because: None }),
                Some(because) => because,
            },
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                "the file system refuses O_DIRECT".into()
            }
            Err(error) => return Err(error),
        };
        Ok(Self { file: options.open(path)?, path: path.into(), buffered_because: Some(because) })
    }

    /// Wraps a file that somebody else opened (a descriptor received from the cache's owner): direct where its flags say so.
    pub fn from_file(file: File, path: PathBuf) -> io::Result<Self> {
        let direct = rustix::fs::fcntl_getfl(&file)?.contains(OFlags::DIRECT);
        let buffered_because = (!direct).then(|| "it was opened without O_DIRECT".into());
        Ok(Self { file, path, buffered_because })
    }

    /// The open file, alone.
    pub fn into_file(self) -> File {
        self.file
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
        self.buffered_because.is_none()
    }

    /// Why reads go through the page cache, where they do.
    pub fn buffered_because(&self) -> Option<&str> {
        self.buffered_because.as_deref()
    }

    /// As [`super::BlockIo::punch`].
    pub(super) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    /// What the file system asks of direct I/O, where it says so.
    pub fn alignment(&self) -> Option<Alignment> {
        alignment(&self.file)
    }
}

/// Opens a file that was made read-only for those who open it by another name: the cache itself may write to it all the same. None where
/// it is not this user's.
fn made_writable(path: &Path, open: impl FnOnce() -> io::Result<IoFile>) -> Option<io::Result<IoFile>> {
    let before = std::fs::metadata(path).ok()?.permissions();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).ok()?;
    let opened = open();
    Some(std::fs::set_permissions(path, before).and(opened))
}

/// Older kernels and some file systems say nothing.
fn alignment(file: &File) -> Option<Alignment> {
    let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    (found.stx_mask & StatxFlags::DIOALIGN.bits() != 0).then_some(Alignment {
        memory_bytes: found.stx_dio_mem_align,
        offset_bytes: found.stx_dio_offset_align,
    })
}

/// Whether a file is on one of these file systems, by their numbers in <linux/magic.h>.
pub(crate) fn is_on(file: &File, file_systems: &[i128]) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| file_systems.contains(&i128::from(found.f_type)))
}

/// Why a file that opened with O_DIRECT is better not used so. Where nothing is said, 4 KiB suits every disk met so far.
fn refusal(file: &File) -> Option<String> {
    if is_on(file, &IN_MEMORY) {
        return Some("the file system lives in memory".into());
    }
    unsuited(alignment(file)?)
}

fn unsuited(alignment: Alignment) -> Option<String> {
    let suits = |bytes: u32| bytes > 0 && u64::from(bytes) <= GRANULE_BYTES;
    let Alignment { memory_bytes, offset_bytes } = alignment;
    match (memory_bytes, offset_bytes) {
        (0, _) | (_, 0) => Some("the file system offers no direct I/O on this file".into()),
        (memory, offset) if suits(memory) && suits(offset) => None,
        (memory, offset) => Some(format!(
            "direct I/O would need buffers aligned to {memory} and offsets to {offset} bytes, more than {GRANULE_BYTES}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_memory_is_buffered_and_says_why() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        let file = IoFile::open(&folder.path().join("a"), true).unwrap();
        assert!(!file.is_direct());
        assert!(file.buffered_because().is_some());
    }

    #[test]
    fn an_alignment_beyond_a_granule_is_not_used() {
        let of = |memory_bytes, offset_bytes| unsuited(Alignment { memory_bytes, offset_bytes });
        assert_eq!(of(4, 512), None);
        assert_eq!(of(4096, 4096), None);
        assert!(of(512, 65536).unwrap().contains("65536"));
        assert!(of(0, 0).is_some());
    }

    #[test]
    fn opening_twice_keeps_the_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"kept").unwrap();
        drop(IoFile::open(&path, true).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }
}
