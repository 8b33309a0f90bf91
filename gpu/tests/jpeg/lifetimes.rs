//! Compressed bytes, targets and decoders that end early, on other threads, in other processes, on a device that is lost.

use std::path::Path;
use std::process::{Command, Output};

use forebay_gpu::{Error, cuda};

use crate::machine::{Machine, lay_out, read, rows_of};
use crate::pictures::{BASELINE, FULL, GREY, decoded};

#[test]
fn compressed_bytes_are_kept_until_the_group_is_done() {
    for seed in 0..20 {
        let machine = Machine::with(&format!("seed={seed}"));
        let memory = machine.memory(1 << 20);
        let mut decoder = machine.decoder(&memory);
        let (images, target) = lay_out(&mut decoder, &memory, &[&BASELINE.encode(), &GREY.encode()]);
        let mut targets = [target];
        machine.hold();
        let group = decoder.decode(&images, &mut targets, &[]).unwrap();
        assert!(!decoder.collect().unwrap() && images.iter().all(|image| image.bytes.is_shared()));
        // Let go of everything but what the decoder keeps: the memory waits for the group.
        let (at, bytes) = (targets[0].address(), targets[0].len());
        drop(targets);
        assert_ne!(
            memory.take(bytes, "another").unwrap().unwrap().address(),
            at,
            "the group still writes there"
        );
        group.done.block().unwrap();
        assert!(decoder.collect().unwrap() && images.iter().all(|image| !image.bytes.is_shared()));
        drop((group, decoder, memory));
        machine.check();
    }
}

#[test]
fn a_decoder_dropped_with_a_group_under_way_waits_for_it() {
    for seed in 0..20 {
        let machine = Machine::with(&format!("seed={seed} delay_us=2000"));
        let memory = machine.memory(1 << 20);
        let mut decoder = machine.decoder(&memory);
        let file = BASELINE.encode();
        let (images, target) = lay_out(&mut decoder, &memory, &[file.as_slice(); 3]);
        let mut targets = [target];
        machine.hold();
        let group = decoder.decode(&images, &mut targets, &[]).unwrap();
        drop(decoder);
        assert!(group.done.is_done().unwrap());
        assert_eq!(rows_of(&images[2], &read(&memory, &targets[0], &group.done)), decoded(&file));
        drop((group, targets, memory));
        machine.check();
    }
}

#[test]
fn decoders_of_two_threads_share_a_device_and_its_memory() {
    for seed in 0..5 {
        let machine = Machine::with(&format!("seed={seed}"));
        let memory = machine.memory(4 << 20);
        std::thread::scope(|scope| {
            for kind in [BASELINE, FULL] {
                let (machine, memory) = (&machine, memory.clone());
                scope.spawn(move || {
                    let mut decoder = machine.decoder(&memory);
                    let (file, grey) = (kind.encode(), GREY.encode());
                    for round in 1..6 {
                        let mut files = vec![file.as_slice(); round];
                        files.push(&grey);
                        let (images, target) = lay_out(&mut decoder, &memory, &files);
                        let mut targets = [target];
                        let group = decoder.decode(&images, &mut targets, &[]).unwrap();
                        let bytes = read(&memory, &targets[0], &group.done);
                        for ((image, outcome), file) in images.iter().zip(group.images).zip(files) {
                            outcome.unwrap();
                            assert_eq!(rows_of(image, &bytes), decoded(file));
                        }
                    }
                });
            }
        });
        drop(memory);
        machine.check();
    }
}

#[test]
fn a_device_lost_while_it_decodes_is_an_error_that_names_it() {
    // What a lost context holds can't be given back.
    let machine = Machine::with("faults=launch@2 allow=leak");
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    let (images, target) = lay_out(&mut decoder, &memory, &[&BASELINE.encode()]);
    let mut targets = [target];
    decoder.decode(&images, &mut targets, &[]).unwrap().done.block().unwrap();
    machine.hold();
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    let error = group.done.block().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }) && error.to_string().starts_with("cuda:0 ("), "{error}");
    assert!(matches!(decoder.decode(&images, &mut targets, &[]).unwrap_err(), Error::Lost { .. }));
    drop((group, targets, decoder, memory));
    machine.check();
}

/// Says what a test does in a process of its own.
const PART: &str = "FOREBAY_TEST_JPEG_PART";

/// Runs a test of this program again in a process of its own, where [`PART`] is `part`.
fn in_a_process(test: &str, part: &str, log: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--test-threads=1"])
        .env(PART, part)
        .env("FOREBAY_FAKE_CUDA_LOG", log)
        .env("FOREBAY_FAKE_CUDA_EXIT_CODE", "86")
        .output()
        .unwrap()
}

#[test]
fn a_forked_child_calls_nothing_whatever_it_drops() {
    let test = "lifetimes::a_forked_child_calls_nothing_whatever_it_drops";
    let folder = tempfile::tempdir().unwrap();
    if std::env::var_os(PART).is_none() {
        let output = in_a_process(test, "fork", &folder.path().join("log"));
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let machine = Machine::with("");
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    let (images, target) = lay_out(&mut decoder, &memory, &[&BASELINE.encode()]);
    let mut targets = [target];
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    // SAFETY: the child only uses what this thread has, and ends without the parent's handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let looked = decoder.look(&images[0].bytes).is_err_and(|error| matches!(error, Error::Forked { .. }));
        let decoded = decoder
            .decode(&images, &mut targets, &[])
            .is_err_and(|error| matches!(error, Error::Forked { .. }));
        drop((group, targets, decoder, memory));
        // SAFETY: ends the child. It doesn't come this far where it called the driver.
        unsafe { libc::_exit(if looked && decoded { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 0, "86 where the child called the driver");
    group.done.block().unwrap();
    drop((group, targets, decoder, memory));
    machine.check();
}

#[test]
fn what_a_decoder_holds_is_found_at_exit_unless_it_is_dropped_or_the_end_was_announced() {
    let test =
        "lifetimes::what_a_decoder_holds_is_found_at_exit_unless_it_is_dropped_or_the_end_was_announced";
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let Ok(part) = std::env::var(PART) else {
        for (part, code) in [("leak", 86), ("drop", 0), ("end", 0)] {
            let output = in_a_process(test, part, &log);
            assert_eq!(output.status.code(), Some(code), "{part}: {output:?}");
            let found = std::fs::read_to_string(&log).unwrap_or_default();
            let leaks = ["an nvJPEG handle", "an nvJPEG state", "an nvJPEG stream"];
            assert!(leaks.iter().all(|leak| found.contains(leak) == (part == "leak")), "{part}: {found}");
            std::fs::remove_file(&log).ok();
        }
        return;
    };
    let machine = Machine::with(if part == "end" { "leaks=0" } else { "" });
    let memory = machine.memory(1 << 20);
    let mut decoder = machine.decoder(&memory);
    let (images, target) = lay_out(&mut decoder, &memory, &[&BASELINE.encode()]);
    let mut targets = [target];
    let group = decoder.decode(&images, &mut targets, &[]).unwrap();
    match part.as_str() {
        "leak" => std::mem::forget((group, targets, decoder, memory)),
        "end" => {
            group.done.block().unwrap();
            cuda::end();
            assert!(matches!(decoder.decode(&images, &mut targets, &[]).unwrap_err(), Error::Ending { .. }));
        }
        _ => {}
    }
}
