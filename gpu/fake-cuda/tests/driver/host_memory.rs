//! Host memory that the CPU uses while a copy may still do, found on every seed.

use std::ffi::c_void;

use forebay_fake_cuda::{abi::*, control::*};

use crate::support::{Driver, SEEDS, of, of_mut};

const BYTES: usize = 4096;

#[test]
fn a_source_written_to_before_the_host_knows_the_copy_is_complete_is_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (stream, source, memory) = (driver.stream(), driver.pinned(BYTES), driver.device(BYTES));
        ok!(cuMemcpyHtoDAsync_v2(memory, of(source), BYTES, stream));
        // The copy may well have run by now: the host can't know.
        if waits {
            ok!(cuStreamSynchronize(stream));
        } else if seed % 2 == 0 {
            forebay_fake_settle();
        }
        source[BYTES - 1] ^= 1;
        if seed % 3 == 0 {
            ok!(cuStreamSynchronize(stream));
        }
        if waits { driver.is_silent() } else { drop(driver.found("host-write")) }
    }
}

#[test]
fn a_buffer_used_again_before_the_host_knows_the_copy_is_complete_is_found_without_any_wait() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (stream, source, memory) = (driver.stream(), driver.pinned(BYTES), driver.device(BYTES));
        ok!(cuMemcpyHtoDAsync_v2(memory, of(source), BYTES, stream));
        source[0] ^= 1;
        ok!(cuMemcpyHtoDAsync_v2(memory, of(source), BYTES, stream));
        assert_eq!(driver.found("host-write").matches("host-write:").count(), 1);
        source[0] ^= 1;
        driver.found("host-write");
    }
}

#[test]
fn each_of_two_copies_from_one_source_is_looked_at() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (first, second, source) = (driver.stream(), driver.stream(), driver.pinned(BYTES));
        ok!(cuMemcpyHtoDAsync_v2(driver.device(BYTES), of(source), BYTES, first));
        ok!(cuMemcpyHtoDAsync_v2(driver.device(BYTES), of(source), BYTES, second));
        ok!(cuStreamSynchronize(first));
        if waits {
            ok!(cuStreamSynchronize(second));
        }
        source[0] ^= 1;
        ok!(cuStreamSynchronize(second));
        if waits { driver.is_silent() } else { drop(driver.found("host-write")) }
    }
}

#[test]
fn a_target_written_to_before_the_host_knows_the_copy_is_complete_is_found() {
    for (seed, when) in SEEDS.flat_map(|seed| [(seed, 0), (seed, 1), (seed, 2)]) {
        let driver = Driver::seed(seed);
        let (stream, target, memory) = (driver.stream(), driver.pinned(BYTES), driver.device(BYTES));
        forebay_fake_hold(1);
        ok!(cuMemcpyDtoHAsync_v2(of_mut(target), memory, BYTES, stream));
        match when {
            0 => target[17] = 0,
            1 => {
                forebay_fake_settle();
                target[17] = 0;
            }
            _ => {}
        }
        ok!(cuStreamSynchronize(stream));
        target[17] = 0;
        ok!(cuStreamSynchronize(stream));
        if when == 2 { driver.is_silent() } else { drop(driver.found("host-write")) }
    }
}

#[test]
fn a_target_read_too_early_is_nonsense_on_every_run() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (stream, target, memory) = (driver.stream(), driver.pinned(BYTES), driver.device(BYTES));
        target.fill(1);
        ok!(cuMemsetD8Async(memory, 1, BYTES, stream));
        forebay_fake_hold(1);
        ok!(cuMemcpyDtoHAsync_v2(of_mut(target), memory, BYTES, stream));
        assert!(target.iter().all(|byte| *byte != 1));
        ok!(cuStreamSynchronize(stream));
        assert!(target.iter().all(|byte| *byte == 1));
        driver.is_silent();
    }
}

#[test]
fn a_buffer_that_one_copy_fills_and_the_next_one_reads_is_no_finding() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (stream, buffer) = (driver.stream(), driver.pinned(BYTES));
        let (from, to) = (driver.device(BYTES), driver.device(BYTES));
        for value in 0..4 {
            ok!(cuMemsetD8Async(from, value, BYTES, stream));
            ok!(cuMemcpyDtoHAsync_v2(of_mut(buffer), from, BYTES, stream));
            ok!(cuMemcpyHtoDAsync_v2(to, of(buffer), BYTES, stream));
        }
        ok!(cuStreamSynchronize(stream));
        // SAFETY: the driver's memory behind an address that was just written.
        assert_eq!(unsafe { *forebay_fake_bytes(to) }, 3);
        driver.is_silent();
    }
}

extern "C" fn set(flag: *mut c_void) {
    // SAFETY: the test's own flag.
    unsafe { &*flag.cast::<std::sync::atomic::AtomicBool>() }
        .store(true, std::sync::atomic::Ordering::Release);
}

#[test]
fn a_host_function_tells_the_host_what_came_before_it_on_its_stream() {
    for (seed, same) in SEEDS.flat_map(|seed| [(seed, true), (seed, false)]) {
        let driver = Driver::seed(seed);
        let (stream, other) = (driver.stream(), driver.stream());
        let (source, memory) = (driver.pinned(BYTES), driver.device(BYTES));
        let flag = std::sync::atomic::AtomicBool::new(false);
        ok!(cuMemcpyHtoDAsync_v2(memory, of(source), BYTES, stream));
        let on = if same { stream } else { other };
        ok!(cuLaunchHostFunc(on, Some(set), (&raw const flag).cast_mut().cast()));
        while !flag.load(std::sync::atomic::Ordering::Acquire) {
            std::hint::spin_loop();
        }
        source[0] ^= 1;
        ok!(cuStreamSynchronize(stream));
        if same { driver.is_silent() } else { drop(driver.found("host-write")) }
    }
}

#[test]
fn pinned_memory_unmapped_before_the_host_knows_the_copy_is_complete_is_found() {
    for waits in [false, true] {
        let driver = Driver::seed(0);
        let (stream, source, memory) = (driver.stream(), driver.pinned(BYTES), driver.device(BYTES));
        ok!(cuMemcpyHtoDAsync_v2(memory, of(source), BYTES, stream));
        if waits {
            ok!(cuStreamSynchronize(stream));
        } else {
            forebay_fake_settle();
        }
        // SAFETY: the copy has run, and nobody uses the memory any more.
        assert_eq!(unsafe { libc::munmap(of_mut(source), BYTES) }, 0);
        if waits { driver.is_silent() } else { drop(driver.found("host-write")) }
    }
}
