//! Forked children, host functions, the end of the process, and Python's lock.

use std::ffi::c_void;
use std::path::Path;
use std::process::{Command, Output};

use forebay_fake_cuda::abi::*;

use crate::support::{Driver, configure};

/// Says what a test does in a process of its own.
const PART: &str = "FOREBAY_FAKE_CUDA_TEST_PART";

/// Runs a test of this program again in a process of its own, where [`PART`] is `part`.
fn in_a_process(test: &str, part: &str, log: &Path) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--test-threads=1"])
        .env(PART, part)
        .env("FOREBAY_FAKE_CUDA_LOG", log)
        .env("FOREBAY_FAKE_CUDA_EXIT_CODE", "86")
        .output()
        .expect("a process")
}

#[test]
fn the_driver_is_of_no_use_in_a_forked_child() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    if std::env::var_os(PART).is_some() {
        let driver = Driver::seed(0);
        // SAFETY: the child calls nothing but the driver, which takes no lock there, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mut address = 0;
            let result = cu!(cuMemAlloc_v2(&mut address, 4096));
            // SAFETY: ends the child. Only if the driver let it come this far.
            unsafe { libc::_exit(result) };
        }
        let mut status = 0;
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 86, "ended by the finding");
        driver.is_silent();
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        return;
    }
    let output = in_a_process("processes::the_driver_is_of_no_use_in_a_forked_child", "fork", &log);
    assert!(output.status.success(), "{output:?}");
    let found = std::fs::read_to_string(&log).expect("a finding in the log");
    assert!(found.contains("forked: cuMemAlloc_v2") && found.contains("the_driver_is_of_no_use"), "{found}");
}

extern "C" fn too_late() {
    let mut device = 0;
    assert_eq!(cu!(cuDeviceGet(&mut device, 0)), 4);
}

#[test]
fn what_is_left_or_called_at_exit_is_found() {
    let test = "processes::what_is_left_or_called_at_exit_is_found";
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    match std::env::var(PART).as_deref() {
        Ok("leak") => {
            Driver::seed(0).device(4096);
        }
        Ok("late") => {
            // SAFETY: a function of this program. It runs after those that are registered later, as the driver's is.
            unsafe { libc::atexit(too_late) };
            Driver::seed(0);
            ok!(cuDevicePrimaryCtxRelease_v2(0));
        }
        Ok(_) => {
            Driver::seed(0);
            ok!(cuDevicePrimaryCtxRelease_v2(0));
        }
        Err(_) => {
            for (part, code, finding) in [
                ("leak", 86, Some("leak: cuMemAlloc_v2: 4096 bytes of device memory, still there at exit")),
                ("late", 86, Some("exited: cuDeviceGet")),
                ("nothing", 0, None),
            ] {
                let output = in_a_process(test, part, &log);
                assert_eq!(output.status.code(), Some(code), "{part}: {output:?}");
                let found = std::fs::read_to_string(&log).unwrap_or_default();
                assert!(finding.is_none_or(|finding| found.contains(finding)), "{part}: {found}");
                assert!(finding.is_some() || found.is_empty(), "{found}");
                std::fs::remove_file(&log).ok();
            }
        }
    }
}

extern "C" fn calls_the_driver(result: *mut c_void) {
    // SAFETY: the test's own number.
    unsafe { *result.cast::<i32>() = cuCtxSynchronize() };
}

extern "C" fn calls_nothing(result: *mut c_void) {
    // SAFETY: the test's own number.
    unsafe { *result.cast::<i32>() = 1 };
}

#[test]
fn a_host_function_must_not_call_the_driver() {
    let driver = Driver::seed(0);
    let stream = driver.stream();
    let mut result = 0i32;
    let to = (&raw mut result).cast::<c_void>();
    ok!(cuLaunchHostFunc(stream, Some(calls_nothing), to));
    ok!(cuStreamSynchronize(stream));
    driver.is_silent();
    ok!(cuLaunchHostFunc(stream, Some(calls_the_driver), to));
    ok!(cuStreamSynchronize(stream));
    driver.found("host-function");
    assert_eq!(result, 800);
}

/// Runs Python with the simulated driver loaded, in a way that keeps the lock or gives it up while a function runs; what was found.
fn python(kind: &str) -> Option<String> {
    let Some(python) = std::env::var_os("FOREBAY_TEST_PYTHON") else {
        eprintln!("skipped: FOREBAY_TEST_PYTHON names no Python");
        return None;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let program = format!(
        "import ctypes, sys\n\
         cuda = ctypes.{kind}(sys.argv[1])\n\
         context = ctypes.c_uint64()\n\
         assert cuda.cuInit(0) == 0\n\
         assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0\n\
         assert cuda.cuCtxSetCurrent(context) == 0\n\
         assert cuda.cuCtxSynchronize() == 0\n\
         assert cuda.cuDevicePrimaryCtxRelease_v2(0) == 0\n"
    );
    let output = Command::new(python)
        .arg("-c")
        .arg(program)
        .arg(crate::loaded::library())
        .env("FOREBAY_FAKE_CUDA_LOG", &log)
        .output()
        .expect("Python");
    assert!(output.status.success(), "{output:?}");
    Some(std::fs::read_to_string(&log).unwrap_or_default())
}

#[test]
fn the_gil_held_while_blocking_is_found() {
    if let Some(found) = python("PyDLL") {
        assert!(found.contains("gil: cuCtxSynchronize"), "{found}");
    }
    if let Some(found) = python("CDLL") {
        assert_eq!(found, "", "ctypes gives the lock up for this kind of library");
    }
}

#[test]
fn findings_end_the_process_that_asks_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    if std::env::var_os(PART).is_some() {
        let driver = Driver::seed(0);
        configure("abort=1");
        let (stream, event) = (driver.stream(), driver.event());
        ok!(cuStreamWaitEvent(stream, event, 0));
        return;
    }
    let output = in_a_process(
        "processes::findings_end_the_process_that_asks_for_it",
        "abort",
        &folder.path().join("log"),
    );
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&output.status),
        Some(libc::SIGABRT),
        "{output:?}"
    );
}
