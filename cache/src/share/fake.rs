//! Tiers for the tests of this module: one object in a plain file, and an account of what was asked.

use std::any::Any;
use std::fmt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};

use super::folder::Folder;
use crate::disk::{Advice, AdviceBook, Advisor, BlockGrant, CrcPage, Evict, Grant, Progress, Status};
use crate::error::{Error, Result};
use crate::io::IoFile;
use crate::memory::Region;
use crate::object::{BLOCK_BYTES, BlockId, ByteRange, Location, ObjectId, ObjectMeta, Version};
use crate::stats::CacheStats;
use crate::tiered::{Hold, Prefetched, Read, Tiers};

/// Bytes of the object: two blocks and a part that ends inside a granule.
pub(super) const SIZE: usize = 2 * BLOCK_BYTES as usize + 10_000;

pub(super) struct Fake {
    pub(super) object: Arc<ObjectMeta>,
    pub(super) bytes: Vec<u8>,
    pub(super) file: Arc<IoFile>,
    /// Nothing may be kept: leases come from memory.
    pub(super) stopped: AtomicBool,
    pub(super) released: AtomicBool,
    pub(super) rechecks: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) closed: AtomicBool,
    /// Reads wait for it.
    pub(super) origin: Semaphore,
    /// Counts who holds a grant.
    pub(super) pins: Arc<()>,
    pub(super) advice: parking_lot::Mutex<AdviceBook>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    pub(super) fn new(dir: &Path) -> Arc<Self> {
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(dir.join("data"), &bytes).unwrap();
        let location = Location::new("s3://bucket/object");
        Arc::new(Self {
            object: Arc::new(ObjectMeta::new(location, SIZE as u64, Version::Etag("1".into()))),
            bytes,
            file: Arc::new(IoFile::open(&dir.join("data"), false).unwrap()),
            stopped: AtomicBool::new(false),
            released: AtomicBool::new(false),
            rechecks: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            origin: Semaphore::new(Semaphore::MAX_PERMITS),
            pins: Arc::new(()),
            advice: parking_lot::Mutex::default(),
        })
    }

    /// What is wanted with the blocks of the object.
    pub(super) fn advice(&self) -> Vec<Advice> {
        self.advice.lock().of(&self.object.id).unwrap_or_default().to_vec()
    }

    /// Grants that somebody holds.
    pub(super) fn pinned(&self) -> usize {
        Arc::strong_count(&self.pins) - 1
    }

    /// Changes a byte of the file.
    pub(super) fn spoil(&self, at: u64) {
        let old = self.bytes[at as usize];
        // Not through the direct descriptor: one byte is not a granule.
        std::fs::OpenOptions::new()
            .write(true)
            .open(self.file.path())
            .unwrap()
            .write_all_at(&[!old], at)
            .unwrap();
    }
}

impl Folder for Fake {
    fn object<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Arc<ObjectMeta>>> {
        let found = *location == self.object.location;
        let missing = Error::NotFound { location: location.clone() };
        Box::pin(async move { if found { Ok(self.object.clone()) } else { Err(missing) } })
    }

    fn grant<'a>(
        &'a self,
        object: &'a Arc<ObjectMeta>,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<Grant>>> {
        Box::pin(async move {
            if self.stopped.load(SeqCst) {
                return Ok(None);
            }
            let block = |index: u32| {
                let part = object.block_range(index);
                let page = CrcPage::of(&self.bytes[part.start as usize..part.end as usize]);
                BlockGrant { index, page: Arc::new(page) }
            };
            let guard: Arc<dyn Any + Send + Sync> = Arc::new(self.pins.clone());
            let blocks = range.blocks().map(block).collect();
            Ok(Some(Grant::new(self.file.clone(), object.clone(), range, blocks, guard)))
        })
    }

    fn read<'a>(
        &'a self,
        _: &'a Arc<ObjectMeta>,
        range: ByteRange,
        region: &'a Region,
    ) -> BoxFuture<'a, Result<Read>> {
        Box::pin(async move {
            self.reads.fetch_add(1, SeqCst);
            self.origin.acquire().await.unwrap().forget();
            if self.closed.load(SeqCst) {
                return Err(Error::Closed);
            }
            let bytes = &self.bytes[range.start as usize..range.end as usize];
            let mut slab = region.allocate(bytes.len()).await?;
            slab.copy_from_slice(bytes);
            Ok(Read { lease: slab.freeze(), tiers: Tiers { origin: range.len(), ..Tiers::default() } })
        })
    }

    fn hold<'a>(&'a self, _: &'a Arc<ObjectMeta>, _: ByteRange) -> BoxFuture<'a, Result<Hold>> {
        Box::pin(async { Ok(Hold::nothing()) })
    }

    fn prefetch<'a>(&'a self, _: &'a Arc<ObjectMeta>, range: ByteRange) -> BoxFuture<'a, Result<Prefetched>> {
        let present = range.blocks().len() as u32;
        Box::pin(async move { Ok(Prefetched { present, ..Prefetched::default() }) })
    }

    fn recheck(&self, _: BlockId) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            self.rechecks.fetch_add(1, SeqCst);
            std::fs::OpenOptions::new()
                .write(true)
                .open(self.file.path())
                .unwrap()
                .write_all_at(&self.bytes, 0)
                .unwrap();
            Ok(true)
        })
    }

    fn advise(&self, by: Advisor, id: &ObjectId, range: ByteRange, advice: Advice) {
        self.advice.lock().advise(by, id, range.blocks(), advice);
    }

    fn withdraw(&self, by: Advisor) {
        self.advice.lock().withdraw(by);
    }

    fn release_evictions(&self) {
        self.released.store(true, SeqCst);
    }

    fn aux_get<'a>(&'a self, kind: &'a str, _: &'a ObjectId) -> BoxFuture<'a, Result<Option<Vec<u8>>>> {
        Box::pin(async move { Ok((kind == "index").then(|| self.bytes.clone())) })
    }

    fn aux_put<'a>(&'a self, _: &'a str, _: &'a ObjectId, bytes: Vec<u8>) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { Ok(bytes == self.bytes) })
    }

    fn evict(&self, _: Evict) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async { Ok(7) })
    }

    fn verify(&self) -> Result<mpsc::Receiver<Progress>> {
        let (into, progress) = mpsc::channel(64);
        for checked_blocks in 1..=3 {
            into.try_send(Progress { checked_blocks, total_blocks: 3, ..Progress::default() }).unwrap();
        }
        Ok(progress)
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        Box::pin(async {
            Ok(Status {
                dir: self.file.path().into(),
                limit_bytes: 1,
                used_bytes: 2,
                disk_state: crate::stats::DiskState::Healthy,
                objects: Vec::new(),
            })
        })
    }

    fn stats(&self) -> CacheStats {
        CacheStats { limit_bytes: 99, ..CacheStats::default() }
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.closed.store(true, SeqCst);
        Box::pin(async { Ok(()) })
    }
}
