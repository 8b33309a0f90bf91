//! Ending what takes long, when whoever asked for it doesn't want it any more.

use tokio::sync::watch;

use super::model::Ground;
use crate::error::{Error, Result};

/// Ends the calls that it was given to.
#[derive(Debug, Default)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// From now on they end, with [`Error::Closed`]. What is fetched is kept.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn stopped(&self) {
        // The sender is borrowed: the channel doesn't end.
        drop(self.0.subscribe().wait_for(|stopped| *stopped).await);
    }
}

impl Ground {
    /// Runs `work` on the calling thread, to its end or until it is stopped.
    pub(super) fn until<T>(&self, stop: &Stop, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.handle.block_on(async {
            tokio::select! {
                done = work => done,
                () = stop.stopped() => Err(Error::Closed),
            }
        })
    }
}
