//! Block I/O in a process that may not do everything: io_uring refused by seccomp, or forked. Each case runs in a child of its
//! own, since neither can be undone.
#![allow(unsafe_code)]
// clippy's leave to unwrap in tests ends at the functions that tests share.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;

use forebay_cache::io::{self, BlockIo, IoFile, Options, Report, Uring};
use forebay_cache::memory::Arena;
use rustix::fs::{FlockOperation, flock};

const CHILD: &str = "FOREBAY_TEST_CHILD";

/// Runs one test of this file again in a child, where `CHILD` is set, and gives what it printed.
fn in_child(test: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env_remove(io::ENGINE_VARIABLE)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// From here on this thread, and every thread that it starts, gets `errno` from the system call `number`.
fn refuse(number: libc::c_long, errno: i32) {
    let filter = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The first field of what a filter sees is the number of the call.
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program lives across the call, which copies it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(installed, "{}", std::io::Error::last_os_error());
}

/// Opens, writes and reads a file; what the engine says about itself.
fn round_trip() -> Report {
    let folder = tempfile::tempdir().unwrap();
    let (io, report) = io::open(folder.path(), 8).unwrap();
    assert_eq!(io.engine(), report.engine);
    let file = Arc::new(IoFile::open(&folder.path().join("a"), true).unwrap());
    let region = Arena::new(8192).unwrap().region("test", 8192).unwrap();
    let mut slab = region.try_allocate(4096).unwrap();
    slab.fill(7);
    futures::executor::block_on(async {
        io::write(&*io, &file, 0, slab.freeze()).await.unwrap();
        let slab = region.allocate(4096).await.unwrap();
        let (slab, result) = io::read(&*io, &file, 0, 4096, slab).await;
        assert_eq!(result.unwrap(), 4096);
        assert!(slab.unwrap().iter().all(|&byte| byte == 7));
    });
    report
}

fn falls_back(test: &str, number: libc::c_long, errno: i32, reason: &str) {
    if !is_child() {
        in_child(test);
        return;
    }
    refuse(number, errno);
    let report = round_trip();
    assert_eq!(report.engine, "blocking");
    let found = report.reason.unwrap();
    assert!(found.contains(reason), "{found}");
}

#[test]
fn a_container_that_refuses_io_uring_gets_blocking_reads_and_is_told_why() {
    let test = "a_container_that_refuses_io_uring_gets_blocking_reads_and_is_told_why";
    falls_back(test, libc::SYS_io_uring_setup, libc::EPERM, "seccomp");
}

#[test]
fn a_kernel_without_io_uring_gets_blocking_reads_and_is_told_why() {
    let test = "a_kernel_without_io_uring_gets_blocking_reads_and_is_told_why";
    falls_back(test, libc::SYS_io_uring_setup, libc::ENOSYS, "this kernel has no io_uring");
}

#[test]
fn a_ring_that_can_be_built_but_not_entered_is_not_used() {
    let test = "a_ring_that_can_be_built_but_not_entered_is_not_used";
    falls_back(test, libc::SYS_io_uring_enter, libc::EPERM, "seccomp");
}

#[test]
fn an_engine_in_a_forked_child_answers_with_an_error_and_drops_without_waiting() {
    let test = "an_engine_in_a_forked_child_answers_with_an_error_and_drops_without_waiting";
    if !is_child() {
        in_child(test);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = Arc::new(IoFile::open(&folder.path().join("a"), true).unwrap());
    for engine in [io::open(folder.path(), 4).unwrap().0, Arc::new(io::Blocking::new(2).unwrap())] {
        // The arena is not mapped in a forked child, by design: the operation brings bytes from the heap.
        let bytes = forebay_cache::Lease::from_vec(vec![0; 16]);
        // SAFETY: the child does nothing but what is tested, and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let result = futures::executor::block_on(io::write(&*engine, &file, 0, bytes));
            drop(engine);
            let right = result.is_err_and(|error| error.to_string().contains("forked"));
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just made.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "{}", engine.engine());
    }
}

#[test]
fn a_forked_child_does_not_keep_the_lock_that_the_ring_holds() {
    let test = "a_forked_child_does_not_keep_the_lock_that_the_ring_holds";
    if !is_child() {
        in_child(test);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let lock = File::create(&path).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let options = Options { hold: Some(Arc::new(lock)), ..Options::default() };
    let Ok(engine) = Uring::new(&options) else { return };
    drop(options);
    let (mut closed, mut says_closed) = std::io::pipe().unwrap();
    let (mut stays, ends) = std::io::pipe().unwrap();
    // SAFETY: the child does nothing but what is tested, and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(ends);
        engine.close_in_forked_child();
        says_closed.write_all(b"x").unwrap();
        // Lives until the parent lets go of its end.
        let _ = stays.read(&mut [0]);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    closed.read_exact(&mut [0]).unwrap();
    let other = File::open(&path).unwrap();
    assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err(), "this process has it still");
    drop(engine);
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(ends);
    let mut status = -1;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}
