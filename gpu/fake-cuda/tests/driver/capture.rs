//! Captures: what they turn into, and what they forbid.

use forebay_fake_cuda::{abi::*, control::*};

use crate::support::{Driver, SEEDS};

const BYTES: usize = 4096;
const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;
const RELAXED: i32 = 2;

fn byte(address: u64) -> u8 {
    // SAFETY: the driver's memory behind an allocated address.
    unsafe { *forebay_fake_bytes(address) }
}

#[test]
fn captured_work_runs_when_its_graph_is_launched() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (stream, side, event, back) = (driver.stream(), driver.stream(), driver.event(), driver.event());
        let memory = driver.device(BYTES);
        let (mut graph, mut executable, mut status) = (0, 0, -1);
        ok!(cuStreamBeginCapture_v2(stream, GLOBAL));
        ok!(cuMemsetD8Async(memory, 1, BYTES, stream));
        ok!(cuEventRecord(event, stream));
        ok!(cuStreamWaitEvent(side, event, 0));
        ok!(cuStreamIsCapturing(side, &mut status));
        assert_eq!(status, 1);
        ok!(cuMemsetD8Async(memory, 2, 1, side));
        ok!(cuEventRecord(back, side));
        ok!(cuStreamWaitEvent(stream, back, 0));
        ok!(cuStreamEndCapture(stream, &mut graph));
        ok!(cuStreamIsCapturing(side, &mut status));
        assert_eq!((status, byte(memory)), (0, 0xDB), "nothing ran");
        ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        ok!(cuGraphLaunch(executable, stream));
        ok!(cuStreamSynchronize(stream));
        assert_eq!((byte(memory), byte(memory + 1)), (2, 1));
        ok!(cuGraphExecDestroy(executable));
        ok!(cuGraphDestroy(graph));
        driver.is_silent();
    }
}

#[test]
fn a_capture_that_lacks_work_of_its_side_stream_fails() {
    let driver = Driver::seed(0);
    let (stream, side, event, mut graph) = (driver.stream(), driver.stream(), driver.event(), 0);
    ok!(cuStreamBeginCapture_v2(stream, GLOBAL));
    ok!(cuEventRecord(event, stream));
    ok!(cuStreamWaitEvent(side, event, 0));
    assert_eq!(cu!(cuStreamEndCapture(side, &mut graph)), 903);
    assert_eq!(cu!(cuStreamEndCapture(stream, &mut graph)), 904);
    driver.is_silent();
}

/// Runs `call` while another thread captures in a mode; whether it was found.
fn beside(mode: i32, own: i32, call: impl FnOnce(&Driver)) -> bool {
    let driver = Driver::seed(0);
    let (stream, context) = (driver.stream(), driver.context);
    let (begin, done) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ok!(cuCtxSetCurrent(context));
            ok!(cuStreamBeginCapture_v2(stream, mode));
            begin.wait();
            done.wait();
            let mut graph = 0;
            let ended = cu!(cuStreamEndCapture(stream, &mut graph));
            assert!([0, 901].contains(&ended));
        });
        begin.wait();
        let mut before = own;
        ok!(cuThreadExchangeStreamCaptureMode(&mut before));
        call(&driver);
        ok!(cuThreadExchangeStreamCaptureMode(&mut before));
        done.wait();
    });
    let findings = driver.findings();
    assert!(findings.is_empty() || findings.contains("capture: "), "{findings}");
    !findings.is_empty()
}

#[test]
fn allocating_beside_a_capture_is_forbidden_as_the_modes_say() {
    let allocate = |_: &Driver| {
        let mut address = 0;
        cu!(cuMemAlloc_v2(&mut address, BYTES));
    };
    assert!(beside(GLOBAL, GLOBAL, allocate));
    assert!(!beside(GLOBAL, THREAD_LOCAL, allocate));
    assert!(!beside(GLOBAL, RELAXED, allocate));
    assert!(!beside(THREAD_LOCAL, GLOBAL, allocate));
    assert!(!beside(RELAXED, GLOBAL, allocate));
}

#[test]
fn work_on_other_streams_beside_a_capture_is_allowed() {
    assert!(!beside(GLOBAL, GLOBAL, |driver| {
        let mut stream = 0;
        let mut relaxed = RELAXED;
        ok!(cuThreadExchangeStreamCaptureMode(&mut relaxed));
        let memory = driver.device(BYTES);
        ok!(cuStreamCreate(&mut stream, 1));
        let event = driver.event();
        ok!(cuThreadExchangeStreamCaptureMode(&mut relaxed));
        ok!(cuMemsetD8Async(memory, 1, BYTES, stream));
        ok!(cuEventRecord(event, stream));
        ok!(cuStreamWaitEvent(stream, event, 0));
    }));
}

#[test]
fn calls_of_the_capturing_thread_are_forbidden_and_end_the_capture() {
    for mode in [GLOBAL, THREAD_LOCAL] {
        let driver = Driver::seed(0);
        let (stream, mut address, mut graph) = (driver.stream(), 0, 0);
        ok!(cuStreamBeginCapture_v2(stream, mode));
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, BYTES)), 900);
        driver.found("capture");
        assert_eq!(cu!(cuStreamEndCapture(stream, &mut graph)), 901);
        ok!(cuMemAlloc_v2(&mut address, BYTES));
        driver.is_silent();
    }
}

#[test]
fn waiting_for_a_captured_stream_conflicts_in_every_mode() {
    let waits: [fn(&Driver, u64, u64) -> i32; 4] = [
        |_, stream, _| cu!(cuStreamSynchronize(stream)),
        |_, stream, _| cu!(cuStreamQuery(stream)),
        |_, _, event| cu!(cuEventSynchronize(event)),
        |driver, _, event| cu!(cuCtxRecordEvent(driver.context, event)),
    ];
    for wait in waits {
        let driver = Driver::with("version=12050");
        let (stream, event) = (driver.stream(), driver.event());
        ok!(cuStreamBeginCapture_v2(stream, RELAXED));
        ok!(cuEventRecord(event, stream));
        let mut relaxed = RELAXED;
        ok!(cuThreadExchangeStreamCaptureMode(&mut relaxed));
        let result = wait(&driver, stream, event);
        ok!(cuThreadExchangeStreamCaptureMode(&mut relaxed));
        assert!([900, 907].contains(&result), "{result}");
        driver.found("capture");
    }
}

#[test]
fn a_captured_stream_takes_in_no_work_from_outside() {
    let driver = Driver::seed(0);
    let (stream, other, event) = (driver.stream(), driver.stream(), driver.event());
    ok!(cuEventRecord(event, other));
    ok!(cuStreamBeginCapture_v2(stream, GLOBAL));
    assert_eq!(cu!(cuStreamWaitEvent(stream, event, 0)), 905);
    driver.found("capture");
}

#[test]
fn the_legacy_stream_may_not_wait_for_a_capture() {
    for (flags, result) in [(0, 906), (1, 0)] {
        let driver = Driver::seed(0);
        let (mut stream, memory) = (0, driver.device(BYTES));
        ok!(cuStreamCreate(&mut stream, flags));
        ok!(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
        assert_eq!(cu!(cuMemsetD8Async(memory, 1, 1, 0)), result);
        if flags == 0 { drop(driver.found("capture")) } else { driver.is_silent() }
    }
}
