//! A device's memory under one budget: taken from the device once, handed out in pieces, and handed out again only when whoever worked with a
//! piece is done with it.
//!
//! A [`DeviceSlab`] carries its guards: events behind the last work on it, ours or a consumer's. Dropped, it waits for them in a line of its own,
//! and nobody blocks; [`DeviceMemory::take`] looks along that line.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::device::{Address, Device, Event};
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};

/// Pieces begin at multiples of this: what cuMemAlloc promises, enough for every vector load.
const ALIGNMENT: u64 = 512;

/// What stands between a piece and its next use.
#[derive(Debug)]
pub enum Guard {
    /// This event.
    Event(Arc<Event>),
    /// Everything that is under way on the device: nobody knows on which stream the piece was used.
    Everything,
}

impl Guard {
    /// Whether it is passed, where that can be said without waiting.
    pub(crate) fn is_passed(&self) -> Result<bool> {
        match self {
            Self::Event(event) => event.is_done(),
            Self::Everything => Ok(false),
        }
    }

    /// Blocks until it is passed.
    pub(crate) fn block(&self, device: &dyn Device) -> Result<()> {
        match self {
            Self::Event(event) => event.block(),
            Self::Everything => device.block_on_all(),
        }
    }
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
    /// Takes `limit_bytes` from the device, rounded up to its unit.
    pub fn new(device: &Arc<dyn Device>, limit_bytes: u64) -> Result<Self> {
        let (base, bytes) = device.take(limit_bytes, "gpu_memory_limit")?;
        let state = State { free: vec![(0, bytes)], retired: Vec::new(), used: 0, peak: 0 };
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
        let whole = bytes.max(1).div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT);
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
        let mut state = self.shared.state.lock();
        state.collect()?;
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

    /// Blocks until one of the pieces that were let go is done with; false where there is none: then only consumers can make room.
    pub fn wait_for_retired(&self) -> Result<bool> {
        let first = {
            let mut state = self.shared.state.lock();
            state.collect()?;
            if state.retired.is_empty() { return Ok(false) } else { state.retired.remove(0) }
        };
        // Outside the lock: consumers let go of batches meanwhile.
        for guard in &first.guards {
            if let Err(error) = guard.block(&*self.shared.device) {
                self.shared.state.lock().retired.push(first);
                return Err(error);
            }
        }
        let mut state = self.shared.state.lock();
        state.free_up(first.offset, first.bytes);
        Ok(true)
    }

    /// Blocks until somebody lets a piece go, and no longer than `slice`. For those to whom [`Self::wait_for_retired`] said false.
    pub fn wait_for_holders(&self, slice: Duration) {
        let mut state = self.shared.state.lock();
        if state.retired.is_empty() {
            self.shared.let_go.wait_for(&mut state, slice);
        }
    }
}

impl State {
    /// Takes back what is done with.
    fn collect(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.retired.len() {
            if passed(&mut self.retired[at].guards)? {
                let done = self.retired.remove(at);
                self.free_up(done.offset, done.bytes);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    fn free_up(&mut self, offset: u64, bytes: u64) {
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

/// True where all are passed; those that are, go.
fn passed(guards: &mut Vec<Guard>) -> Result<bool> {
    while let Some(guard) = guards.last() {
        if !guard.is_passed()? {
            return Ok(false);
        }
        guards.pop();
    }
    Ok(true)
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
        self.guards.push(guard);
    }
}

impl Drop for DeviceSlab {
    fn drop(&mut self) {
        let bytes = self.len.max(1).div_ceil(ALIGNMENT) * ALIGNMENT;
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
