//! Walks the pages of the order (windows of lanes) ahead of the planner, at two distances.
//!
//! Far ahead, pages come into the cache folder, and the cache is told which are finished, so that it evicts what is not needed again in this
//! epoch. Shortly before the planner reaches a page, its blocks come from the folder to host memory, as far as there is room: a block
//! is then read once instead of once for each of its samples. Neither walk waits for the other, and nothing waits for either: what they
//! leave, readers ask for themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_cache::{Cache, Hold};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::catalog::Catalog;
use crate::decoded::Nearest;
use crate::error::Result;
use crate::pages::{OpenPages, PageBytes};
use crate::plan::{Order, Page, Readers, SampleRef};

/// Prefetches of pieces under way at once; the cache bounds its connections itself.
const PIECES_AT_ONCE: usize = 8;

/// Pieces on their way to host memory at once, each by one block: they keep a disk busy that serves readers too.
const HOLDS_AT_ONCE: usize = 4;

/// The pages of an epoch, as the planner comes near them.
#[derive(Clone, Debug)]
pub(crate) struct Approach {
    pub(crate) catalog: Arc<Catalog>,
    /// Samples that need no page.
    pub(crate) nearest: Nearest,
    pub(crate) order: Arc<Order>,
    pub(crate) readers: Readers,
    /// Positions ahead of the planner at which a page is due.
    pub(crate) horizon: u64,
    /// The first position of the batch that the planner makes.
    pub(crate) reached: watch::Receiver<u64>,
}

impl Approach {
    /// Waits until a page is due; `passed` hears meanwhile how far the planner is. False where the planner has ended.
    async fn due(&mut self, page: &Page, mut passed: impl FnMut(u64)) -> bool {
        while self.reached().saturating_add(self.horizon) < page.first {
            if self.reached.changed().await.is_err() {
                return false;
            }
            passed(self.reached());
        }
        true
    }

    /// Whether every sample of a page is kept decoded.
    fn is_decoded(&self, page: &Page) -> bool {
        if !self.nearest.keeps() {
            return false;
        }
        self.order.pieces(page.id).iter().all(|piece| {
            let first = SampleRef { shard: piece.shard, index: piece.samples.start };
            let first = self.order.sample_number(first);
            self.nearest.hold(first..first + piece.len())
        })
    }

    fn reached(&mut self) -> u64 {
        *self.reached.borrow_and_update()
    }

    async fn bytes_of(&self, page: &Page) -> Result<PageBytes> {
        let mut bytes = Vec::new();
        for piece in self.order.pieces(page.id) {
            bytes.push(self.catalog.bytes_of(&piece).await?);
        }
        Ok(bytes)
    }

    /// Brings pages into the cache folder, to the end of the epoch.
    pub(crate) async fn prefetch(mut self, cache: Cache) {
        if let Err(error) = self.prefetch_pages(&cache).await {
            tracing::debug!(%error, "readahead ended; reads go on without it");
        }
    }

    async fn prefetch_pages(&mut self, cache: &Cache) -> Result<()> {
        let order = self.order.clone();
        let position = self.reached();
        let mut open = OpenPages::new(cache.clone());
        let mut fetches: JoinSet<()> = JoinSet::new();
        for page in order.pages_from(position, &self.readers.clone()) {
            if !self.due(&page, |reached| open.close_before(reached)).await {
                return Ok(());
            }
            if self.is_decoded(&page) {
                continue;
            }
            let bytes = self.bytes_of(&page).await?;
            open.open(page.last, bytes.clone());
            for (object, range) in bytes {
                while fetches.len() >= PIECES_AT_ONCE {
                    fetches.join_next().await;
                    open.close_before(self.reached());
                }
                let cache = cache.clone();
                fetches.spawn(async move {
                    if let Err(error) = cache.prefetch(&object, range).await {
                        tracing::debug!(%error, "a prefetch failed; the reader will ask again");
                    }
                });
            }
        }
        while !open.is_empty() && self.reached.changed().await.is_ok() {
            open.close_before(self.reached());
        }
        Ok(())
    }

    /// Brings pages from the cache folder to host memory, to the end of the epoch.
    pub(crate) async fn hold(mut self, cache: Cache) {
        if let Err(error) = self.hold_pages(&cache).await {
            tracing::debug!(%error, "reading ahead of the planner ended; reads go on without it");
        }
    }

    async fn hold_pages(&mut self, cache: &Cache) -> Result<()> {
        let order = self.order.clone();
        let position = self.reached();
        let mut held = HeldPages::default();
        let mut reads: JoinSet<(u64, Option<Hold>)> = JoinSet::new();
        for page in order.pages_from(position, &self.readers.clone()) {
            if !self.due(&page, |reached| held.let_go_before(reached)).await {
                return Ok(());
            }
            if self.is_decoded(&page) {
                continue;
            }
            for (object, range) in self.bytes_of(&page).await? {
                while reads.len() >= HOLDS_AT_ONCE {
                    held.take(reads.join_next().await);
                    held.let_go_before(self.reached());
                }
                let cache = cache.clone();
                reads.spawn(async move {
                    let hold = cache.hold(&object, range).await;
                    let hold = hold.inspect_err(
                        |error| tracing::debug!(%error, "reading ahead failed; the reader will ask"),
                    );
                    (page.last, hold.ok().flatten())
                });
            }
        }
        loop {
            let ended = tokio::select! {
                done = reads.join_next(), if !reads.is_empty() => {
                    held.take(done);
                    false
                }
                changed = self.reached.changed() => changed.is_err(),
            };
            held.let_go_before(self.reached());
            if ended || (reads.is_empty() && held.0.is_empty()) {
                return Ok(());
            }
        }
    }
}

/// Blocks in host memory, by the last position that needs them.
#[derive(Debug, Default)]
struct HeldPages(BTreeMap<u64, Vec<Hold>>);

impl HeldPages {
    fn take(&mut self, read: Option<std::result::Result<(u64, Option<Hold>), tokio::task::JoinError>>) {
        if let Some(Ok((last, Some(hold)))) = read {
            self.0.entry(last).or_default().push(hold);
        }
    }

    fn let_go_before(&mut self, reached: u64) {
        self.0 = self.0.split_off(&reached);
    }
}
