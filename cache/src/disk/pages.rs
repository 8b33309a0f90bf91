//! Pages of checksums in memory: those of the blocks in use, a bounded number of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::checksum::CrcPage;
use crate::object::BlockId;

/// Pages per generation: two of them are 32 MiB of checksums for 32 GiB of blocks, more than the window of a shuffle.
const GENERATION: usize = 4096;

/// Two generations: what was used since the older one began stays, the rest goes when the younger one is full.
#[derive(Debug, Default)]
pub(super) struct Pages {
    young: HashMap<BlockId, Arc<CrcPage>>,
    old: HashMap<BlockId, Arc<CrcPage>>,
}

impl Pages {
    pub(super) fn get(&mut self, id: BlockId) -> Option<Arc<CrcPage>> {
        if let Some(page) = self.young.get(&id) {
            return Some(page.clone());
        }
        let page = self.old.remove(&id)?;
        self.put(id, page.clone());
        Some(page)
    }

    pub(super) fn put(&mut self, id: BlockId, page: Arc<CrcPage>) {
        if self.young.len() >= GENERATION {
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
        let mut pages = Pages::default();
        let page = Arc::new(CrcPage::of(b""));
        let id = |index| BlockId { object: ObjectId::from_bytes([0; 16]), index };
        for index in 0..5 * GENERATION as u32 {
            pages.put(id(index), page.clone());
            assert!(pages.get(id(0)).is_some());
        }
        assert!(pages.young.len() + pages.old.len() <= 2 * GENERATION);
        pages.remove(id(0));
        assert!(pages.get(id(0)).is_none());
    }
}
