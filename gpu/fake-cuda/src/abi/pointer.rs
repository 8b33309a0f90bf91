//! What an address is.

use std::ffi::{c_int, c_uint, c_void};

use crate::codes::Code;
use crate::entry::{Call, INITIALISED, give};
use crate::memory::Block;

/// CU_POINTER_ATTRIBUTE_*
const CONTEXT: c_int = 1;
const MEMORY_TYPE: c_int = 2;
const DEVICE_POINTER: c_int = 3;
const HOST_POINTER: c_int = 4;
const BUFFER_ID: c_int = 7;
const IS_MANAGED: c_int = 8;
const DEVICE_ORDINAL: c_int = 9;
const RANGE_START: c_int = 11;
const RANGE_BYTES: c_int = 12;
const MAPPED: c_int = 13;

/// An attribute of an address; nothing if the address is none that the driver knows.
fn attribute(call: &mut Call, attribute: c_int, address: u64, to: *mut c_void) -> Result<(), Code> {
    let device = call.memory.device_of(address);
    let (start, bytes, context, device) = if let Some(device) = device {
        let (start, block) = call.memory.around(address).ok_or(Code::INVALID_VALUE)?;
        let (bytes, context) = match block {
            Block::Allocation(allocation) => (allocation.bytes, allocation.context),
            Block::Reservation { bytes, .. } => (*bytes, 0),
        };
        (start, bytes, context, Some(device))
    } else {
        let (start, pinned) = call.pinned.around(address).ok_or(Code::INVALID_VALUE)?;
        (start, pinned.end - start, pinned.context, None)
    };
    match attribute {
        CONTEXT => give(to.cast::<u64>(), context),
        // CU_MEMORYTYPE_HOST and _DEVICE
        MEMORY_TYPE => give(to.cast::<c_uint>(), if device.is_some() { 2 } else { 1 }),
        DEVICE_POINTER => give(to.cast::<u64>(), address),
        HOST_POINTER if device.is_none() => give(to.cast::<u64>(), address),
        BUFFER_ID => give(to.cast::<u64>(), start),
        IS_MANAGED => give(to.cast::<u8>(), 0),
        DEVICE_ORDINAL => {
            let device = match device {
                Some(device) => device,
                None => call.device_of(context)?,
            };
            give(to.cast::<c_int>(), device as c_int)
        }
        RANGE_START => give(to.cast::<u64>(), start),
        RANGE_BYTES => give(to.cast::<usize>(), bytes as usize),
        MAPPED => give(to.cast::<u8>(), 1),
        _ => Err(Code::INVALID_VALUE),
    }
}

driver! {
    INITIALISED => fn cuPointerGetAttribute(to: *mut c_void, wanted: c_int, address: u64) |call| {
        attribute(call, wanted, address, to)
    }

    INITIALISED => fn cuPointerGetAttributes(count: c_uint, wanted: *mut c_int, to: *mut *mut c_void, address: u64) |call| {
        if wanted.is_null() || to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        for at in 0..count as usize {
            // SAFETY: the caller gave `count` attributes and as many places for them.
            let (wanted, to) = unsafe { (*wanted.add(at), *to.add(at)) };
            // As the reference says: success, with nothing in the places of an address that the driver doesn't know.
            if attribute(call, wanted, address, to) == Err(Code::INVALID_VALUE) && wanted == MEMORY_TYPE {
                give(to.cast::<c_uint>(), 0)?;
            }
        }
        Ok(())
    }
}
