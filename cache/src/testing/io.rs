//! A disk that fails on demand: wraps any [`BlockIo`], counts operations, and gives some of them errors, wrong bits, half a
//! write or punch, or a long wait.
//!
//! Operations without a fault go to the wrapped engine untouched, so everything it promises still holds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::io::{BlockIo, IoFile, Operation};
use crate::memory::{Arena, Lease, Slab};

/// How long a test waits for what it holds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which operations a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads only.
    Read,
    /// Writes only.
    Write,
    /// Punches only.
    Punch,
    /// All of them.
    Any,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation does nothing and fails with this errno: `libc::EIO`, `libc::ENOSPC`.
    Errno(i32),
    /// One bit of the data differs: what is read comes out wrong, what is written lands wrong. Both report success. A punch is left alone.
    FlipBit {
        /// Which byte of the operation, modulo its length.
        byte: usize,
        /// Which bit of it, 0 to 7.
        bit: u8,
    },
    /// A write or a punch that stops after so many bytes (modulo its length) and fails with EIO. A read fails with EIO only.
    Torn {
        /// Bytes that land; a multiple of the granule on a direct file.
        bytes: usize,
    },
    /// A write or a punch that reports success and never lands. A read is left alone.
    Lost,
}

/// One rule: from the operation after the first `after` matching ones, `times` matching operations suffer `effect`.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: Kind,
    effect: Effect,
    after: u64,
    times: u64,
    file_suffix: Option<String>,
}

impl Fault {
    /// Every operation of that kind, from now on.
    pub fn new(kind: Kind, effect: Effect) -> Self {
        Self { kind, effect, after: 0, times: u64::MAX, file_suffix: None }
    }

    /// Lets the first `operations` matching ones through.
    pub fn after(mut self, operations: u64) -> Self {
        self.after = operations;
        self
    }

    /// Strikes only so often.
    pub fn times(mut self, operations: u64) -> Self {
        self.times = operations;
        self
    }

    /// Matches only files whose path ends with `suffix`, such as ".crc".
    pub fn on_files(mut self, suffix: impl Into<String>) -> Self {
        self.file_suffix = Some(suffix.into());
        self
    }

    /// Counts a matching operation; true where it is struck.
    fn strikes(&mut self, kind: Kind, file: &IoFile) -> bool {
        let path = file.path().as_os_str().as_encoded_bytes();
        let file_matches = self.file_suffix.as_ref().is_none_or(|suffix| path.ends_with(suffix.as_bytes()));
        if (self.kind != Kind::Any && self.kind != kind) || !file_matches || self.times == 0 {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// How many reads and writes were submitted so far, struck or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes that reads asked for.
    pub read_bytes: u64,
    /// Bytes that writes brought.
    pub write_bytes: u64,
    /// Operations that a fault struck.
    pub struck: u64,
}

/// The decorator. Share it as `Arc<FaultyIo>`: one clone for the code under test, one for the test.
#[derive(Debug)]
pub struct FaultyIo {
    inner: Arc<dyn BlockIo>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<Fault>,
    counts: Counts,
    hold: Option<Kind>,
    held: Vec<Operation>,
    held_punches: usize,
}

impl State {
    fn holds(&self, kind: Kind) -> bool {
        self.hold.is_some_and(|held| held == Kind::Any || held == kind)
    }

    /// Counts an operation that goes on now; the fault that strikes it.
    fn fault(&mut self, kind: Kind, file: &IoFile) -> Option<Effect> {
        let effect =
            self.faults.iter_mut().find_map(|fault| fault.strikes(kind, file).then_some(fault.effect));
        self.counts.struck += u64::from(effect.is_some());
        effect
    }
}

impl FaultyIo {
    /// Wraps an engine; nothing is wrong with it yet.
    pub fn new(inner: Arc<dyn BlockIo>) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Adds a rule. Where several match, the first one added strikes.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Forgets all rules.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Operations of this kind submitted from now on wait, with their buffers, until [`Self::release`]. A punch waits in its caller's thread.
    pub fn hold(&self, kind: Kind) {
        self.state.lock().hold = Some(kind);
    }

    /// Lets held operations go, in the order they came, and holds no more.
    pub fn release(&self) {
        let held = {
            let mut state = self.state.lock();
            state.hold = None;
            self.changed.notify_all();
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|operation| self.perform(operation));
    }

    /// Operations that are held now.
    pub fn held(&self) -> usize {
        let state = self.state.lock();
        state.held.len() + state.held_punches
    }

    /// Blocks this thread until at least `operations` are held; false where that takes longer than a test should. Not for async code: use
    /// `spawn_blocking` there.
    #[must_use]
    pub fn wait_for_held(&self, operations: usize) -> bool {
        let mut state = self.state.lock();
        let too_few = |state: &mut State| state.held.len() + state.held_punches < operations;
        !self.changed.wait_while_for(&mut state, too_few, PATIENCE).timed_out()
    }

    /// What was submitted so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    fn perform(&self, operation: Operation) {
        let effect = self.state.lock().fault(kind_of(&operation), operation.file());
        match effect {
            None => self.inner.submit(operation),
            Some(effect) => self.strike(operation, effect),
        }
    }

    fn strike(&self, operation: Operation, effect: Effect) {
        match (operation, effect) {
            (operation, Effect::Errno(errno)) => operation.fail(io::Error::from_raw_os_error(errno)),
            (operation @ Operation::Read { .. }, Effect::Lost) => self.inner.submit(operation),
            (operation @ Operation::Read { .. }, Effect::Torn { .. }) => operation.fail(eio()),
            (Operation::Read { file, offset, len, slab, done }, Effect::FlipBit { byte, bit }) => {
                let (inner_done, answer) = oneshot::channel();
                self.inner.submit(Operation::Read { file, offset, len, slab, done: inner_done });
                forward(answer, done, move |(mut slab, result): (Slab, io::Result<usize>)| {
                    if let Ok(filled @ 1..) = result {
                        flip(&mut slab, filled, byte, bit);
                    }
                    (slab, result)
                });
            }
            (Operation::Write { done, .. }, Effect::Lost) => drop(done.send(Ok(()))),
            (Operation::Write { file, offset, bytes, done }, Effect::FlipBit { byte, bit }) => {
                let bytes = flipped(&bytes, byte, bit);
                self.inner.submit(Operation::Write { file, offset, bytes, done });
            }
            (Operation::Write { file, offset, bytes, done }, Effect::Torn { bytes: landed }) => {
                let bytes = bytes.slice(0..landed % bytes.len().max(1));
                let (inner_done, answer) = oneshot::channel();
                self.inner.submit(Operation::Write { file, offset, bytes, done: inner_done });
                forward(answer, done, |result: io::Result<()>| result.and_then(|()| Err(eio())));
            }
        }
    }
}

impl BlockIo for FaultyIo {
    fn submit(&self, operation: Operation) {
        {
            let mut state = self.state.lock();
            match &operation {
                Operation::Read { len, .. } => {
                    state.counts.reads += 1;
                    state.counts.read_bytes += *len as u64;
                }
                Operation::Write { bytes, .. } => {
                    state.counts.writes += 1;
                    state.counts.write_bytes += bytes.len() as u64;
                }
            }
            if state.holds(kind_of(&operation)) {
                state.held.push(operation);
                self.changed.notify_all();
                return;
            }
        }
        self.perform(operation);
    }

