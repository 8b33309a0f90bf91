//! What tests ask the simulator for: a small C interface beside the driver's, reached by name in the loaded library.
//!
//! A real driver has none of these: finding [`forebay_fake_cuda_marker`] is the proof that a program runs on the simulator.

use std::ffi::{c_char, c_int};

use crate::engine;
use crate::entry::text;
use crate::findings::Kind;
use crate::settings::Settings;
use crate::state::{CHANGED, Locked, lock};
use crate::threads;

/// The simulator's name, which no real driver has.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_cuda_marker() -> *const c_char {
    c"forebay-fake-cuda".as_ptr()
}

/// Sets what `line` says (`seed=3 devices=2 faults=oom@2`), and leaves all else as it is. -1, with the reason on stderr, if it can't be read.
///
/// # Safety
/// `line` is a text that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_fake_configure(line: *const c_char) -> c_int {
    let mut state = lock();
    let mut settings = state.settings.clone();
    match text(line).map_err(|_| "no text".to_owned()).and_then(|line| settings.set(line)) {
        Ok(()) => {
            state.settings = settings;
            0
        }
        Err(error) => {
            eprintln!("forebay-fake-cuda: {error}");
            -1
        }
    }
}

/// Begins anew, as in a new process: waits for all work, forgets everything there is, and reads the environment again. The calling thread has
/// no context afterwards; other threads that have one may not use it.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_reset() {
    let mut state = lock();
    run_out(&mut state);
    let settings = Settings::from_environment().unwrap_or_else(|error| {
        eprintln!("forebay-fake-cuda: {error}");
        std::process::abort();
    });
    state.reset(settings);
    CHANGED.notify_all();
    drop(state);
    threads::reset();
}

/// Waits until all that was submitted has run. No synchronisation: the host learns nothing by it.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_settle() {
    run_out(&mut lock());
}

/// With 1, no operation begins until a call waits for one or this is called with 0: what is submitted meanwhile is in flight for sure.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_hold(hold: c_int) {
    lock().hold = hold != 0;
    CHANGED.notify_all();
}

fn run_out(state: &mut Locked) {
    let (reached, _) = state.all();
    // Without a context nothing is lost.
    let _ = engine::settle(state, None, &reached);
    state.look_at_host_memory(None);
}

/// How many findings there are, of all work that was submitted.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_finding_count() -> u64 {
    let mut state = lock();
    run_out(&mut state);
    state.findings.len() as u64
}

/// How many findings there are of a kind (`race`), of all work that was submitted. -1 for an unknown kind.
///
/// # Safety
/// `kind` is a text that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_fake_findings_of(kind: *const c_char) -> i64 {
    let mut state = lock();
    run_out(&mut state);
    let kind = text(kind).ok().and_then(Kind::from_name);
    kind.map_or(-1, |kind| state.findings.count(kind) as i64)
}

/// Writes the findings as text and a zero, and forgets them, if they fit in `bytes`; how many bytes that takes.
///
/// # Safety
/// There is room for `bytes` bytes at `to`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_fake_take_findings(to: *mut c_char, bytes: usize) -> usize {
    let mut state = lock();
    run_out(&mut state);
    let text = state.findings.text();
    if text.len() < bytes {
        // SAFETY: the text and its zero fit, as the caller says.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
            to.add(text.len()).write(0);
        }
        state.findings.clear();
    }
    text.len() + 1
}

/// Reports everything that was made and not given back, each as a finding; how many.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_leaks() -> u64 {
    let mut state = lock();
    run_out(&mut state);
    state.leaks("the question for leaks") as u64
}

/// A count by name (`h2d_bytes`); all ones for an unknown name.
///
/// # Safety
/// `name` is a text that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_fake_counter(name: *const c_char) -> u64 {
    text(name).ok().and_then(|name| lock().counters.get(name)).unwrap_or(u64::MAX)
}

/// From here on somebody else's thread is borrowed, until [`forebay_fake_leave`].
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_enter() {
    threads::enter_scope("forebay_fake_enter");
}

/// The borrowed thread is given back: 1 if its contexts and capture mode are as they were, else 0, a finding, and they are made so.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_leave() -> c_int {
    threads::leave_scope("forebay_fake_leave").into()
}

/// A number that differs where the calling thread's contexts or its capture mode do.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_thread_state() -> u64 {
    threads::fingerprint()
}

/// Where the CPU may read the bytes of a device address, for tests that look at them without a copy; or null.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_fake_bytes(address: u64) -> *const u8 {
    let state = lock();
    if state.memory.device_of(address).is_some() { state.memory.shadow(address) } else { std::ptr::null() }
}
