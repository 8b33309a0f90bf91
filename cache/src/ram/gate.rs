//! A counting gate with two lines: urgent comes before the rest, in each line first come first served.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// So many may be inside at once. Clones are the same gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    free: usize,
    urgent: VecDeque<oneshot::Sender<Permit>>,
    others: VecDeque<oneshot::Sender<Permit>>,
}

/// A place inside; given on when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    state: Option<Arc<Mutex<State>>>,
}

impl Gate {
    pub(crate) fn new(places: usize) -> Self {
        let state = State { free: places, urgent: VecDeque::new(), others: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits in line. A future that is dropped leaves the line.
    pub(crate) async fn acquire(&self, urgent: bool) -> Permit {
        let waiting = {
            let mut state = self.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Permit { state: Some(self.state.clone()) };
            }
            let (turn, waiting) = oneshot::channel();
            if urgent {
                state.urgent.push_back(turn)
            } else {
                state.others.push_back(turn)
            }
            waiting
        };
        // Senders are in the queue until they are used, and the queue lives as long as this gate.
        waiting.await.unwrap_or(Permit { state: None })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.state.take() else { return };
        loop {
            let mut state = shared.lock();
            let Some(turn) = state.urgent.pop_front().or_else(|| state.others.pop_front()) else {
                state.free += 1;
                return;
            };
            drop(state);
            // Whoever waited may have gone; then the next one is asked. The unused permit must not come here again.
            match turn.send(Permit { state: Some(shared.clone()) }) {
                Ok(()) => return,
                Err(mut unused) => unused.state = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urgent_comes_first_and_those_who_left_are_passed_over() {
        let gate = Gate::new(1);
        let inside = gate.acquire(false).await;
        let mut other = Box::pin(gate.acquire(false));
        let mut left = Box::pin(gate.acquire(true));
        let mut urgent = Box::pin(gate.acquire(true));
        assert!(futures::poll!(&mut other).is_pending());
        assert!(futures::poll!(&mut left).is_pending() && futures::poll!(&mut urgent).is_pending());
        drop(left);
        drop(inside);
        assert!(futures::poll!(&mut other).is_pending());
        drop(urgent.await);
        drop(other.await);
        gate.acquire(false).await;
    }
}
