//! What decoding takes beside its pixels: from the budget, given back, and errors where there is none.

use forebay_gpu::jpeg::{Decoder, Refusal};
use forebay_gpu::{DeviceMemory, Error, Waited};
use std::time::Duration;

use crate::machine::{Machine, lay_out, read, rows_of};
use crate::pictures::{BASELINE, FULL, Kind, decoded};

const BIG: Kind = Kind { width: 400, height: 300, seed: 9, ..BASELINE };

#[test]
fn a_budget_too_small_for_scratch_refuses_the_image_with_the_numbers() {
    let machine = Machine::with("");
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    let (big, small) = (BIG.encode(), FULL.encode());
    let (images, target) = lay_out(&mut decoder, &memory, &[&big, &small]);
    let (used, _) = memory.used_bytes();
    let held = memory.take(memory.limit_bytes() - used - (64 << 10), "a consumer's").unwrap().unwrap();
    let mut targets = [target];
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    let Err(Refusal::Memory(error @ Error::OverBudget { .. })) = &group.images[0] else {
        panic!("{:?}", group.images)
    };
    let text = error.to_string();
    assert!(
        text.contains("the JPEG decoder needs") && text.contains(&memory.limit_bytes().to_string()),
        "{text}"
    );
    assert!(group.images[1].is_ok(), "the small one has room");
    drop((held, group));
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    assert!(group.images.iter().all(Result::is_ok), "there is room for both: {:?}", group.images);
    let bytes = read(&memory, &targets[0], &group.done);
    assert_eq!(rows_of(&images[0], &bytes), decoded(&big));
    drop((group, targets, decoder, memory));
    machine.check();
}

#[test]
fn a_decoder_for_which_there_is_no_memory_is_not_opened() {
    let machine = Machine::with("");
    let memory = machine.memory(1 << 20);
    let held = memory.take(memory.limit_bytes(), "a consumer's").unwrap().unwrap();
    let error = Decoder::open(&memory, &machine.settings()).unwrap_err();
    assert!(matches!(error, Error::OverBudget { .. }), "{error}");
    drop((held, memory));
    machine.check();
}

#[test]
fn scratch_grows_with_the_groups_is_used_again_and_comes_back_at_the_end() {
    for seed in 0..20 {
        let machine = Machine::with(&format!("seed={seed}"));
        let memory = machine.memory(8 << 20);
        let mut decoder = machine.decoder(&memory);
        let (small, big) = (FULL.encode(), BIG.encode());
        let mut allocations = Vec::new();
        for files in
            [vec![&small[..]], vec![&big], vec![&big; 3], vec![&small; 2], vec![&big; 3], vec![&big; 3]]
        {
            let (images, target) = lay_out(&mut decoder, &memory, &files);
            let mut targets = [target];
            let group = decoder.decode(&images, &mut targets, &[]).unwrap();
            assert!(group.images.iter().all(Result::is_ok));
            let bytes = read(&memory, &targets[0], &group.done);
            for (image, file) in images.iter().zip(files) {
                assert_eq!(rows_of(image, &bytes), decoded(file));
            }
            allocations.push(["device_allocations", "pinned_allocations"].map(|name| machine.counter(name)));
        }
        // Of the device, the budget alone. Pinned, for tables, and for each half of a group of the two sizes that these come in.
        assert!(allocations.iter().all(|[device, pinned]| *device == 1 && *pinned <= 5), "{allocations:?}");
        let (device, pinned) = decoder.scratch_bytes();
        assert!(device > 3 * 400 * 300 * 3 && pinned > 0, "{device} {pinned}");
        drop(decoder);
        assert!(is_free(&memory));
        drop(memory);
        machine.check();
    }
}

/// Whether all of the memory can be had at once, when what was let go is done with.
fn is_free(memory: &DeviceMemory) -> bool {
    loop {
        let since = memory.freed();
        if memory.take(memory.limit_bytes(), "everything").unwrap().is_some() {
            return true;
        }
        if memory.wait(since, Duration::from_secs(10)).unwrap() == Waited::Held {
            return false;
        }
    }
}

