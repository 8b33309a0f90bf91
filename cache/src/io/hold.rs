//! Files that stay open until the kernel has finished what this process began, also when the process is killed.
//!
//! A flock ends with the last reference to its open file. A ring has the file registered, and a killed process's ring goes away
//! when its last operation has landed: so whoever can take such a lock knows that nothing is in flight any more.
//! The blocking engine needs nothing for that: a thread inside a system call keeps the process's descriptors open.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use io_uring::Submitter;
use parking_lot::Mutex;

use crate::share::fork::Birth;

/// Files that one ring can hold, the one given at its start included: two for every cache that shares the engine.
pub(super) const SLOTS: usize = 16;

/// An empty place in a ring's table of files.
pub(super) const EMPTY: i32 = -1;

/// Keeps a file open in an engine; ends on drop.
pub struct Held {
    _release: Box<dyn Send + Sync>,
}

impl Held {
    /// A file that the process's own descriptor holds.
    pub(super) fn by_process(file: OwnedFd) -> Self {
        Self { _release: Box::new(file) }
    }

    pub(super) fn by_rings(release: Vec<InRing>) -> Self {
        Self { _release: Box::new(release) }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Holds({:?})", self.state.lock().taken)
    }
}

/// What a ring's thread is asked to change in its table of files.
struct Command {
    slot: usize,
    file: Option<Arc<OwnedFd>>,
    done: SyncSender<io::Result<()>>,
}

/// One ring's table, seen from outside its thread.
pub(super) struct Holds {
    state: Mutex<State>,
    asked: AtomicBool,
}

struct State {
    taken: [bool; SLOTS],
    commands: Vec<Command>,
    ended: bool,
}

impl Holds {
    /// A table whose first place may be taken already.
    pub(super) fn new(first: bool) -> Self {
        let mut taken = [false; SLOTS];
        taken[0] = first;
        Self {
            state: Mutex::new(State { taken, commands: Vec::new(), ended: false }),
            asked: AtomicBool::new(false),
        }
    }

    /// Asks the thread to hold the file; returns when the kernel does. `wake` makes the thread look.
    pub(super) fn hold(
        self: &Arc<Self>,
        file: &Arc<OwnedFd>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<InRing> {
        let slot = {
            let mut state = self.state.lock();
            let free = state.taken.iter().position(|taken| !taken);
            let slot = free.ok_or_else(|| io::Error::other(format!("a ring holds {SLOTS} files already")))?;
            state.taken[slot] = true;
            slot
        };
        // Releases the slot also where the kernel refuses.
        let held = InRing { holds: self.clone(), slot, wake: Box::new(wake), birth: Birth::here() };
        self.ask(slot, Some(file.clone()), &held.wake)?;
        Ok(held)
    }

    fn ask(&self, slot: usize, file: Option<Arc<OwnedFd>>, wake: &dyn Fn()) -> io::Result<()> {
        let (done, answered) = sync_channel(1);
        {
            let mut state = self.state.lock();
            if state.ended {
                return Err(super::queue::ended());
            }
            state.commands.push(Command { slot, file, done });
            self.asked.store(true, Ordering::Release);
        }
        wake();
        answered.recv().unwrap_or_else(|_| Err(super::queue::ended()))
    }

    /// Does what was asked; called by the ring's thread, which alone may.
    pub(super) fn apply(&self, ring: &Submitter<'_>) {
        if !self.asked.swap(false, Ordering::AcqRel) {
            return;
        }
        for Command { slot, file, done } in std::mem::take(&mut self.state.lock().commands) {
            let fd = file.as_ref().map_or(EMPTY, |file| file.as_raw_fd());
            let changed = ring.register_files_update(u32::try_from(slot).unwrap_or(u32::MAX), &[fd]);
            drop(done.send(changed.map(drop)));
        }
    }

    /// The ring is gone, and holds nothing.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.commands.clear();
    }
}

/// One ring's hold of a file.
pub(super) struct InRing {
    holds: Arc<Holds>,
    slot: usize,
    wake: Box<dyn Fn() + Send + Sync>,
    birth: Birth,
}

impl Drop for InRing {
    fn drop(&mut self) {
        // A forked child has no ring, and nobody who would answer. An error means that the ring is gone, and the hold with it.
        if self.birth.check().is_ok() && self.holds.ask(self.slot, None, &self.wake).is_ok() {
            self.holds.state.lock().taken[self.slot] = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{FlockOperation, flock};

    use crate::io::{BlockIo, Blocking, Options, Uring};

    fn is_free(path: &std::path::Path) -> bool {
        flock(std::fs::File::open(path).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    #[test]
    fn a_lock_stays_taken_until_every_ring_has_let_its_file_go() {
        let mut engines: Vec<Box<dyn BlockIo>> = vec![Box::new(Blocking::new(1).unwrap())];
        // A machine without io_uring has no ring to hold anything.
        engines.extend(
            Uring::new(&Options { threads: 2, ..Options::default() }).ok().map(|ring| Box::new(ring) as _),
        );
        for engine in engines {
            let file = tempfile::NamedTempFile::new().unwrap();
            let lock = std::fs::File::open(file.path()).unwrap();
            flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
            let held = engine.hold(lock.into()).unwrap();
            assert!(!is_free(file.path()), "{} let go", engine.engine());
            drop(held);
            assert!(is_free(file.path()), "{} still holds", engine.engine());
        }
    }
}
