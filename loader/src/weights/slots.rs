//! Places for reads whose bytes go on from there: each holds one read of a block, and comes back when nobody holds its bytes.
//!
//! Places of one size leave no gaps between them, and are given in line: whoever waits for an earlier tensor never waits for memory that a
//! later one holds.

use std::sync::Arc;

use forebay_cache::Lease;
use forebay_cache::memory::{Arena, Region};
use forebay_cache::object::{BLOCK_BYTES, GRANULE_BYTES};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// A read of a block that begins and ends inside a granule.
pub(super) const SLOT_BYTES: usize = (BLOCK_BYTES + 2 * GRANULE_BYTES) as usize;

/// The places.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    free: Mutex<Vec<Region>>,
    count: Arc<Semaphore>,
}

/// A place that one has.
#[derive(Debug)]
pub(super) struct Slot {
    shared: Arc<Shared>,
    region: Option<Region>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// So many places of so many bytes out of an arena.
    ///
    /// # Errors
    /// Where it has no room for them.
    pub(super) fn new(arena: &Arena, count: usize, bytes: usize) -> Result<Self> {
        let regions = (0..count).map(|_| arena.undivided("reads of weights", bytes));
        let free = Mutex::new(regions.collect::<Result<_, _>>()?);
        Ok(Self(Arc::new(Shared { free, count: Arc::new(Semaphore::new(count)) })))
    }

    /// A place, if there is one that nobody waits for.
    pub(super) fn try_take(&self) -> Option<Slot> {
        let permit = self.0.count.clone().try_acquire_owned().ok()?;
        let region = self.0.free.lock().pop();
        Some(Slot { shared: self.0.clone(), region: Some(region?), _permit: permit })
    }

    /// The next place, in line.
    pub(super) async fn take(&self) -> Result<Slot> {
        let permit = self.0.count.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let region = self.0.free.lock().pop();
        Ok(Slot { shared: self.0.clone(), region: Some(region.ok_or(Error::Closed)?), _permit: permit })
    }
}

impl Slot {
    /// Where to read into.
    pub(super) fn region(&self) -> Result<&Region> {
        self.region.as_ref().ok_or(Error::Closed)
    }

    /// The bytes, with which the place comes back.
    pub(super) fn with(self, read: Lease) -> Lease {
        read.guarded(Arc::new(self))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the permit goes back: whoever has one finds a place.
        self.shared.free.lock().extend(self.region.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_comes_back_with_its_bytes_and_is_given_in_line() {
        let arena = Arena::new(1 << 24).unwrap();
        let slots = Slots::new(&arena, 2, SLOT_BYTES).unwrap();
        let (one, two) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        let mut third = Box::pin(slots.take());
        assert!(futures::poll!(&mut third).is_pending());
        let read = one.region().unwrap().allocate(SLOT_BYTES).await.unwrap().freeze();
        let read = one.with(read);
        let part = read.slice(10..20);
        drop(read);
        assert!(futures::poll!(&mut third).is_pending());
        drop(part);
        let third = third.await.unwrap();
        assert_eq!(third.region().unwrap().allocate(SLOT_BYTES).await.unwrap().len(), SLOT_BYTES);
        drop((two, third, slots));
        assert_eq!(arena.free_bytes(), 1 << 24);
    }
}
