//! Puts one read together from the tiers, in one piece of the reader's own memory.
//!
//! The reader's memory comes first: who has it waits for blocks only, and blocks never wait for a reader. Parts on disk are
//! read first, from the last to the first: each lands at the front of the slab and moves to its place behind what is still to come.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::fetch::block_of;
use super::flight::{Flight, Outcome, Served, Waiter};
use super::inner::{Inner, slab_bytes};
use super::{Read, Tiers, within};
use crate::disk::Grant;
use crate::disk::reader::{ReadFault, read_into};
use crate::error::{Error, Result};
use crate::memory::{Lease, Region, Slab};
use crate::object::{BLOCK_BYTES, BlockId, ByteRange, ObjectMeta};
use crate::ram::Hit;

impl Inner {
    /// The bytes of `range`.
    pub(super) async fn read(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        range: ByteRange,
        region: &Region,
    ) -> Result<Read> {
        if within(object, range)?.is_empty() {
            return Ok(Read { lease: Lease::from_vec(Vec::new()), tiers: Tiers::default() });
        }
        if let Some(read) = self.in_place(object, range) {
            return Ok(read);
        }
        let whole = range.granules();
        let mut slab = region.allocate(slab_bytes(range)?).await?;
        // Blocks that this read had to wait for the origin for, wherever they are when it comes to take them.
        let mut missed = HashMap::new();
        let tiers = loop {
            let mut tiers = Tiers::default();
            let grants = self.on_disk(object, range).await?;
            let missing = gaps(range, &grants);
            // Fetches start before the disk is read.
            for part in &missing {
                self.expect(object, *part, &mut missed).await?;
            }
            let (returned, mut whole_read) = self.read_disk(&grants, whole, slab).await?;
            slab = returned;
            for grant in grants.iter().flat_map(Grant::split) {
                let waited = grant.blocks.iter().any(|block| missed.contains_key(&block.index));
                *(if waited { &mut tiers.origin } else { &mut tiers.disk }) += grant.range.len();
            }
            for part in missing {
                if whole_read {
                    (slab, whole_read) =
                        self.fill_part(object, part, whole, slab, &missed, &mut tiers).await?;
                }
            }
            if whole_read {
                break tiers;
            }
            // A block went out of service, or moved to another tier since it was looked up: look again.
        };
        let head = (range.start - whole.start) as usize;
        Ok(Read { lease: slab.freeze().slice(head..head + range.len() as usize), tiers })
    }

    /// A range inside one block of the host tier, where it lies.
    fn in_place(&self, object: &ObjectMeta, range: ByteRange) -> Option<Read> {
        let index = block_of(range.start);
        if range.blocks().len() != 1 {
            return None;
        }
        let hit = self.ram.get(BlockId { object: object.id, index })?;
        if hit.to_copy {
            drop(hit);
            self.ram.let_go();
            return None;
        }
        let start = (range.start - u64::from(index) * BLOCK_BYTES) as usize;
        let mut tiers = Tiers::default();
        *tiers.of(&hit) += range.len();
        Some(Read { lease: hit.lease.slice(start..start + range.len() as usize), tiers })
    }

