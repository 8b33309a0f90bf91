//! One read over all tiers: host memory, then the cache folder, then the origin.
//!
//! Promises: the bytes are those of the version that was asked for, checked; however many readers miss a block, the origin is asked for
//! it once; a reader that gives up cancels nothing that others wait for; a read fails only where the origin fails too.
//! Memory never goes in a circle: a reader first takes its own place (in the region it brought), then waits for a block,
//! and a block never waits for a reader's memory.

mod ahead;
mod assemble;
mod fetch;
mod flight;
mod inner;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::disk::{Advice, Advisor, Evict, FolderLock, Grant, ITSELF, Progress, Status};
use crate::error::{Error, Result};
use crate::io::BlockIo;
use crate::memory::{Lease, Region};
use crate::object::{BlockId, ByteRange, Location, ObjectId, ObjectMeta};
use crate::origin::Origin;
use crate::stats::CacheStats;

pub use ahead::Hold;
use inner::Inner;

/// How a cache is opened.
#[derive(Debug)]
pub struct CacheOptions {
    /// The cache folder; made where it doesn't exist.
    pub dir: PathBuf,
    /// `cache_limit`: bytes that the folder may allocate, with everything in it.
    pub limit_bytes: u64,
    /// Host memory for blocks on their way and for the host tier: slabs of one block, 4 at least. Readers bring their own region.
    pub memory: Region,
    /// Where objects come from.
    pub origin: Arc<dyn Origin>,
    /// What reads and writes the folder.
    pub io: Arc<dyn BlockIo>,
    /// Requests to the origin at the same time, 16 by default.
    pub connections: usize,
    /// Where the cache's tasks run; none: a small runtime of its own, on named threads.
    pub runtime: Option<tokio::runtime::Handle>,
    /// The folder's lock, where the caller already holds it; none: taken by `open`.
    pub lock: Option<FolderLock>,
    /// Start with evictions held back: nothing is punched before [`Cache::release_evictions`]. For a process that takes a
    /// folder over while clients of the former owner may still read from it.
    pub hold_evictions: bool,
    /// Memory for the block index's pages (a third of it) and for pages of checksums, beside `memory`: 48 MiB by default, whose checksums
    /// are those of 32 GiB of blocks, more than the window of a shuffle. Less of it is read from the folder again more often.
    pub bookkeeping_bytes: usize,
    /// How the folder is shared with other processes.
    pub sharing: Sharing,
}

/// How a cache folder is shared between processes.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    /// How long another process may say nothing before a request to it fails, 30 s by default. Long work is no silence.
    pub patience: Duration,
    /// Leases that one client may hold at the same time, 128 by default and 512 at most; further ones wait.
    pub leases_per_client: u32,
    /// Memory out of which an owner serves its clients what is not on disk, beside [`CacheOptions::memory`]: 32 MiB by default, 16 at
    /// least. Mapped when the first client comes.
    pub memory_bytes: usize,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { patience: Duration::from_secs(30), leases_per_client: 128, memory_bytes: 32 << 20 }
    }
}

impl CacheOptions {
    /// Options with the defaults.
    pub fn new(
        dir: impl Into<PathBuf>,
        limit_bytes: u64,
        memory: Region,
        origin: Arc<dyn Origin>,
        io: Arc<dyn BlockIo>,
    ) -> Self {
        Self {
            dir: dir.into(),
            limit_bytes,
            memory,
            origin,
            io,
            connections: 16,
            runtime: None,
            lock: None,
            hold_evictions: false,
            bookkeeping_bytes: 48 << 20,
            sharing: Sharing::default(),
        }
    }
}

/// Bytes of one read by the tier they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiers {
    /// From host memory.
    pub ram: u64,
    /// From the cache folder.
    pub disk: u64,
    /// From the origin.
    pub origin: u64,
}

/// A tier of the cache, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Host memory.
    Ram,
    /// The cache folder.
    Disk,
    /// The origin.
    Origin,
}

impl Tiers {
    /// The farthest tier that a byte came from.
    pub fn farthest(&self) -> Tier {
        match (self.disk, self.origin) {
            (_, 1..) => Tier::Origin,
            (1.., _) => Tier::Disk,
            _ => Tier::Ram,
        }
    }
}

