//! Copies and fills.
//!
//! What is synchronous is what the API's reference says under "API synchronization behavior", no more: a copy to a device from pageable
//! memory returns when the driver has its own copy of the bytes, and a copy or fill on a device when it is submitted.

use std::ffi::{c_uchar, c_uint, c_ushort, c_void};
use std::sync::Arc;

use crate::codes::Code;
use crate::engine::{self, Route, Work};
use crate::entry::{CONTEXT, Call};
use crate::findings::Kind;
use crate::host::Cover;

/// Between what a copy copies, and an error where that isn't what the function's name says.
fn route(call: &Call, to: u64, from: u64, named: Option<Route>) -> Result<Route, Code> {
    let route = match (call.memory.contains(from), call.memory.contains(to)) {
        (false, true) => Route::ToDevice,
        (true, false) => Route::ToHost,
        (true, true) => Route::Device,
        (false, false) => Route::Host,
    };
    if named.is_some_and(|named| named != route) || from == 0 || to == 0 {
        Err(Code::INVALID_VALUE)
    } else {
        Ok(route)
    }
}

/// Copies on a stream; `asynchronous` as the function's name says.
fn copy(
    call: &mut Call,
    to: u64,
    from: u64,
    bytes: usize,
    named: Option<Route>,
    stream: u64,
    asynchronous: bool,
) -> Result<(), Code> {
    let stream = call.stream_of(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let route = route(call, to, from, named).inspect_err(|_| {
        let origin = crate::places::Origin::here(call.name);
        call.state.found(Kind::Misuse, &format!("can't copy from {from:#x} to {to:#x}"), &origin, None);
    })?;
    let (bytes, origin) = (bytes as u64, call.origin());
    let host = match route {
        Route::ToDevice => Some(from..from + bytes),
        Route::ToHost => Some(to..to + bytes),
        Route::Device | Route::Host => None,
    };
    let pageable = host.as_ref().is_some_and(|host| matches!(call.pinned.cover(host), Cover::None));
    if pageable && asynchronous {
        let what = "copies asynchronously from or to host memory that isn't pinned, which is neither";
        call.found(Kind::Pageable, what, &origin, None);
    }
    let captured = call.stream(stream).capture.is_some();
    if pageable && captured {
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    let work = if pageable && route == Route::ToDevice {
        // SAFETY: the source of a copy that the program asks for, which it doesn't change before the call returns.
        let staged = unsafe { std::slice::from_raw_parts(from as *const u8, bytes as usize) };
        Work::Staged { bytes: Arc::from(staged), to }
    } else {
        Work::Copy { from, to, bytes, route }
    };
    let waits = match route {
        Route::ToDevice => !asynchronous && !pageable,
        Route::ToHost => !asynchronous || pageable,
        Route::Device => false,
        Route::Host => true,
    };
    call.submit(stream, origin, work)?;
    if waits && !captured {
        let (reached, clock) = call.all_of(stream);
        let context = call.stream(stream).context;
        engine::wait(&mut call.state, Some(context), &reached)?;
        call.host_learns(&clock);
    }
    Ok(())
}

/// Fills on a stream.
fn fill(
    call: &mut Call,
    to: u64,
    pattern: [u8; 4],
    width: usize,
    count: usize,
    stream: u64,
) -> Result<(), Code> {
    let stream = call.stream_of(stream)?;
    if count == 0 {
        return Ok(());
    }
    let bytes = count.checked_mul(width).ok_or(Code::INVALID_VALUE)? as u64;
    if !to.is_multiple_of(width as u64) || !call.memory.contains(to) {
        return Err(Code::INVALID_VALUE);
    }
    let origin = call.origin();
    call.submit(stream, origin, Work::Fill { to, bytes, pattern, width })
}

fn one(byte: u8) -> [u8; 4] {
    [byte, 0, 0, 0]
}

fn two(value: u16) -> [u8; 4] {
    let [low, high] = value.to_le_bytes();
    [low, high, 0, 0]
}

driver! {
    CONTEXT.unsafe_in_capture().blocks() => fn cuMemcpy(to: u64, from: u64, bytes: usize) |call| {
        copy(call, to, from, bytes, None, 0, false)
    }

    CONTEXT => fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) |call| {
        copy(call, to, from, bytes, None, stream, true)
    }

    CONTEXT.unsafe_in_capture().blocks() => fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) |call| {
        copy(call, to, from as u64, bytes, Some(Route::ToDevice), 0, false)
    }

    CONTEXT => fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: u64) |call| {
        copy(call, to, from as u64, bytes, Some(Route::ToDevice), stream, true)
    }

    CONTEXT.unsafe_in_capture().blocks() => fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) |call| {
        copy(call, to as u64, from, bytes, Some(Route::ToHost), 0, false)
    }

    CONTEXT => fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: u64) |call| {
        copy(call, to as u64, from, bytes, Some(Route::ToHost), stream, true)
    }

    CONTEXT.unsafe_in_capture() => fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |call| {
        copy(call, to, from, bytes, Some(Route::Device), 0, false)
    }

    CONTEXT => fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |call| {
        copy(call, to, from, bytes, Some(Route::Device), stream, true)
    }

    CONTEXT => fn cuMemcpyPeerAsync(to: u64, _to_context: u64, from: u64, _from_context: u64, bytes: usize, stream: u64) |call| {
        copy(call, to, from, bytes, Some(Route::Device), stream, true)
    }

    CONTEXT.unsafe_in_capture() => fn cuMemsetD8_v2(to: u64, byte: c_uchar, count: usize) |call| {
        fill(call, to, one(byte), 1, count, 0)
    }

    CONTEXT => fn cuMemsetD8Async(to: u64, byte: c_uchar, count: usize, stream: u64) |call| {
        fill(call, to, one(byte), 1, count, stream)
    }

    CONTEXT.unsafe_in_capture() => fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) |call| {
        fill(call, to, two(value), 2, count, 0)
    }

    CONTEXT => fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: u64) |call| {
        fill(call, to, two(value), 2, count, stream)
    }

    CONTEXT.unsafe_in_capture() => fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) |call| {
        fill(call, to, value.to_le_bytes(), 4, count, 0)
    }

    CONTEXT => fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: u64) |call| {
        fill(call, to, value.to_le_bytes(), 4, count, stream)
    }
}
