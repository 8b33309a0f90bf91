//! What is used after its end, ended twice, ended too early or never.

use std::ffi::c_void;

use forebay_fake_cuda::{abi::*, control::*};
use forebay_kernels::GatherArgs;

use crate::support::{Driver, SEEDS, gather, of, of_mut};

const BYTES: usize = 4096;

#[test]
fn memory_freed_before_the_host_knows_that_work_on_it_is_complete_is_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (stream, memory) = (driver.stream(), driver.device(BYTES));
        ok!(cuMemsetD8Async(memory, 1, BYTES, stream));
        if waits {
            ok!(cuStreamSynchronize(stream));
        } else {
            forebay_fake_settle();
        }
        ok!(cuMemFree_v2(memory));
        if waits { driver.is_silent() } else { drop(driver.found("in-flight")) }
    }
}

#[test]
fn memory_freed_under_a_kernel_is_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (stream, module) = (driver.stream(), driver.module());
        let function = driver.gather_of(module);
        let (row, table, out) = (driver.device(BYTES), driver.device(8), driver.device(BYTES));
        let address = driver.pinned(8);
        address.copy_from_slice(&row.to_le_bytes());
        ok!(cuMemcpyHtoDAsync_v2(table, of(address), 8, stream));
        forebay_fake_hold(1);
        assert_eq!(
            gather(function, GatherArgs { samples: table, out, rows: 1, row_bytes: BYTES as u64 }, stream),
            0
        );
        if waits {
            ok!(cuStreamSynchronize(stream));
        }
        // Only the kernel knows that it reads this.
        ok!(cuMemFree_v2(row));
        if waits { driver.is_silent() } else { drop(driver.found("in-flight")) }
    }
}

#[test]
fn memory_used_after_it_was_freed_is_found() {
    let driver = Driver::seed(0);
    let (stream, memory, other) = (driver.stream(), driver.device(BYTES), driver.device(BYTES));
    ok!(cuMemFree_v2(memory));
    assert_eq!(cu!(cuMemsetD8Async(memory + 8, 1, 1, stream)), 1);
    assert!(driver.found("use-after-free").contains("against cuMemFree_v2"));
    ok!(cuMemsetD8Async(other, 1, BYTES, stream));
    ok!(cuStreamSynchronize(stream));
    driver.is_silent();
}

#[test]
fn a_kernel_that_uses_freed_memory_loses_the_context() {
    let driver = Driver::seed(0);
    let (stream, module) = (driver.stream(), driver.module());
    let function = driver.gather_of(module);
    let (table, out) = (driver.device(8), driver.device(BYTES));
    ok!(cuMemFree_v2(table));
    assert_eq!(gather(function, GatherArgs { samples: table, out, rows: 1, row_bytes: 16 }, stream), 0);
    assert_eq!(cu!(cuStreamSynchronize(stream)), 700);
    let found = driver.findings();
    assert!(found.contains("use-after-free: cuLaunchKernel"), "{found}");
    assert_eq!(cu!(cuCtxSynchronize()), 700, "nothing clears it");
}

#[test]
fn memory_is_used_as_far_as_it_goes() {
    let driver = Driver::seed(0);
    let (stream, memory) = (driver.stream(), driver.device(BYTES));
    ok!(cuMemsetD8Async(memory + 1, 1, BYTES - 1, stream));
    driver.is_silent();
    assert_eq!(cu!(cuMemsetD8Async(memory + 1, 1, BYTES, stream)), 1);
    driver.found("out-of-bounds");
}

#[test]
fn fresh_memory_is_poisoned_and_freed_addresses_come_back_last() {
    let driver = Driver::seed(0);
    let memory = driver.device(BYTES);
    // SAFETY: the driver's memory behind this address, as long as it.
    let fresh = unsafe { std::slice::from_raw_parts(forebay_fake_bytes(memory), BYTES) };
    assert!(fresh.iter().all(|byte| *byte == 0xDB));
    ok!(cuMemFree_v2(memory));
    assert!(forebay_fake_bytes(memory).is_null());
    assert_ne!(driver.device(BYTES), memory);
}

