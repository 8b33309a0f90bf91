//! Where in a program a call was made: taken as addresses, which costs microseconds, and turned into names when somebody reads it.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::sync::{Arc, Once};

use parking_lot::Mutex;

/// Taking and naming a backtrace holds a lock of the standard library, which a forked child would inherit as it is. This one is taken around
/// both, and by the thread that forks.
static TAKING: Mutex<()> = Mutex::new(());

/// Sees to it that nobody takes a backtrace while the process is forked.
pub(crate) fn survive_forks() {
    extern "C" fn before() {
        std::mem::forget(TAKING.lock());
    }
    extern "C" fn after() {
        // SAFETY: `before` locked it on this thread, and kept no guard.
        unsafe { TAKING.force_unlock() };
    }
    static ONCE: Once = Once::new();
    // SAFETY: the functions are of this library, which is never unloaded: a driver isn't either.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(Some(before), Some(after), Some(after));
    });
}

/// A call that did something, as findings show it.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) call: &'static str,
    frames: Arc<Backtrace>,
}

impl Origin {
    /// The calling thread, in this function of the driver.
    pub(crate) fn here(call: &'static str) -> Origin {
        let _taking = TAKING.lock();
        Origin { call, frames: Arc::new(Backtrace::force_capture()) }
    }

    /// The frames from the one that called the driver to the thread's start, as `name (file:line)`, nearest first.
    pub(crate) fn frames(&self) -> String {
        let taking = TAKING.lock();
        let text = self.frames.to_string();
        drop(taking);
        shown(&text)
    }
}

/// As many frames as a reader wants.
const MOST: usize = 12;

/// The frames of a backtrace that say something: not the simulator's own, which are the first, nor those around every thread.
fn shown(text: &str) -> String {
    let mut frames: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(at) = line.strip_prefix("at ") {
            if let Some(frame) = frames.last_mut() {
                let _ = write!(frame, " ({at})");
            }
        } else if let Some((number, name)) = line.split_once(": ")
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            frames.push(name.to_owned());
        }
    }
    let own = |frame: &&String| {
        ["forebay_fake_cuda::", "backtrace", "<unknown>"].iter().any(|word| frame.contains(word))
    };
    let entry = frames.iter().take(MOST).rposition(|frame| {
        frame.starts_with("cu") || frame.starts_with("nvjpeg") || frame.contains("::abi::")
    });
    let first = entry.map_or_else(|| frames.iter().take_while(own).count(), |at| at + 1);
    let around = |frame: &&String| {
        ["__rust_begin_short_backtrace", "__libc_start"].iter().any(|word| frame.contains(word))
    };
    let told = frames.iter().skip(first).take_while(|frame| !around(frame)).take(MOST);
    told.map(|frame| format!("      {frame}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn frames_begin_at_the_caller_and_end_before_the_runtime() {
        let text = "   0: forebay_fake_cuda::places::Origin::here\n             at ./src/places.rs:1:2\n   1: cuMemAlloc_v2\n   2: \
            main::work\n             at ./main.rs:3:4\n   3: std::sys::backtrace::__rust_begin_short_backtrace\n   4: main\n";
        assert_eq!(shown(text), "      main::work (./main.rs:3:4)\n");
    }
}
