//! Engines made for JPEG, which take fewer kinds of images and write to targets whatever their stream still has to do.

use std::sync::Arc;

use forebay_gpu::jpeg::{Backend, Decoder, Settings};
use forebay_gpu::{Event, Guard, Stream};

use crate::machine::{Machine, lay_out, read, rows_of};
use crate::pictures::{BASELINE, FULL, PROGRESSIVE, decoded};

const ENGINES: &str = "jpeg_engines=1";

#[test]
fn engines_are_used_where_there_are_any_and_refuse_what_they_dont_take() {
    let machine = Machine::with(ENGINES);
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    assert_eq!((decoder.facts().backend, decoder.facts().passed_over.as_deref()), (Backend::Engines, None));
    let refusal = decoder.look(&PROGRESSIVE.encode()).unwrap().unwrap_err();
    assert!(refusal.to_string().contains("several scans"), "{refusal}");
    let file = BASELINE.encode();
    let (images, target) = lay_out(&mut decoder, &memory, &[&file, &PROGRESSIVE.encode()]);
    let mut targets = [target];
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    assert!(group.images[0].is_ok() && group.images[1].is_err());
    assert_eq!(rows_of(&images[0], &read(&memory, &targets[0], &group.done)), decoded(&file));
    drop((group, targets, decoder, memory));
    machine.check();
}

#[test]
fn engines_are_left_alone_where_the_caller_says_so_and_missed_where_there_are_none() {
    let machine = Machine::with(ENGINES);
    let memory = machine.memory(1 << 20);
    let settings = Settings { engines: false, ..machine.settings() };
    let decoder = Decoder::open(&memory, &settings).unwrap();
    assert_eq!((decoder.facts().backend, decoder.facts().passed_over.as_deref()), (Backend::Device, None));
    drop((decoder, memory));
    machine.check();
    let machine = Machine::with("");
    let memory = machine.memory(1 << 20);
    let decoder = machine.decoder(&memory);
    assert_eq!(decoder.facts().backend, Backend::Device);
    assert_eq!(decoder.facts().passed_over.as_deref(), Some("engines: NVJPEG_STATUS_ARCH_MISMATCH"));
    drop((decoder, memory));
    machine.check();
}

/// Decodes into a target that another stream still writes to, and has it waited for or not; what was found.
fn into_a_busy_target(seed: u64, settings: &str, waits: bool) -> String {
    let machine = Machine::with(&format!("seed={seed} {settings}"));
    let memory = machine.memory(1 << 20);
    let device = memory.device().clone();
    let mut decoder = machine.decoder(&memory);
    let (images, mut target) = lay_out(&mut decoder, &memory, &[&FULL.encode()]);
    let mut other = memory.take(target.len(), "what is copied").unwrap().unwrap();
    let stream = Stream::new(&device).unwrap();
    // SAFETY: both slabs are this function's, and guarded by an event behind the copy.
    unsafe {
        device.copy_within(other.address(), target.address(), target.len() as usize, stream.raw()).unwrap();
    }
    let copied = Arc::new(Event::record(&device, stream.raw()).unwrap());
    other.guard(Guard::Event(copied.clone()));
    target.guard(Guard::Event(copied.clone()));
    let mut targets = [target];
    let after = if waits { vec![copied.clone()] } else { Vec::new() };
    let group = decoder.decode(&images, &mut targets, &after).unwrap();
    assert!(group.images[0].is_ok());
    group.done.block().unwrap();
    copied.block().unwrap();
    let found = machine.findings();
    drop((group, after, copied, targets, other, stream, decoder, device, memory));
    machine.check();
    found
}

#[test]
fn targets_are_written_to_after_what_the_caller_names() {
    for seed in 0..20 {
        for settings in ["", ENGINES] {
            let found = into_a_busy_target(seed, settings, true);
            assert!(found.is_empty(), "{settings}: {found}");
        }
    }
}

#[test]
fn a_caller_that_names_nothing_is_found_out() {
    for seed in 0..20 {
        for settings in ["", ENGINES] {
            let found = into_a_busy_target(seed, settings, false);
            assert!(found.contains("forebay-fake-cuda: race: "), "{settings}: {found}");
        }
    }
}
