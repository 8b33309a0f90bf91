//! Missing waits, found on every seed, and their near misses, silent on every seed.

use forebay_fake_cuda::{abi::*, control::*};
use forebay_kernels::GatherArgs;

use crate::support::{Driver, SEEDS, gather, of, of_mut};

const BYTES: usize = 4096;

/// A copy to the device on one stream, and `second` on another, which waits for it or doesn't.
fn two_streams(seed: u64, waits: bool, second: impl FnOnce(&Driver, u64, u64)) -> Driver {
    let driver = Driver::seed(seed);
    let (first, other, event) = (driver.stream(), driver.stream(), driver.event());
    let (source, memory) = (driver.pinned(BYTES), driver.device(BYTES));
    ok!(cuMemcpyHtoDAsync_v2(memory, of(source), BYTES, first));
    ok!(cuEventRecord(event, first));
    if waits {
        ok!(cuStreamWaitEvent(other, event, 0));
    }
    second(&driver, memory, other);
    driver
}

fn read(driver: &Driver, memory: u64, stream: u64) {
    ok!(cuMemcpyDtoHAsync_v2(of_mut(driver.pinned(BYTES)), memory, BYTES, stream));
}

fn write(_: &Driver, memory: u64, stream: u64) {
    ok!(cuMemsetD8Async(memory + 100, 7, 10, stream));
}

#[test]
fn a_read_without_a_wait_for_the_write_is_a_race() {
    for seed in SEEDS {
        assert!(two_streams(seed, false, read).found("race").contains("reads what another operation writes"));
        two_streams(seed, true, read).is_silent();
    }
}

#[test]
fn a_write_without_a_wait_for_the_write_is_a_race() {
    for seed in SEEDS {
        assert!(
            two_streams(seed, false, write).found("race").contains("writes what another operation writes")
        );
        two_streams(seed, true, write).is_silent();
    }
}

#[test]
fn a_write_without_a_wait_for_the_read_is_a_race() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (first, other, event) = (driver.stream(), driver.stream(), driver.event());
        let memory = driver.device(BYTES);
        read(&driver, memory, first);
        ok!(cuEventRecord(event, first));
        if waits {
            ok!(cuStreamWaitEvent(other, event, 0));
        }
        write(&driver, memory, other);
        if waits {
            driver.is_silent();
        } else {
            assert!(driver.found("race").contains("writes what another operation reads"));
        }
    }
}

#[test]
fn two_reads_and_neighbouring_writes_need_no_order() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (first, other) = (driver.stream(), driver.stream());
        let memory = driver.device(BYTES);
        read(&driver, memory, first);
        read(&driver, memory, other);
        ok!(cuStreamSynchronize(first));
        ok!(cuStreamSynchronize(other));
        ok!(cuMemsetD8Async(memory, 1, 100, first));
        ok!(cuMemsetD8Async(memory + 100, 2, 100, other));
        driver.is_silent();
    }
}

#[test]
fn a_finding_names_both_calls_and_their_places() {
    let text = two_streams(0, false, write).found("race");
    assert!(text.contains("race: cuMemsetD8Async: writes"), "{text}");
    assert!(text.contains("against cuMemcpyHtoDAsync_v2 at"), "{text}");
    assert!(text.contains("  write") && text.contains("  two_streams"), "{text}");
}

#[test]
fn what_the_host_waited_for_needs_no_event() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (first, other, event) = (driver.stream(), driver.stream(), driver.event());
        let memory = driver.device(BYTES);
        for round in 0..5 {
            ok!(cuMemsetD8Async(memory, round, BYTES, first));
            match round {
                0 => ok!(cuStreamSynchronize(first)),
                1 => ok!(cuCtxSynchronize()),
                2 => while cu!(cuStreamQuery(first)) == 600 {},
                _ => {
                    ok!(cuEventRecord(event, first));
                    if round == 3 {
                        ok!(cuEventSynchronize(event));
                    } else {
                        while cu!(cuEventQuery(event)) == 600 {}
                    }
                }
            }
            ok!(cuMemsetD8Async(memory, round, BYTES, other));
            ok!(cuStreamSynchronize(other));
        }
        driver.is_silent();
    }
}

#[test]
fn an_event_recorded_before_the_work_guards_nothing() {
    for (seed, late) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (first, other, event) = (driver.stream(), driver.stream(), driver.event());
        let memory = driver.device(BYTES);
        if !late {
            ok!(cuEventRecord(event, first));
        }
        ok!(cuMemsetD8Async(memory, 1, BYTES, first));
        if late {
            ok!(cuEventRecord(event, first));
        }
        ok!(cuStreamWaitEvent(other, event, 0));
        read(&driver, memory, other);
        if late { driver.is_silent() } else { drop(driver.found("race")) }
    }
}

#[test]
fn an_event_recorded_again_forgets_what_it_stood_for() {
    for (seed, again) in SEEDS.flat_map(|seed| [(seed, true), (seed, false)]) {
        let driver = Driver::seed(seed);
        let (first, second, other, event) =
            (driver.stream(), driver.stream(), driver.stream(), driver.event());
        let memory = driver.device(BYTES);
        ok!(cuMemsetD8Async(memory, 1, BYTES, first));
        ok!(cuEventRecord(event, first));
        if again {
            ok!(cuEventRecord(event, second));
        }
        ok!(cuStreamWaitEvent(other, event, 0));
        read(&driver, memory, other);
        if again { drop(driver.found("race")) } else { driver.is_silent() }
    }
}

