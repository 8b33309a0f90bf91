//! Pages of checksums in memory: those of the blocks in use, a bounded number of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::checksum::{CrcPage, PAGE_BYTES};
use crate::object::BlockId;

/// A page, its entry in the table and what the allocator keeps.
const BYTES_OF_PAGE: usize = PAGE_BYTES + 128;

/// Two generations: what was used since the older one began stays, the rest goes when the younger one is full.
#[derive(Debug)]
pub(super) struct Pages {
    /// Pages per generation.
    generation: usize,
    young: HashMap<BlockId, Arc<CrcPage>>,
    old: HashMap<BlockId, Arc<CrcPage>>,
}

impl Pages {
    /// At most `bytes` of pages.
    pub(super) fn new(bytes: usize) -> Self {
        let generation = (bytes / BYTES_OF_PAGE / 2).max(1);
        Self { generation, young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn get(&mut self, id: BlockId) -> Option<Arc<CrcPage>> {
        if let Some(page) = self.young.get(&id) {
            return Some(page.clone());
        }
        let page = self.old.remove(&id)?;
        self.put(id, page.clone());
        Some(page)
    }

    pub(super) fn put(&mut self, id: BlockId, page: Arc<CrcPage>) {
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, page);
    }

    pub(super) fn remove(&mut self, id: BlockId) {
        self.young.remove(&id);
        self.old.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectId;

    #[test]
    fn pages_in_use_stay_and_the_number_is_bounded() {
        let mut pages = Pages::new(128 * BYTES_OF_PAGE);
        let page = Arc::new(CrcPage::of(b""));
        let id = |index| BlockId { object: ObjectId::from_bytes([0; 16]), index };
        for index in 0..5 * 64 {
            pages.put(id(index), page.clone());
            assert!(pages.get(id(0)).is_some());
        }
        assert!(pages.young.len() + pages.old.len() <= 128);
        pages.remove(id(0));
        assert!(pages.get(id(0)).is_none());
    }
}
