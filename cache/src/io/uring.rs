//! io_uring: one ring per I/O thread, which alone submits to it and reaps from it.
//!
//! Whoever submits puts the operation into a bounded queue; where the thread sleeps in the kernel, an eventfd that the ring
//! itself reads wakes it. The thread moves as many operations as fit into the ring and enters the kernel once for all
//! of them, so a batch costs one system call and a thread without work costs none.
//!
//! **Buffers.** An operation, with its slab or lease and its file, lives in the thread's table from submission to its
//! completion. Dropping the future that waits frees nothing; dropping the engine waits for every completion; where the thread
//! itself can't go on, what the kernel still holds is leaked rather than freed.
//!
//! **Absent on purpose.** No SQPOLL: its polling thread burns the core that decoding needs. No registered buffers: with O_DIRECT
//! reads of 128 KiB to 4 MiB they saved 0.02 to 0.04 core-seconds per GB and no throughput (fio `--fixedbufs`, disk at
//! 1.5 GB/s), while registering the arena would make every page of it resident at once and count it against
//! RLIMIT_MEMLOCK, which containers keep at 8 MiB.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use io_uring::{IoUring, opcode, types};
use rustix::event::{EventfdFlags, eventfd};

use super::hold::{EMPTY, Held, Holds, SLOTS};
use super::queue::{Queue, ended};
use super::transfer::{Next, Transfer};
use super::{BlockIo, Operation};
use crate::share::fork::NotInChildren;

/// Marks the completion of the eventfd's read; slots count from zero.
const WAKE: u64 = u64::MAX;

/// How an engine is built.
#[derive(Clone, Debug)]
pub struct Options {
    /// Operations in flight per ring, 1 to 1024. 32 to 64 keep an NVMe disk busy.
    pub depth: usize,
    /// Rings, each with its thread. One moves several GB/s: more only where a profile shows it full.
    pub threads: usize,
    /// A file that stays open until the kernel has finished every operation, also when this process is killed: a lock
    /// held through it is not released before the last read or write has landed.
    pub hold: Option<Arc<File>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { depth: 32, threads: 1, hold: None }
    }
}

/// Reads and writes through io_uring.
#[derive(Debug)]
pub struct Uring {
    threads: Vec<Handle>,
    next: AtomicUsize,
    flags: &'static str,
}

#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
    wake: Arc<OwnedFd>,
    holds: Arc<Holds>,
    thread: Option<JoinHandle<()>>,
}

impl Uring {
    /// Starts the threads and their rings. EPERM (a container's seccomp profile, or kernel.io_uring_disabled) and ENOSYS
    /// mean that this machine has no io_uring to offer.
    pub fn new(options: &Options) -> io::Result<Self> {
        let mut engine = Self { threads: Vec::new(), next: AtomicUsize::new(0), flags: "" };
        for index in 0..options.threads.max(1) {
            let queue = Arc::new(Queue::new());
            let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
            let holds = Arc::new(Holds::new(options.hold.is_some()));
            let (report, started) = sync_channel(1);
            let run = {
                let (queue, wake, holds, options) =
                    (queue.clone(), wake.clone(), holds.clone(), options.clone());
                move || {
                    let started = Driver::new(queue, wake, holds, &options);
                    // The ring's hold on a file is then the only one left: a forked child copies descriptors, and closes rings.
                    drop(options);
                    match started {
                        Ok((mut driver, flags)) => {
                            drop(report.send(Ok(flags)));
                            driver.run();
                        }
                        Err(error) => drop(report.send(Err(error))),
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("forebay-uring-{index}")).spawn(run)?;
            engine.threads.push(Handle { queue, wake, holds, thread: Some(thread) });
            // The ring is built on its thread: SINGLE_ISSUER binds it to the one that creates it.
            engine.flags = started.recv().unwrap_or_else(|_| Err(ended()))?;
        }
        Ok(engine)
    }

    /// The ring's set-up flags that this kernel took, for reports.
    pub fn flags(&self) -> &'static str {
        self.flags
    }

    fn push(&self, operations: impl IntoIterator<Item = Operation>) {
        let turn = match self.threads.len() {
            1 => 0,
            threads => self.next.fetch_add(1, Ordering::Relaxed) % threads,
        };
        let handle = &self.threads[turn];
        handle.queue.push(operations, || wake(&handle.wake));
    }
}

impl BlockIo for Uring {
    fn submit(&self, operation: Operation) {
        self.push([operation]);
    }