#[test]
fn blocking_streams_wait_for_the_legacy_stream_and_others_do_not() {
    for (seed, flags) in SEEDS.flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let driver = Driver::seed(seed);
        let memory = driver.device(BYTES);
        let mut stream = 0;
        ok!(cuStreamCreate(&mut stream, flags));
        ok!(cuMemsetD8Async(memory, 1, BYTES, 0));
        ok!(cuMemsetD8Async(memory, 2, BYTES, stream));
        ok!(cuMemsetD8Async(memory, 3, BYTES, 1));
        if flags == 0 { driver.is_silent() } else { drop(driver.found("race")) }
    }
}

#[test]
fn the_per_thread_stream_waits_for_the_legacy_stream_but_not_for_other_threads() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let context = driver.context;
        let memory = driver.device(BYTES);
        let on_a_thread = |stream: u64| {
            std::thread::scope(|scope| {
                let work = move || {
                    ok!(cuCtxSetCurrent(context));
                    ok!(cuMemsetD8Async(memory, 1, BYTES, stream));
                };
                scope.spawn(work).join().expect("no panic");
            });
        };
        ok!(cuMemsetD8Async(memory, 2, BYTES, 2));
        on_a_thread(1);
        ok!(cuMemsetD8Async(memory, 2, BYTES, 2));
        driver.is_silent();
        on_a_thread(2);
        driver.found("race");
    }
}

/// Gathers a row of device memory that another stream writes.
fn gathering(seed: u64, waits: bool) -> Driver {
    let driver = Driver::seed(seed);
    let (copies, kernels, event) = (driver.stream(), driver.stream(), driver.event());
    let module = driver.module();
    let function = driver.gather_of(module);
    let (row, table, out) = (driver.device(BYTES), driver.device(8), driver.device(BYTES));
    let address = driver.pinned(8);
    address.copy_from_slice(&row.to_le_bytes());
    // The row's address is known to the kernel alone, and only once it runs.
    ok!(cuMemcpyHtoDAsync_v2(table, of(address), 8, kernels));
    ok!(cuMemsetD8Async(row, 9, BYTES, copies));
    ok!(cuEventRecord(event, copies));
    if waits {
        ok!(cuStreamWaitEvent(kernels, event, 0));
    }
    assert_eq!(
        gather(function, GatherArgs { samples: table, out, rows: 1, row_bytes: BYTES as u64 }, kernels),
        0
    );
    driver
}

#[test]
fn a_kernel_that_reads_too_early_is_a_race() {
    for seed in SEEDS {
        gathering(seed, false).found("race");
        gathering(seed, true).is_silent();
    }
}

#[test]
fn a_kernel_is_compared_with_work_submitted_after_it_too() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (kernels, copies, event) = (driver.stream(), driver.stream(), driver.event());
        let module = driver.module();
        let function = driver.gather_of(module);
        let (row, table, out) = (driver.device(BYTES), driver.device(8), driver.device(BYTES));
        let address = driver.pinned(8);
        address.copy_from_slice(&row.to_le_bytes());
        ok!(cuMemcpyHtoDAsync_v2(table, of(address), 8, kernels));
        forebay_fake_hold(1);
        assert_eq!(
            gather(function, GatherArgs { samples: table, out, rows: 1, row_bytes: BYTES as u64 }, kernels),
            0
        );
        ok!(cuEventRecord(event, kernels));
        if waits {
            ok!(cuStreamWaitEvent(copies, event, 0));
        }
        ok!(cuMemsetD8Async(row, 9, BYTES, copies));
        // Also where the host then waits for the later one alone, before the kernel ran.
        if !waits {
            ok!(cuStreamSynchronize(copies));
        }
        if waits { driver.is_silent() } else { drop(driver.found("race")) }
    }
}

#[test]
fn a_copy_from_pageable_memory_is_complete_on_the_device_only_for_its_own_stream() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (stream, memory) = (driver.stream(), driver.device(BYTES));
        let mut source = vec![5u8; BYTES];
        ok!(cuMemcpyHtoD_v2(memory, of(&source), BYTES));
        // The driver has its own copy.
        source.fill(0);
        if waits {
            ok!(cuStreamSynchronize(0));
        }
        read(&driver, memory, stream);
        if waits { driver.is_silent() } else { drop(driver.found("race")) }
    }
}

#[test]
fn asynchronous_copies_need_pinned_memory() {
    let driver = Driver::seed(0);
    let (stream, memory) = (driver.stream(), driver.device(BYTES));
    let mut pageable = vec![0u8; BYTES];
    ok!(cuMemcpyHtoDAsync_v2(memory, of(&pageable), BYTES, stream));
    ok!(cuMemcpyDtoHAsync_v2(of_mut(&mut pageable), memory, BYTES, stream));
    assert_eq!(driver.found("pageable").matches("pageable:").count(), 2);
    ok!(cuMemHostRegister_v2(of_mut(&mut pageable), BYTES, 1));
    ok!(cuMemcpyHtoDAsync_v2(memory, of(&pageable), BYTES, stream));
    ok!(cuStreamSynchronize(stream));
    ok!(cuMemHostUnregister(of_mut(&mut pageable)));
    driver.is_silent();
}

#[test]
fn a_wait_for_an_event_never_recorded_is_found() {
    let driver = Driver::seed(0);
    let (stream, event) = (driver.stream(), driver.event());
    ok!(cuStreamWaitEvent(stream, event, 0));
    driver.found("never-recorded");
    ok!(cuEventSynchronize(event));
    driver.found("never-recorded");
    ok!(cuEventRecord(event, stream));
    ok!(cuStreamWaitEvent(stream, event, 0));
    driver.is_silent();
}
