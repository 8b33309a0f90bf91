//! The host tier: blocks in slabs, from their arrival until something else needs the memory.
//!
//! Promises: what somebody holds a lease of is neither moved nor overwritten; at most half of the slabs are out with readers,
//! so that blocks on their way always find one; a slab is always to be had in the end, urgent fetches first. What a plan holds takes three
//! eighths at most, which leaves an eighth that neither readers nor plans can keep from fetches.
//! Checksums were computed when the block arrived; memory is not checked again.

mod gate;
mod held;
mod policy;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::memory::{Lease, Region, Slab};
use crate::object::{BLOCK_BYTES, BlockId};

pub(crate) use gate::Gate;
pub(crate) use held::Holding;
pub use policy::{Policy, S3Fifo};

/// Slabs without which a fetch could wait for itself: one being filled, one being written, one with readers, one spare.
const LEAST_SLABS: usize = 4;

/// The tier, and the pool of slabs that fetches fill.
#[derive(Debug)]
pub(crate) struct Ram {
    region: Region,
    slabs: usize,
    tier: Mutex<Tier>,
    /// Fetches take slabs one after the other, urgent ones first.
    line: Gate,
    /// Something came free.
    freed: Arc<Notify>,
    /// Blocks with leases out.
    out: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Tier {
    blocks: HashMap<BlockId, Entry>,
    /// Blocks that plans hold, here or on their way, with the number of holders.
    held: HashMap<BlockId, u32>,
    policy: Box<dyn Policy>,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    out: Weak<Out>,
    /// Read from disk for a plan; none came from the origin.
    from_disk: bool,
}

/// Counts a block as out with readers.
#[derive(Debug)]
struct Out {
    count: Arc<AtomicUsize>,
    freed: Arc<Notify>,
}

impl Drop for Out {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
        self.freed.notify_waiters();
    }
}

/// A block found in the tier.
#[derive(Debug)]
pub(crate) struct Hit {
    /// Its bytes, where they are.
    pub(crate) lease: Lease,
    /// Too many slabs are out with readers: to be copied, and not to be held while waiting for anything.
    pub(crate) to_copy: bool,
    /// It was read from disk ahead of this.
    pub(crate) from_disk: bool,
}

impl Ram {
    /// A tier in `region`. All slabs are one block large, so that memory never comes in pieces that fit nothing.
    pub(crate) fn new(region: Region, policy: Box<dyn Policy>) -> Result<Self> {
        let slabs = region.capacity_bytes() / BLOCK_BYTES as usize;
        if slabs < LEAST_SLABS {
            return Err(Error::MemoryTooSmall {
                limit_bytes: region.capacity_bytes() as u64,
                needed_bytes: LEAST_SLABS as u64 * BLOCK_BYTES,
                what: "blocks on their way and the host tier".into(),
            });
        }
        Ok(Self {
            region,
            slabs,
            tier: Mutex::new(Tier { blocks: HashMap::new(), held: HashMap::new(), policy }),
            line: Gate::new(1),
            freed: Arc::default(),
            out: Arc::default(),
        })
    }

    /// A block, if it is here.
    pub(crate) fn get(&self, id: BlockId) -> Option<Hit> {
        let mut tier = self.tier.lock();
        let entry = tier.blocks.get_mut(&id)?;
        let out = entry.out.upgrade().or_else(|| {
            // Only this function takes from the count's room, and it holds the lock.
            (self.out.load(Relaxed) < self.slabs / 2).then(|| {
                self.out.fetch_add(1, Relaxed);
                Arc::new(Out { count: self.out.clone(), freed: self.freed.clone() })
            })
        });
        let (to_copy, from_disk) = (out.is_none(), entry.from_disk);
        let lease = match out {
            Some(out) => {
                entry.out = Arc::downgrade(&out);
                entry.lease.guarded(out)
            }
            None => entry.lease.clone(),
        };
        tier.policy.touch(id);
        Some(Hit { lease, to_copy, from_disk })
    }

    /// True where the block is here; doesn't count as a use.
    pub(crate) fn has(&self, id: BlockId) -> bool {
        self.tier.lock().blocks.contains_key(&id)
    }

    /// Keeps a block that has arrived.
    pub(crate) fn insert(&self, id: BlockId, lease: Lease) {
        self.tier.lock().insert(id, lease, false);
    }

