//! Work under way, counted, so that an end can wait for it.

use std::sync::Arc;

use tokio::sync::watch;

/// How much is under way. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Running(Arc<watch::Sender<usize>>);

/// One piece of work, until it is dropped: also where a task panics or is cancelled.
#[derive(Debug)]
#[must_use = "the work counts as done when this is dropped"]
pub(crate) struct Underway(Arc<watch::Sender<usize>>);

impl Default for Running {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Running {
    /// A piece of work begins.
    pub(crate) fn begin(&self) -> Underway {
        self.0.send_modify(|running| *running += 1);
        Underway(self.0.clone())
    }

    /// Waits until nothing is under way.
    pub(crate) async fn none(&self) {
        // The sender is ours: it can't be gone.
        drop(self.0.subscribe().wait_for(|running| *running == 0).await);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}
