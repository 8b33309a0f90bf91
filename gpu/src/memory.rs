//! A device's memory under one budget: taken from the device once, handed out in pieces, and handed out again only when whoever worked with a
//! piece is done with it.
//!
//! A [`DeviceSlab`] carries its guards: events behind the last work on it, ours or a consumer's. Dropped, it waits for them in a line of its own,
//! and nobody blocks; [`DeviceMemory::take`] looks along that line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::device::{Address, Capture, Device, Event, RawStream};
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};

/// How often events are looked at while memory is waited for: a batch takes many times as long.
const LOOK: Duration = Duration::from_millis(1);

/// Pieces begin at multiples of this: what cuMemAlloc promises, enough for every vector load.
const ALIGNMENT: u64 = 512;

/// Guards of a piece before those that are passed are looked for: one that is kept is worked on again and again.
const MANY_GUARDS: usize = 16;

/// What stands between a piece and its next use.
#[derive(Clone, Debug)]
pub enum Guard {
    /// This event.
    Event(Arc<Event>),
    /// What this stream had queued: it was being captured, so that no event could be recorded on it. One is as soon as the capture is over.
    Stream(RawStream),
    /// Everything that was under way on the device: nobody knows on which stream the piece was used. Events and waits for all of a device
    /// break captures on it, so that neither comes before the memory is needed.
    Everything,
}

impl Guard {
    /// Whether it is passed, where that can be said without waiting and without a call that all of the device hears of.
    pub fn is_passed(&self) -> Result<bool> {
        match self {
            Self::Event(event) => event.is_done(),
            Self::Stream(_) | Self::Everything => Ok(false),
        }
    }

    /// Becomes an event where that can be had now. True where it is passed already: a driver without events of everything (before CUDA 12.5)
    /// was waited for.
    fn settle(&mut self, device: &Arc<dyn Device>) -> Result<bool> {
        let settled = match self {
            Self::Event(_) => return Ok(false),
            Self::Stream(stream) => match device.capture_of(*stream) {
                Ok(Capture::Active) => return Ok(false),
                Ok(Capture::None) => Event::record(device, *stream).map(Some),
                Err(error) => Err(error),
            },
            Self::Everything => match Event::record_all(device) {
                Ok(None) => {
                    return match device.block_on_all() {
                        Ok(()) => Ok(true),
                        Err(error) if is_final(&error) => Err(error),
                        // Somebody captures: later.
                        Err(_) => Ok(false),
                    };
                }
                recorded => recorded,
            },
        };
        match settled {
            Ok(Some(event)) => *self = Self::Event(Arc::new(event)),
            Err(error) if is_final(&error) => return Err(error),
            // The stream is gone, or somebody captures: later.
            Ok(None) | Err(_) => *self = Self::Everything,
        }
        Ok(false)
    }

    /// Blocks until it is passed.
    pub(crate) fn block(&self, device: &dyn Device) -> Result<()> {
        match self {
            Self::Event(event) => event.block(),
            Self::Stream(_) | Self::Everything => device.block_on_all(),
        }
    }
}

/// What became of waiting for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Some came free.
    Freed,
    /// What was let go is still being worked on.
    Busy,
    /// Nothing was let go: only those who hold pieces can make room.
    Held,
}

/// `gpu_memory_limit` of one device. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    device: Arc<dyn Device>,
    base: Address,
    bytes: u64,
    state: Mutex<State>,
    /// A piece was let go.
    let_go: Condvar,
}

#[derive(Debug)]
struct State {
    /// Free parts as (offset, length), sorted by offset, neighbours joined.
    free: Vec<(u64, u64)>,
    retired: Vec<Retired>,
    used: u64,
    peak: u64,
    /// Pieces of `retired` that somebody has taken out to look at.
    looked_at: usize,
    /// Pieces that came free, counted.
    freed: u64,
}

/// A piece that was let go, and may still be worked on.
#[derive(Debug)]
struct Retired {
    offset: u64,
    bytes: u64,
    guards: Vec<Guard>,
}