/// What a read gives: exactly the bytes asked for, and where they came from.
#[derive(Clone, Debug)]
pub struct Read {
    /// The bytes.
    pub lease: Lease,
    /// Which tier they came from.
    pub tiers: Tiers,
}

/// What a prefetch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefetched {
    /// Blocks that were on disk already.
    pub present: u32,
    /// Blocks fetched and written.
    pub stored: u32,
    /// Blocks that found no room that may be freed, or a sick disk.
    pub declined: u32,
}

/// The cache. Clones are handles of the same one; it ends with the last, or with [`Cache::close`].
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

impl Cache {
    /// Opens (or makes) the folder and serves at once, also after a crash: what has to be cleaned up is cleaned up behind
    /// the service.
    ///
    /// # Errors
    /// [`Error::Owned`] where another process owns the folder, [`Error::CacheDir`] where it can't be used,
    /// [`Error::QuotaTooSmall`], [`Error::MemoryTooSmall`].
    pub fn open(options: CacheOptions) -> Result<Self> {
        Ok(Self { inner: Arc::new(Inner::open(options)?) })
    }

    /// Size and version of an object, asked from the origin. Where the origin can't be reached, the newest version that is
    /// in the cache, and `stats().offline` says so.
    pub async fn object(&self, location: &Location) -> Result<Arc<ObjectMeta>> {
        let inner = self.inner.alive()?;
        let counters = &inner.counters;
        let error = match inner.origin.head(location).await {
            Ok(meta) => {
                counters.offline.store(false, Relaxed);
                inner.disk()?.is_current(&meta);
                return Ok(Arc::new(meta));
            }
            Err(error @ (Error::Origin { .. } | Error::Stalled { .. })) => error,
            Err(error) => return Err(error),
        };
        crate::stats::count(&counters.origin_errors);
        match inner.disk()?.newest(location).await? {
            Some(meta) => {
                if !counters.offline.swap(true, Relaxed) {
                    tracing::warn!(%location, %error, "the origin can't be reached; cached versions are served as they are");
                }
                Ok(Arc::new(meta))
            }
            None => Err(error),
        }
    }

    /// The bytes of `range`, in `region` or (zero-copy) in the host tier. Dropping the future cancels nothing that others wait
    /// for, and frees no memory that an operation in flight still writes to.
    pub async fn read(&self, object: &Arc<ObjectMeta>, range: ByteRange, region: &Region) -> Result<Read> {
        let inner = self.inner.alive()?;
        let read = inner.read(object, range, region).await?;
        inner.counters.served(read.tiers);
        Ok(read)
    }