    /// A slab of one block, urgent requests first. Waits for as long as it takes.
    pub(crate) async fn slab(&self, urgent: bool) -> Slab {
        let _turn = self.line.acquire(urgent).await;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(slab) = self.try_slab() {
                return slab;
            }
            freed.await;
        }
    }

    /// A slab that is free or can be freed at once.
    pub(crate) fn try_slab(&self) -> Option<Slab> {
        loop {
            if let Some(slab) = self.region.try_allocate(BLOCK_BYTES as usize) {
                return Some(slab);
            }
            let evicted = {
                let mut guard = self.tier.lock();
                let tier = &mut *guard;
                let (blocks, held) = (&tier.blocks, &tier.held);
                let may_go = |id: BlockId| {
                    !held.contains_key(&id) && blocks.get(&id).is_none_or(|entry| !entry.lease.is_shared())
                };
                let victim = tier.policy.victim(&may_go)?;
                tier.blocks.remove(&victim)
            };
            drop(evicted);
        }
    }

    /// Says that a lease of a block, or a slab, was let go by somebody who isn't a reader.
    pub(crate) fn let_go(&self) {
        self.freed.notify_waiters();
    }

    /// Forgets a block, or all of them; leases stay.
    pub(crate) fn clear(&self) {
        let mut guard = self.tier.lock();
        let tier = &mut *guard;
        for (id, _) in tier.blocks.drain() {
            tier.policy.remove(id);
        }
    }

    /// Bytes of blocks here, and bytes that there may be.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.tier.lock().blocks.len() as u64 * BLOCK_BYTES, self.slabs as u64 * BLOCK_BYTES)
    }
}

impl Tier {
    fn insert(&mut self, id: BlockId, lease: Lease, from_disk: bool) {
        if self.blocks.insert(id, Entry { lease, out: Weak::new(), from_disk }).is_none() {
            self.policy.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Arena;
    use crate::object::ObjectId;

    pub(super) fn ram(slabs: usize) -> Ram {
        let bytes = slabs * BLOCK_BYTES as usize;
        let arena = Arena::new(bytes as u64).unwrap();
        Ram::new(arena.region("blocks", bytes).unwrap(), Box::new(S3Fifo::new(slabs))).unwrap()
    }

    pub(super) fn id(index: u32) -> BlockId {
        BlockId { object: ObjectId::from_bytes([1; 16]), index }
    }

    pub(super) fn fill(ram: &Ram, index: u32) {
        let mut slab = ram.try_slab().unwrap();
        slab[0] = index as u8;
        ram.insert(id(index), slab.freeze());
    }

    #[test]
    fn a_leased_block_is_never_evicted_and_half_of_the_slabs_stay_for_fetches() {
        let ram = ram(4);
        (0..4).for_each(|index| fill(&ram, index));
        let leases: Vec<_> = (0..4).map(|index| ram.get(id(index)).unwrap()).collect();
        let zero_copy = leases.iter().filter(|hit| !hit.to_copy).count();
        assert_eq!(zero_copy, 2);
        assert!(ram.try_slab().is_none(), "every block is held");
        let kept: Vec<_> = leases.into_iter().filter(|hit| !hit.to_copy).collect();
        (4..40).for_each(|index| fill(&ram, index));
        for (index, hit) in kept.iter().enumerate() {
            assert_eq!(hit.lease[0], index as u8);
            assert!(ram.has(id(index as u32)));
        }
    }

    #[tokio::test]
    async fn a_fetch_that_waits_gets_the_slab_a_reader_lets_go() {
        let ram = ram(4);
        (0..2).for_each(|index| fill(&ram, index));
        let held: Vec<_> = (0..2).map(|_| ram.try_slab().unwrap()).collect();
        let leases = [ram.get(id(0)), ram.get(id(1))];
        let mut waiting = Box::pin(ram.slab(false));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(leases);
        waiting.await;
        drop(held);
    }

    #[test]
    fn too_little_memory_says_how_much_would_do() {
        let arena = Arena::new(8 << 20).unwrap();
        let error = Ram::new(arena.region("blocks", 8 << 20).unwrap(), Box::new(S3Fifo::new(2))).unwrap_err();
        assert!(
            matches!(error, Error::MemoryTooSmall { needed_bytes, .. } if needed_bytes == 16 << 20),
            "{error}"
        );
    }
}
