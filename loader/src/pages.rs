//! What the cache is told of the pages that are open: which blocks will be read in this epoch, and which are finished.
//!
//! Neighbouring pages share the block at their edge, and small pages share all of theirs: a block is finished when the last page that holds
//! it is. Whatever is still open when this goes, because the epoch ended or was left, is withdrawn: the next one says anew what it needs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_cache::disk::Advice;
use forebay_cache::{ByteRange, Cache, ObjectMeta};

/// The parts of objects that one page holds.
pub(crate) type PageBytes = Vec<(Arc<ObjectMeta>, ByteRange)>;

/// The open pages of one epoch.
pub(crate) struct OpenPages {
    cache: Cache,
    /// By the last position that needs them.
    pages: BTreeMap<u64, Vec<PageBytes>>,
    /// How many open pages hold a block.
    uses: HashMap<(forebay_cache::ObjectId, u32), Use>,
}

struct Use {
    object: Arc<ObjectMeta>,
    pages: u32,
}

impl OpenPages {
    pub(crate) fn new(cache: Cache) -> Self {
        Self { cache, pages: BTreeMap::new(), uses: HashMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Opens a page that is needed up to position `last`.
    pub(crate) fn open(&mut self, last: u64, bytes: PageBytes) {
        for (object, range) in &bytes {
            self.cache.advise(&object.id, *range, Advice::WillNeed);
            for block in range.blocks() {
                let new = || Use { object: object.clone(), pages: 0 };
                self.uses.entry((object.id, block)).or_insert_with(new).pages += 1;
            }
        }
        self.pages.entry(last).or_default().push(bytes);
    }

    /// Closes the pages whose last position lies before `reached`.
    pub(crate) fn close_before(&mut self, reached: u64) {
        let later = self.pages.split_off(&reached);
        for (object, range) in std::mem::replace(&mut self.pages, later).into_values().flatten().flatten() {
            for block in range.blocks() {
                let Some(used) = self.uses.get_mut(&(object.id, block)) else { continue };
                used.pages -= 1;
                if used.pages == 0 {
                    self.uses.remove(&(object.id, block));
                    self.cache.advise(&object.id, object.block_range(block), Advice::Done);
                }
            }
        }
    }
}

impl Drop for OpenPages {
    fn drop(&mut self) {
        for ((_, block), used) in self.uses.drain() {
            self.cache.advise(&used.object.id, used.object.block_range(block), Advice::None);
        }
    }
}
