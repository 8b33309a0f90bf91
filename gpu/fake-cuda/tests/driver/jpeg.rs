//! nvJPEG: what is found, and near misses. What it decodes is tested through the decoder that is built on it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;

use forebay_fake_cuda::abi::*;
use forebay_fake_cuda::nvjpeg::{batch::Target, decode::*, library::*, parse::*};
use turbojpeg_sys as turbo;

use crate::support::{Driver, SEEDS};

const SIDE: usize = 24;
const PITCH: usize = 3 * SIDE;

/// Grey, as a JPEG.
fn image() -> Vec<u8> {
    let pixels = [128u8; SIDE * PITCH];
    let (side, mut to, mut length) = (SIDE as c_int, null_mut(), 0);
    // SAFETY: an instance of its own, whose buffer is copied and freed; there are as many pixels as the size says.
    unsafe {
        let encoder = turbo::tj3Init(turbo::TJINIT_TJINIT_COMPRESS as c_int);
        turbo::tj3Set(encoder, turbo::TJPARAM_TJPARAM_QUALITY as c_int, 90);
        turbo::tj3Set(encoder, turbo::TJPARAM_TJPARAM_SUBSAMP as c_int, turbo::TJSAMP_TJSAMP_420);
        let format = turbo::TJPF_TJPF_RGB as c_int;
        assert_eq!(
            turbo::tj3Compress8(encoder, pixels.as_ptr(), side, 0, side, format, &mut to, &mut length),
            0
        );
        let bytes = std::slice::from_raw_parts(to, length as usize).to_vec();
        turbo::tj3Free(to.cast());
        turbo::tj3Destroy(encoder);
        bytes
    }
}

/// What the allocators do with memory that they are to free.
#[derive(Clone, Copy, PartialEq)]
enum Frees {
    /// Nothing, until the test is over.
    Late,
    /// At once, whatever runs.
    Early,
}

/// A decoder as a program has it, with allocators of its own.
struct Decoder {
    handle: u64,
    state: u64,
    stream: u64,
    allocators: Box<[[usize; 3]; 2]>,
}

static FREES: Mutex<Frees> = Mutex::new(Frees::Late);
static LATE: Mutex<Vec<(usize, bool)>> = Mutex::new(Vec::new());

extern "C" fn allocate(pinned: *mut c_void, to: *mut *mut c_void, bytes: usize, _: *mut c_void) -> c_int {
    if pinned.is_null() { cu!(cuMemAlloc_v2(to.cast(), bytes)) } else { cu!(cuMemHostAlloc(to, bytes, 1)) }
}

fn free_now(at: usize, is_pinned: bool) -> c_int {
    if is_pinned { cu!(cuMemFreeHost(at as *mut c_void)) } else { cu!(cuMemFree_v2(at as u64)) }
}

extern "C" fn free(pinned: *mut c_void, at: *mut c_void, _: usize, _: *mut c_void) -> c_int {
    if *FREES.lock().unwrap() == Frees::Early {
        return free_now(at as usize, !pinned.is_null());
    }
    LATE.lock().unwrap().push((at as usize, !pinned.is_null()));
    0
}

impl Decoder {
    fn new(driver: &Driver, backend: c_int) -> Decoder {
        *FREES.lock().unwrap() = Frees::Late;
        let functions = [allocate as *const () as usize, free as *const () as usize];
        let allocators = Box::new([[functions[0], functions[1], 0], [functions[0], functions[1], 1]]);
        let stream = driver.stream();
        let mut decoder = Decoder { handle: 0, state: 0, stream, allocators };
        let [device, pinned] = &mut *decoder.allocators;
        ok!(nvjpegCreateExV2(backend, device, pinned, 0, &mut decoder.handle));
        ok!(nvjpegJpegStateCreate(decoder.handle, &mut decoder.state));
        decoder
    }

    /// Decodes images, each to its own place in `to`.
    fn decode(&self, images: &[&[u8]], to: u64) -> c_int {
        let (bytes, lengths): (Vec<_>, Vec<_>) =
            images.iter().map(|image| (image.as_ptr(), image.len())).unzip();
        let place = |index: usize| Target::new(to + (index * SIDE * PITCH) as u64, PITCH);
        let targets: Vec<_> = (0..images.len()).map(place).collect();
        cu!(nvjpegDecodeBatched(
            self.handle,
            self.state,
            bytes.as_ptr(),
            lengths.as_ptr(),
            targets.as_ptr(),
            self.stream
        ))
    }

    fn prepare(&self, images: usize) {
        ok!(nvjpegDecodeBatchedInitialize(self.handle, self.state, images as c_int, 1, 5));
    }

    fn end(self) {
        ok!(cuStreamSynchronize(self.stream));
        ok!(nvjpegJpegStateDestroy(self.state));
        ok!(nvjpegDestroy(self.handle));
        for (at, is_pinned) in LATE.lock().unwrap().drain(..) {
            assert_eq!(free_now(at, is_pinned), 0);
        }
    }
}

#[test]
fn a_group_is_decoded_and_everything_can_be_given_back() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (decoder, image, to) = (Decoder::new(&driver, 0), image(), driver.device(4 * SIDE * PITCH));
        for count in [1, 4, 2] {
            decoder.prepare(count);
            assert_eq!(decoder.decode(&vec![&image[..]; count], to), 0);
            ok!(cuStreamSynchronize(decoder.stream));
        }
        ok!(cuStreamDestroy_v2(decoder.stream));
        let state = decoder.state;
        ok!(nvjpegJpegStateDestroy(state));
        ok!(nvjpegDestroy(decoder.handle));
        LATE.lock().unwrap().drain(..).for_each(|(at, is_pinned)| assert_eq!(free_now(at, is_pinned), 0));
        ok!(cuMemFree_v2(to));
        driver.is_silent();
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        driver.is_silent();
    }
}

