//! Which pieces of shards a stretch of an epoch needs: pages.
//!
//! A page is one window of one lane (of storage order: 32 samples; of a global order: everything). It is needed from the
//! first of its positions to the last; at any position every lane has one page open. Prefetching, eviction and
//! the check of `cache_limit` all ask here; nothing here knows bytes, but by a function that the caller gives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::line::{Piece, merge_pieces};
use super::order::{Order, OrderMode};
use super::ranks::World;
use crate::Result;

/// Above this many pages the peak is bounded instead of walked: a second of work at most.
const MOST_PAGES_WALKED: u64 = 1 << 20;

/// Names a page of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId {
    /// The lane, by its place on the line.
    pub place: u32,
    /// Which of the lane's windows, from 0.
    pub window: u64,
}

/// When a page is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its name.
    pub id: PageId,
    /// The first position that needs it.
    pub first: u64,
    /// The last one: behind it the page is finished.
    pub last: u64,
    /// How many samples it holds.
    pub samples: u64,
}

/// The ranks that one cache serves: neighbours, as on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readers {
    ranks: Range<u32>,
    world: u32,
}

impl Readers {
    /// All ranks.
    pub fn all() -> Self {
        Self { ranks: 0..1, world: 1 }
    }

    /// Ranks `ranks` of `world`; `None` where there is no such rank.
    pub fn new(ranks: Range<u32>, world: u32) -> Option<Self> {
        (!ranks.is_empty() && ranks.end <= world).then_some(Self { ranks, world })
    }

    /// True where one of the ranks takes a position of this lane.
    fn reach(&self, lane: u64, lanes: u64) -> bool {
        let common = gcd(u64::from(self.world), lanes);
        let first = u64::from(self.ranks.start) % common;
        (lane % common + common - first) % common < self.ranks.len() as u64
    }
}

