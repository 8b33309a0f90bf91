//! A stage's share of the limit as a count: for values of any size, that would leave holes in a region.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::arena::Held;
use super::slab::{HEAP_ALIGN, Slab};
use crate::error::{Error, Result};

/// What is counted for a value beside its bytes: its alignment, and what the allocator and its owners keep of it.
const BESIDE: usize = HEAP_ALIGN + 192;

/// Bytes that may be on the heap at once. Clones share it; whoever asked first is served first.
#[derive(Clone, Debug)]
pub struct Budget {
    count: Arc<Count>,
}

struct Count {
    what: &'static str,
    held: Held,
    /// A permit is `UNIT` bytes, so that the semaphore's count reaches beyond any memory.
    permits: Arc<Semaphore>,
    units: usize,
    peak: AtomicUsize,
}

const UNIT: usize = 64;

impl Budget {
    /// A budget of what is held, called `what` in errors.
    pub fn new(what: &'static str, held: Held) -> Self {
        let units = (held.bytes() / UNIT).min(u32::MAX as usize);
        let permits = Arc::new(Semaphore::new(units));
        Self { count: Arc::new(Count { what, held, permits, units, peak: AtomicUsize::new(0) }) }
    }

    /// What [`Self::allocate`] counts for a value of `len` bytes.
    pub fn counted(len: usize) -> usize {
        len.saturating_add(BESIDE).checked_next_multiple_of(UNIT).unwrap_or(usize::MAX)
    }

    /// Waits in line for `bytes` that the caller keeps elsewhere. An error where the whole budget is less.
    pub async fn take(&self, bytes: usize) -> Result<Share> {
        let units = bytes.div_ceil(UNIT);
        if units > self.count.units {
            return Err(Error::MemoryTooSmall {
                limit_bytes: self.capacity_bytes() as u64,
                needed_bytes: bytes as u64,
                what: format!("the share for {} must hold this one piece", self.count.what),
            });
        }
        // Made before the wait, so that whoever leaves the line of a closed budget gives back what was set aside for it there.
        let mut share = Share { permit: None, home: self.count.clone() };
        let permit = self.count.permits.clone().acquire_many_owned(units as u32).await;
        share.permit = Some(permit.map_err(|_| Error::Closed)?);
        self.count.peak.fetch_max(self.used_bytes(), Relaxed);
        Ok(share)
    }

    /// Waits in line for heap memory of `len` bytes: zeros, aligned to 64 bytes.
    pub async fn allocate(&self, len: usize) -> Result<Slab> {
        let share = self.take(Self::counted(len)).await?;
        Ok(Slab::on_heap(len, share))
    }

    /// Gives back to the arena what is not taken, and what is taken as soon as it is let go: nothing is taken from here any more.
    pub fn close(&self) {
        self.count.permits.close();
        self.count.shrink();
    }

    /// Bytes that may be taken at once.
    pub fn capacity_bytes(&self) -> usize {
        self.count.units * UNIT
    }

    /// Bytes taken.
    pub fn used_bytes(&self) -> usize {
        self.count.used()
    }

    /// The most that was ever taken.
    pub fn peak_bytes(&self) -> usize {
        self.count.peak.load(Relaxed)
    }
}

impl Count {
    /// Gives back to the arena what nobody has of a closed budget.
    ///
    /// The semaphore keeps its end and its count in one atomic number. So of an end and a permit that goes back, each followed by this, the
    /// later one sees the other: nothing is kept. And from the end on the count of what is taken only falls: no count is ever too low.
    fn shrink(&self) {
        if self.permits.is_closed() {
            self.held.shrink_to(self.used());
        }
    }

    fn used(&self) -> usize {
        (self.units - self.permits.available_permits().min(self.units)) * UNIT
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({}, {} of {} bytes)", self.what, self.used(), self.units * UNIT)
    }
}

/// Bytes taken from a budget; they go back on drop.
#[derive(Debug)]
pub struct Share {
    permit: Option<OwnedSemaphorePermit>,
    home: Arc<Count>,
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.home.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Arena;
    use super::*;

    #[tokio::test]
    async fn values_are_aligned_counted_and_served_in_line() {
        let arena = Arena::new(1 << 20).unwrap();
        let budget = Budget::new("values", arena.hold("values", 64 << 10).unwrap());
        let mut slab = budget.allocate(40_001).await.unwrap();
        assert_eq!((slab.len(), slab.as_ptr().align_offset(64), slab[40_000]), (40_001, 0, 0));
        assert!(budget.used_bytes() >= 40_001);
        slab.fill(7);
        let lease = slab.freeze();
        let mut large = Box::pin(budget.allocate(40_000));
        let mut small = Box::pin(budget.allocate(1));
        assert!(futures::poll!(&mut large).is_pending() && futures::poll!(&mut small).is_pending());
        assert!(lease.iter().all(|&byte| byte == 7));
        drop(lease);
        drop((large.await.unwrap(), small.await.unwrap()));
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.peak_bytes() >= 40_001);
        let error = budget.allocate(64 << 10).await.unwrap_err();
        assert!(matches!(error, Error::MemoryTooSmall { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_closed_budget_keeps_only_what_is_taken() {
        let arena = Arena::new(1 << 20).unwrap();
        let budget = Budget::new("values", arena.hold("values", 1 << 20).unwrap());
        let slab = budget.allocate(4000).await.unwrap();
        budget.close();
        assert!(matches!(budget.allocate(1).await, Err(Error::Closed)));
        assert_eq!(arena.free_bytes(), (1 << 20) - 8192);
        drop(slab);
        assert_eq!(arena.free_bytes(), 1 << 20);
    }

    #[tokio::test]
    async fn a_closed_budget_gives_back_what_was_set_aside_for_those_in_line() {
        for hears in [true, false] {
            let arena = Arena::new(1 << 20).unwrap();
            let budget = Budget::new("values", arena.hold("values", 1 << 20).unwrap());
            let slab = budget.allocate(4000).await.unwrap();
            let mut waits = Box::pin(budget.take(1 << 20));
            assert!(futures::poll!(&mut waits).is_pending(), "all but the slab is set aside for it");
            budget.close();
            if hears {
                assert!(matches!(waits.await, Err(Error::Closed)));
            } else {
                drop(waits);
            }
            assert_eq!(arena.free_bytes(), (1 << 20) - 8192);
            drop(slab);
            assert_eq!(arena.free_bytes(), 1 << 20);
        }
    }
}
