//! What the device may still work on, kept until it says that it has done.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::device::Device;
use crate::error::Result;
use crate::memory::Guard;

/// Things that stay as they are until their guards are passed, in the order in which they were put here.
#[derive(Debug)]
pub struct InFlight<T> {
    device: Arc<dyn Device>,
    waiting: VecDeque<(Guard, T)>,
}

impl<T> InFlight<T> {
    /// Nothing yet.
    pub fn new(device: &Arc<dyn Device>) -> Self {
        Self { device: device.clone(), waiting: VecDeque::new() }
    }

    /// Keeps `what` until `until` is passed.
    pub fn push(&mut self, until: Guard, what: T) {
        self.waiting.push_back((until, what));
    }

    /// Lets go of what is done with. Never blocks.
    ///
    /// # Errors
    /// The driver's.
    pub fn collect(&mut self) -> Result<()> {
        while let Some((until, _)) = self.waiting.front() {
            if !until.is_passed()? {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Blocks until the oldest is done with; false where there is none.
    ///
    /// # Errors
    /// The driver's.
    pub fn wait_for_one(&mut self) -> Result<bool> {
        let Some((until, _)) = self.waiting.front() else { return Ok(false) };
        until.block(&*self.device)?;
        self.waiting.pop_front();
        Ok(true)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<T> Drop for InFlight<T> {
    fn drop(&mut self) {
        for (until, what) in self.waiting.drain(..) {
            if let Err(error) = until.block(&*self.device) {
                tracing::debug!(%error, "what the device may still work on stays the process's until its end");
                std::mem::forget(what);
            }
        }
    }
}
