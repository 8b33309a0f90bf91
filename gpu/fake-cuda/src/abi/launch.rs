//! Kernels and host functions on streams.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use crate::codes::Code;
use crate::engine::{HostFunction, Launch, StreamCallback, Work};
use crate::entry::{CONTEXT, Call, INITIALISED, take};
use crate::findings::Kind;

/// The most threads of a block, of all and along x, y and z, and the most blocks.
const MOST_THREADS: u64 = 1024;
const MOST_BLOCK: [u32; 3] = [1024, 1024, 64];
const MOST_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

fn launch(
    call: &mut Call,
    function: u64,
    grid: [u32; 3],
    block: [u32; 3],
    stream: u64,
    arguments: *mut *mut c_void,
) -> Result<(), Code> {
    let stream = call.stream_of(stream)?;
    let Some(known) = call.functions.get(&function) else {
        let name = call.name;
        return Err(call.no_such("function", function, name));
    };
    let (kernel, module) = (known.kernel, known.module);
    let of_the_module = call.modules.get(&module).map(|module| module.context);
    if of_the_module != Some(call.stream(stream).context) {
        return Err(Code::INVALID_HANDLE);
    }
    let fits = |sizes: [u32; 3], most: [u32; 3]| {
        sizes.iter().zip(most).all(|(size, most)| (1..=most).contains(size))
    };
    if !fits(grid, MOST_GRID) || !fits(block, MOST_BLOCK) {
        return Err(Code::INVALID_VALUE);
    }
    if block.iter().map(|size| u64::from(*size)).product::<u64>() > MOST_THREADS {
        return Err(Code::LAUNCH_OUT_OF_RESOURCES);
    }
    let first = take(arguments.cast_const())?;
    if first.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let mut copy = vec![0u128; kernel.args_bytes.div_ceil(16)];
    // SAFETY: kernels here take one struct by value, to which the first parameter points; there is room for it.
    unsafe {
        std::ptr::copy_nonoverlapping(first.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), kernel.args_bytes)
    };
    let origin = call.origin();
    call.submit(
        stream,
        origin,
        Work::Kernel(Launch { kernel, module, arguments: Arc::from(copy), grid, block }),
    )
}

driver! {
    CONTEXT => fn cuLaunchKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared_bytes: c_uint, stream: u64, arguments: *mut *mut c_void, extra: *mut *mut c_void,
    ) |call| {
        if !extra.is_null() || shared_bytes != 0 {
            let origin = call.origin();
            call.found(Kind::Misuse, "no kernel here takes its arguments as `extra`, or uses dynamic shared memory", &origin, None);
            return Err(Code::NOT_SUPPORTED);
        }
        launch(call, function, [grid_x, grid_y, grid_z], [block_x, block_y, block_z], stream, arguments)
    }

    INITIALISED => fn cuLaunchHostFunc(stream: u64, function: Option<HostFunction>, data: *mut c_void) |call| {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        let stream = call.stream_of(stream)?;
        let origin = call.origin();
        call.submit(stream, origin, Work::Host { function, data: data as usize })
    }

    INITIALISED => fn cuStreamAddCallback(handle: u64, function: Option<StreamCallback>, data: *mut c_void, flags: c_uint) |call| {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        let stream = call.stream_of(handle)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if call.stream(stream).capture.is_some() {
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        let origin = call.origin();
        call.submit(stream, origin, Work::Callback { function, stream: handle, data: data as usize })
    }
}
