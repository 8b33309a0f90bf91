//! Rereads and checks every cached block, and says what is cached.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::grant::Grant;
use super::reader::{ReadFault, read_into};
use super::report::{CachedObject, Finding, Progress, Status};
use super::state::Phase;
use super::{Disk, Shared};
use crate::error::Result;
use crate::memory::Slab;
use crate::object::{BLOCK_BYTES, BlockId, ByteRange, Location, ObjectId, ObjectMeta, Version};

impl Disk {
    /// Checks every block that is present now, reading into `slab` (one block large). Stops when nobody listens.
    pub(crate) async fn verify(&self, mut slab: Slab, progress: mpsc::Sender<Progress>) -> Result<()> {
        let mut ids: Vec<_> = self.shared.state.lock().objects.keys().copied().collect();
        ids.sort_unstable();
        let mut blocks = Vec::new();
        for id in ids {
            if self.shared.load(&id).await? {
                blocks
                    .extend(self.shared.present(&id).into_iter().map(|index| BlockId { object: id, index }));
            }
        }
        let mut so_far = Progress { total_blocks: blocks.len() as u64, ..Progress::default() };
        for block in blocks {
            let (returned, bytes, fault) = self.check(block, slab).await?;
            let Some(returned) = returned else { return Err(crate::Error::Closed) };
            slab = returned;
            so_far.checked_blocks += 1;
            so_far.checked_bytes += bytes;
            so_far.finding =
                fault.map(|what| Finding { block, location: self.shared.name(&block.object), what });
            if progress.send(so_far.clone()).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Reads one block and checks it; quarantines it where it is bad. Gives the slab back, the bytes read, and what was wrong. A block that
    /// has been evicted meanwhile is fine.
    pub(crate) async fn check(
        &self,
        block: BlockId,
        slab: Slab,
    ) -> Result<(Option<Slab>, u64, Option<String>)> {
        let Some(object) = self.shared.meta(&block.object) else { return Ok((Some(slab), 0, None)) };
        let range = object.block_range(block.index);
        let bad_pages = self.shared.is_present(block);
        let grants = self.lookup(&object, range).await?;
        let Some(grant) = grants.first() else {
            let lost = bad_pages.then(|| "its page of checksums is not the one that was written".to_owned());
            return Ok((Some(slab), 0, lost.filter(|_| !self.shared.is_present(block))));
        };
        let (slab, outcome) = read_into(grant, &*self.shared.io, slab).await;
        let what = outcome.err().map(|fault| {
            self.quarantine(&fault);
            describe(&fault, grant)
        });
        Ok((slab, range.len(), what))
    }

    /// What is cached.
    pub(crate) async fn status(&self) -> Result<Status> {
        let ids: Vec<_> = self.shared.state.lock().objects.keys().copied().collect();
        for id in ids {
            self.shared.load(&id).await?;
        }
        let state = self.shared.state.lock();
        let mut objects: Vec<_> = state
            .objects
            .iter()
            .filter(|(_, object)| !object.removing)
            .map(|(id, object)| CachedObject {
                id: *id,
                location: object.record.name.clone(),
                size_bytes: object.record.size_bytes,
                cached_blocks: object.blocks.as_ref().map_or(0, |blocks| {
                    u32::try_from(blocks.values().filter(|block| block.phase == Phase::Present).count())
                        .unwrap_or(u32::MAX)
                }),
                last_use_seconds: object.record.last_use,
            })
            .collect();
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location).then(a.id.cmp(&b.id)));
        Ok(Status {
            dir: self.shared.layout.dir().into(),
            limit_bytes: state.quota.limit(),
            used_bytes: state.quota.used(),
            disk_state: state.health.state(std::time::Instant::now()),
            objects,
        })
    }
}

impl Shared {
    fn present(&self, id: &ObjectId) -> Vec<u32> {
        let state = self.state.lock();
        let blocks = state.objects.get(id).and_then(|object| object.blocks.as_ref());
        let none = HashMap::new();
        let present = blocks.unwrap_or(&none).iter().filter(|(_, block)| block.phase == Phase::Present);
        let mut present: Vec<u32> = present.map(|(&index, _)| index).collect();
        present.sort_unstable();
        present
    }

    pub(super) fn is_present(&self, block: BlockId) -> bool {
        self.state.lock().block(block).is_some_and(|block| block.phase == Phase::Present)
    }

    fn name(&self, id: &ObjectId) -> String {
        self.state.lock().objects.get(id).map(|object| object.record.name.clone()).unwrap_or_default()
    }

    /// What reading needs to know of an object: its id and size. The location is the one for people.
    fn meta(&self, id: &ObjectId) -> Option<Arc<ObjectMeta>> {
        let state = self.state.lock();
        let record = &state.objects.get(id)?.record;
        let version = record.version.clone().unwrap_or(Version::Modified(0));
        let location = Location::new(record.name.as_str());
        Some(Arc::new(ObjectMeta { location, size_bytes: record.size_bytes, version, id: *id }))
    }
}

fn describe(fault: &ReadFault, grant: &Grant) -> String {
    match fault {
        ReadFault::Mismatch { offset, .. } => {
            let (start, end) =
                (*offset, (offset + crate::object::GRANULE_BYTES).min(grant.object.size_bytes));
            format!("bytes {} fail their checksum", ByteRange::new(start, end))
        }
        ReadFault::Io { block, error } => {
            let at = u64::from(block.index) * BLOCK_BYTES;
            format!("the block at byte {at} can't be read: {error}")
        }
    }
}
