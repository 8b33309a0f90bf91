//! A stage's share of the arena: extents of whole pages, first fit, waiters in line.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::arena::{Ground, cut, give_back};
use super::lease::Lease;
use super::slab::Slab;
use crate::error::{Error, Result};

/// The unit of allocation; also what direct I/O asks of an address.
pub(super) const PAGE: usize = 4096;

/// A bounded pool of memory for one stage. Clones share it.
///
/// Allocation is fair: whoever asked first is served first, also where a later, smaller request would fit. So a large
/// request always gets its turn, and memory given out in the order of the samples comes back in that order.
#[derive(Clone)]
pub struct Region {
    shared: Arc<Shared>,
    populates: bool,
}

/// The region itself, which its slabs hold on to.
pub(super) struct Shared {
    what: &'static str,
    ground: Arc<Ground>,
    /// What the region was given, as (offset, length) in the mapping.
    parts: Vec<(usize, usize)>,
    /// Told when nothing is used any more.
    empty: Notify,
    state: Mutex<State>,
}

struct State {
    /// Free parts as (offset, length), sorted by offset.
    free: Vec<(usize, usize)>,
    used: usize,
    peak: usize,
    waiters: VecDeque<(usize, oneshot::Sender<Slab>)>,
    closed: bool,
}

impl Region {
    pub(super) fn new(what: &'static str, ground: Arc<Ground>, parts: Vec<(usize, usize)>) -> Self {
        let mut state = State { free: Vec::new(), used: 0, peak: 0, waiters: VecDeque::new(), closed: false };
        parts.iter().for_each(|&(offset, len)| give_back(&mut state.free, offset, len));
        Self {
            shared: Arc::new(Shared { what, ground, parts, empty: Notify::new(), state: Mutex::new(state) }),
            populates: false,
        }
    }

    /// The same memory; what [`Self::allocate`] gives of it is made resident first, on the thread that asked. Otherwise whoever writes first
    /// does that, a page at a time, and it may be the one thread that submits reads.
    pub fn populating(&self) -> Self {
        Self { shared: self.shared.clone(), populates: true }
    }

    /// Gives back to the arena what is free now, and what is used as soon as it is let go: nothing is allocated from here any more.
    pub fn close(&self) {
        let (free, waiters) = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.free), std::mem::take(&mut state.waiters))
        };
        free.into_iter().for_each(|(offset, len)| self.shared.ground.give_back(offset, len));
        // Outside the lock: whoever waits sees the end, and leaves the line.
        drop(waiters);
    }

    /// Waits in line for `bytes` (rounded up to pages). An error where the region is smaller than that.
    pub async fn allocate(&self, bytes: usize) -> Result<Slab> {
        let slab = self.in_line(bytes).await?;
        if self.populates {
            Ground::populate(&slab);
        }
        Ok(slab)
    }

    async fn in_line(&self, bytes: usize) -> Result<Slab> {
        let pages = self.pages(bytes)?;
        let mut place = {
            let mut state = self.shared.state.lock();
            if state.closed {
                return Err(Error::Closed);
            }
            if state.waiters.is_empty()
                && let Some(slab) = self.shared.take(&mut state, pages, bytes)
            {
                return Ok(slab);
            }
            let (turn, waiting) = oneshot::channel();
            state.waiters.push_back((bytes, turn));
            Place { home: &self.shared, turn: Some(waiting) }
        };
        // The region outlives its waiters: `self` is borrowed here.
        let Some(waiting) = &mut place.turn else { return Err(Error::Closed) };
        let slab = waiting.await.map_err(|_| Error::Closed);
        place.turn = None;
        slab
    }

    /// `bytes` at once, or nothing: somebody is waiting, or there is no room.
    pub fn try_allocate(&self, bytes: usize) -> Option<Slab> {
        let pages = self.pages(bytes).ok()?;
        let mut state = self.shared.state.lock();
        if !state.waiters.is_empty() {
            return None;
        }
        self.shared.take(&mut state, pages, bytes)
    }

    /// `bytes` (rounded up to pages) at `offset`, in one of the [`parts`](Self::parts): for those who keep the books themselves.
    /// Nothing where some of that is given out, or lies outside.
    pub fn try_allocate_at(&self, offset: usize, bytes: usize) -> Option<Slab> {
        let pages = self.pages(bytes).ok()?;
        let mut state = self.shared.state.lock();
        let at = state.free.partition_point(|&(start, _)| start <= offset).checked_sub(1)?;
        let (start, have) = state.free[at];
        let before = offset - start;
        if !offset.is_multiple_of(PAGE) || before + pages > have {
            return None;
        }
        let behind = (offset + pages, have - before - pages);
        let left = [(start, before), behind].into_iter().filter(|&(_, len)| len > 0);
        state.free.splice(at..=at, left);
        Some(self.shared.give(&mut state, offset, pages, bytes))
    }

    /// What the region was given of the arena, as (offset, length).
    pub fn parts(&self) -> &[(usize, usize)] {
        &self.shared.parts
    }

    /// Waits until nothing that was allocated is used any more.
    pub async fn drained(&self) {
        loop {
            // Made before the look: what is told between the two is heard.
            let told = self.shared.empty.notified();
            if self.used_bytes() == 0 {
                return;
            }
            told.await;
        }
    }

    /// Where a lease lies in the memory that this region was carved from; none where it is not this region's.
    pub(crate) fn offset_of(&self, lease: &Lease) -> Option<u64> {
        let offset = self.shared.ground.offset_of(lease)?;
        let inside = |&(start, len): &(usize, usize)| start <= offset && offset + lease.len() <= start + len;
        self.shared.parts.iter().any(inside).then_some(offset as u64)
    }

    /// Bytes of the region, used or not.
    pub fn capacity_bytes(&self) -> usize {
        self.shared.parts.iter().map(|&(_, len)| len).sum()
    }

    /// Bytes given out.
    pub fn used_bytes(&self) -> usize {
        self.shared.state.lock().used
    }

    /// The most that was ever given out.
    pub fn peak_bytes(&self) -> usize {
        self.shared.state.lock().peak
    }

    fn pages(&self, bytes: usize) -> Result<usize> {
        let pages = bytes.max(1).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
        let largest = self.shared.parts.iter().map(|&(_, len)| len).max().unwrap_or(0);
        if pages > largest {
            return Err(Error::MemoryTooSmall {
                limit_bytes: largest as u64,
                needed_bytes: pages as u64,
                what: format!("the region for {} must hold this one piece", self.shared.what),
            });
        }
        Ok(pages)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({}, {} of {} bytes)", self.shared.what, self.used_bytes(), self.capacity_bytes())
    }
}

