//! nvJPEG that is missing, broken, too old or too new: an error that says what was looked for, where, and what to do.

use forebay_gpu::host::HostDevice;
use forebay_gpu::jpeg::{Decoder, Settings};
use forebay_gpu::{Device, DeviceMemory, Error};
use std::path::PathBuf;
use std::sync::Arc;

use crate::machine::Machine;

/// What opening a decoder says; none where the machine that runs this has a real nvJPEG, which is found behind the folders.
fn refused(machine: &Machine, folders: Vec<PathBuf>) -> Option<String> {
    let memory = machine.memory(1 << 20);
    let opened = Decoder::open(&memory, &Settings { folders, ..Settings::default() });
    let installed = [c"libnvjpeg.so.13", c"libnvjpeg.so.12", c"libnvjpeg.so"].into_iter().any(|name| {
        // SAFETY: looks whether it is loaded, or can be.
        unsafe { !libc::dlopen(name.as_ptr(), libc::RTLD_LAZY).is_null() }
    });
    match opened {
        Err(error @ Error::NoJpeg { .. }) => Some(error.to_string()),
        Err(_) | Ok(_) if installed => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_library_is_an_error_with_names_folders_and_what_to_do() {
    let machine = Machine::with("");
    let folder = tempfile::tempdir().unwrap();
    if let Some(error) = refused(&machine, vec![folder.path().into()]) {
        let words = [
            "cuda:0 (",
            "libnvjpeg.so.13, libnvjpeg.so.12, libnvjpeg.so",
            "found none",
            "pip install nvidia-nvjpeg-cu12",
        ];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
    }
    machine.check();
}

#[test]
fn libraries_of_other_versions_are_passed_over_with_the_reason() {
    for (settings, words) in [
        ("nvjpeg=11080", "which is 11.8.0: 12 to 13 are known"),
        ("nvjpeg=14000", "which is 14.0.0: 12 to 13 are known"),
        ("nvjpeg=13010", "which is 13.1.0 and needs a newer driver: this one is of CUDA 12.0"),
        ("nvjpeg=0", "which doesn't say its version (NVJPEG_STATUS_NOT_INITIALIZED)"),
    ] {
        let machine = Machine::with(settings);
        if let Some(error) = refused(&machine, vec![machine.folder()]) {
            assert!(error.contains(words) && error.contains("libnvjpeg.so.12, which"), "{error}");
        }
        machine.check();
    }
}

#[test]
fn a_library_without_a_function_is_passed_over_before_it_is_called() {
    let machine = Machine::with("");
    let folder = tempfile::tempdir().unwrap();
    machine.write_older(&folder.path().join("libnvjpeg.so.12"), "nvjpegDecodeBatched,nvjpegCreateExV2");
    if let Some(error) = refused(&machine, vec![folder.path().into()]) {
        assert!(error.contains("which is 12.4.0 and lacks nvjpegCreateExV2, nvjpegDecodeBatched"), "{error}");
    }
    machine.check();
}

#[test]
fn a_file_that_is_no_library_is_passed_over_for_the_next_one() {
    let machine = Machine::with("");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libnvjpeg.so.13"), "no library").unwrap();
    if let Some(error) = refused(&machine, vec![folder.path().into()]) {
        assert!(error.contains("libnvjpeg.so.13, which can't be loaded"), "{error}");
    }
    let memory = machine.memory(1 << 20);
    let folders = vec![folder.path().into(), machine.folder()];
    let decoder = Decoder::open(&memory, &Settings { folders, ..Settings::default() }).unwrap();
    let library = &decoder.facts().library;
    assert!(library.starts_with("nvJPEG 12.4.0 (") && library.contains("libnvjpeg.so.12"), "{library}");
    drop((decoder, memory));
    machine.check();
}

#[test]
fn host_memory_has_no_decoder() {
    let device: Arc<dyn Device> = HostDevice::new(1 << 20);
    let memory = DeviceMemory::new(&device, 4096).unwrap();
    let error = Decoder::open(&memory, &Settings::default()).unwrap_err().to_string();
    assert!(error.starts_with("no JPEG decoding on host memory: "), "{error}");
}
