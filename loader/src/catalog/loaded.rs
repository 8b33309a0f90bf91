//! Shard indexes in memory: the ones in use, under a limit in bytes, each loaded once however many ask.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::dataset::ShardIndex;
use crate::error::Result;

/// Indexes by shard, the least recently used one goes first.
#[derive(Debug)]
pub(crate) struct Loaded {
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tick: u64,
    shards: HashMap<u32, Entry>,
}

#[derive(Debug)]
struct Entry {
    used: u64,
    index: Arc<OnceCell<Arc<ShardIndex>>>,
}

impl Loaded {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, state: Mutex::default() }
    }

    /// The index of `shard`, made by `load` where it is not here. Whoever comes while it is made waits for the same one; a failure is
    /// not kept.
    pub(crate) async fn get(
        &self,
        shard: u32,
        load: impl Future<Output = Result<Arc<ShardIndex>>>,
    ) -> Result<Arc<ShardIndex>> {
        let cell = {
            let mut state = self.state.lock();
            state.tick += 1;
            let used = state.tick;
            let entry = state.shards.entry(shard).or_insert_with(|| Entry { used, index: Arc::default() });
            entry.used = used;
            entry.index.clone()
        };
        if let Some(index) = cell.get() {
            return Ok(index.clone());
        }
        let index = cell.get_or_try_init(|| load).await?.clone();
        self.trim();
        Ok(index)
    }

    /// Lets all of them go.
    pub(crate) fn clear(&self) {
        self.state.lock().shards.clear();
    }

    /// Lets the index of `shard` go.
    pub(crate) fn forget(&self, shard: u32) {
        self.state.lock().shards.remove(&shard);
    }

    /// Lets the least recently used ones go until the limit holds; the last one stays whatever its size.
    fn trim(&self) {
        let mut state = self.state.lock();
        let bytes = |entry: &Entry| entry.index.get().map_or(0, |index| index.as_bytes().len());
        let mut total: usize = state.shards.values().map(bytes).sum();
        while total > self.limit_bytes && state.shards.len() > 1 {
            let loaded = state.shards.iter().filter(|(_, entry)| entry.index.initialized());
            let Some(oldest) = loaded.min_by_key(|(_, entry)| entry.used).map(|(shard, _)| *shard) else {
                return;
            };
            total -= state.shards.remove(&oldest).map_or(0, |entry| bytes(&entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{SampleEntry, ShardIndexBuilder};
    use forebay_cache::ObjectId;

    fn index() -> Result<Arc<ShardIndex>> {
        let mut builder = ShardIndexBuilder::new();
        builder.push(&SampleEntry::new(b"a", vec![])).ok();
        Ok(Arc::new(builder.finish(ObjectId::from_bytes([0; 16]), 0).unwrap()))
    }

    #[tokio::test]
    async fn an_index_is_loaded_once_and_the_oldest_one_goes() {
        let one = index().unwrap().as_bytes().len();
        let loaded = Loaded::new(2 * one);
        let mut loads = 0;
        for shard in [0, 1, 0, 2, 0, 1] {
            let load = async {
                loads += 1;
                index()
            };
            loaded.get(shard, load).await.unwrap();
        }
        assert_eq!(loads, 4, "0, 1, 2, and 1 again, which was the oldest when 2 came");
    }
}
