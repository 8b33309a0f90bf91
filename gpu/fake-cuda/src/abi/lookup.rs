//! Names: of errors, and of functions.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use crate::codes::{self, Code};
use crate::entry::{ANYWHERE, Call, give, offer, text};

/// CU_GET_PROC_ADDRESS_SUCCESS, _SYMBOL_NOT_FOUND and _VERSION_NOT_SUFFICIENT.
const FOUND: c_int = 0;
const NOT_FOUND: c_int = 1;
const TOO_OLD: c_int = 2;

/// The CUDA version that a function came with, where that isn't before all versions that are simulated.
fn since(function: &str) -> c_int {
    match function {
        "cuCtxGetId" | "cuStreamGetId" => 12_000,
        "cuStreamGetCaptureInfo_v3" => 12_030,
        "cuCtxRecordEvent" | "cuCtxWaitEvent" => 12_050,
        _ => 11_000,
    }
}

/// The function that a name without its version suffix stands for.
fn find(call: &Call, name: &str) -> Result<(&'static str, *const c_void), c_int> {
    let all = super::functions();
    let versions = ["_v3", "_v2", ""].map(|suffix| format!("{name}{suffix}"));
    let known = |wanted: &String| all.iter().find(|(function, _)| function == wanted).copied();
    let mut old = NOT_FOUND;
    for found in versions.iter().filter_map(known) {
        if call.settings.missing.contains(found.0) {
            continue;
        }
        if since(found.0) <= call.settings.version {
            return Ok(found);
        }
        old = TOO_OLD;
    }
    Err(old)
}

fn look_up(call: &Call, name: *const c_char, to: *mut *const c_void, status: *mut c_int) -> Result<(), Code> {
    match find(call, text(name)?) {
        Ok((_, function)) => {
            offer(status, FOUND);
            give(to, function)
        }
        Err(why) => {
            offer(status, why);
            give(to, std::ptr::null())?;
            if status.is_null() { Err(Code::NOT_FOUND) } else { Ok(()) }
        }
    }
}

driver! {
    ANYWHERE => fn cuGetProcAddress(name: *const c_char, to: *mut *const c_void, _version: c_int, _flags: c_ulonglong) |call| {
        look_up(call, name, to, std::ptr::null_mut())
    }

    ANYWHERE => fn cuGetProcAddress_v2(
        name: *const c_char, to: *mut *const c_void, _version: c_int, _flags: c_ulonglong, status: *mut c_int,
    ) |call| {
        look_up(call, name, to, status)
    }

    ANYWHERE => fn cuGetErrorName(error: c_uint, to: *mut *const c_char) |_| {
        let known = codes::describe(error as i32);
        give(to, known.map_or(std::ptr::null(), |(name, _)| name.as_ptr()))?;
        known.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    ANYWHERE => fn cuGetErrorString(error: c_uint, to: *mut *const c_char) |_| {
        let known = codes::describe(error as i32);
        give(to, known.map_or(std::ptr::null(), |(_, text)| text.as_ptr()))?;
        known.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }
}