/// A piece of a device's memory; its owner may let work be done on it. Dropped, it is used again when its guards are passed.
#[derive(Debug)]
pub struct DeviceSlab {
    shared: Arc<Shared>,
    offset: u64,
    /// What was asked for; the piece itself is a multiple of [`ALIGNMENT`].
    len: u64,
    guards: Vec<Guard>,
}

impl DeviceMemory {
    /// What a piece takes is a multiple of this.
    pub const ALIGNMENT: u64 = ALIGNMENT;

    /// Takes `limit_bytes` from the device, rounded up to its unit.
    pub fn new(device: &Arc<dyn Device>, limit_bytes: u64) -> Result<Self> {
        let (base, bytes) = device.take(limit_bytes, "gpu_memory_limit")?;
        let state =
            State { free: vec![(0, bytes)], retired: Vec::new(), used: 0, peak: 0, looked_at: 0, freed: 0 };
        Ok(Self {
            shared: Arc::new(Shared {
                device: device.clone(),
                base,
                bytes,
                state: Mutex::new(state),
                let_go: Condvar::new(),
            }),
        })
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared.device
    }

    /// The budget in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.shared.bytes
    }

    /// Bytes handed out now, those that wait for their guards included, and the most that were.
    pub fn used_bytes(&self) -> (u64, u64) {
        let state = self.shared.state.lock();
        (state.used, state.peak)
    }

    /// A piece of `bytes`. None where what others hold leaves no place; what was let go and is done with is used again first.
    ///
    /// # Errors
    /// [`Error::OverBudget`] where it would not fit into all of the budget; [`Error::Lost`].
    pub fn take(&self, bytes: u64, what: &str) -> Result<Option<DeviceSlab>> {
        let whole = whole(bytes);
        if whole > self.shared.bytes {
            let (used_bytes, _) = self.used_bytes();
            return Err(Error::OverBudget {
                device: self.shared.device.facts().name.clone(),
                what: what.into(),
                wanted_bytes: bytes,
                limit_bytes: self.shared.bytes,
                used_bytes,
                advice: "raise gpu_memory_limit, or lower batch_size",
            });
        }
        self.collect(false)?;
        let mut state = self.shared.state.lock();
        let Some(at) = state.free.iter().position(|&(_, have)| have >= whole) else { return Ok(None) };
        let (offset, have) = state.free[at];
        if have == whole {
            state.free.remove(at);
        } else {
            state.free[at] = (offset + whole, have - whole);
        }
        state.used += whole;
        state.peak = state.peak.max(state.used);
        Ok(Some(DeviceSlab { shared: self.shared.clone(), offset, len: bytes, guards: Vec::new() }))
    }

    /// Counts what came free: for [`Self::wait`], to be asked before memory is.
    pub fn freed(&self) -> u64 {
        self.shared.state.lock().freed
    }

    /// Waits for a piece to come free since [`Self::freed`] gave `since`, and no longer than `slice`.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn wait(&self, since: u64, slice: Duration) -> Result<Waited> {
        let until = Instant::now() + slice;
        loop {
            self.collect(true)?;
            let mut state = self.shared.state.lock();
            if state.freed != since {
                return Ok(Waited::Freed);
            }
            let left = state.retired.len() + state.looked_at;
            if Instant::now() >= until {
                return Ok(if left == 0 { Waited::Held } else { Waited::Busy });
            }
            // Events tell nobody when they are done; whoever lets go of a piece does.
            let next = if left == 0 { until } else { until.min(Instant::now() + LOOK) };
            self.shared.let_go.wait_until(&mut state, next);
        }
    }

    /// Takes back what is done with. With `all`, guards that are no events yet become some where they can.
    fn collect(&self, all: bool) -> Result<()> {
        let mut retired = {
            let mut state = self.shared.state.lock();
            let retired = std::mem::take(&mut state.retired);
            state.looked_at += retired.len();
            retired
        };
        let looked_at = retired.len();
        // Outside the lock: whoever lets go of a piece must not wait for the driver.
        let mut failed = None;
        let mut done = Vec::new();
        retired.retain_mut(|piece| {
            let passed = if failed.is_none() { self.passed(&mut piece.guards, all) } else { Ok(false) };
            match passed {
                Ok(passed) => {
                    if passed {
                        done.push((piece.offset, piece.bytes));
                    }
                    !passed
                }
                Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        });
        let mut state = self.shared.state.lock();
        done.iter().for_each(|&(offset, bytes)| state.free_up(offset, bytes));
        state.looked_at -= looked_at;
        state.retired.splice(0..0, retired);
        drop(state);
        if !done.is_empty() {
            self.shared.let_go.notify_all();
        }
        failed.map_or(Ok(()), Err)
    }

    /// True where all are passed; those that are, go.
    fn passed(&self, guards: &mut Vec<Guard>, all: bool) -> Result<bool> {
        while let Some(guard) = guards.last_mut() {
            let settled = all && guard.settle(&self.shared.device)?;
            match if settled { Ok(true) } else { guard.is_passed() } {
                Ok(true) => drop(guards.pop()),
                Ok(false) => return Ok(false),
                Err(error) if is_final(&error) => return Err(error),
                // One event that can't be asked must not hold all memory: what it stood for ends with everything.
                Err(_) => *guard = Guard::Everything,
            }
        }
        Ok(true)
    }
}