    /// Brings the blocks of `range` into the folder; returns when they are there. Gives way to reads that wait.
    pub async fn prefetch(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Prefetched> {
        self.inner.alive()?.fetch(object, range, false).await
    }

    /// Brings the blocks of `range` that are on disk into host memory, and keeps them there, and those that come from the origin meanwhile,
    /// until the hold is dropped; as many of them, from the first, as there is room for. For a plan that is about to read most of what they
    /// hold. A block that can't be read is left to its readers.
    pub async fn hold(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Hold> {
        self.inner.alive()?.hold(object, range).await
    }

    /// As [`Self::prefetch`], but as urgent as a read: for a reader in another process that waits.
    pub async fn fetch(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Prefetched> {
        self.inner.alive()?.fetch(object, range, true).await
    }

    /// The right to read `range` from the folder's files, where all its blocks are there; none otherwise.
    pub async fn grant(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Option<Grant>> {
        let disk = self.inner.alive()?.disk()?;
        let mut grants = disk.lookup(object, within(object, range)?).await?;
        Ok(grants.pop().filter(|grant| grants.is_empty() && grant.range == range))
    }

    /// A client says that a block failed its checksum: the owner reads it again, and quarantines it where that is so
    /// (then true).
    pub async fn recheck(&self, block: BlockId) -> Result<bool> {
        let inner = self.inner.alive()?;
        let slab = inner.ram.slab(true).await;
        let (slab, _, wrong) = inner.disk()?.check(block, slab).await?;
        drop(slab);
        inner.ram.let_go();
        Ok(wrong.is_some())
    }

    /// Says what the plan is with the blocks that `range` touches; decides what is evicted. The last advice holds.
    pub fn advise(&self, object: &ObjectId, range: ByteRange, advice: Advice) {
        self.advise_for(ITSELF, object, range, advice);
    }

    /// As [`Self::advise`], for a plan of another process. What one of them needs stays, whatever others say.
    pub(crate) fn advise_for(&self, by: Advisor, object: &ObjectId, range: ByteRange, advice: Advice) {
        if let Ok(disk) = self.inner.alive().and_then(|inner| inner.disk()) {
            disk.advise(by, object, range, advice);
        }
    }

    /// Forgets the advice of a process that has ended.
    pub(crate) fn withdraw(&self, by: Advisor) {
        if let Ok(disk) = self.inner.alive().and_then(|inner| inner.disk()) {
            disk.withdraw(by);
        }
    }

    /// Allows evictions after `hold_evictions`.
    pub fn release_evictions(&self) {
        if let Ok(disk) = self.inner.alive().and_then(|inner| inner.disk()) {
            disk.release_evictions();
        }
    }

    /// A small file kept with an object, such as the index of a shard. `kind` is a short name of `[a-z0-9_-]`.
    pub async fn aux_get(&self, kind: &str, id: &ObjectId) -> Result<Option<Vec<u8>>> {
        self.inner.alive()?.disk()?.aux_get(kind, id).await
    }

    /// Keeps a small file with an object, also when all its blocks are evicted to make room; it goes when the object itself is evicted, or
    /// when such files take more than a sixteenth of `limit_bytes` together. False where there was no room.
    pub async fn aux_put(&self, kind: &str, id: &ObjectId, bytes: Vec<u8>) -> Result<bool> {
        self.inner.alive()?.disk()?.aux_put(kind, id, bytes).await
    }

    /// Removes what is asked, as far as nobody holds it. Returns the bytes that were freed.
    pub async fn evict(&self, what: Evict) -> Result<u64> {
        let inner = self.inner.alive()?;
        if !matches!(what, Evict::DownTo { .. }) {
            inner.ram.clear();
        }
        inner.disk()?.evict(what).await
    }

    /// Rereads and checks every cached block; a bad one is quarantined. The receiver gets progress and findings, and ends when
    /// all is checked; dropping it stops.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`].
    pub fn verify(&self) -> Result<mpsc::Receiver<Progress>> {
        self.inner.alive()?;
        let (progress, receiver) = mpsc::channel(64);
        let inner = self.inner.clone();
        self.inner.spawn(async move {
            let slab = inner.ram.slab(false).await;
            let ended = match inner.disk() {
                Ok(disk) => tokio::select! {
                    ended = disk.verify(slab, progress) => ended,
                    // Also where nobody takes the progress.
                    () = inner.closed_for(Duration::ZERO) => Ok(()),
                },
                Err(error) => Err(error),
            };
            inner.ram.let_go();
            if let Err(error) = ended {
                tracing::warn!(%error, "verify ended early");
            }
        });
        Ok(receiver)
    }

    /// What is cached.
    pub async fn status(&self) -> Result<Status> {
        self.inner.alive()?.disk()?.status().await
    }

    /// The counters.
    pub fn stats(&self) -> CacheStats {
        let mut stats = self.inner.counters.snapshot();
        if let Ok(disk) = self.inner.alive().and_then(|inner| inner.disk()) {
            disk.fill(&mut stats);
            (stats.ram_bytes, stats.ram_limit_bytes) = self.inner.ram.bytes();
        }
        stats
    }

    /// Waits until everything fetched is written and entered, then lets the folder go. Reads after that are [`Error::Closed`].
    pub async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// `range`, if it lies inside the object.
fn within(object: &ObjectMeta, range: ByteRange) -> Result<ByteRange> {
    if range.end > object.size_bytes {
        let (location, size_bytes) = (object.location.clone(), object.size_bytes);
        return Err(Error::OutOfRange { location, range, size_bytes });
    }
    Ok(range)
}
