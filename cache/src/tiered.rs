//! One read over all tiers: host memory, then the cache folder, then the origin.
//!
//! Promises: the bytes are those of the version that was asked for, checked; however many readers miss a block, the origin is asked for
//! it once; a reader that gives up cancels nothing that others wait for; a read fails only where the origin fails too.
//! Memory never goes in a circle: a reader first takes its own place (in the region it brought), then waits for a block,
//! and a block never waits for a reader's memory.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Advice, Evict, FolderLock, Grant, Progress, Status};
use crate::error::Result;
use crate::io::BlockIo;
use crate::memory::{Lease, Region};
use crate::object::{BlockId, ByteRange, Location, ObjectId, ObjectMeta};
use crate::origin::Origin;
use crate::stats::CacheStats;

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
    inner: Arc<()>,
}

#[allow(missing_docs, unused_variables, clippy::unused_async)]
impl Cache {
    /// Opens (or makes) the folder and serves at once, also after a crash: what has to be cleaned up is cleaned up behind
    /// the service.
    ///
    /// # Errors
    /// [`Error::Owned`](crate::Error::Owned) where another process owns the folder, [`Error::CacheDir`](crate::Error::CacheDir) where it can't be
    /// used, [`Error::QuotaTooSmall`](crate::Error::QuotaTooSmall), [`Error::MemoryTooSmall`](crate::Error::MemoryTooSmall).
    pub fn open(options: CacheOptions) -> Result<Self> {
        unimplemented!()
    }

    /// Size and version of an object, asked from the origin. Where the origin can't be reached, the newest version that is
    /// in the cache, and `stats().offline` says so.
    pub async fn object(&self, location: &Location) -> Result<Arc<ObjectMeta>> {
        unimplemented!()
    }

    /// The bytes of `range`, in `region` or (zero-copy) in the host tier.
    pub async fn read(&self, object: &Arc<ObjectMeta>, range: ByteRange, region: &Region) -> Result<Read> {
        unimplemented!()
    }

    /// Brings the blocks of `range` into the folder; returns when they are there. Gives way to reads that wait.
    pub async fn prefetch(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Prefetched> {
        unimplemented!()
    }

    /// The right to read `range` from the folder's files, where all its blocks are there; none otherwise.
    pub async fn grant(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Option<Grant>> {
        unimplemented!()
    }

    /// A client says that a block failed its checksum: the owner reads it again, and quarantines it where that is so
    /// (then true).
    pub async fn recheck(&self, block: BlockId) -> Result<bool> {
        unimplemented!()
    }

    /// Says what the plan is with the blocks that `range` touches; decides what is evicted.
    pub fn advise(&self, object: &ObjectId, range: ByteRange, advice: Advice) {
        unimplemented!()
    }

    /// Allows evictions after `hold_evictions`.
    pub fn release_evictions(&self) {
        unimplemented!()
    }

    /// A small file kept with an object, such as the index of a shard. `kind` is a short name of `[a-z0-9_-]`.
    pub async fn aux_get(&self, kind: &str, id: &ObjectId) -> Result<Option<Vec<u8>>> {
        unimplemented!()
    }

    /// Keeps a small file with an object; it goes when the object goes. False where there was no room.
    pub async fn aux_put(&self, kind: &str, id: &ObjectId, bytes: Vec<u8>) -> Result<bool> {
        unimplemented!()
    }

    /// Removes what is asked, as far as nobody holds it. Returns the bytes that were freed.
    pub async fn evict(&self, what: Evict) -> Result<u64> {
        unimplemented!()
    }

    /// Rereads and checks every cached block; a bad one is quarantined. The receiver gets progress and findings, and ends when
    /// all is checked; dropping it stops.
    pub fn verify(&self) -> tokio::sync::mpsc::Receiver<Progress> {
        unimplemented!()
    }

    /// What is cached.
    pub async fn status(&self) -> Result<Status> {
        unimplemented!()
    }

    /// The counters.
    pub fn stats(&self) -> CacheStats {
        unimplemented!()
    }

    /// Waits until everything fetched is written and entered, then lets the folder go. Reads after that are [`Error::Closed`](crate::Error::Closed).
    pub async fn close(&self) -> Result<()> {
        unimplemented!()
    }
}
