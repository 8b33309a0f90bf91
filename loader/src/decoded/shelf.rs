//! Which samples one memory keeps, by what the plan needs next, and who uses them.

use std::sync::Arc;

use forebay_gpu::tier::{NEVER, Place, Tier};
use parking_lot::Mutex;

use super::future::Future;
use crate::plan::{Order, World};

/// The samples of one memory; `T` is what holds one.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    tier: Tier<Arc<T>>,
    future: Option<Future>,
    /// The first position of this epoch that is not planned yet.
    reached: u64,
    closed: bool,
}

/// A kept sample in use.
#[derive(Debug)]
pub(crate) struct Pinned<T> {
    // Let go before the pin is.
    pub(crate) record: Arc<T>,
    _pins: Arc<Pins<T>>,
}

impl<T> Clone for Pinned<T> {
    fn clone(&self) -> Self {
        Self { record: self.record.clone(), _pins: self._pins.clone() }
    }
}

/// Samples that stay where they are for as long as this is held.
#[derive(Debug)]
struct Pins<T> {
    home: Arc<Shelf<T>>,
    numbers: Vec<u64>,
}

impl<T> Drop for Pins<T> {
    fn drop(&mut self) {
        let mut state = self.home.state.lock();
        self.numbers.iter().for_each(|&number| state.tier.unpin(number));
    }
}

impl<T> Shelf<T> {
    /// Keeps samples in these parts of a memory, as (offset, length), in whole granules.
    pub(crate) fn new(parts: impl IntoIterator<Item = (u64, u64)>, granule: u64) -> Arc<Self> {
        let tier = Tier::new(parts, granule);
        Arc::new(Self { state: Mutex::new(State { tier, future: None, reached: 0, closed: false }) })
    }

    /// Begins an epoch at this position; in storage order without an order.
    pub(crate) fn begin(&self, order: Option<Arc<Order>>, world: World, position: u64) {
        let mut state = self.state.lock();
        state.tier.begin();
        state.future = Some(Future::new(order, world));
        state.reached = position;
    }

    /// The samples of a batch that are kept, in their places; `end` is the first position behind the batch.
    pub(crate) fn pin(self: &Arc<Self>, numbers: &[u64], end: Option<u64>) -> Vec<Option<Pinned<T>>> {
        let mut state = self.state.lock();
        state.reached = state.reached.max(end.unwrap_or(0));
        let State { tier, future, reached, .. } = &mut *state;
        let need = |number| future.as_ref().map_or(NEVER, |future| future.need(number, *reached));
        let mut pin = |number: &u64| tier.pin(*number, need).cloned();
        let records: Vec<Option<Arc<T>>> = numbers.iter().map(&mut pin).collect();
        drop(state);
        let kept = numbers.iter().zip(&records).filter(|(_, record)| record.is_some());
        let pins = Arc::new(Pins { home: self.clone(), numbers: kept.map(|(number, _)| *number).collect() });
        let pinned = |record: Option<_>| record.map(|record| Pinned { record, _pins: pins.clone() });
        records.into_iter().map(pinned).collect()
    }

    /// Whether a sample of this number is kept.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.state.lock().tier.holds(number)
    }

    /// A place for a sample of so many bytes, where it is worth it; to be filled or abandoned.
    pub(crate) fn reserve(&self, number: u64, bytes: u64) -> Option<Place> {
        let mut state = self.state.lock();
        let State { tier, future, reached, closed } = &mut *state;
        let future = future.as_ref().filter(|_| !*closed)?;
        tier.reserve(number, bytes, |number| future.need(number, *reached))
    }

    /// What was reserved is written, and `record` holds it.
    pub(crate) fn fill(&self, number: u64, record: T) {
        self.state.lock().tier.fill(number, Arc::new(record));
    }

    /// What was reserved isn't written.
    pub(crate) fn abandon(&self, number: u64) {
        self.state.lock().tier.abandon(number);
    }

    /// Keeps nothing from now on; what is in use is let go of by its users.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.tier.clear();
    }

    /// Samples that are kept or being written, and the bytes set aside for them.
    pub(crate) fn held(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.tier.len(), state.tier.used_bytes())
    }
}
