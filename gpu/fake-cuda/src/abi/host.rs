//! Pinned host memory.

use std::ffi::{c_uint, c_void};

use super::memory::quiesce;
use crate::codes::Code;
use crate::entry::{CONTEXT, Call, INITIALISED, give};
use crate::findings::Kind;
use crate::host::{PENDING, Pinned, Pinning, is_mapped};

/// CU_MEMHOSTREGISTER_PORTABLE, _DEVICEMAP, _IOMEMORY and _READ_ONLY.
const REGISTER_FLAGS: c_uint = 1 | 2 | 4 | 8;
/// CU_MEMHOSTALLOC_PORTABLE, _DEVICEMAP and _WRITECOMBINED.
const ALLOCATE_FLAGS: c_uint = 1 | 2 | 4;

fn pin(call: &mut Call, start: u64, bytes: u64, flags: u32, pinning: Pinning) {
    let (context, origin) = (call.context, call.origin());
    call.pinned.0.insert(start, Pinned { end: start + bytes, pinning, flags, context, origin });
    call.counters.pinned_allocations += 1;
    call.counters.pinned_bytes += bytes;
}

fn allocate(call: &mut Call, to: *mut *mut c_void, bytes: usize, flags: u32) -> Result<(), Code> {
    if to.is_null() || bytes == 0 || flags & !ALLOCATE_FLAGS != 0 {
        return Err(Code::INVALID_VALUE);
    }
    call.fault("oom")?;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a mapping at an address of the kernel's choice takes nothing from anybody.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if at == libc::MAP_FAILED {
        return Err(Code::OUT_OF_MEMORY);
    }
    // SAFETY: `bytes` bytes have just been mapped there for writing.
    unsafe { std::ptr::write_bytes(at.cast::<u8>(), PENDING, bytes) };
    call.history.forget(at as u64..at as u64 + bytes as u64);
    pin(call, at as u64, bytes as u64, flags, Pinning::Allocated);
    give(to, at)
}

/// Ends the pinning of the range that begins at `start`; its length.
fn unpin(call: &mut Call, start: u64, pinning: Pinning) -> Result<u64, Code> {
    let origin = call.origin();
    let Some(end) =
        call.pinned.0.get(&start).filter(|pinned| pinned.pinning == pinning).map(|pinned| pinned.end)
    else {
        let what = format!("{start:#x} is not the beginning of such a pinned range");
        call.found(Kind::DoubleFree, &what, &origin, None);
        return Err(Code::HOST_MEMORY_NOT_REGISTERED);
    };
    call.give_up(start..end, &origin);
    quiesce(&mut call.state);
    call.guards.forget(&(start..end));
    call.history.forget(start..end);
    call.pinned.0.remove(&start);
    call.counters.pinned_bytes -= end - start;
    Ok(end - start)
}

driver! {
    CONTEXT.unsafe_in_capture() => fn cuMemHostRegister_v2(start: *mut c_void, bytes: usize, flags: c_uint) |call| {
        let start = start as u64;
        let end = start.checked_add(bytes as u64).ok_or(Code::INVALID_VALUE)?;
        if start == 0 || bytes == 0 || flags & !REGISTER_FLAGS != 0 || call.memory.contains(start) {
            return Err(Code::INVALID_VALUE);
        }
        if let Some(other) = call.pinned.overlapping(&(start..end)).map(|pinned| pinned.origin.clone()) {
            let origin = call.origin();
            call.found(Kind::Overlap, "shares a page with host memory that is already pinned", &origin, Some(&other));
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if !is_mapped(&(start..end)) {
            return Err(Code::INVALID_VALUE);
        }
        call.fault("oom")?;
        call.history.forget(start..end);
        pin(call, start, bytes as u64, flags, Pinning::Registered);
        Ok(())
    }

    CONTEXT.unsafe_in_capture().releases() => fn cuMemHostUnregister(start: *mut c_void) |call| {
        unpin(call, start as u64, Pinning::Registered).map(|_| ())
    }

    CONTEXT.unsafe_in_capture() => fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, flags: c_uint) |call| {
        allocate(call, to, bytes, flags)
    }

    CONTEXT.unsafe_in_capture() => fn cuMemAllocHost_v2(to: *mut *mut c_void, bytes: usize) |call| {
        allocate(call, to, bytes, 0)
    }

    CONTEXT.unsafe_in_capture().releases() => fn cuMemFreeHost(start: *mut c_void) |call| {
        let bytes = unpin(call, start as u64, Pinning::Allocated)?;
        // SAFETY: mapped by `allocate`, and no longer pinned, so that it isn't unmapped twice.
        unsafe { libc::munmap(start, bytes as usize) };
        Ok(())
    }

    INITIALISED => fn cuMemHostGetDevicePointer_v2(to: *mut u64, address: *mut c_void, flags: c_uint) |call| {
        if flags != 0 || call.pinned.around(address as u64).is_none() {
            return Err(Code::INVALID_VALUE);
        }
        give(to, address as u64)
    }

    INITIALISED => fn cuMemHostGetFlags(to: *mut c_uint, address: *mut c_void) |call| {
        let flags = call.pinned.around(address as u64).ok_or(Code::INVALID_VALUE)?.1.flags;
        give(to, flags)
    }
}
