//! A file's bytes as memory: for files that nobody changes any more.
#![allow(unsafe_code)]

use std::any::Any;
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::memory::Lease;

/// Whether a forked child has the memory too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// It has a copy, as of any memory.
    Share,
    /// Touching it there ends the child (SIGSEGV): what the guard promises, it promises to this process alone.
    HaveNothing,
}

/// The first `len` bytes of a file, mapped: a page is read when it is touched. The memory is this process's own: writing to it changes a copy
/// of the page and never the file. `guard` is held for as long as it is mapped.
///
/// Whoever calls this vouches that the file stays as it is: where another process writes to it in place, the bytes change; where one cuts it
/// short, touching what is gone ends the process (SIGBUS). That is so with every mapping of a file.
///
/// # Errors
/// Where the file is shorter than `len`, or can't be mapped.
pub fn map(
    file: &File,
    len: u64,
    children: Children,
    guard: Arc<dyn Any + Send + Sync>,
) -> io::Result<Lease> {
    if file.metadata()?.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    if len == 0 {
        return Ok(Lease::from_vec(Vec::new()));
    }
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // Never written pages cost nothing: nothing is set aside for copies of them.
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let start = unsafe { mmap(std::ptr::null_mut(), len, access, flags, file, 0)? };
    let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
    let mapping = Arc::new(Mapping { start, len, _guard: guard });
    if children == Children::HaveNothing {
        // SAFETY: the range was just mapped.
        unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxDontFork)? };
    }
    // SAFETY: the mapping is readable from end to end until it is dropped, and private: what changes is the file, which the caller vouches for.
    Ok(unsafe { Lease::from_raw(mapping, start, len) })
}

struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Dropped after the memory is unmapped.
    _guard: Arc<dyn Any + Send + Sync>,
}

// SAFETY: it is an address and a length; whoever reads there does so through leases.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and no lease of it is left.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "a file could not be unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_mapping_is_the_files_bytes_and_holds_its_guard() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let guard = Arc::new(());
        let lease = map(&file, 10, Children::HaveNothing, guard.clone()).unwrap();
        drop(file);
        let part = lease.slice(2..5);
        drop(lease);
        assert_eq!((&*part, Arc::strong_count(&guard)), (&b"234"[..], 2));
        drop(part);
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[test]
    fn a_write_never_reaches_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 5000], 0).unwrap();
        let lease = map(&file, 5000, Children::Share, Arc::new(())).unwrap();
        // SAFETY: the mapping is writable, and nobody else has it.
        unsafe { lease.as_ptr().cast_mut().add(4999).write(9) };
        let mut bytes = [0; 5000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((lease[4999], bytes[4999]), (9, 7));
    }

    #[test]
    fn what_is_not_there_can_not_be_mapped() {
        let file = tempfile::tempfile().unwrap();
        assert!(map(&file, 0, Children::Share, Arc::new(())).unwrap().is_empty());
        let error = map(&file, 1, Children::Share, Arc::new(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
