//! Device memory by cuMemAlloc.

use crate::codes::Code;
use crate::engine::{self, Work};
use crate::entry::{CONTEXT, Call, INITIALISED, give, offer};
use crate::findings::Kind;
use crate::memory::{Allocation, Block};
use crate::places::Origin;
use crate::state::{Locked, State};

fn allocate(call: &mut Call, bytes: usize) -> Result<u64, Code> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let (device, context, origin) = (call.device()?, call.context, call.origin());
    let bytes = bytes as u64;
    call.fault("oom")?;
    let memory = call.settings.memory;
    if call.devices[device].used.saturating_add(bytes) > memory {
        return Err(Code::OUT_OF_MEMORY);
    }
    let address = call
        .memory
        .place(Block::Allocation(Allocation { bytes, device, context, origin, ending: None }), 512)?;
    if let Err(code) = call.memory.back(address, bytes) {
        call.memory.remove(address);
        return Err(code);
    }
    call.devices[device].used += bytes;
    call.counters.device_allocations += 1;
    call.history.forget(address..address + bytes);
    Ok(address)
}

/// The allocation that begins at `address`, or a finding.
fn allocation(call: &mut Call, address: u64) -> Result<u64, Code> {
    let mut freed_by = call.memory.freed_by(address).cloned();
    if let Some(Block::Allocation(allocation)) = call.memory.at(address) {
        match &allocation.ending {
            None => return Ok(allocation.bytes),
            Some((_, by)) => freed_by = Some(by.clone()),
        }
    }
    let origin = call.origin();
    match freed_by {
        Some(by) => call.found(Kind::DoubleFree, "this memory is already freed", &origin, Some(&by)),
        None => call.found(
            Kind::Misuse,
            &format!("{address:#x} is no address that cuMemAlloc gave"),
            &origin,
            None,
        ),
    }
    Err(Code::INVALID_VALUE)
}

/// Waits, as cuMemFree does, for all work that may use memory that is being taken away.
pub(super) fn quiesce(state: &mut Locked) {
    let (reached, _) = state.all();
    // Without a context: also a lost one runs out, doing nothing.
    let _ = engine::settle(state, None, &reached);
}

impl State {
    /// Takes an allocation away. Nothing may use it any more.
    pub(crate) fn free_now(&mut self, address: u64, origin: &Origin) {
        let Some(Block::Allocation(allocation)) = self.memory.remove(address) else { return };
        self.memory.unback(address, allocation.bytes, origin.clone());
        self.history.forget(address..address + allocation.bytes);
        if let Some(device) = self.devices.get_mut(allocation.device) {
            device.used -= allocation.bytes;
        }
    }
}

driver! {
    CONTEXT.unsafe_in_capture() => fn cuMemAlloc_v2(to: *mut u64, bytes: usize) |call| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let address = allocate(call, bytes)?;
        give(to, address)
    }

    CONTEXT.unsafe_in_capture().releases() => fn cuMemFree_v2(address: u64) |call| {
        if address == 0 {
            return Ok(());
        }
        let bytes = allocation(call, address)?;
        let origin = call.origin();
        call.give_up(address..address + bytes, &origin);
        quiesce(&mut call.state);
        call.free_now(address, &origin);
        Ok(())
    }

    CONTEXT => fn cuMemAllocAsync(to: *mut u64, bytes: usize, handle: u64) |call| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let stream = call.stream_of(handle)?;
        if call.stream(stream).capture.is_some() {
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        let address = allocate(call, bytes)?;
        // The memory exists from a point of the stream on: what uses it earlier is a race with this.
        let origin = call.origin();
        let bytes = bytes as u64;
        call.submit(stream, origin, Work::Claim { address, bytes })?;
        give(to, address)
    }

    CONTEXT => fn cuMemFreeAsync(address: u64, handle: u64) |call| {
        if address == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let stream = call.stream_of(handle)?;
        if call.stream(stream).capture.is_some() {
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        let bytes = allocation(call, address)?;
        let origin = call.origin();
        call.submit(stream, origin, Work::Free { address, bytes })
    }

    CONTEXT => fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) |call| {
        let device = call.device()?;
        let memory = call.settings.memory;
        offer(free, (memory - call.devices[device].used) as usize);
        offer(total, memory as usize);
        Ok(())
    }

    INITIALISED => fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64) |call| {
        let (start, length) = match call.memory.around(address) {
            Some((start, block)) => (start, block.bytes()),
            None => {
                let (start, pinned) = call.pinned.around(address).ok_or(Code::NOT_FOUND)?;
                (start, pinned.end - start)
            }
        };
        offer(base, start);
        offer(bytes, length as usize);
        Ok(())
    }
}