    fn submit_all(&self, operations: Vec<Operation>) {
        self.push(operations);
    }

    fn hold(&self, file: OwnedFd) -> io::Result<Held> {
        let file = Arc::new(file);
        let hold = |handle: &Handle| {
            let eventfd = handle.wake.clone();
            handle.holds.hold(&file, move || wake(&eventfd))
        };
        Ok(Held::by_rings(self.threads.iter().map(hold).collect::<io::Result<_>>()?))
    }

    fn engine(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for Handle {
    /// What was submitted is still done. In a forked child there is nobody to wait for.
    fn drop(&mut self) {
        if !self.queue.is_alive() {
            return;
        }
        self.queue.close();
        wake(&self.wake);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("an I/O thread panicked");
        }
    }
}

/// Adds one to the eventfd. It can't be full: the ring reads it to zero.
fn wake(eventfd: &OwnedFd) {
    if let Err(error) = rustix::io::write(eventfd, &1u64.to_ne_bytes()) {
        tracing::error!(%error, "the I/O thread could not be woken");
    }
}

/// Builds a ring with the best flags that this kernel knows.
fn build(entries: u32) -> io::Result<(IoUring, &'static str)> {
    let mut best = IoUring::builder();
    // Linux 6.1: completions are handled when this thread asks for them, never in the middle of something else.
    best.dontfork().setup_submit_all().setup_single_issuer().setup_defer_taskrun();
    let mut older = IoUring::builder();
    older.dontfork().setup_submit_all().setup_coop_taskrun();
    let mut plain = IoUring::builder();
    plain.dontfork();
    let candidates =
        [(best, "SINGLE_ISSUER|DEFER_TASKRUN|SUBMIT_ALL"), (older, "COOP_TASKRUN|SUBMIT_ALL"), (plain, "")];
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);
    for (builder, flags) in candidates {
        match builder.build(entries) {
            Ok(ring) => return Ok((ring, flags)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

/// Sends a ring through the kernel once, with nothing to do: a filter may allow io_uring_setup and refuse io_uring_enter.
fn enters(ring: &mut IoUring) -> io::Result<()> {
    // SAFETY: this entry has no buffer.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    ring.completion().for_each(drop);
    Ok(())
}

/// An operation that the kernel may be working on.
struct Flight {
    operation: Operation,
    transfer: Transfer,
}

/// What one I/O thread owns.
struct Driver {
    /// A child's copy of the ring would keep it, and the locks that it holds, alive. Dropped before the ring.
    _not_in_children: NotInChildren,
    ring: IoUring,
    queue: Arc<Queue>,
    wake: Arc<OwnedFd>,
    /// Where the kernel puts the eventfd's count; on the heap, since the driver may move.
    wake_count: Box<u64>,
    wake_armed: bool,
    holds: Arc<Holds>,
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
}

impl Driver {
    fn new(
        queue: Arc<Queue>,
        wake: Arc<OwnedFd>,
        holds: Arc<Holds>,
        options: &Options,
    ) -> io::Result<(Self, &'static str)> {
        let depth = options.depth.clamp(1, 1024);
        // One entry each, and one for the eventfd: neither of the ring's queues can overflow.
        let (mut ring, flags) = build(u32::try_from(depth + 1).unwrap_or(u32::MAX))?;
        enters(&mut ring)?;
        let mut files = [EMPTY; SLOTS];
        if let Some(hold) = &options.hold {
            files[0] = hold.as_raw_fd();
        }
        ring.submitter().register_files(&files)?;
        let _not_in_children = NotInChildren::watch(ring.as_raw_fd())?;
        let slots = std::iter::repeat_with(|| None).take(depth).collect();
        let free = (0..depth).rev().collect();
        let wake_count = Box::new(0);
        let driver =
            Self { ring, queue, wake, wake_count, wake_armed: false, holds, _not_in_children, slots, free };
        Ok((driver, flags))
    }

    fn run(&mut self) {
        loop {
            self.holds.apply(&self.ring.submitter());
            let (operations, open) = self.queue.take(self.free.len());
            operations.into_iter().for_each(|operation| self.start(operation));
            if !open && self.in_flight() == 0 {
                return;
            }
            self.arm_wake();
            // With no free slot more work is no reason to wake up.
            let wait = self.free.is_empty() || !open || self.queue.falls_asleep();
            if let Err(error) = self.enter(usize::from(wait)) {
                tracing::error!(%error, "io_uring_enter failed; this ring takes no more operations");
                return;
            }
            self.reap();
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn start(&mut self, operation: Operation) {
        let transfer = match Transfer::new(&operation) {
            Ok(transfer) => transfer,
            Err(error) => return operation.fail(error),
        };
        // `take` was asked for as many as there are free slots.
        let Some(slot) = self.free.pop() else { return operation.fail(ended()) };
        self.slots[slot] = Some(Flight { operation, transfer });
        self.send(slot);
    }

    /// Puts what is left of a slot's operation into the submission queue.
    fn send(&mut self, slot: usize) {
        let Some(Flight { operation, transfer }) = &self.slots[slot] else { return };
        let (part, offset) = transfer.rest();
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let fd = types::Fd(operation.file().file().as_raw_fd());
        let entry = match operation {
            Operation::Read { slab, .. } => {
                // SAFETY: `Transfer::new` checked that the whole read fits the slab's capacity.
                let start = unsafe { slab.as_ptr().add(part.start) }.cast_mut();
                opcode::Read::new(fd, start, len).offset(offset).build()
            }
            Operation::Write { bytes, .. } => {
                opcode::Write::new(fd, bytes[part].as_ptr(), len).offset(offset).build()
            }
        };
        self.queue_entry(&entry.user_data(slot as u64));
    }

    /// Keeps one read of the eventfd in the ring.
    fn arm_wake(&mut self) {
        if !self.wake_armed {
            let fd = types::Fd(self.wake.as_raw_fd());
            let start = std::ptr::from_mut(&mut *self.wake_count).cast();
            self.queue_entry(&opcode::Read::new(fd, start, 8).build().user_data(WAKE));
            self.wake_armed = true;
        }
    }

    fn queue_entry(&mut self, entry: &io_uring::squeue::Entry) {
        // SAFETY: slab, lease, file, eventfd and its count belong to `self.slots` and `self`, and stay in place until their
        // completion was reaped: `reap` empties a slot only then, and `Drop` waits or leaks.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // The ring has an entry for every slot and the eventfd, each used once between two completions.
        assert!(pushed.is_ok(), "the submission queue has an entry per slot");
    }

    /// Submits what is queued and waits for `wanted` completions.
    fn enter(&mut self, wanted: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Short of memory, or completions to be reaped first. Nothing says when that ends, so go slowly.
                    Some(libc::EAGAIN | libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                        return Ok(());
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn reap(&mut self) {
        while let Some(completion) = self.next_completion() {
            let (tag, result) = completion;
            if tag == WAKE {
                self.wake_armed = false;
                continue;
            }
            let Ok(slot) = usize::try_from(tag) else { continue };
            let Some(flight) = self.slots.get_mut(slot).and_then(Option::as_mut) else { continue };
            let Flight { operation, transfer } = flight;
            match transfer.advance(result, || Ok(operation.file().file().metadata()?.len())) {
                Next::Again => self.send(slot),
                Next::Done(result) => {
                    if let Some(flight) = self.slots[slot].take() {
                        self.free.push(slot);
                        flight.operation.finish(result);
                    }
                }
            }
        }
    }

    fn next_completion(&mut self) -> Option<(u64, io::Result<usize>)> {
        let entry = self.ring.completion().next()?;
        let result =
            usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some((entry.user_data(), result))
    }
}

impl Drop for Driver {
    /// Waits until the kernel holds no buffer, also when the thread unwinds; leaks what it can't wait for.
    fn drop(&mut self) {
        self.queue.abandon();
        self.holds.end();
        if self.wake_armed {
            wake(&self.wake);
        }
        while self.in_flight() > 0 || self.wake_armed {
            if let Err(error) = self.enter(1) {
                tracing::error!(%error, buffers = self.in_flight(), "the kernel keeps buffers in flight: leaking them");
                for flight in self.slots.drain(..).flatten() {
                    flight.operation.leak();
                }
                std::mem::forget(std::mem::take(&mut self.wake_count));
                return;
            }
            self.reap();
        }
        // Closing a ring ends in the background; a held lock is released here and now instead.
        drop(self.ring.submitter().unregister_files());
    }
}
