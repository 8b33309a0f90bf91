//! What a forked child must not keep: locks, sockets and rings of its parent.
//!
//! A child inherits open file descriptions, and with them flocks and connections: a parent that dies would seem to live on in
//! it. CLOEXEC covers children that exec; this covers those that don't (Python's `multiprocessing` with "fork"). A descriptor
//! wrapped in [`ParentOnly`] refers to /dev/null in every forked child: closed, with its number still taken, so that dropping
//! its owner there closes nothing else. [`Birth`] tells a child from its parent.
//!
//! Not covered: children made by a raw `clone` system call, which runs no handlers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::error::{Error, Result};

/// Descriptors that may be wrapped at the same time: an owner has two per client.
const SLOTS: usize = 4096;

const FREE: i32 = -1;
const TAKEN: i32 = -2;

static OPEN: [AtomicI32; SLOTS] = [const { AtomicI32::new(FREE) }; SLOTS];
/// How many forks lie between the first process and this one, counted since the handler was installed.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static HANDLER: Once = Once::new();

/// While this is held, forked children don't keep the descriptor. Dropped before the descriptor closes, so that no child loses
/// a number that means something else by then.
#[derive(Debug)]
pub(crate) struct NotInChildren {
    slot: usize,
}

impl NotInChildren {
    /// Takes the descriptor under watch. It should be CLOEXEC already.
    pub(crate) fn watch(fd: RawFd) -> io::Result<Self> {
        install();
        let take = |slot: &AtomicI32| {
            slot.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let Some(slot) = OPEN.iter().position(take) else {
            return Err(io::Error::other(format!(
                "more than {SLOTS} descriptors are kept from forked children"
            )));
        };
        OPEN[slot].store(fd, Ordering::Release);
        Ok(Self { slot })
    }
}

impl Drop for NotInChildren {
    fn drop(&mut self) {
        OPEN[self.slot].store(FREE, Ordering::Release);
    }
}

/// A descriptor that no forked child keeps.
#[derive(Debug)]
pub(crate) struct ParentOnly {
    // In this order: the watch ends before the descriptor closes.
    _watch: NotInChildren,
    fd: OwnedFd,
}

impl ParentOnly {
    /// Takes the descriptor under watch. It should be CLOEXEC already.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { _watch: NotInChildren::watch(fd.as_raw_fd())?, fd })
    }
}

impl AsFd for ParentOnly {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for ParentOnly {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// The process in which something was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth(u32);

impl Birth {
    /// This process.
    pub(crate) fn here() -> Self {
        install();
        Self(GENERATION.load(Ordering::Acquire))
    }

    /// An error in a forked child: the threads behind whatever was made did not survive.
    pub(crate) fn check(self) -> Result<()> {
        if GENERATION.load(Ordering::Acquire) == self.0 { Ok(()) } else { Err(Error::Forked) }
    }
}

fn install() {
    HANDLER.call_once(|| {
        // SAFETY: the handler only makes async-signal-safe calls and touches atomics, as a child of a process with threads must.
        let refused = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // ENOMEM alone; without a handler a child would keep the locks, and nothing else can be done about it.
        assert_eq!(refused, 0, "pthread_atfork failed: {}", io::Error::from_raw_os_error(refused));
    });
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
    // SAFETY: open is async-signal-safe, and the path is a C string.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    for slot in &OPEN {
        let fd = slot.load(Ordering::Acquire);
        if fd < 0 {
            continue;
        }
        // SAFETY: the number is open in this child as it was in the parent; dup3 and close are async-signal-safe. Without
        // /dev/null the number is closed: worse than a placeholder, better than holding the parent's lock.
        unsafe {
            if null >= 0 {
                libc::dup3(null, fd, libc::O_CLOEXEC);
            } else {
                libc::close(fd);
            }
        }
    }
    if null >= 0 {
        // SAFETY: opened above, used by nobody else.
        unsafe { libc::close(null) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::lock::{LockFile, Taken};

    /// Forking this process would hand the files of tests beside this one to the child: it forks a process of its own.
    #[test]
    fn a_forked_child_keeps_no_lock_of_its_parent_and_knows_what_it_is() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "share::fork::tests::fork_and_look", "--ignored", "--test-threads=1"])
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    #[ignore = "forks: run by the test above in a process of its own"]
    fn fork_and_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("LOCK");
        let mut ours = LockFile::open(&path).unwrap();
        assert_eq!(ours.try_take().unwrap(), Taken::Yes);
        let birth = Birth::here();
        let (reader, writer) = std::io::pipe().unwrap();
        let (mut ready, begun) = std::io::pipe().unwrap();
        // SAFETY: the child calls async-signal-safe functions only, then exits without running destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let knows = birth.check().is_err();
            // Its handlers have run.
            drop((writer, begun));
            // The parent closes its end when it has looked.
            let mut byte = [0u8];
            // SAFETY: the buffer is valid for one byte, and _exit ends the child at once.
            unsafe {
                libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1);
                libc::_exit(i32::from(!knows));
            }
        }
        assert!(child > 0 && birth.check().is_ok());
        drop(begun);
        std::io::Read::read_to_end(&mut ready, &mut Vec::new()).unwrap();
        drop(ours);
        let mut other = LockFile::open(&path).unwrap();
        let taken = other.try_take().unwrap();
        drop((reader, writer));
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(taken, Taken::Yes, "the child still holds the parent's lock");
        assert_eq!(libc::WEXITSTATUS(status), 0, "the child does not know that it is one");
    }
}
