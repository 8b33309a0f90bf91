//! A disk that fails on demand: wraps any [`BlockIo`], counts operations, and gives some of them errors, wrong bits, half a
//! write, or a long wait.
//!
//! Operations without a fault go to the wrapped engine untouched, so everything it promises still holds.

use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::io::{BlockIo, Operation};
use crate::memory::{Arena, Lease, Slab, Unpinned};

/// Which operations a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads only.
    Read,
    /// Writes only.
    Write,
    /// Both.
    Any,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation does nothing and fails with this errno: `libc::EIO`, `libc::ENOSPC`.
    Errno(i32),
    /// One bit of the data differs: what is read comes out wrong, what is written lands wrong. Both report success.
    FlipBit {
        /// Which byte of the operation, modulo its length.
        byte: usize,
        /// Which bit of it, 0 to 7.
        bit: u8,
    },
    /// A write that stops after so many bytes (modulo its length) and fails with EIO. A read fails with EIO only.
    Torn {
        /// Bytes that land; a multiple of the granule on a direct file.
        bytes: usize,
    },
    /// A write that reports success and never lands. A read is left alone.
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
    fn strikes(&mut self, operation: &Operation) -> bool {
        let kind = match operation {
            Operation::Read { .. } => Kind::Read,
            Operation::Write { .. } => Kind::Write,
        };
        let path = operation.file().path().as_os_str().as_encoded_bytes();
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

/// How many operations were submitted so far, struck or not.
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

    /// Operations of this kind submitted from now on wait, with their buffers, until [`Self::release`].
    pub fn hold(&self, kind: Kind) {
        self.state.lock().hold = Some(kind);
    }

    /// Lets held operations go, in the order they came, and holds no more.
    pub fn release(&self) {
        let held = {
            let mut state = self.state.lock();
            state.hold = None;
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|operation| self.perform(operation));
    }

    /// Operations that are held now.
    pub fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Blocks this thread until at least `operations` are held. Not for async code: use `spawn_blocking` there.
    pub fn wait_for_held(&self, operations: usize) {
        let mut state = self.state.lock();
        while state.held.len() < operations {
            self.changed.wait(&mut state);
        }
    }

    /// What was submitted so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    fn perform(&self, operation: Operation) {
        let effect = {
            let mut state = self.state.lock();
            let effect =
                state.faults.iter_mut().find_map(|fault| fault.strikes(&operation).then_some(fault.effect));
            state.counts.struck += u64::from(effect.is_some());
            effect
        };
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
            let kind = match &operation {
                Operation::Read { len, .. } => {
                    state.counts.reads += 1;
                    state.counts.read_bytes += *len as u64;
                    Kind::Read
                }
                Operation::Write { bytes, .. } => {
                    state.counts.writes += 1;
                    state.counts.write_bytes += bytes.len() as u64;
                    Kind::Write
                }
            };
            if state.hold.is_some_and(|held| held == Kind::Any || held == kind) {
                state.held.push(operation);
                self.changed.notify_all();
                return;
            }
        }
        self.perform(operation);
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
    let copy = Arena::new((bytes.len() as u64).next_multiple_of(4096), Arc::new(Unpinned))
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
mod tests {
    use super::*;
    use crate::io::{self, Blocking, IoFile};

    struct Bench {
        io: Arc<FaultyIo>,
        file: Arc<IoFile>,
        region: crate::memory::Region,
        _folder: tempfile::TempDir,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let io = FaultyIo::new(Arc::new(Blocking::new(2).unwrap()));
        let file = Arc::new(IoFile::open(&folder.path().join("a.data"), true).unwrap());
        let region = Arena::new(1 << 20, Arc::new(Unpinned)).unwrap().region("test", 1 << 20).unwrap();
        Bench { io, file, region, _folder: folder }
    }

    impl Bench {
        fn page(&self, value: u8) -> Lease {
            let mut slab = self.region.try_allocate(8192).unwrap();
            slab.fill(value);
            slab.freeze()
        }

        async fn read(&self) -> std::io::Result<Vec<u8>> {
            let slab = self.region.try_allocate(8192).unwrap();
            let (slab, result) = io::read(&*self.io, &self.file, 0, 8192, slab).await;
            result.map(|filled| slab.unwrap()[..filled].to_vec())
        }
    }

    #[tokio::test]
    async fn faults_strike_after_so_many_operations_of_their_kind_and_file() {
        let bench = bench();
        bench.io.inject(Fault::new(Kind::Write, Effect::Errno(libc::ENOSPC)).after(1).times(1));
        bench.io.inject(Fault::new(Kind::Any, Effect::Errno(libc::EIO)).on_files(".crc"));
        io::write(&*bench.io, &bench.file, 0, bench.page(1)).await.unwrap();
        assert_eq!(bench.read().await.unwrap(), vec![1; 8192]);
        let error = io::write(&*bench.io, &bench.file, 0, bench.page(2)).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        io::write(&*bench.io, &bench.file, 0, bench.page(3)).await.unwrap();
        assert_eq!(bench.read().await.unwrap(), vec![3; 8192]);
        let counts = bench.io.counts();
        assert_eq!((counts.reads, counts.writes, counts.struck), (2, 3, 1));
    }

    #[tokio::test]
    async fn a_flipped_bit_differs_in_what_is_read_or_in_what_is_written() {
        let bench = bench();
        io::write(&*bench.io, &bench.file, 0, bench.page(0)).await.unwrap();
        bench.io.inject(Fault::new(Kind::Any, Effect::FlipBit { byte: 4097, bit: 3 }).times(1));
        assert_eq!(bench.read().await.unwrap()[4097], 8);
        assert_eq!(bench.read().await.unwrap(), vec![0; 8192], "the disk itself is right");
        bench.io.inject(Fault::new(Kind::Write, Effect::FlipBit { byte: 1, bit: 0 }).times(1));
        io::write(&*bench.io, &bench.file, 0, bench.page(0)).await.unwrap();
        assert_eq!(bench.read().await.unwrap()[1], 1);
    }

    #[tokio::test]
    async fn torn_and_lost_writes_leave_the_old_bytes_behind() {
        let bench = bench();
        io::write(&*bench.io, &bench.file, 0, bench.page(1)).await.unwrap();
        bench.io.inject(Fault::new(Kind::Write, Effect::Torn { bytes: 4096 }).times(1));
        bench.io.inject(Fault::new(Kind::Write, Effect::Lost).times(1));
        let error = io::write(&*bench.io, &bench.file, 0, bench.page(2)).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let found = bench.read().await.unwrap();
        assert_eq!((found[4095], found[4096]), (2, 1));
        io::write(&*bench.io, &bench.file, 0, bench.page(3)).await.unwrap();
        assert_eq!(bench.read().await.unwrap()[0], 2, "the second write was lost");
    }

    #[tokio::test]
    async fn held_operations_keep_their_buffers_until_released() {
        let bench = bench();
        bench.io.hold(Kind::Read);
        io::write(&*bench.io, &bench.file, 0, bench.page(9)).await.unwrap();
        let mut reading = Box::pin(bench.read());
        assert!(futures::poll!(&mut reading).is_pending());
        bench.io.wait_for_held(1);
        assert_eq!(bench.region.used_bytes(), 8192);
        bench.io.release();
        assert_eq!(reading.await.unwrap(), vec![9; 8192]);
    }
}
