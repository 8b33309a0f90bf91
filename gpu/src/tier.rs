//! Which samples stay decoded in memory, and where they lie there.
//!
//! Pure bookkeeping of one memory under a byte budget, whatever the memory is: nothing is copied here and nothing waits. The plan knows when a
//! sample is needed next, so what has to leave is what is needed last (Belady's rule), and what is needed later than everything that
//! is here stays out: under a cyclic scan, where LRU never hits, a part of the samples stays. Where samples have one size, no rule hits more
//! often.
//!
//! Each sample has one contiguous extent. Sizes differ, so that what leaves may lie in pieces that are too small: then neighbours of what is
//! needed last leave with it, as long as they too are needed later than what comes.
//!
//! A sample that is pinned, or that is still being written, stays where it is.

mod space;

use std::collections::{BTreeSet, HashMap};

use space::{Extent, Space};

/// When a sample is needed next: smaller is sooner. Any scale will do that stays the same between two calls of [`Tier::begin`].
pub type Need = u64;

/// Not in any future that is looked at.
pub const NEVER: Need = Need::MAX;

/// Of those needed last, how many are looked at for a place: sizes are similar, so one of the first will do.
const LOOKS: usize = 16;

/// Samples that are kept, by their number in storage order; `T` is what holds a sample's bytes.
#[derive(Debug)]
pub struct Tier<T> {
    space: Space,
    granule: u64,
    used: u64,
    entries: HashMap<u64, Entry<T>>,
    /// Those that may leave, with their needs. Made when something has to leave, so that memory that holds everything costs nothing.
    ranking: Option<BTreeSet<(Need, u64)>>,
}

#[derive(Debug)]
struct Entry<T> {
    extent: Extent,
    pins: u32,
    /// As the ranking has it; without one it means nothing.
    need: Need,
    /// None: still being written.
    held: Option<T>,
}

/// Where a sample is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of the first byte in the memory.
    pub offset: u64,
    /// Bytes set aside, in whole granules.
    pub len: u64,
}

/// A window of neighbours that may leave for one that comes.
struct Window {
    /// Those of its extents that somebody holds.
    leaving: Vec<u64>,
    /// The soonest need among them.
    soonest: Need,
    bytes: u64,
}

impl<T> Tier<T> {
    /// Keeps samples in these parts of a memory, as (offset, length), in whole granules of so many bytes.
    pub fn new(parts: impl IntoIterator<Item = (u64, u64)>, granule: u64) -> Self {
        let whole = |(offset, len): (u64, u64)| {
            let first = offset.next_multiple_of(granule);
            (first, (offset + len).saturating_sub(first) / granule * granule)
        };
        Self {
            space: Space::new(parts.into_iter().map(whole)),
            granule,
            used: 0,
            entries: HashMap::new(),
            ranking: None,
        }
    }

    /// Begins another epoch: needs are asked for anew.
    pub fn begin(&mut self) {
        self.ranking = None;
    }

    /// A sample that is kept, from now on pinned; it is needed again when `need` says. `None` where it isn't here, or not yet.
    pub fn pin(&mut self, sample: u64, need: impl FnOnce(u64) -> Need) -> Option<&T> {
        let entry = self.entries.get_mut(&sample).filter(|entry| entry.held.is_some())?;
        if let Some(ranking) = &mut self.ranking {
            ranking.remove(&(entry.need, sample));
            entry.need = need(sample);
        }
        entry.pins += 1;
        entry.held.as_ref()
    }

    /// Takes one pin back. What held the bytes must have been let go before.
    pub fn unpin(&mut self, sample: u64) {
        let Some(entry) = self.entries.get_mut(&sample) else { return };
        entry.pins = entry.pins.saturating_sub(1);
        if entry.pins == 0
            && let Some(ranking) = &mut self.ranking
        {
            ranking.insert((entry.need, sample));
        }
    }

    /// A place for a sample of so many bytes, where it is worth it: what leaves for it is needed later. The sample is being written until
    /// [`fill`](Self::fill) or [`abandon`](Self::abandon). `need` is asked for this one and, once an epoch, for all that are here.
    pub fn reserve(&mut self, sample: u64, bytes: u64, need: impl Fn(u64) -> Need) -> Option<Place> {
        let len = bytes.max(1).checked_next_multiple_of(self.granule)?;
        if len > self.space.capacity() || self.entries.contains_key(&sample) {
            return None;
        }
        let own = need(sample);
        let offset = match self.space.fit(len) {
            Some(offset) => offset,
            None => self.make_room(len, own, need)?,
        };
        self.space.take(offset, len, sample);
        self.used += len;
        let extent = Extent { offset, len, holder: Some(sample) };
        self.entries.insert(sample, Entry { extent, pins: 1, need: own, held: None });
        Some(Place { offset, len })
    }

