//! A gate that operations wait at until a test opens it: waiting on a condition instead of on the clock.

use std::sync::Arc;

use tokio::sync::watch;

/// Closed until [`Gate::open`] is called; clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    open: bool,
    arrived: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self::closed()
    }
}

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.state.send_modify(|state| state.open = true);
    }

    /// How many have come so far, waiting or through.
    pub fn arrivals(&self) -> usize {
        self.state.borrow().arrived
    }

    /// Waits until `count` operations have come to the gate.
    pub async fn arrived(&self, count: usize) {
        self.when(|state| state.arrived >= count).await;
    }

    /// Comes to the gate and waits until it is open.
    pub async fn pass(&self) {
        self.state.send_modify(|state| state.arrived += 1);
        self.when(|state| state.open).await;
    }

    async fn when(&self, condition: impl FnMut(&State) -> bool) {
        // Fails only when every sender is gone, and `self` holds one.
        drop(self.state.subscribe().wait_for(condition).await);
    }
}
