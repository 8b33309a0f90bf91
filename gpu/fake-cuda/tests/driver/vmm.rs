//! Addresses and physical memory apart.

use std::ffi::c_void;

use forebay_fake_cuda::{abi::*, control::*};

use crate::support::{Driver, SEEDS, configure, counter};

const CHUNK: usize = 2 << 20;

fn create(exportable: bool) -> u64 {
    let mut handle = 0;
    ok!(cuMemCreate(&mut handle, CHUNK, &Properties::on(0, exportable), 0));
    handle
}

fn reserve(chunks: usize) -> u64 {
    let mut address = 0;
    ok!(cuMemAddressReserve(&mut address, chunks * CHUNK, 0, 0, 0));
    address
}

fn map(address: u64, handle: u64) {
    ok!(cuMemMap(address, CHUNK, 0, handle, 0));
    ok!(cuMemSetAccess(address, CHUNK, &AccessDescription::of(0), 1));
}

#[test]
fn an_arena_of_chunks_is_one_range() {
    let driver = Driver::seed(1);
    let (address, stream) = (reserve(4), driver.stream());
    let handles = [create(true), create(true)];
    for (at, handle) in handles.iter().enumerate() {
        map(address + (at * CHUNK) as u64, *handle);
        ok!(cuMemRelease(*handle));
    }
    ok!(cuMemsetD8Async(address + CHUNK as u64 - 10, 3, 20, stream));
    ok!(cuStreamSynchronize(stream));
    // SAFETY: the driver's memory behind mapped addresses.
    assert_eq!(unsafe { *forebay_fake_bytes(address + CHUNK as u64) }, 3);
    assert_eq!(counter("device_allocations"), 2);
    driver.is_silent();
    assert_eq!(cu!(cuMemsetD8Async(address + 2 * CHUNK as u64 - 10, 3, 20, stream)), 1);
    driver.found("out-of-bounds");
    ok!(cuMemUnmap(address, 2 * CHUNK));
    ok!(cuMemAddressFree(address, 4 * CHUNK));
    ok!(cuStreamDestroy_v2(stream));
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(forebay_fake_leaks(), 0);
    driver.is_silent();
}

#[test]
fn mapped_memory_needs_access() {
    let driver = Driver::with("devices=2");
    let (address, stream, handle) = (reserve(1), driver.stream(), create(false));
    ok!(cuMemMap(address, CHUNK, 0, handle, 0));
    assert_eq!(cu!(cuMemsetD8Async(address, 3, 1, stream)), 1);
    driver.found("out-of-bounds");
    ok!(cuMemSetAccess(address, CHUNK, &AccessDescription::of(1), 1));
    assert_eq!(cu!(cuMemsetD8Async(address, 3, 1, stream)), 1);
    driver.found("out-of-bounds");
    ok!(cuMemSetAccess(address, CHUNK, &AccessDescription::of(0), 1));
    ok!(cuMemsetD8Async(address, 3, 1, stream));
    driver.is_silent();
}

#[test]
fn memory_unmapped_under_work_is_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (address, stream) = (reserve(1), driver.stream());
        map(address, create(false));
        ok!(cuMemsetD8Async(address, 3, 1, stream));
        if waits {
            ok!(cuStreamSynchronize(stream));
        }
        ok!(cuMemUnmap(address, CHUNK));
        if waits {
            driver.is_silent()
        } else {
            drop(driver.found("in-flight"))
        }
        assert_eq!(cu!(cuMemsetD8Async(address, 3, 1, stream)), 1);
        driver.found("use-after-free");
        assert_eq!(cu!(cuMemUnmap(address, CHUNK)), 1);
        driver.found("double-free");
    }
}

#[test]
fn a_descriptor_is_the_same_memory_elsewhere() {
    let driver = Driver::seed(0);
    let (handle, stream) = (create(true), driver.stream());
    let mut descriptor = -1i32;
    ok!(cuMemExportToShareableHandle((&raw mut descriptor).cast(), handle, 1, 0));
    let mut imported = 0;
    ok!(cuMemImportFromShareableHandle(&mut imported, descriptor as usize as *mut c_void, 1));
    // SAFETY: our own descriptor, closed once.
    unsafe { libc::close(descriptor) };
    let (here, there) = (reserve(1), reserve(1));
    map(here, handle);
    map(there, imported);
    ok!(cuMemsetD8Async(here, 42, CHUNK, stream));
    ok!(cuStreamSynchronize(stream));
    // SAFETY: the driver's memory behind mapped addresses.
    assert_eq!(unsafe { *forebay_fake_bytes(there + CHUNK as u64 - 1) }, 42);
    let private = create(false);
    assert_eq!(cu!(cuMemExportToShareableHandle((&raw mut descriptor).cast(), private, 1, 0)), 800);
    driver.is_silent();
}

#[test]
fn addresses_are_not_freed_under_their_memory() {
    let driver = Driver::seed(0);
    let address = reserve(2);
    let handle = create(false);
    map(address, handle);
    assert_eq!(cu!(cuMemAddressFree(address, 2 * CHUNK)), 1);
    driver.found("misuse");
    assert_eq!(cu!(cuMemMap(address, CHUNK, 0, handle, 0)), 1);
    driver.found("misuse");
    ok!(cuMemRelease(handle));
    assert_eq!(cu!(cuMemRelease(handle)), 400);
    driver.found("double-free");
    ok!(cuMemUnmap(address, CHUNK));
    ok!(cuMemAddressFree(address, 2 * CHUNK));
    driver.is_silent();
}

#[test]
fn a_device_may_have_no_virtual_memory_management() {
    let driver = Driver::seed(0);
    configure("vmm=0");
    let mut has = -1;
    ok!(cuDeviceGetAttribute(&mut has, 102, 0));
    let mut address = 0;
    assert_eq!((has, cu!(cuMemAddressReserve(&mut address, CHUNK, 0, 0, 0))), (0, 801));
    driver.is_silent();
}