impl Shared {
    fn take(self: &Arc<Self>, state: &mut State, pages: usize, bytes: usize) -> Option<Slab> {
        let at = state.free.iter().position(|&(_, have)| have >= pages)?;
        let (offset, _) = cut(&mut state.free, at, pages);
        Some(self.give(state, offset, pages, bytes))
    }

    /// A slab of what was just taken from the free parts.
    fn give(self: &Arc<Self>, state: &mut State, offset: usize, pages: usize, bytes: usize) -> Slab {
        state.used += pages;
        state.peak = state.peak.max(state.used);
        Slab::in_region(self.clone(), offset, pages, self.ground.at(offset), bytes)
    }

    /// Takes back what a slab had.
    pub(super) fn put(self: &Arc<Self>, offset: usize, pages: usize) {
        let mut state = self.state.lock();
        let closed = state.closed;
        if closed {
            drop(state);
            // Before it counts as no longer used: who waited for that finds it in the arena.
            self.ground.give_back(offset, pages);
            state = self.state.lock();
        }
        state.used -= pages;
        if state.used == 0 {
            self.empty.notify_waiters();
        }
        if !closed {
            give_back(&mut state.free, offset, pages);
            self.serve(&mut state);
        }
    }

    /// Gives memory to those who wait, in line; whoever has gone loses the place.
    fn serve(self: &Arc<Self>, state: &mut State) {
        loop {
            while state.waiters.front().is_some_and(|(_, turn)| turn.is_closed()) {
                state.waiters.pop_front();
            }
            let Some(bytes) = state.waiters.front().map(|(bytes, _)| *bytes) else { return };
            let pages = bytes.max(1).next_multiple_of(PAGE);
            let Some(slab) = self.take(state, pages, bytes) else { return };
            let Some((_, turn)) = state.waiters.pop_front() else { return };
            // Whoever waited may have just gone. Undone by hand: dropping the slab would lock the state again.
            if let Err(unwanted) = turn.send(slab)
                && let Some((offset, pages)) = unwanted.into_extent()
            {
                give_back(&mut state.free, offset, pages);
                state.used -= pages;
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let free = std::mem::take(&mut self.state.get_mut().free);
        free.into_iter().for_each(|(offset, len)| self.ground.give_back(offset, len));
    }
}

/// A place in the line. Left early, it lets those behind it move up: nothing else may ever be freed.
struct Place<'a> {
    home: &'a Arc<Shared>,
    turn: Option<oneshot::Receiver<Slab>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // A slab that has come already is given back here, before the lock is taken.
        if self.turn.take().is_some() {
            self.home.serve(&mut self.home.state.lock());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Arena;
    use super::*;

    fn region(bytes: usize) -> Region {
        Arena::new(1 << 20).unwrap().region("test", bytes).unwrap()
    }

    #[test]
    fn a_slab_that_is_too_large_for_the_region_is_an_error_not_a_wait() {
        let error = futures::executor::block_on(region(8192).allocate(8193)).unwrap_err();
        assert!(matches!(error, Error::MemoryTooSmall { needed_bytes: 12288, .. }), "{error}");
    }

    #[test]
    fn a_place_is_given_once_and_comes_back() {
        let region = region(8 * PAGE);
        let start = region.parts()[0].0;
        let at = |page: usize, bytes| region.try_allocate_at(start + page * PAGE, bytes);
        let (middle, last) = (at(3, 2 * PAGE - 1).unwrap(), at(7, 1).unwrap());
        assert_eq!(
            (middle.len(), middle.capacity(), region.used_bytes()),
            (2 * PAGE - 1, 2 * PAGE, 3 * PAGE)
        );
        assert!(
            at(4, 1).is_none()
                && at(2, PAGE + 1).is_none()
                && at(6, 2 * PAGE).is_none()
                && at(8, 1).is_none()
        );
        assert!(region.try_allocate_at(start + 1, 1).is_none(), "no page begins there");
        assert!(at(2, PAGE).is_some() && at(0, 3 * PAGE).is_some() && at(5, 2 * PAGE).is_some());
        drop(middle);
        let leases: Vec<_> = (0..7).map(|page| at(page, PAGE).unwrap().freeze()).collect();
        assert!(at(3, 1).is_none() && region.try_allocate(1).is_none());
        drop((leases, last));
        assert_eq!(region.used_bytes(), 0);
        region.try_allocate(8 * PAGE).unwrap();
    }

    #[test]
    fn what_a_closed_region_no_longer_uses_is_in_the_arena() {
        let arena = Arena::new(1 << 20).unwrap();
        let whole = arena.free_bytes();
        for _ in 0..2000 {
            let region = arena.region("test", PAGE).unwrap();
            let last = region.try_allocate(PAGE).unwrap();
            region.close();
            std::thread::scope(|scope| {
                scope.spawn(|| drop(last));
                // Asked again and again: who is told is too late to see the moment between the two.
                while region.used_bytes() > 0 {
                    std::hint::spin_loop();
                }
                assert_eq!(arena.free_bytes(), whole);
            });
        }
    }

    #[tokio::test]
    async fn waiters_are_served_in_line() {
        let region = region(4 * PAGE);
        let all = region.allocate(4 * PAGE).await.unwrap();
        let mut large = Box::pin(region.allocate(3 * PAGE));
        assert!(futures::poll!(&mut large).is_pending());
        assert!(region.try_allocate(1).is_none(), "a small request does not overtake");
        drop(all);
        assert_eq!(large.await.unwrap().len(), 3 * PAGE);
        assert_eq!(region.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaks_nothing() {
        let region = region(2 * PAGE);
        let all = region.allocate(2 * PAGE).await.unwrap();
        let mut gone = Box::pin(region.allocate(PAGE));
        let mut stays = Box::pin(region.allocate(2 * PAGE));
        assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut stays).is_pending());
        drop(gone);
        drop(all);
        drop(stays.await.unwrap());
        assert_eq!(region.used_bytes(), 0);
        assert_eq!(region.peak_bytes(), 2 * PAGE);
    }

    #[tokio::test]
    async fn whoever_leaves_the_line_lets_those_behind_move_up() {
        let region = region(2 * PAGE);
        let half = region.allocate(PAGE).await.unwrap();
        let mut large = Box::pin(region.allocate(2 * PAGE));
        let mut small = Box::pin(region.allocate(PAGE));
        assert!(futures::poll!(&mut large).is_pending() && futures::poll!(&mut small).is_pending());
        drop(large);
        assert_eq!(small.await.unwrap().len(), PAGE, "nothing was freed meanwhile");
        drop(half);
        assert_eq!(region.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_closed_region_keeps_only_what_is_used() {
        let arena = Arena::new(1 << 20).unwrap();
        let region = arena.region("test", 1 << 20).unwrap();
        let lease = region.try_allocate(2 * PAGE).unwrap().freeze();
        let mut waits = Box::pin(region.allocate(1 << 20));
        assert!(futures::poll!(&mut waits).is_pending());
        region.close();
        assert!(matches!(waits.await, Err(Error::Closed)));
        assert!(matches!(region.allocate(1).await, Err(Error::Closed)) && region.try_allocate(1).is_none());
        assert_eq!(arena.free_bytes(), (1 << 20) - 2 * PAGE);
        let mut drained = Box::pin(region.drained());
        assert!(futures::poll!(&mut drained).is_pending());
        drop(lease);
        drained.await;
        assert_eq!(arena.free_bytes(), 1 << 20);
        drop(region);
        arena.region("again", 1 << 20).unwrap();
    }

    #[test]
    fn a_lease_keeps_its_bytes_after_the_region_is_dropped() {
        let region = region(PAGE);
        let mut slab = region.try_allocate(5).unwrap();
        slab.copy_from_slice(b"hello");
        let lease = slab.freeze().slice(1..4);
        drop(region);
        assert_eq!(&*lease, b"ell");
    }
}
