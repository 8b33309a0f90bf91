//! A simulated CUDA driver, stricter than a real one, for tests.
//!
//! `make fake-cuda` builds it as `libcuda.so.1`, in a folder for `LD_LIBRARY_PATH`; a program there runs as it does on a GPU. Streams are
//! asynchronous for real, device memory can't be followed by the CPU, and kernels run as their host builds (`forebay-kernels`). What a real
//! driver leaves to luck is a finding here: recorded with the call and its place, printed on stderr, and asked for by tests.
//!
//! # What runs
//! - Each stream is a thread with a queue, begun at its first operation ([`abi`] → `engine`). Before an operation it waits for those that the
//!   operation depends on, and then for a random time given by `seed`. The legacy stream, per-thread streams and non-blocking ones follow
//!   their rules; so do captures, which become graphs that can be launched.
//! - A device address lies in memory without rights; its bytes are at a constant distance, known to copies and kernels (`memory`). Physical
//!   memory of the virtual memory interface is a file in memory, so that a descriptor of it is the same memory in another process (`physical`).
//! - PTX is read only for its version, target and entries. The kernel itself is its host build.
//! - [`nvjpeg`] decodes JPEG images by libjpeg-turbo, as a second library with the driver's state.
//!
//! # What is found, and how
//! Nothing of this depends on when an operation happens to run.
//! - **Races** (`race`): every operation gets a vector clock when it is submitted (`clocks`): what its stream did, what it waits for, what the
//!   host knew. Of each byte range the accesses are kept that something to come may be unordered with (`history`). Two accesses, one of them a
//!   write, with neither operation in the other's clock, are a finding, even if they ran hours apart. A kernel's accesses are those that its
//!   source declares, evaluated when it runs, since they may depend on tables that are copied before it; clocks make up for the late entry.
//! - **The host** is one timeline for all its threads, since they tell each other things that a driver doesn't see. It knows an operation to be
//!   complete once a synchronisation or a successful query says so, or in a host function behind it: no earlier, though it may have run.
//!   Memory freed, unmapped or unpinned, and modules unloaded, before that are findings (`in-flight`).
//! - **Host memory under copy** (`host-write`): a source is hashed at submission and again when the host learns that the copy is complete; a
//!   target is poisoned at submission, checked when the copy runs, and hashed from there on. A reader that doesn't wait reads poison.
//! - Lifetimes: `use-after-free`, `out-of-bounds`, `double-free`, `destroyed`, `leak` (at exit, at a context's end, when asked), `overlap` of
//!   registrations. Fresh memory is poisoned, freed memory is gone, and its addresses come back last.
//! - `pageable`: an asynchronous copy from or to memory that isn't pinned. `never-recorded`: a wait for an event that stands for nothing.
//! - `host-function`: a call of the driver in one. `gil`: a call that may block while its thread holds Python's lock. `forked`: any call in
//!   a child of the process that initialised the driver. `exited`: any call after the driver shut down at exit.
//! - `capture`: a call that a capture forbids, by the capturing thread or another one, as the modes of both say. `not-restored`: a thread
//!   that is given back, between [`control::forebay_fake_enter`] and [`control::forebay_fake_leave`], with other contexts or another mode.
//! - `missing`: a function that the settings take away. `misuse`: what no program has a reason for.
//!
//! # What is not found
//! Kernels on host memory aren't simulated. Two mappings of one physical memory count as different bytes. Reads of the CPU are found only
//! by the poison they return. That host threads tell each other too little is theirs to test.
//!
//! # Settings
//! `FOREBAY_FAKE_CUDA_<KEY>`, read at the first call, or [`control::forebay_fake_configure`]: `seed`, `delay_us`, `devices`, `memory_mib`,
//! `version`, `bus_gbps` and `bus_latency_us` (nothing: as fast as memory), `faults` (`oom@3,launch@1,lost@9,cuStreamCreate@2+:46`),
//! `missing`, `vmm=0`, `rdma=0`, `nvjpeg`, `jpeg_engines`, `allow=KIND,…`, `guard=0` (no hashes, for measuring), `leaks=0`, `abort=1` (at the first finding),
//! `exit_code` (of a process with findings), `log` (a file that findings are appended to, also by children), `quiet=1`.
//! [`older::forebay_fake_write_older`] writes a library that lacks functions, as an older driver does.

#![allow(
    unsafe_code,
    reason = "a C interface that moves bytes between addresses; every block says why it is sound"
)]

pub mod abi;
mod capture;
mod clocks;
mod codes;
pub mod control;
mod counters;
mod engine;
mod entry;
mod faults;
mod findings;
mod gil;
mod history;
mod host;
mod leaks;
mod memory;
mod modules;
pub mod nvjpeg;
pub mod older;
mod physical;
mod places;
mod process;
mod settings;
mod state;
mod threads;
mod visible;
