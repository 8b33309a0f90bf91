//! Errors by plan, PTX that the driver doesn't take, older drivers, a slow bus.

use std::ffi::{CStr, CString, c_void};
use std::time::{Duration, Instant};

use forebay_fake_cuda::{abi::*, control::*};
use forebay_kernels::GatherArgs;

use crate::support::{Driver, configure, gather, of};

const BYTES: usize = 4096;

#[test]
fn the_nth_allocation_is_out_of_memory() {
    let driver = Driver::with("faults=oom@2,cuStreamCreate@1:46");
    let mut address = 0;
    let results: Vec<i32> = (0..3).map(|_| cu!(cuMemAlloc_v2(&mut address, BYTES))).collect();
    assert_eq!(results, [0, 2, 0]);
    let mut stream = 0;
    assert_eq!(cu!(cuStreamCreate(&mut stream, 1)), 46);
    ok!(cuStreamCreate(&mut stream, 1));
    driver.is_silent();
}

#[test]
fn a_device_has_only_so_much_memory() {
    let driver = Driver::with("memory_mib=8");
    let memory = driver.device(6 << 20);
    let mut address = 0;
    assert_eq!(cu!(cuMemAlloc_v2(&mut address, 3 << 20)), 2);
    ok!(cuMemFree_v2(memory));
    ok!(cuMemAlloc_v2(&mut address, 3 << 20));
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    assert_eq!((free, total), (5 << 20, 8 << 20));
    driver.is_silent();
}

#[test]
fn a_kernel_that_fails_leaves_its_context_unusable() {
    let driver = Driver::with("faults=launch@2");
    let (stream, module, memory) = (driver.stream(), driver.module(), driver.device(BYTES));
    let function = driver.gather_of(module);
    let nothing = GatherArgs { samples: memory, out: memory, rows: 0, row_bytes: 1 };
    assert_eq!(gather(function, nothing, stream), 0);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(gather(function, nothing, stream), 0);
    assert_eq!(cu!(cuStreamSynchronize(stream)), 719);
    assert_eq!(cu!(cuMemsetD8Async(memory, 1, 1, stream)), 719);
    assert_eq!(cu!(cuMemFree_v2(memory)), 719, "and yet it's freed");
    assert_eq!(cu!(cuStreamQuery(stream)), 719);
    driver.is_silent();
}

#[test]
fn a_lost_device_hangs_nobody() {
    let driver = Driver::with("faults=lost@2");
    let (stream, event, memory) = (driver.stream(), driver.event(), driver.device(BYTES));
    forebay_fake_hold(1);
    ok!(cuMemsetD8Async(memory, 1, 1, stream));
    ok!(cuEventRecord(event, stream));
    assert_eq!(cu!(cuMemsetD8Async(memory, 1, 1, stream)), 214);
    assert_eq!(cu!(cuEventSynchronize(event)), 214);
    assert_eq!(cu!(cuEventQuery(event)), 214);
    assert_eq!(forebay_fake_leaks(), 0, "nothing of it can be given back");
    driver.is_silent();
}

/// Loads PTX; the result and the log.
fn load(ptx: &str) -> (i32, String) {
    let (ptx, mut module) = (CString::new(ptx).expect("no zero"), 0);
    let mut log = vec![1u8; 400];
    let mut keys = [5, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let result =
        cu!(cuModuleLoadDataEx(&mut module, ptx.as_ptr().cast(), 2, keys.as_mut_ptr(), values.as_mut_ptr()));
    let written = values[1] as usize;
    let log = CStr::from_bytes_with_nul(&log[..written]).expect("a text and its zero");
    (result, log.to_str().expect("UTF-8").to_owned())
}

#[test]
fn ptx_that_the_driver_refuses_comes_with_a_log() {
    let driver = Driver::seed(0);
    assert_eq!(load(forebay_kernels::PTX), (0, String::new()));
    let (result, log) = load(&forebay_kernels::PTX.replace(".version 8.0", ".version 8.5"));
    assert_eq!(result, 222);
    assert!(log.contains("Unsupported .version 8.5; current version is '8.0'"), "{log}");
    let (result, log) = load(&forebay_kernels::PTX.replace(".target sm_70", ".target sm_100"));
    assert_eq!(result, 209, "{log}");
    let (result, log) = load(&forebay_kernels::PTX[..forebay_kernels::PTX.rfind('}').expect("a body")]);
    assert_eq!(result, 218);
    assert!(log.contains("syntax error"), "{log}");
    let (result, log) = load("#include <cuda.h>\n");
    assert_eq!(result, 218, "{log}");
    configure("version=12050");
    assert_eq!(load(&forebay_kernels::PTX.replace(".version 8.0", ".version 8.5")).0, 0);
    driver.is_silent();
}

#[test]
fn a_module_has_only_the_kernels_in_its_ptx() {
    let driver = Driver::seed(0);
    let module = driver.module();
    let mut function = 0;
    assert_eq!(cu!(cuModuleGetFunction(&mut function, module, c"forebay_nothing".as_ptr())), 500);
    driver.is_silent();
}

fn look_up(name: &CStr) -> (bool, i32) {
    let (mut function, mut status) = (std::ptr::null(), -1);
    ok!(cuGetProcAddress_v2(name.as_ptr(), &mut function, 12_000, 0, &mut status));
    (!function.is_null(), status)
}

#[test]
fn an_older_driver_lacks_functions() {
    let driver = Driver::seed(0);
    assert_eq!(look_up(c"cuMemAlloc"), (true, 0));
    assert_eq!(look_up(c"cuCtxRecordEvent"), (false, 2));
    assert_eq!(look_up(c"cuNothing"), (false, 1));
    configure("version=12050");
    assert_eq!(look_up(c"cuCtxRecordEvent"), (true, 0));
    configure("missing=cuMemCreate,cuCtxRecordEvent");
    assert_eq!((look_up(c"cuMemCreate"), look_up(c"cuCtxRecordEvent")), ((false, 1), (false, 1)));
    driver.is_silent();
    let mut handle = 0;
    assert_eq!(cu!(cuMemCreate(&mut handle, 2 << 20, &Properties::on(0, false), 0)), 801);
    driver.found("missing");
}

#[test]
fn copies_take_the_time_of_the_bus() {
    let driver = Driver::with("bus_gbps=0.01 bus_latency_us=1000 delay_us=0");
    let (stream, memory) = (driver.stream(), driver.device(100_000));
    let source = driver.pinned(100_000);
    let began = Instant::now();
    ok!(cuMemcpyHtoDAsync_v2(memory, of(source), 100_000, stream));
    assert_eq!(cu!(cuStreamQuery(stream)), 600);
    ok!(cuStreamSynchronize(stream));
    // Never sooner: 100 kB at 10 MB/s, and the latency.
    assert!(began.elapsed() >= Duration::from_millis(11));
    driver.is_silent();
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let driver = Driver::seed(0);
    for line in
        ["seed=x", "seeds=1", "seed", "allow=rase", "faults=oom", "faults=oom@0", "faults=sun@1", "vmm=yes"]
    {
        let line = CString::new(line).expect("no zero");
        assert_eq!(cu!(forebay_fake_configure(line.as_ptr())), -1, "{line:?}");
    }
    driver.is_silent();
}

#[test]
fn what_a_program_asks_not_to_be_told_is_not_reported() {
    let driver = Driver::with("allow=pageable");
    let (stream, memory) = (driver.stream(), driver.device(BYTES));
    ok!(cuMemcpyHtoDAsync_v2(memory, of(&vec![0u8; BYTES]), BYTES, stream));
    driver.is_silent();
}