impl State {
    fn free_up(&mut self, offset: u64, bytes: u64) {
        self.freed += 1;
        self.used -= bytes;
        let at = self.free.partition_point(|&(start, _)| start < offset);
        self.free.insert(at, (offset, bytes));
        if at + 1 < self.free.len() && offset + bytes == self.free[at + 1].0 {
            self.free[at].1 += self.free.remove(at + 1).1;
        }
        if at > 0 && self.free[at - 1].0 + self.free[at - 1].1 == offset {
            self.free[at - 1].1 += self.free.remove(at).1;
        }
    }
}

/// Whether no later call can go better.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Lost { .. } | Error::Forked { .. } | Error::Ending { .. })
}

/// What a piece of so many bytes takes.
fn whole(bytes: u64) -> u64 {
    bytes.max(1).div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT)
}

impl DeviceSlab {
    /// Where it is.
    pub fn address(&self) -> Address {
        self.shared.base.offset(self.offset)
    }

    /// Bytes that were asked for.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that it takes.
    pub fn taken_bytes(&self) -> u64 {
        whole(self.len)
    }

    /// True where none were.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared.device
    }

    /// The piece is not used again before this.
    pub fn guard(&mut self, guard: Guard) {
        if self.guards.len() >= MANY_GUARDS {
            self.guards.retain(|guard| !guard.is_passed().unwrap_or(false));
        }
        self.guards.push(guard);
    }
}

impl Drop for DeviceSlab {
    fn drop(&mut self) {
        let bytes = self.taken_bytes();
        let guards = std::mem::take(&mut self.guards);
        // No driver call here: whoever drops this may be anywhere.
        let mut state = self.shared.state.lock();
        if guards.is_empty() {
            state.free_up(self.offset, bytes);
        } else {
            state.retired.push(Retired { offset: self.offset, bytes, guards });
        }
        drop(state);
        self.shared.let_go.notify_all();
    }
}

impl Drop for Shared {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let retired = std::mem::take(&mut self.state.get_mut().retired);
        for guard in retired.into_iter().flat_map(|retired| retired.guards) {
            if mutant::is(Mutant::FreeEarly) {
                break;
            }
            if let Err(error) = guard.block(&*self.device) {
                tracing::debug!(%error, "device memory may still be in use: it stays the process's until its end");
                return;
            }
        }
        // SAFETY: `new` took it; every slab holds this, so none is left, and what worked on them is done.
        unsafe { self.device.give_back(self.base, self.bytes) };
    }
}
