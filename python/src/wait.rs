//! Waiting without the interpreter lock, and with an ear for Ctrl-C.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use forebay_loader::Result;
use forebay_loader::stop::Stop;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::check;

/// Between two looks for signals: short enough that Ctrl-C feels immediate.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Runs `call` on a thread of its own and waits for it, with a look at `meanwhile` every [`SLICE`]. When a signal handler
/// raises, its exception is returned at once and `call` ends behind it, its result unused.
///
/// A thread per call costs some 50 µs, so this is for what happens once an epoch and may take minutes (resolving,
/// counting), not for what happens once a batch.
pub(crate) fn interruptibly<T: Send + 'static>(
    py: Python<'_>,
    call: impl FnOnce() -> T + Send + 'static,
    mut meanwhile: impl FnMut() -> PyResult<()>,
) -> PyResult<T> {
    let (done, mut waiting) = sync_channel(1);
    thread::Builder::new().name("forebay-call".to_owned()).spawn(move || {
        // Nobody listens any more where the wait was interrupted.
        let _unheard = done.send(call());
    })?;
    loop {
        let (back, answer) = py.detach(move || {
            let answer = waiting.recv_timeout(SLICE);
            (waiting, answer)
        });
        waiting = back;
        match answer {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) => {
                py.check_signals()?;
                meanwhile()?;
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err(
                    "a call into Forebay panicked (the text is on stderr); this is a bug in Forebay, please report it",
                ));
            }
        }
    }
}

/// A call that ends early when its caller is interrupted.
pub(crate) fn stoppable<T: Send + 'static>(
    py: Python<'_>,
    call: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let stop = Arc::new(Stop::default());
    let told = stop.clone();
    let result = interruptibly(py, move || call(&told), || Ok(()));
    stop.stop();
    check(py, result?)
}
