//! Bytes on their way: while they are, a counter shows them; once they are there, an event does.

use std::sync::{Arc, Weak};
use std::time::Instant;

use forebay_cache::{ByteRange, Location, Tier};
use parking_lot::Mutex;

use super::{Counter, Shared, Trace, What};

/// A counter raised by some bytes, until it drops.
#[derive(Debug)]
struct Moving {
    trace: Trace,
    counter: Counter,
    bytes: u64,
    began: Instant,
}

impl Moving {
    fn new(trace: &Trace, counter: Counter, bytes: u64) -> Self {
        trace.change(counter, bytes as i64);
        Self { trace: trace.clone(), counter, bytes, began: Instant::now() }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.trace.change(self.counter, -(self.bytes as i64));
    }
}

/// A read through the cache. One that is given up leaves no event.
#[must_use]
pub(crate) struct Flight(Option<Moving>);

impl Flight {
    pub(crate) fn of(trace: &Option<Trace>, range: ByteRange) -> Self {
        Self(trace.as_ref().map(|trace| Moving::new(trace, Counter::Reading, range.len())))
    }

    pub(crate) fn landed(self, location: &Location, range: ByteRange, tier: Tier) {
        if let Some(moving) = self.0 {
            moving.trace.add(moving.began, What::Read { location: location.clone(), range, tier });
        }
    }
}

/// The traces that hear what a session fetches: a fetch belongs to no loader alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners(Arc<Mutex<Vec<Weak<Shared>>>>);

impl Listeners {
    pub(crate) fn add(&self, trace: &Trace) {
        let mut listeners = self.0.lock();
        listeners.retain(|one| one.strong_count() > 0);
        listeners.push(Arc::downgrade(&trace.shared));
    }

    /// A request to the origin, where somebody listens.
    pub(crate) fn fetch(&self, location: &Location, range: ByteRange) -> Option<Fetch> {
        let heard: Vec<Arc<Shared>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        let traces = heard.into_iter().map(|shared| Trace { shared });
        let moving: Vec<Moving> =
            traces.map(|trace| Moving::new(&trace, Counter::Fetching, range.len())).collect();
        if moving.is_empty() {
            return None;
        }
        Some(Fetch { moving, location: location.clone(), range, arrived: 0 })
    }
}

/// A request to the origin; ends when its stream is dropped.
pub(crate) struct Fetch {
    moving: Vec<Moving>,
    location: Location,
    range: ByteRange,
    arrived: u64,
}

impl Fetch {
    pub(crate) fn arrived(&mut self, bytes: u64) {
        self.arrived += bytes;
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        for moving in &self.moving {
            let Self { location, range, arrived, .. } = self;
            let what = What::Fetch { location: location.clone(), range: *range, arrived: *arrived };
            moving.trace.add(moving.began, what);
        }
    }
}