/// What a refusal says, with its reason.
fn said(refusal: &Refusal) -> String {
    let source = std::error::Error::source(refusal).map_or(String::new(), |source| format!(": {source}"));
    format!("{refusal}{source}")
}

/// Opens a decoder and decodes a group that makes scratch grow; the first error, if there is one.
fn run(machine: &Machine, memory: &DeviceMemory) -> Result<(), String> {
    let mut decoder = Decoder::open(memory, &machine.settings()).map_err(|error| error.to_string())?;
    let file = FULL.encode();
    let bytes = forebay_cache::Lease::from_vec(file.clone());
    let frame = decoder.look(&file).map_err(|error| error.to_string())?.map_err(|refusal| said(&refusal))?;
    let image = forebay_gpu::jpeg::Image { bytes, frame, target: 0, offset: 0, pitch: 200 };
    let mut targets = [memory.take(200 * 40, "a group").unwrap().unwrap()];
    for _ in 0..2 {
        let group = decoder
            .decode(std::slice::from_ref(&image), &mut targets, &[])
            .map_err(|error| error.to_string())?;
        if let Err(refusal) = &group.images[0] {
            return Err(said(refusal));
        }
    }
    Ok(())
}

#[test]
fn pinned_memory_that_is_not_to_be_had_is_an_error_and_leaves_nothing_behind() {
    for n in 1.. {
        let machine = Machine::with("");
        let memory = machine.memory(1 << 20);
        machine.configure(&format!("faults=cuMemHostAlloc@{n}:2"));
        let ran = run(&machine, &memory);
        assert!(is_free(&memory));
        drop(memory);
        machine.check();
        match ran {
            Err(error) => {
                assert!(
                    error.contains("cuMemHostAlloc") && error.contains("CUDA_ERROR_OUT_OF_MEMORY"),
                    "{error}"
                )
            }
            Ok(()) => return assert!(n > 2, "the state needs some, and so does a group"),
        }
    }
}

#[test]
fn whichever_call_of_the_library_fails_everything_is_given_back() {
    for (call, words) in [
        ("nvjpegGetProperty@1", "nvjpegGetProperty"),
        ("nvjpegCreateExV2@1+:8", "nvjpegCreateExV2 failed on cuda:0"),
        ("nvjpegCreateExV2@1+:7", "NVJPEG_STATUS_ARCH_MISMATCH"),
        ("nvjpegCreateExV2@1:5", "NVJPEG_STATUS_ALLOCATOR_FAILURE"),
        ("nvjpegJpegStateCreate@1", "nvjpegJpegStateCreate"),
        ("nvjpegJpegStreamCreate@1", "nvjpegJpegStreamCreate"),
        ("nvjpegJpegStreamParseHeader@1:3", "not a whole JPEG"),
        ("nvjpegJpegStreamParseHeader@2:10", "it ends early"),
        ("nvjpegJpegStreamGetFrameDimensions@2", "nvjpegJpegStreamGetFrameDimensions"),
        ("nvjpegJpegStreamGetChromaSubsampling@1", "nvjpegJpegStreamGetChromaSubsampling"),
        ("nvjpegDecodeBatchedSupported@1", "nvjpegDecodeBatchedSupported"),
        ("nvjpegDecodeBatchedInitialize@1", "nvjpegDecodeBatchedInitialize"),
        ("nvjpegDecodeBatched@2:6", "NVJPEG_STATUS_EXECUTION_FAILED"),
        ("nvjpegDecodeBatched@1:2", "NVJPEG_STATUS_INVALID_PARAMETER"),
        ("nvjpegDecodeBatched@1:77", "an unknown status (77)"),
    ] {
        let machine = Machine::with("");
        let memory = machine.memory(1 << 20);
        machine.configure(&format!("faults={call}"));
        match run(&machine, &memory) {
            // A library that doesn't say its version is passed over, perhaps for one that the machine really has.
            Err(error) => {
                assert!(error.contains(words) || call.starts_with("nvjpegGetProperty"), "{call}: {error}")
            }
            Ok(()) => panic!("{call}"),
        }
        assert!(is_free(&memory), "{call}");
        drop(memory);
        machine.check();
    }
}
