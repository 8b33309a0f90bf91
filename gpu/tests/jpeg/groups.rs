//! Groups: the pixels of what is decoded, and reasons for what isn't.

use forebay_gpu::jpeg::{Backend, Frame, Refusal};

use crate::machine::{Machine, lay_out, read, rows_of};
use crate::pictures::{ARITHMETIC, BASELINE, CMYK, FULL, GREY, HALF, Kind, PROGRESSIVE, RGB, cut, decoded};

/// Decodes files as one group; of each, its pixels or why not.
fn decode(machine: &Machine, files: &[&[u8]]) -> Vec<Result<Vec<u8>, Refusal>> {
    let memory = machine.memory(16 << 20);
    let mut decoder = machine.decoder(&memory);
    let (images, target) = lay_out(&mut decoder, &memory, files);
    let mut targets = [target];
    let before = machine.thread();
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    assert_eq!(machine.thread(), before, "the thread is as it was");
    let bytes = read(&memory, &targets[0], &group.done);
    // Between rows, and where nothing was decoded, is what was there: the simulator's fresh memory.
    for image in &images {
        let between = (image.offset + image.frame.row_bytes()) as usize;
        assert!(image.frame.height < 2 || bytes[between..between + 5] == [0xDB; 5]);
    }
    let outcomes = group.images.into_iter().zip(&images);
    outcomes.map(|(outcome, image)| outcome.map(|()| rows_of(image, &bytes))).collect()
}

#[test]
fn images_of_every_kind_get_the_pixels_that_libjpeg_turbo_gives_them() {
    for seed in 0..20 {
        let machine = Machine::with(&format!("seed={seed}"));
        let files: Vec<_> = [BASELINE, PROGRESSIVE, GREY, FULL, HALF].into_iter().map(Kind::encode).collect();
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let outcomes = decode(&machine, &files);
        for (outcome, file) in outcomes.into_iter().zip(&files) {
            assert_eq!(outcome.unwrap(), decoded(file));
        }
        assert_eq!((machine.counter("jpeg_images"), machine.counter("jpeg_groups")), (5, 1));
        machine.check();
    }
}

#[test]
fn what_a_device_gets_wrong_is_refused_with_its_reason_and_the_others_are_decoded() {
    let machine = Machine::with("");
    let good = BASELINE.encode();
    let mut two_frames = good.clone();
    let frame = good.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    two_frames.splice(frame..frame, good[frame..frame + 19].to_vec());
    let mut twelve_bits = good.clone();
    twelve_bits[frame + 4] = 12;
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (CMYK.encode(), "unsupported", "CMYK"),
        (ARITHMETIC.encode(), "unsupported", "arithmetic"),
        (RGB.encode(), "unsupported", "RGB"),
        (twelve_bits, "unsupported", "12 bits"),
        (cut(&good), "corrupt", "end marker"),
        (two_frames, "corrupt", "two frames"),
        (good[..100].to_vec(), "corrupt", "ends in its header"),
        (b"no image".to_vec(), "corrupt", "doesn't begin"),
        (Vec::new(), "corrupt", "doesn't begin"),
    ];
    let mut files: Vec<&[u8]> = cases.iter().map(|(file, _, _)| file.as_slice()).collect();
    files.insert(4, &good);
    files.push(&good);
    let mut outcomes = decode(&machine, &files);
    assert_eq!(outcomes.pop().unwrap().unwrap(), decoded(&good));
    assert_eq!(outcomes.remove(4).unwrap(), decoded(&good));
    for (outcome, (_, kind, words)) in outcomes.into_iter().zip(&cases) {
        let refusal = outcome.unwrap_err();
        assert!(refusal.kind() == *kind && refusal.to_string().contains(words), "{words}: {refusal}");
    }
    assert_eq!(machine.counter("jpeg_images"), 2, "the device saw no other");
    machine.check();
}

#[test]
fn one_image_that_only_the_library_refuses_is_found_among_the_others() {
    for (count, bad) in [(1, 1), (2, 1), (2, 2), (9, 1), (9, 5), (9, 9)] {
        let machine = Machine::with("");
        let file = FULL.encode();
        // A table that the header doesn't show to be broken.
        let mut broken = file.clone();
        let table = broken.windows(2).position(|pair| pair == [0xFF, 0xC4]).unwrap();
        broken[table + 4] = 0x7F;
        let mut files = vec![file.as_slice(); count];
        files[bad - 1] = &broken;
        let outcomes = decode(&machine, &files);
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(pixels) => assert!(pixels == decoded(&file) && index + 1 != bad),
                Err(refusal) => {
                    assert!(refusal.kind() == "corrupt" && index + 1 == bad, "{index}: {refusal}")
                }
            }
        }
        machine.check();
    }
}

#[test]
fn an_image_that_the_library_doesnt_support_is_refused_alone() {
    // The third of the group, then the first of its second half, then by itself.
    let machine = Machine::with("faults=jpeg@3,jpeg@7,jpeg@9");
    let file = BASELINE.encode();
    let outcomes = decode(&machine, &[file.as_slice(); 4]);
    let refused: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().err().map(Refusal::kind)).collect();
    assert_eq!(refused, [None, None, Some("unsupported"), None]);
    machine.check();
}

#[test]
fn a_decoder_that_fails_at_every_image_says_so_of_each() {
    let machine = Machine::with("faults=nvjpegDecodeBatched@1+");
    let file = BASELINE.encode();
    for outcome in decode(&machine, &[file.as_slice(); 3]) {
        let refusal = outcome.unwrap_err();
        let Refusal::Failed(error) = &refusal else { panic!("{refusal}") };
        assert!(error.to_string().contains("NVJPEG_STATUS_INTERNAL_ERROR (8)"), "{error}");
    }
    machine.check();
}

#[test]
fn an_image_of_another_size_than_its_target_is_refused() {
    let machine = Machine::with("");
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    let (mut images, target) = lay_out(&mut decoder, &memory, &[&BASELINE.encode()]);
    images[0].frame = Frame { width: 40, height: 40 };
    let mut targets = [target];
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    let refusal = group.images[0].as_ref().unwrap_err().to_string();
    assert_eq!(refusal, "an image of 61 by 45 for a target of 40 by 40");
    assert_eq!(decoder.facts().backend, Backend::Device);
    drop((group, targets, decoder, memory));
    machine.check();
}

#[test]
#[should_panic(expected = "two images of a group in one place")]
fn two_images_in_one_place_are_a_mistake_of_the_caller() {
    let machine = Machine::with("");
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    let (mut images, target) = lay_out(&mut decoder, &memory, &[&BASELINE.encode(), &BASELINE.encode()]);
    images[1].offset = 7;
    let _ = decoder.decode(&images, &mut [target], &[]);
}

#[test]
fn an_empty_group_is_done() {
    let machine = Machine::with("");
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    let group = decoder.decode(&[], &mut [], &[]).unwrap();
    group.done.block().unwrap();
    assert!(group.images.is_empty() && decoder.collect().unwrap());
    drop((group, decoder, memory));
    machine.check();
}