impl From<World> for Readers {
    fn from(world: World) -> Self {
        Self { ranks: world.rank()..world.rank() + 1, world: world.size() }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Order {
    /// The page that holds `position`.
    ///
    /// # Panics
    /// Where `position` is not below [`total`](Self::total).
    pub fn page_of(&self, position: u64) -> PageId {
        let (place, offset) = self.locate(position);
        self.lanes.page_at(place, offset)
    }

    /// When a page is needed; `None` where the epoch has no such page.
    pub fn page(&self, id: PageId) -> Option<Page> {
        let offsets = self.lanes.places().contains(&id.place).then(|| self.lanes.offsets(id))?;
        (!offsets.is_empty()).then(|| Page {
            id,
            first: self.lanes.position(id.place, offsets.start),
            last: self.lanes.position(id.place, offsets.end - 1),
            samples: offsets.end - offsets.start,
        })
    }

    /// The page that its lane opens when this one is finished.
    pub fn page_after(&self, id: PageId) -> Option<Page> {
        self.page(PageId { window: id.window.checked_add(1)?, ..id })
    }

    /// What a page covers; nothing where the epoch has no such page. Pages of an epoch don't overlap.
    pub fn pieces(&self, id: PageId) -> Vec<Piece> {
        let Some(page) = self.page(id) else { return Vec::new() };
        let base = self.lanes.stretch(id.place).start + self.lanes.offsets(id).start;
        merge_pieces(self.line().pieces(base..base + page.samples).collect())
    }

    /// The pages that are open when every position before `position` is delivered: those already begun and each lane's
    /// next one where it is about to begin.
    pub fn resident(&self, position: u64, readers: &Readers) -> Vec<Page> {
        let mut pages: Vec<Page> = self.next_of_lanes(position, readers).collect();
        pages.sort_by_key(|page| page.first);
        pages
    }

    /// What the open pages cover, in storage order.
    pub fn resident_pieces(&self, position: u64, readers: &Readers) -> Vec<Piece> {
        let pages = self.next_of_lanes(position, readers);
        merge_pieces(pages.flat_map(|page| self.pieces(page.id)).collect())
    }

    /// Pages that are still needed from `position` on, in the order in which they are first needed: those open now, then
    /// every one to come.
    pub fn pages_from(&self, position: u64, readers: &Readers) -> PagesFrom<'_> {
        let lanes = self.next_of_lanes(position, readers);
        PagesFrom { order: self, next: lanes.map(|page| Reverse((page.first, page.id))).collect() }
    }

    /// The most bytes that are needed at one time from `position` to the end of the epoch: the least that a cache must
    /// hold. A page is needed from `ahead` positions before its first one, which is how far reading runs ahead, to its last
    /// one; `bytes` says what a piece takes in the cache, rounded to its blocks. Where windows are so small that there
    /// are over a million of them the result is an upper bound.
    pub fn peak_bytes(
        &self,
        position: u64,
        ahead: u64,
        readers: &Readers,
        bytes: impl Fn(&Piece) -> u64,
    ) -> u64 {
        if self.total() / self.lanes.window() > MOST_PAGES_WALKED {
            return self.bound_bytes(ahead, readers, bytes);
        }
        let mut open: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        let (mut now, mut peak) = (0u64, 0u64);
        for page in self.pages_from(position, readers) {
            let opens = page.first.saturating_sub(ahead).max(position);
            while let Some(&Reverse((_, done))) = open.peek().filter(|Reverse((last, _))| *last < opens) {
                now -= done;
                open.pop();
            }
            let more =
                self.pieces(page.id).iter().map(&bytes).fold(0, u64::saturating_add).min(u64::MAX - now);
            now += more;
            open.push(Reverse((page.last, more)));
            peak = peak.max(now);
        }
        peak
    }

    /// Checks before the first batch that a cache can hold what the order needs at one time: its windows, or with `whole_bytes` everything.
    /// Windows are counted block by block, so those of a small dataset may take more than the dataset. Other arguments as for
    /// [`peak_bytes`](Self::peak_bytes).
    ///
    /// # Errors
    /// `QuotaTooSmall`, with the least that works and what would make it less.
    pub fn check_cache_limit(
        &self,
        limit_bytes: u64,
        whole_bytes: u64,
        position: u64,
        ahead: u64,
        readers: &Readers,
        bytes: impl Fn(&Piece) -> u64,
    ) -> Result<()> {
        let windows_bytes = self.peak_bytes(position, ahead, readers, bytes);
        let needed_bytes = windows_bytes.min(whole_bytes);
        if needed_bytes <= limit_bytes {
            return Ok(());
        }
        let what = match self.spec().mode {
            OrderMode::Global => {
                "shuffle=\"global\" needs the whole dataset; shuffle=True needs less".to_owned()
            }
            _ if whole_bytes <= windows_bytes => "the whole dataset".to_owned(),
            OrderMode::Storage => {
                "the 32 samples that reading slides over, and what is read ahead".to_owned()
            }
            _ => format!(
                "shuffle_window={} samples and what is read ahead; a smaller shuffle_window needs less",
                self.spec().shuffle_window
            ),
        };
        Err(forebay_cache::Error::QuotaTooSmall { limit_bytes, needed_bytes, what }.into())
    }

    /// Every lane's window at its largest, where the largest samples lie, and the windows that reading ahead opens.
    fn bound_bytes(&self, ahead: u64, readers: &Readers, bytes: impl Fn(&Piece) -> u64) -> u64 {
        let counts = || (0u32..).zip(self.spec().counts.iter().copied()).filter(|(_, count)| *count > 0);
        let window = self.lanes.window();
        let largest =
            counts().map(|(shard, count)| bytes(&Piece { shard, samples: 0..window.min(count) })).max();
        let shortest = counts().map(|(_, count)| count).min().unwrap_or(1);
        // A run of shards, and the two that the lane's edges cut: sticky may lay those anywhere in the lane.
        let shards = window.min(3 + window.div_ceil(shortest));
        let pages_ahead = 1 + ahead.div_ceil(self.lanes.count()).div_ceil(window);
        let pages = (self.reached(readers).count() as u64).saturating_mul(pages_ahead);
        largest.unwrap_or(0).saturating_mul(shards).saturating_mul(pages)
    }

    fn reached<'a>(&'a self, readers: &'a Readers) -> impl Iterator<Item = u32> + 'a {
        self.lanes.places().filter(|&place| readers.reach(self.lanes.lane_at(place), self.lanes.count()))
    }

    /// Of every lane that is read, the page of its next position.
    fn next_of_lanes<'a>(&'a self, position: u64, readers: &'a Readers) -> impl Iterator<Item = Page> + 'a {
        self.reached(readers).filter_map(move |place| {
            let offset = self.lanes.offset_from(place, position);
            (offset < self.lanes.size(place))
                .then(|| self.lanes.page_at(place, offset))
                .and_then(|id| self.page(id))
        })
    }
}

/// Pages in the order in which they are first needed; see [`Order::pages_from`]. O(log lanes) for each.
#[derive(Debug)]
pub struct PagesFrom<'a> {
    order: &'a Order,
    next: BinaryHeap<Reverse<(u64, PageId)>>,
}

impl Iterator for PagesFrom<'_> {
    type Item = Page;

    fn next(&mut self) -> Option<Page> {
        let Reverse((_, id)) = self.next.pop()?;
        if let Some(after) = self.order.page_after(id) {
            self.next.push(Reverse((after.first, after.id)));
        }
        self.order.page(id)
    }
}