#[test]
fn compressed_bytes_that_change_before_the_group_is_done_are_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (decoder, mut image, to) = (Decoder::new(&driver, 0), image(), driver.device(SIDE * PITCH));
        decoder.prepare(1);
        assert_eq!(decoder.decode(&[&image], to), 0);
        if waits {
            ok!(cuStreamSynchronize(decoder.stream));
        }
        image[40] ^= 1;
        decoder.end();
        if waits { driver.is_silent() } else { drop(driver.found("host-write")) }
    }
}

#[test]
fn scratch_that_is_freed_while_a_group_runs_is_found() {
    for (seed, frees) in SEEDS.flat_map(|seed| [(seed, Frees::Early), (seed, Frees::Late)]) {
        let driver = Driver::seed(seed);
        let (decoder, image, to) = (Decoder::new(&driver, 0), image(), driver.device(SIDE * PITCH));
        *FREES.lock().unwrap() = frees;
        decoder.prepare(1);
        assert_eq!(decoder.decode(&[&image], to), 0);
        decoder.end();
        if frees == Frees::Late { driver.is_silent() } else { drop(driver.found("in-flight")) }
    }
}

#[test]
fn a_state_that_is_used_again_before_its_work_is_complete_is_found() {
    for (seed, waits) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let driver = Driver::seed(seed);
        let (decoder, image, to) = (Decoder::new(&driver, 0), image(), driver.device(4 * SIDE * PITCH));
        decoder.prepare(1);
        assert_eq!(decoder.decode(&[&image], to), 0);
        if waits {
            ok!(cuStreamSynchronize(decoder.stream));
        }
        decoder.prepare(4);
        assert_eq!(decoder.decode(&[&image[..]; 4], to), 0);
        decoder.end();
        if waits { driver.is_silent() } else { drop(driver.found("in-flight")) }
    }
}

#[test]
fn targets_are_written_in_the_streams_order_but_not_by_hardware() {
    for (seed, backend) in SEEDS.flat_map(|seed| [(seed, 0), (seed, 3)]) {
        let driver = Driver::with(&format!("seed={seed} jpeg_engines=1"));
        let (decoder, image, to) = (Decoder::new(&driver, backend), image(), driver.device(SIDE * PITCH));
        let (other, event) = (driver.stream(), driver.event());
        ok!(cuMemsetD8Async(to, 1, SIDE * PITCH, other));
        ok!(cuEventRecord(event, other));
        ok!(cuStreamWaitEvent(decoder.stream, event, 0));
        decoder.prepare(1);
        assert_eq!(decoder.decode(&[&image], to), 0);
        // What comes after on the stream does come after, by either.
        ok!(cuMemsetD8Async(to, 2, SIDE * PITCH, decoder.stream));
        decoder.end();
        if backend == 0 { driver.is_silent() } else { drop(driver.found("race")) }
    }
}

#[test]
fn a_state_that_ends_before_its_work_is_found() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (decoder, image, to) = (Decoder::new(&driver, 0), image(), driver.device(SIDE * PITCH));
        decoder.prepare(1);
        assert_eq!(decoder.decode(&[&image], to), 0);
        ok!(nvjpegJpegStateDestroy(decoder.state));
        driver.found("in-flight");
        LATE.lock().unwrap().clear();
    }
}

#[test]
fn a_group_that_fails_has_begun_and_leaves_the_state_unprepared() {
    let driver = Driver::seed(0);
    let (decoder, image, to) = (Decoder::new(&driver, 0), image(), driver.device(2 * SIDE * PITCH));
    decoder.prepare(2);
    assert_eq!(decoder.decode(&[&image, &image[..100]], to), 10, "NVJPEG_STATUS_INCOMPLETE_BITSTREAM");
    let other = driver.stream();
    ok!(cuMemsetD8Async(to, 1, SIDE * PITCH, other));
    ok!(cuStreamSynchronize(other));
    driver.found("race");
    ok!(cuStreamSynchronize(decoder.stream));
    assert_eq!(decoder.decode(&[&image, &image], to), 2);
    assert!(driver.found("misuse").contains("not prepared for"));
    decoder.end();
    driver.is_silent();
}

#[test]
fn handles_are_used_in_their_context_and_while_they_live_and_not_forgotten() {
    let driver = Driver::with("devices=2");
    let (decoder, image) = (Decoder::new(&driver, 0), image());
    let mut parsed = 0;
    ok!(nvjpegJpegStreamCreate(decoder.handle, &mut parsed));
    ok!(nvjpegJpegStreamParseHeader(decoder.handle, image.as_ptr(), image.len(), parsed));
    let (mut width, mut height) = (0, 0);
    ok!(nvjpegJpegStreamGetFrameDimensions(parsed, &mut width, &mut height));
    assert_eq!((width, height), (SIDE as u32, SIDE as u32));
    let mut other = 0;
    ok!(cuDevicePrimaryCtxRetain(&mut other, 1));
    ok!(cuCtxSetCurrent(other));
    assert_eq!(cu!(nvjpegJpegStreamParseHeader(decoder.handle, image.as_ptr(), image.len(), parsed)), 6);
    assert!(driver.found("misuse").contains("another context"));
    ok!(cuCtxSetCurrent(driver.context));
    ok!(nvjpegJpegStreamDestroy(parsed));
    assert_eq!(cu!(nvjpegJpegStreamDestroy(parsed)), 2);
    driver.found("double-free");
    ok!(cuDevicePrimaryCtxRelease_v2(1));
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    let left = driver.findings();
    assert!(
        left.contains("an nvJPEG handle")
            && left.contains("an nvJPEG state")
            && !left.contains("an nvJPEG stream")
    );
}