    /// Grants of what is on disk. A range of one block that is in the host tier is copied from there instead.
    async fn on_disk(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Vec<Grant>> {
        let blocks = range.blocks();
        if blocks.clone().all(|index| self.ram.has(BlockId { object: object.id, index })) {
            return Ok(Vec::new());
        }
        self.disk()?.lookup(object, range).await
    }

    /// Makes sure that the blocks of a missing part are on their way.
    async fn expect(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        part: ByteRange,
        missed: &mut HashMap<u32, Arc<Flight>>,
    ) -> Result<()> {
        for index in part.blocks() {
            let id = BlockId { object: object.id, index };
            if !self.ram.has(id) && !self.landed_on_disk(id).await? {
                let (flight, _) = self.flights.join(id, None);
                missed.insert(index, flight.clone());
                self.start_urgent(object, index, &flight, part.start.max(object.block_range(index).start));
            }
        }
        Ok(())
    }

    /// True where the block came to disk since it was looked up.
    async fn landed_on_disk(&self, id: BlockId) -> Result<bool> {
        Ok(self.flights.get(id).is_none() && self.disk()?.has(id).await?)
    }

    /// Reads grants to their places. False where a block was bad: it is out of service, and all is to be tried again.
    async fn read_disk(&self, grants: &[Grant], whole: ByteRange, mut slab: Slab) -> Result<(Slab, bool)> {
        let mut left = grants.to_vec();
        while let Some(grant) = left.pop() {
            let (returned, outcome) = read_into(&grant, &*self.io, slab).await;
            slab = returned.ok_or(Error::Closed)?;
            match outcome {
                Ok(()) => {}
                Err(ReadFault::Io { error, .. }) if grant.blocks.len() > 1 => {
                    self.disk()?.failed(&error);
                    left.extend(grant.split());
                    continue;
                }
                Err(fault) => {
                    self.disk()?.quarantine(&fault);
                    return Ok((slab, false));
                }
            }
            let part = grant.range.granules();
            let (at, len) = ((part.start - whole.start) as usize, part.len() as usize);
            if at > 0 {
                let visible = slab.len();
                slab.set_len(visible.max(at + len));
                slab.copy_within(0..len, at);
                slab.set_len(visible);
            }
        }
        if !grants.is_empty() {
            self.disk()?.worked();
        }
        Ok((slab, true))
    }

    /// Copies a part that wasn't on disk to its place, block by block: from the host tier, or from its flight. False where a block has
    /// come to disk meanwhile and left the host tier.
    async fn fill_part(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        part: ByteRange,
        whole: ByteRange,
        mut slab: Slab,
        missed: &HashMap<u32, Arc<Flight>>,
        tiers: &mut Tiers,
    ) -> Result<(Slab, bool)> {
        for index in part.blocks() {
            let id = BlockId { object: object.id, index };
            let block = object.block_range(index);
            let piece = part.intersect(block);
            let at = (piece.start - whole.start) as usize;
            if let Some(hit) = self.ram.get(id) {
                let from = (piece.start - block.start) as usize;
                let len = piece.len() as usize;
                slab[at..at + len].copy_from_slice(&hit.lease[from..from + len]);
                *(if missed.contains_key(&index) { &mut tiers.origin } else { tiers.of(&hit) }) +=
                    piece.len();
                drop(hit);
                self.ram.let_go();
                continue;
            }
            if self.landed_on_disk(id).await? {
                return Ok((slab, false));
            }
            if let Some(flight) = missed.get(&index)
                && let Outcome::Failed(error) = &*flight.outcome.borrow()
            {
                return Err(error.clone());
            }
            let (reply, answer) = oneshot::channel();
            let (flight, _) = self.flights.join(id, Some(Waiter { slab, at, part: piece, reply }));
            self.start_urgent(object, index, &flight, piece.start);
            let (returned, served) = answer.await.map_err(|_| Error::Closed)?;
            slab = returned;
            match served {
                Served::Here => tiers.origin += piece.len(),
                Served::OnDisk => return Ok((slab, false)),
                Served::Failed(error) => return Err(error),
            }
        }
        Ok((slab, true))
    }
}

impl Tiers {
    /// Where bytes of a block in host memory are counted: one that was read ahead comes from disk.
    fn of(&mut self, hit: &Hit) -> &mut u64 {
        if hit.from_disk { &mut self.disk } else { &mut self.ram }
    }
}

/// The parts of `range` that no grant covers, in order.
fn gaps(range: ByteRange, grants: &[Grant]) -> Vec<ByteRange> {
    let mut gaps = Vec::new();
    let mut at = range.start;
    for grant in grants {
        gaps.push(ByteRange::new(at, grant.range.start));
        at = grant.range.end;
    }
    gaps.push(ByteRange::new(at, range.end));
    gaps.retain(|gap| !gap.is_empty());
    gaps
}
