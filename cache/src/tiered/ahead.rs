//! Whole blocks from disk to the host tier, for a plan that is about to read most of what they hold.
//!
//! One read of a block costs as much processor time as a few of its samples read one by one; small samples gain most.

use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::inner::Inner;
use super::within;
use crate::disk::reader::read_into;
use crate::error::{Error, Result};
use crate::memory::Slab;
use crate::object::{BlockId, ByteRange, ObjectMeta};
use crate::ram::Holding;

/// Keeps blocks in host memory for as long as it lives; see [`Cache::hold`](super::Cache::hold).
#[derive(Debug)]
#[must_use = "dropped, it holds nothing"]
pub struct Hold {
    inner: Weak<Inner>,
    blocks: Vec<BlockId>,
}

impl Hold {
    /// A hold of no block, for tests of those who ask for one.
    #[cfg(test)]
    pub(crate) fn nothing() -> Self {
        Self { inner: Weak::new(), blocks: Vec::new() }
    }

    /// How many blocks it holds, here or on their way.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // In a forked child the lock may be held by a thread that isn't there.
        if let Some(inner) = self.inner.upgrade().filter(|inner| !inner.is_forked()) {
            self.blocks.iter().for_each(|&block| inner.ram.release(block));
        }
    }
}

impl Inner {
    /// See [`Cache::hold`](super::Cache::hold).
    pub(super) async fn hold(self: &Arc<Self>, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Hold> {
        let mut hold = Hold { inner: Arc::downgrade(self), blocks: Vec::new() };
        for index in within(object, range)?.blocks() {
            let id = BlockId { object: object.id, index };
            let slab = match self.ram.hold(id) {
                Holding::Full => break,
                Holding::Held => None,
                Holding::Missing(slab) => Some(slab),
            };
            hold.blocks.push(id);
            let Some(slab) = slab else { continue };
            // In a task of its own: where nobody waits for it any more, the slab still comes back to who waits for one.
            let (done, waiting) = oneshot::channel();
            let (inner, object) = (self.clone(), object.clone());
            self.spawn(async move {
                inner.bring(&object, id, slab).await;
                inner.ram.let_go();
                // Where nobody waits any more, nobody is told.
                done.send(()).unwrap_or_default();
            });
            waiting.await.map_err(|_| Error::Closed)?;
        }
        Ok(hold)
    }

    /// Reads a block from disk to the host tier. What can't be read is left to its readers.
    async fn bring(&self, object: &Arc<ObjectMeta>, id: BlockId, slab: Slab) {
        let Ok(disk) = self.disk() else { return };
        let block = object.block_range(id.index);
        let Ok(mut grants) = disk.lookup(object, block).await else { return };
        let Some(grant) = grants.pop().filter(|grant| grant.range == block) else { return };
        match read_into(&grant, &*self.io, slab).await {
            (Some(slab), Ok(())) => {
                disk.worked();
                self.ram.insert_held(id, slab.freeze().slice(0..block.len() as usize));
            }
            // Who reads a sample of it finds it gone, and fetches it.
            (_, Err(fault)) => disk.quarantine(&fault),
            (None, Ok(())) => {}
        }
    }
}
