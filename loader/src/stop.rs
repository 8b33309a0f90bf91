//! Ending what takes long, when whoever asked for it doesn't want it any more.

use tokio::sync::watch;

use crate::error::{Error, Result};

/// Ends the calls that it was given to, also those that wait for an origin that sends nothing.
#[derive(Debug, Default)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// From now on they end, with [`Error::Closed`]. What is fetched is kept.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Runs `work` to its end, or until it is stopped.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        // The sender is borrowed: the channel doesn't end.
        let mut stopped = self.0.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => Err(Error::Closed),
            done = work => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_would_wait_for_ever_ends() {
        let stop = Stop::default();
        assert_eq!(stop.or(async { Ok(7) }).await.unwrap(), 7);
        let mut waiting = std::pin::pin!(stop.or(std::future::pending::<Result<()>>()));
        assert!(futures::poll!(&mut waiting).is_pending());
        stop.stop();
        assert!(matches!(waiting.await, Err(Error::Closed)));
        assert!(matches!(stop.or(async { Ok(7) }).await, Err(Error::Closed)), "nor does anything begin");
    }
}
