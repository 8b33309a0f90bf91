//! Modules and their functions.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::codes::Code;
use crate::entry::{CONTEXT, Call, INITIALISED, give, take, text};
use crate::findings::Kind;
use crate::modules::{self, Function, Module};

/// CU_JIT_INFO_LOG_BUFFER and its size, CU_JIT_ERROR_LOG_BUFFER and its size.
const INFO_LOG: c_int = 3;
const INFO_LOG_BYTES: c_int = 4;
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// The compute capability of the simulated devices.
const CAPABILITY: u32 = 90;

fn load(call: &mut Call, to: *mut u64, image: *const c_void, options: &Options) -> Result<(), Code> {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // Cubins and fat binaries aren't simulated.
    if take(image.cast::<u8>())? == 0x7F {
        return Err(Code::INVALID_IMAGE);
    }
    let ptx = text(image.cast()).map_err(|_| Code::INVALID_IMAGE)?;
    let entries = match modules::read(ptx, call.settings.version, CAPABILITY) {
        Ok(entries) => entries,
        Err(refusal) => {
            options.log(ERROR_LOG, ERROR_LOG_BYTES, &refusal.log);
            options.log(INFO_LOG, INFO_LOG_BYTES, "");
            return Err(refusal.code);
        }
    };
    options.log(ERROR_LOG, ERROR_LOG_BYTES, "");
    options.log(
        INFO_LOG,
        INFO_LOG_BYTES,
        &format!("ptxas info    : {} kernels for sm_{CAPABILITY}", entries.len()),
    );
    let (handle, context, origin) = (call.handle(), call.context, call.origin());
    call.modules.insert(handle, Module { context, entries, origin, launches: Vec::new() });
    give(to, handle)
}

/// CUjit_option and their values, which are read and written.
struct Options {
    count: usize,
    keys: *mut c_int,
    values: *mut *mut c_void,
}

impl Options {
    fn find(&self, key: c_int) -> Option<*mut *mut c_void> {
        if self.keys.is_null() || self.values.is_null() {
            return None;
        }
        // SAFETY: the caller gave `count` keys and as many values.
        (0..self.count)
            .find(|at| unsafe { *self.keys.add(*at) } == key)
            .map(|at| unsafe { self.values.add(at) })
    }

    /// Writes a log where the caller wants it, and how much was written.
    fn log(&self, buffer: c_int, bytes: c_int, text: &str) {
        let (Some(buffer), Some(bytes)) = (self.find(buffer), self.find(bytes)) else { return };
        // SAFETY: the option's value is the size of the buffer that the other one's value points to; a text and its zero fit in it.
        unsafe {
            let room = *bytes as usize;
            let to = (*buffer).cast::<u8>();
            if to.is_null() || room == 0 {
                return;
            }
            let length = text.len().min(room - 1);
            std::ptr::copy_nonoverlapping(text.as_ptr(), to, length);
            to.add(length).write(0);
            *bytes = (length + 1) as *mut c_void;
        }
    }
}

/// The module of a handle.
fn module(call: &mut Call, handle: u64) -> Result<&mut Module, Code> {
    if !call.modules.contains_key(&handle) {
        let name = call.name;
        return Err(call.no_such("module", handle, name));
    }
    call.modules.get_mut(&handle).ok_or(Code::INVALID_HANDLE)
}

driver! {
    CONTEXT.unsafe_in_capture() => fn cuModuleLoadData(to: *mut u64, image: *const c_void) |call| {
        load(call, to, image, &Options { count: 0, keys: std::ptr::null_mut(), values: std::ptr::null_mut() })
    }

    CONTEXT.unsafe_in_capture() => fn cuModuleLoadDataEx(
        to: *mut u64, image: *const c_void, count: c_uint, keys: *mut c_int, values: *mut *mut c_void,
    ) |call| {
        load(call, to, image, &Options { count: count as usize, keys, values })
    }

    INITIALISED.unsafe_in_capture().releases() => fn cuModuleUnload(handle: u64) |call| {
        let (name, origin) = (call.name, call.origin());
        let Some(module) = call.modules.remove(&handle) else {
            return Err(call.destroyed_twice("module", handle, name));
        };
        if module.launches.iter().any(|point| !call.host.covers(*point)) {
            let what = "the host doesn't know that kernels of this module are complete";
            call.found(Kind::InFlight, what, &origin, Some(&module.origin));
        }
        let functions: Vec<u64> =
            call.functions.iter().filter(|(_, function)| function.module == handle).map(|(handle, _)| *handle).collect();
        for function in functions {
            call.functions.remove(&function);
            call.bury(function, "function", &origin);
        }
        call.bury(handle, "module", &origin);
        Ok(())
    }

    INITIALISED => fn cuModuleGetFunction(to: *mut u64, handle: u64, name: *const c_char) |call| {
        let name = text(name)?;
        let kernel = module(call, handle)?.kernel(name).ok_or(Code::NOT_FOUND)?;
        let known = call.functions.iter().find(|(_, function)| function.module == handle && function.kernel.name == name);
        let function = match known.map(|(handle, _)| *handle) {
            Some(function) => function,
            None => {
                let function = call.handle();
                call.functions.insert(function, Function { module: handle, kernel });
                function
            }
        };
        give(to, function)
    }

    INITIALISED => fn cuModuleGetLoadingMode(mode: *mut c_int) |_| {
        // CU_MODULE_EAGER_LOADING
        give(mode, 1)
    }

    INITIALISED => fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, handle: u64) |call| {
        if !call.functions.contains_key(&handle) {
            let name = call.name;
            return Err(call.no_such("function", handle, name));
        }
        give(value, match attribute {
            0 => 1024,                       // MAX_THREADS_PER_BLOCK
            1..=3 => 0,                      // SHARED, CONST and LOCAL_SIZE_BYTES
            4 => 32,                         // NUM_REGS
            5 => 80,                         // PTX_VERSION
            6 => CAPABILITY as c_int,        // BINARY_VERSION
            7 | 8 => 0,                      // CACHE_MODE_CA, MAX_DYNAMIC_SHARED_SIZE_BYTES
            _ => return Err(Code::INVALID_VALUE),
        })
    }
}