#[test]
fn a_device_address_is_none_of_the_hosts() {
    let driver = Driver::seed(0);
    let memory = driver.device(BYTES);
    let mut pipe = [0; 2];
    // SAFETY: a plain call with room for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: the kernel looks at the address for us, and refuses where a read by this program would end it.
    let written = unsafe { libc::write(pipe[1], memory as *const c_void, 1) };
    assert_eq!((written, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
    for end in pipe {
        // SAFETY: our own descriptors, closed once.
        unsafe { libc::close(end) };
    }
}

#[test]
fn freeing_twice_is_found() {
    let driver = Driver::seed(0);
    let memory = driver.device(BYTES);
    ok!(cuMemFree_v2(memory));
    driver.is_silent();
    assert_eq!(cu!(cuMemFree_v2(memory)), 1);
    assert!(driver.found("double-free").contains("against cuMemFree_v2"));
    let (stream, event, module) = (driver.stream(), driver.event(), driver.module());
    ok!(cuStreamDestroy_v2(stream));
    ok!(cuEventDestroy_v2(event));
    ok!(cuModuleUnload(module));
    driver.is_silent();
    assert_eq!(cu!(cuStreamDestroy_v2(stream)), 400);
    assert_eq!(cu!(cuEventDestroy_v2(event)), 400);
    assert_eq!(cu!(cuModuleUnload(module)), 400);
    assert_eq!(driver.found("double-free").matches("double-free:").count(), 3);
}

#[test]
fn memory_of_a_streams_order_ends_in_it() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (stream, other) = (driver.stream(), driver.stream());
        let mut memory = 0;
        ok!(cuMemAllocAsync(&mut memory, BYTES, stream));
        ok!(cuMemsetD8Async(memory, 1, BYTES, stream));
        ok!(cuMemFreeAsync(memory, stream));
        driver.is_silent();
        ok!(cuMemAllocAsync(&mut memory, BYTES, stream));
        forebay_fake_hold(1);
        ok!(cuMemsetD8Async(memory, 1, BYTES, other));
        driver.found("race");
        ok!(cuCtxSynchronize());
        ok!(cuMemFreeAsync(memory, stream));
        assert_eq!(cu!(cuMemFreeAsync(memory, stream)), 1);
        driver.found("double-free");
    }
}

#[test]
fn destroyed_streams_and_events_in_use_are_found() {
    let driver = Driver::seed(0);
    let (stream, other, event) = (driver.stream(), driver.stream(), driver.event());
    let memory = driver.device(BYTES);
    // What is under way goes on.
    ok!(cuMemsetD8Async(memory, 1, BYTES, stream));
    ok!(cuEventRecord(event, stream));
    ok!(cuStreamDestroy_v2(stream));
    ok!(cuEventSynchronize(event));
    driver.is_silent();
    assert_eq!(cu!(cuMemsetD8Async(memory, 1, BYTES, stream)), 400);
    assert!(driver.found("destroyed").contains("against cuStreamDestroy_v2"));
    ok!(cuEventDestroy_v2(event));
    assert_eq!(cu!(cuStreamWaitEvent(other, event, 0)), 400);
    assert_eq!(cu!(cuEventRecord(event, other)), 400);
    assert_eq!(driver.found("destroyed").matches("destroyed:").count(), 2);
}

#[test]
fn a_module_unloaded_under_its_kernel_is_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (stream, module) = (driver.stream(), driver.module());
        let function = driver.gather_of(module);
        let out = driver.device(BYTES);
        assert_eq!(gather(function, GatherArgs { samples: out, out, rows: 0, row_bytes: 16 }, stream), 0);
        if waits {
            ok!(cuStreamSynchronize(stream));
        }
        ok!(cuModuleUnload(module));
        if waits {
            driver.is_silent()
        } else {
            drop(driver.found("in-flight"))
        }
        assert_eq!(gather(function, GatherArgs { samples: out, out, rows: 0, row_bytes: 16 }, stream), 400);
        driver.found("destroyed");
    }
}

#[test]
fn pinned_memory_given_up_under_a_copy_is_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (stream, memory) = (driver.stream(), driver.device(BYTES));
        let mut registered = vec![1u8; 4 * BYTES];
        let allocated = driver.pinned(BYTES);
        ok!(cuMemHostRegister_v2(of_mut(&mut registered), registered.len(), 1));
        ok!(cuMemcpyHtoDAsync_v2(memory, of(&registered[100..]), 10, stream));
        ok!(cuMemcpyHtoDAsync_v2(memory, of(allocated), 10, stream));
        if waits {
            ok!(cuStreamSynchronize(stream));
        }
        ok!(cuMemHostUnregister(of_mut(&mut registered)));
        ok!(cuMemFreeHost(of_mut(allocated)));
        if waits {
            driver.is_silent();
        } else {
            assert_eq!(driver.found("in-flight").matches("in-flight:").count(), 2);
        }
    }
}