    fn punch(&self, file: &IoFile, offset: u64, len: u64) -> io::Result<()> {
        let effect = {
            let mut state = self.state.lock();
            if state.holds(Kind::Punch) {
                state.held_punches += 1;
                self.changed.notify_all();
                while state.holds(Kind::Punch) {
                    self.changed.wait(&mut state);
                }
                state.held_punches -= 1;
            }
            state.fault(Kind::Punch, file)
        };
        match effect {
            None | Some(Effect::FlipBit { .. }) => self.inner.punch(file, offset, len),
            Some(Effect::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Effect::Torn { bytes }) => {
                self.inner.punch(file, offset, (bytes as u64 % len).max(1)).and(Err(eio()))
            }
            Some(Effect::Lost) => Ok(()),
        }
    }

    fn hold(&self, file: std::os::fd::OwnedFd) -> io::Result<crate::io::Held> {
        self.inner.hold(file)
    }

    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    fn close_in_forked_child(&self) {
        self.inner.close_in_forked_child();
    }
}

impl Drop for FaultyIo {
    /// What was submitted is still done.
    fn drop(&mut self) {
        self.release();
    }
}

fn kind_of(operation: &Operation) -> Kind {
    match operation {
        Operation::Read { .. } => Kind::Read,
        Operation::Write { .. } => Kind::Write,
    }
}

/// Passes an answer on when it comes, changed; a thread of its own waits, since nobody else may.
fn forward<T: Send + 'static>(
    answer: oneshot::Receiver<T>,
    done: oneshot::Sender<T>,
    change: impl FnOnce(T) -> T + Send + 'static,
) {
    let wait = move || {
        if let Ok(answer) = answer.blocking_recv() {
            drop(done.send(change(answer)));
        }
    };
    // Where no thread can be had both channels close, and whoever waits sees an error.
    drop(std::thread::Builder::new().name("forebay-faulty-io".into()).spawn(wait));
}

/// Flips a bit among the first `filled` bytes, which may lie behind the visible length.
fn flip(slab: &mut Slab, filled: usize, byte: usize, bit: u8) {
    let visible = slab.len();
    slab.set_len(filled);
    slab[byte % filled] ^= 1 << (bit % 8);
    slab.set_len(visible);
}

/// A page-aligned copy (direct files ask for that) with one bit flipped.
fn flipped(bytes: &Lease, byte: usize, bit: u8) -> Lease {
    let copy = Arena::new((bytes.len() as u64).next_multiple_of(4096))
        .and_then(|arena| arena.region("a flipped write", bytes.len()))
        .ok()
        .and_then(|region| region.try_allocate(bytes.len()));
    match copy {
        Some(mut copy) if !bytes.is_empty() => {
            copy.copy_from_slice(bytes);
            copy[byte % bytes.len()] ^= 1 << (bit % 8);
            copy.freeze()
        }
        _ => bytes.clone(),
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

#[cfg(test)]
#[path = "io_tests.rs"]
mod tests;
