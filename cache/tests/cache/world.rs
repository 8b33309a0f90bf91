//! A folder, an origin and memory for one test.

use std::sync::Arc;

use forebay_cache::io::{BlockIo, Blocking};
use forebay_cache::memory::{Arena, Region};
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::testing::{FakeOrigin, FaultyIo};
use forebay_cache::tiered::Cache;
use forebay_cache::{ByteRange, CacheOptions, Location, ObjectMeta, Read};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) origin: Arc<FakeOrigin>,
    pub(crate) io: Arc<FaultyIo>,
    arena: Arena,
    pub(crate) region: Region,
    pub(crate) limit_bytes: u64,
    pub(crate) slabs: u64,
}

impl World {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        let arena = Arena::new(512 * MIB).unwrap();
        let region = arena.region("samples", 64 << 20).unwrap();
        let blocking: Arc<dyn BlockIo> = Arc::new(Blocking::new(4).unwrap());
        Self {
            dir: tempfile::tempdir().unwrap(),
            origin: Arc::new(FakeOrigin::new()),
            io: FaultyIo::new(blocking),
            arena,
            region,
            limit_bytes,
            slabs: 8,
        }
    }

    pub(crate) fn options(&self) -> CacheOptions {
        let memory = self.arena.region("blocks", (self.slabs * BLOCK_BYTES) as usize).unwrap();
        CacheOptions::new(self.dir.path(), self.limit_bytes, memory, self.origin.clone(), self.io.clone())
    }

    pub(crate) fn open(&self) -> Cache {
        Cache::open(self.options()).unwrap()
    }

    /// Puts an object of bytes that differ everywhere.
    pub(crate) fn put(&self, name: &str, len: u64, seed: u64) -> (Arc<ObjectMeta>, Vec<u8>) {
        let bytes = bytes(len, seed);
        (Arc::new(self.origin.put(&format!("s3://b/{name}"), bytes.clone())), bytes)
    }

    /// What the folder really takes, counted from outside.
    pub(crate) fn allocated(&self) -> u64 {
        forebay_cache::testing::allocated(self.dir.path())
    }
}

/// Comes back when `done` says so: what a test waits for comes in its own time, and one that waits for ever says so.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::task::yield_now().await;
        }
    };
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Reads and compares.
pub(crate) async fn expect(
    cache: &Cache,
    world: &World,
    object: &Arc<ObjectMeta>,
    range: ByteRange,
    all: &[u8],
) -> Read {
    let read = cache.read(object, range, &world.region).await.unwrap();
    assert!(*read.lease == all[range.start as usize..range.end as usize], "wrong bytes in {range}");
    let tiers = read.tiers;
    assert_eq!(tiers.ram + tiers.disk + tiers.origin, range.len());
    read
}

pub(crate) fn whole(object: &ObjectMeta) -> ByteRange {
    ByteRange::new(0, object.size_bytes)
}

pub(crate) fn location(name: &str) -> Location {
    Location::new(format!("s3://b/{name}"))
}

/// Pseudo-random bytes (splitmix64).
pub(crate) fn bytes(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len as usize);
    bytes
}