    /// What was reserved is written, and `held` holds it.
    pub fn fill(&mut self, sample: u64, held: T) {
        if let Some(entry) = self.entries.get_mut(&sample) {
            entry.held = Some(held);
        }
        self.unpin(sample);
    }

    /// What was reserved isn't written: its place is free again.
    pub fn abandon(&mut self, sample: u64) {
        if self.entries.get(&sample).is_some_and(|entry| entry.held.is_none()) {
            self.remove(sample);
        }
    }

    /// Lets go of everything, pinned or not.
    pub fn clear(&mut self) {
        self.ranking = None;
        for (_, entry) in self.entries.drain() {
            self.space.give_back(entry.extent.offset);
        }
        self.used = 0;
    }

    /// Whether a sample is here, written.
    pub fn holds(&self, sample: u64) -> bool {
        self.entries.get(&sample).is_some_and(|entry| entry.held.is_some())
    }

    /// Samples that are here or being written.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True where nothing is here.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes set aside for them.
    pub fn used_bytes(&self) -> u64 {
        self.used
    }

    /// The budget.
    pub fn capacity_bytes(&self) -> u64 {
        self.space.capacity()
    }

    /// Has samples leave that are needed later than `own`, so that `len` bytes lie free in one piece; where.
    fn make_room(&mut self, len: u64, own: Need, need: impl Fn(u64) -> Need) -> Option<u64> {
        self.rank(need);
        let mut best: Option<Window> = None;
        for &(latest, sample) in self.ranking.as_ref()?.iter().rev().take(LOOKS) {
            if latest <= own || best.as_ref().is_some_and(|best| best.soonest >= latest) {
                break;
            }
            let Some(window) = self.grow(sample, len, own) else { continue };
            let better = |best: &Window| {
                window.soonest > best.soonest || (window.soonest == best.soonest && window.bytes < best.bytes)
            };
            if best.as_ref().is_none_or(better) {
                best = Some(window);
            }
        }
        best?.leaving.into_iter().for_each(|sample| self.remove(sample));
        // What was free before was too small: this is the window.
        self.space.fit(len)
    }

    /// Asks for all needs, where none are known yet.
    fn rank(&mut self, need: impl Fn(u64) -> Need) {
        if self.ranking.is_some() {
            return;
        }
        let ask = |(&sample, entry): (&u64, &mut Entry<T>)| {
            entry.need = need(sample);
            (entry.pins == 0).then_some((entry.need, sample))
        };
        self.ranking = Some(self.entries.iter_mut().filter_map(ask).collect());
    }

    /// The neighbours that would leave with `sample` to make `len` bytes free; `None` where they don't all come later than `own`.
    fn grow(&self, sample: u64, len: u64, own: Need) -> Option<Window> {
        let mut first = self.entries.get(&sample)?.extent;
        let mut last = first;
        let mut window = Window { leaving: vec![sample], soonest: self.leaves(&first)?, bytes: first.len };
        while last.end() - first.offset < len {
            let side = |extent: Option<Extent>| {
                extent.and_then(|extent| Some((self.leaves(&extent).filter(|&need| need > own)?, extent)))
            };
            let (left, right) = (side(self.space.left_of(&first)), side(self.space.right_of(&last)));
            let sides = [left, right].into_iter().flatten();
            let (need, extent) = sides.max_by_key(|(need, extent)| (*need, extent.holder.is_none()))?;
            if extent.offset < first.offset {
                first = extent;
            } else {
                last = extent;
            }
            window.soonest = window.soonest.min(need);
            if let Some(holder) = extent.holder {
                window.leaving.push(holder);
                window.bytes += extent.len;
            }
        }
        Some(window)
    }

    /// When the extent's holder is needed, where it may leave; free extents are never needed.
    fn leaves(&self, extent: &Extent) -> Option<Need> {
        let Some(holder) = extent.holder else { return Some(NEVER) };
        self.entries.get(&holder).filter(|entry| entry.pins == 0).map(|entry| entry.need)
    }

    fn remove(&mut self, sample: u64) {
        let Some(entry) = self.entries.remove(&sample) else { return };
        if let Some(ranking) = &mut self.ranking {
            ranking.remove(&(entry.need, sample));
        }
        self.used -= entry.extent.len;
        self.space.give_back(entry.extent.offset);
    }
}

#[cfg(test)]
mod tests;
