//! What really ran: counters of one cache, and the picture of them that users see.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::tiered::Tiers;

/// Reads and bytes that one tier has served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TierStats {
    /// Reads that took at least one byte from this tier.
    pub reads: u64,
    /// Bytes handed to readers from this tier.
    pub bytes: u64,
}

/// How well the cache folder's disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// Everything works.
    #[default]
    Healthy,
    /// There were errors: it is full, or blocks could not be read or written. What reads well is still served.
    Degraded,
    /// Too many errors in a row, or the index can't be written: nothing is admitted, reads go to the origin where the
    /// disk fails.
    Down,
}

/// A picture of the counters.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CacheStats {
    /// What this process is to the folder: "owner", "client" of another process, or "seeking" while that is being settled.
    pub role: &'static str,
    /// Served from host memory.
    pub ram: TierStats,
    /// Served from the cache folder.
    pub disk: TierStats,
    /// Served from the origin.
    pub origin: TierStats,
    /// Reads that needed no byte from the origin.
    pub hits: u64,
    /// Reads that did.
    pub misses: u64,
    /// Ranged requests sent to the origin.
    pub origin_requests: u64,
    /// Bytes that came from the origin, prefetched ones included.
    pub origin_bytes: u64,
    /// Requests that failed after the origin's own retries.
    pub origin_errors: u64,
    /// Blocks written to the cache folder.
    pub stored_blocks: u64,
    /// Blocks that were fetched but not kept on disk: no room that may be freed, or a sick disk.
    pub declined_blocks: u64,
    /// Blocks removed to make room.
    pub evicted_blocks: u64,
    /// Blocks whose bytes failed their checksum or could not be read; never served again, fetched again.
    pub quarantined_blocks: u64,
    /// Reads and writes of the cache folder that the operating system refused.
    pub io_errors: u64,
    /// Nothing is admitted at the moment: reads pass through from the origin.
    pub admission_stopped: bool,
    /// The origin did not answer and cached versions are served as they are.
    pub offline: bool,
    /// What moves blocks: "io_uring" or "blocking".
    pub engine: &'static str,
    /// Whether files are opened with O_DIRECT; none as long as none was opened.
    pub direct: Option<bool>,
    /// How well the disk is.
    pub disk_state: DiskState,
    /// Bytes allocated in the cache folder, with index, checksums and what is reserved for writes under way.
    pub used_bytes: u64,
    /// `cache_limit`.
    pub limit_bytes: u64,
    /// Bytes of blocks in host memory.
    pub ram_bytes: u64,
    /// Bytes of host memory that blocks may take.
    pub ram_limit_bytes: u64,
}

/// The counters themselves; shared by the parts of one cache.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    reads: [AtomicU64; 3],
    bytes: [AtomicU64; 3],
    hits: AtomicU64,
    misses: AtomicU64,
    pub(crate) origin_requests: AtomicU64,
    pub(crate) origin_bytes: AtomicU64,
    pub(crate) origin_errors: AtomicU64,
    pub(crate) stored_blocks: AtomicU64,
    pub(crate) declined_blocks: AtomicU64,
    pub(crate) evicted_blocks: AtomicU64,
    pub(crate) quarantined_blocks: AtomicU64,
    pub(crate) io_errors: AtomicU64,
    pub(crate) offline: AtomicBool,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    /// Counts one finished read.
    pub(crate) fn served(&self, tiers: Tiers) {
        for (at, bytes) in [tiers.ram, tiers.disk, tiers.origin].into_iter().enumerate() {
            if bytes > 0 {
                count(&self.reads[at]);
                self.bytes[at].fetch_add(bytes, Relaxed);
            }
        }
        count(if tiers.origin == 0 { &self.hits } else { &self.misses });
    }

    /// The counters as they are now; what the tiers know of themselves is filled in by them.
    pub(crate) fn snapshot(&self) -> CacheStats {
        let tier = |at: usize| TierStats {
            reads: self.reads[at].load(Relaxed),
            bytes: self.bytes[at].load(Relaxed),
        };
        CacheStats {
            ram: tier(0),
            disk: tier(1),
            origin: tier(2),
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            origin_requests: self.origin_requests.load(Relaxed),
            origin_bytes: self.origin_bytes.load(Relaxed),
            origin_errors: self.origin_errors.load(Relaxed),
            stored_blocks: self.stored_blocks.load(Relaxed),
            declined_blocks: self.declined_blocks.load(Relaxed),
            evicted_blocks: self.evicted_blocks.load(Relaxed),
            quarantined_blocks: self.quarantined_blocks.load(Relaxed),
            io_errors: self.io_errors.load(Relaxed),
            offline: self.offline.load(Relaxed),
            ..CacheStats::default()
        }
    }
}
