//! What of a file the kernel has in memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::file::is_on;
use super::mmap::{Children, map};
use crate::object::ByteRange;

/// `cachestat` (Linux 6.5), of x86-64, arm64 and every architecture that shares the newer numbers; the C library has no function for it.
const CACHESTAT: libc::c_long = 451;

/// Of <linux/magic.h>.
const OVERLAYFS_SUPER_MAGIC: i128 = 0x794c_7630;

/// Its argument, as the kernel's <linux/mman.h> has it.
#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

/// Its answer, in pages.
#[repr(C)]
#[derive(Default)]
struct Found {
    cached: u64,
    dirty: u64,
    written_back: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many bytes of `range` are in the page cache. Asking brings nothing there, as even a read that must not wait does: that starts to read
/// ahead. None where the kernel doesn't tell: one that is older, one behind a filter of system calls, and every kernel where the file is neither
/// this user's nor writable for it.
pub fn resident_bytes(file: &File, range: ByteRange) -> Option<u64> {
    let page = rustix::param::page_size() as u64;
    let (first, end) = (range.start / page, range.end.div_ceil(page));
    let asked = Range { offset: first * page, len: (end - first) * page };
    let mut found = Found::default();
    // SAFETY: both structures are the kernel's, and live until it has answered.
    let answer = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut found, 0) };
    // A length of zero would mean to the file's end.
    if answer != 0 || asked.len == 0 {
        return None;
    }
    let pages = if found.cached == 0 && is_on(file, &[OVERLAYFS_SUPER_MAGIC]) {
        mapped_pages(file, range, page)?
    } else {
        found.cached
    };
    let missing = (end - first).saturating_sub(pages) * page;
    Some(range.len().saturating_sub(missing))
}

/// How many pages are there, found through a mapping: that is of the file below, whose pages they are, where overlayfs's own file has none ever.
/// That takes a tenth of the time of copying them. Who may not ask would be told that all are there: `cachestat` has refused them already.
fn mapped_pages(file: &File, range: ByteRange, page: u64) -> Option<u64> {
    let end = range.end.min(file.metadata().ok()?.len());
    let mapping = map(file, end, Children::Share, Arc::new(())).ok()?;
    let asked = mapping.get((range.start / page * page) as usize..)?;
    let mut there = vec![0; asked.len().div_ceil(page as usize)];
    // SAFETY: the range is mapped, begins with a page, and there is a byte for each page of it. Nothing is read or written there.
    let answer = unsafe { libc::mincore(asked.as_ptr().cast_mut().cast(), asked.len(), there.as_mut_ptr()) };
    (answer == 0).then(|| there.iter().filter(|&&each| each & 1 == 1).count() as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::file::IN_MEMORY;
    use super::*;

    #[test]
    fn what_was_written_is_there_and_what_was_dropped_is_not() {
        let mut file = tempfile::tempfile_in(".").unwrap();
        if is_on(&file, &IN_MEMORY) {
            eprintln!("skipped: this file system's page cache can't be emptied");
            return;
        }
        let page = rustix::param::page_size() as u64;
        file.write_all(&vec![1; 3 * page as usize + 5]).unwrap();
        let all = ByteRange::new(7, 3 * page + 5);
        // Older kernels don't tell.
        let Some(resident) = resident_bytes(&file, all) else { return };
        assert_eq!(resident, all.len());
        let beyond = ByteRange::new(3 * page, 6 * page);
        assert_eq!(resident_bytes(&file, beyond), Some(page), "beyond its end is nothing");
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(resident_bytes(&file, all), Some(0));
        assert_eq!(resident_bytes(&file, all), Some(0), "asking has brought nothing");
    }
}
