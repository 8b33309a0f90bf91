//! What a thread carries from call to call: its stack of contexts and its capture mode, and whether a borrowed thread is given back as it was.

use std::cell::RefCell;

use crate::capture::{Mode, exchange_mode, mode};
use crate::findings::Kind;
use crate::places::Origin;
use crate::state::lock;

thread_local! {
    static THREAD: RefCell<Thread> = const { RefCell::new(Thread { contexts: Vec::new(), scopes: Vec::new() }) };
}

struct Thread {
    contexts: Vec<u64>,
    scopes: Vec<(Vec<u64>, Mode, Origin)>,
}

/// With the calling thread's state; the default for a thread that is ending.
fn with<R: Default>(body: impl FnOnce(&mut Thread) -> R) -> R {
    THREAD.try_with(|thread| body(&mut thread.borrow_mut())).unwrap_or_default()
}

/// The current context, or 0.
pub(crate) fn current() -> u64 {
    with(|thread| thread.contexts.last().copied().unwrap_or(0))
}

pub(crate) fn push(context: u64) {
    with(|thread| thread.contexts.push(context));
}

pub(crate) fn pop() -> Option<u64> {
    with(|thread| thread.contexts.pop())
}

/// Makes a context current in place of the one that is; 0 takes that one away.
pub(crate) fn set(context: u64) {
    with(|thread| {
        thread.contexts.pop();
        if context != 0 {
            thread.contexts.push(context);
        }
    });
}

/// A number that differs where the contexts or the capture mode do.
pub(crate) fn fingerprint() -> u64 {
    let contexts = with(|thread| thread.contexts.clone());
    contexts.iter().fold(mode() as u64 + 1, |all, context| all.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ context)
}

/// From here on a callee borrows the thread.
pub(crate) fn enter_scope(call: &'static str) {
    with(|thread| {
        let contexts = thread.contexts.clone();
        thread.scopes.push((contexts, mode(), Origin::here(call)));
    });
}

/// The callee returned: the thread is as it was, or there is a finding, and is made so.
pub(crate) fn leave_scope(call: &'static str) -> bool {
    let Some((contexts, before, origin)) = with(|thread| thread.scopes.pop()) else { return false };
    let now = with(|thread| std::mem::replace(&mut thread.contexts, contexts.clone()));
    let mode_now = exchange_mode(before);
    if now == contexts && mode_now == before {
        return true;
    }
    let what = if now == contexts {
        format!("leaves the thread in the capture mode {mode_now:?}, which was {before:?}")
    } else {
        format!("leaves the thread with the contexts {now:x?}, which were {contexts:x?}")
    };
    lock().found(Kind::NotRestored, &what, &Origin::here(call), Some(&origin));
    false
}

/// Forgets all of the calling thread.
pub(crate) fn reset() {
    with(|thread| {
        thread.contexts.clear();
        thread.scopes.clear();
    });
    exchange_mode(Mode::Global);
}
