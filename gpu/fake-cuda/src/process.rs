//! The process that the driver was initialised in: forked children and the time after exit have no driver.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::codes::Code;
use crate::findings::{Kind, publish};
use crate::places::{Origin, survive_forks};
use crate::settings::Settings;
use crate::state::{CHANGED, lock};

/// The process that called cuInit, or 0.
static OWNER: AtomicI32 = AtomicI32::new(0);
static EXITED: AtomicBool = AtomicBool::new(false);

fn id() -> i32 {
    // SAFETY: a plain call that can't fail.
    unsafe { libc::getpid() }
}

/// The calling process initialises the driver.
pub(crate) fn own() {
    if OWNER.swap(id(), Ordering::Relaxed) == 0 {
        survive_forks();
        // SAFETY: the function is of this library, which is never unloaded: a driver isn't either.
        unsafe { libc::atexit(at_exit) };
    }
}

/// Whether the calling process is the one that initialised the driver, and isn't ending. Takes no lock in a forked child: another thread of
/// the parent may have held it.
pub(crate) fn same(call: &'static str) -> Result<(), Code> {
    let owner = OWNER.load(Ordering::Relaxed);
    if owner != 0 && owner != id() {
        outside(Kind::Forked, call, "a forked child calls the driver, which its parent initialised");
        return Err(Code::NOT_INITIALIZED);
    }
    if EXITED.load(Ordering::Relaxed) {
        outside(Kind::Exited, call, "calls the driver after it shut down at exit");
        return Err(Code::DEINITIALIZED);
    }
    Ok(())
}

/// Reports a finding without the state.
fn outside(kind: Kind, call: &'static str, what: &str) {
    let settings = Settings::from_environment().unwrap_or_default();
    if !settings.allowed.contains(&kind) {
        let origin = Origin::here(call);
        publish(
            &settings,
            &format!("forebay-fake-cuda: {}: {call}: {what}\n    at\n{}", kind.name(), origin.frames()),
        );
        if settings.exit_code != 0 {
            // SAFETY: ends the process at once, as the settings ask for; handlers at exit may belong to the parent.
            unsafe { libc::_exit(settings.exit_code) };
        }
    }
}

extern "C" fn at_exit() {
    if OWNER.load(Ordering::Relaxed) != id() {
        return;
    }
    let mut state = lock();
    // What runs now ends before the memory under it may be taken away; nothing else begins.
    state.exiting = true;
    state.look_at_host_memory(None);
    if state.settings.leaks {
        state.leaks("exit");
    }
    EXITED.store(true, Ordering::Relaxed);
    CHANGED.notify_all();
    let code = state.settings.exit_code;
    if code != 0 && state.findings.len() > 0 {
        // SAFETY: ends the process at once, as the settings ask for.
        unsafe { libc::_exit(code) };
    }
}