#[test]
fn registrations_that_share_a_page_are_found() {
    let driver = Driver::seed(0);
    let mut memory = vec![0u8; 16 * BYTES];
    let start = memory.as_ptr().align_offset(BYTES);
    let pages = &mut memory[start..start + 8 * BYTES];
    ok!(cuMemHostRegister_v2(of_mut(pages), 2 * BYTES, 1));
    ok!(cuMemHostRegister_v2(of_mut(&mut pages[2 * BYTES..]), BYTES + 1, 1));
    driver.is_silent();
    assert_eq!(cu!(cuMemHostRegister_v2(of_mut(&mut pages[3 * BYTES + 64..]), BYTES, 1)), 712);
    driver.found("overlap");
    let stream = driver.stream();
    let device = driver.device(8 * BYTES);
    assert_eq!(cu!(cuMemcpyHtoDAsync_v2(device, of(pages), 3 * BYTES, stream)), 1);
    assert!(driver.found("misuse").contains("across the edge"));
    assert_eq!(cu!(cuMemHostUnregister(of_mut(&mut pages[BYTES..]))), 713);
    driver.found("double-free");
}

#[test]
fn what_is_never_given_back_is_a_leak() {
    let driver = Driver::seed(0);
    let (stream, event, memory, module) =
        (driver.stream(), driver.event(), driver.device(BYTES), driver.module());
    let pinned = driver.pinned(BYTES);
    assert_eq!(forebay_fake_leaks(), 6, "these and the reference to the context");
    let text = driver.found("leak");
    for call in [
        "cuStreamCreate",
        "cuEventCreate",
        "cuMemAlloc_v2",
        "cuModuleLoadData",
        "cuMemHostAlloc",
        "cuDevicePrimaryCtxRetain",
    ] {
        assert!(text.contains(&format!("leak: {call}: ")), "{call}: {text}");
    }
    ok!(cuStreamDestroy_v2(stream));
    ok!(cuEventDestroy_v2(event));
    ok!(cuMemFree_v2(memory));
    ok!(cuModuleUnload(module));
    ok!(cuMemFreeHost(of_mut(pinned)));
    ok!(cuCtxSetCurrent(0));
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(forebay_fake_leaks(), 0);
    driver.is_silent();
}

#[test]
fn what_is_left_in_a_context_that_ends_is_a_leak() {
    let driver = Driver::seed(0);
    driver.device(BYTES);
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    assert!(driver.found("leak").contains("the context's end"));
    let mut address = 0;
    assert_eq!(cu!(cuMemAlloc_v2(&mut address, BYTES)), 709);
}

#[test]
fn a_thread_is_given_back_as_it_was() {
    let driver = Driver::seed(0);
    let mut popped = 0;
    forebay_fake_enter();
    ok!(cuCtxPushCurrent_v2(driver.context));
    ok!(cuCtxPopCurrent_v2(&mut popped));
    assert_eq!(forebay_fake_leave(), 1);
    driver.is_silent();
    let before = forebay_fake_thread_state();
    forebay_fake_enter();
    ok!(cuCtxPushCurrent_v2(driver.context));
    assert_eq!(forebay_fake_leave(), 0);
    assert!(driver.found("not-restored").contains("contexts"));
    let mut mode = 2;
    forebay_fake_enter();
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_ne!(forebay_fake_thread_state(), before);
    assert_eq!(forebay_fake_leave(), 0);
    assert!(driver.found("not-restored").contains("capture mode"));
    assert_eq!(forebay_fake_thread_state(), before);
}

#[test]
fn streams_events_and_kernels_of_different_devices_do_not_mix() {
    let driver = Driver::with("devices=2");
    let (stream, event, memory, module) =
        (driver.stream(), driver.event(), driver.device(BYTES), driver.module());
    let function = driver.gather_of(module);
    let mut other = 0;
    ok!(cuDevicePrimaryCtxRetain(&mut other, 1));
    ok!(cuCtxPushCurrent_v2(other));
    let (far, there) = (driver.stream(), driver.device(BYTES));
    assert_eq!(cu!(cuEventRecord(event, far)), 400);
    let nothing = GatherArgs { samples: memory, out: memory, rows: 0, row_bytes: 1 };
    assert_eq!(gather(function, nothing, far), 400);
    // Waits and copies do.
    ok!(cuEventRecord(event, stream));
    ok!(cuStreamWaitEvent(far, event, 0));
    ok!(cuMemcpyDtoDAsync_v2(there, memory, BYTES, far));
    ok!(cuStreamSynchronize(far));
    driver.is_silent();
    // A kernel reads another device's memory only where it has access.
    let table = driver.device(8);
    ok!(cuCtxPopCurrent_v2(std::ptr::null_mut()));
    assert_eq!(
        gather(function, GatherArgs { samples: table, out: memory, rows: 1, row_bytes: 1 }, stream),
        0
    );
    assert_eq!(cu!(cuStreamSynchronize(stream)), 700);
    assert!(driver.findings().contains("to which device 0 has no access"));
}
