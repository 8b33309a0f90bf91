//! Ctrl-C: the first one ends the command in order, the second one at once.

use std::thread::JoinHandle;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use tokio::sync::watch;

use super::failure::Failure;

/// Listens to SIGINT and SIGTERM as long as it lives.
#[derive(Debug)]
pub(super) struct Interrupt {
    seen: watch::Receiver<bool>,
    signals: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Interrupt {
    pub(super) fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::io("signals can't be listened to", &error);
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = signals.handle();
        let (send, seen) = watch::channel(false);
        let listen = move || {
            for signal in signals.forever() {
                if send.send_replace(true) {
                    // Whoever asks twice does not want to wait for what is being written. That is as safe as a power loss.
                    drop(signal_hook::low_level::emulate_default_handler(signal));
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("forebay-signals".into()).spawn(listen).map_err(failed)?;
        Ok(Self { seen, signals: handle, thread: Some(thread) })
    }

    /// True once the user wants the command to end.
    pub(super) fn seen(&self) -> bool {
        *self.seen.borrow()
    }

    /// Waits until the user wants the command to end.
    pub(super) async fn wait(&self) {
        let mut seen = self.seen.clone();
        if seen.wait_for(|seen| *seen).await.is_err() {
            // The listener is gone: nobody will ask.
            std::future::pending().await
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.signals.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
