//! How a loader's part of `host_memory_limit` is shared out between its stages. No stage can take another one's share.

use forebay_cache::memory::{Arena, Region};

use crate::decode::Limits;
use crate::error::{Error, Result};
use crate::options::LoaderOptions;
use crate::pipeline::slot::Layout;

/// Batches whose memory exists at the same time beside those ahead: one in the consumer's hands, one that it is about to let go.
const HELD_BATCHES: usize = 2;
/// The least that reads get: a few large samples.
const LEAST_READS: usize = 8 << 20;
/// The most that reads get: deeper queues gain nothing on one disk.
const MOST_READS: usize = 256 << 20;
/// Scratch of one decoding thread: photographs of 5 megapixels stay in it.
const MOST_SCRATCH: usize = 16 << 20;
const LEAST_SCRATCH: usize = 2 << 20;
/// The least for indexes of shards in memory.
const LEAST_INDEX: usize = 4 << 20;

/// A loader's memory.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) batches: Region,
    pub(crate) reads: Region,
    /// Held, never allocated from: what decoders keep on the heap, and indexes.
    pub(crate) scratch: Region,
    pub(crate) index_bytes: usize,
}

/// Bounds of one decoder among `threads`.
pub(crate) fn limits(arena: &Arena, threads: usize) -> Limits {
    let scratch = (arena.limit_bytes() / 16 / threads.max(1)).clamp(LEAST_SCRATCH, MOST_SCRATCH);
    let defaults = Limits::default();
    Limits {
        max_scratch_bytes: scratch,
        max_decode_bytes: defaults.max_decode_bytes.min(arena.limit_bytes() as u64 / 4),
        ..defaults
    }
}

impl Shares {
    /// Carves a loader's shares from what is left of the arena, and leaves a part for another loader.
    pub(crate) fn carve(
        arena: &Arena,
        layout: &Layout,
        options: &LoaderOptions,
        threads: usize,
    ) -> Result<Self> {
        let free = arena.free_bytes();
        let index_bytes = (arena.limit_bytes() / 32).max(LEAST_INDEX);
        let scratch = limits(arena, threads).max_scratch_bytes * threads + index_bytes;
        let fixed = layout.slab_bytes(options.batch_size) * (options.prefetch_factor + HELD_BATCHES);
        let least = scratch + fixed + 2 * LEAST_READS;
        if least > free {
            return Err(Error::Cache(forebay_cache::Error::MemoryTooSmall {
                limit_bytes: arena.limit_bytes() as u64,
                // Half of the limit is for blocks on their way, whatever else needs.
                needed_bytes: (arena.limit_bytes() - free + least).max(2 * least) as u64,
                what: format!(
                    "{} batches of {} bytes, {scratch} bytes for decoders and indexes, and reads; a smaller batch_size or prefetch_factor needs less",
                    options.prefetch_factor + HELD_BATCHES,
                    layout.slab_bytes(options.batch_size)
                ),
            }));
        }
        let left = free - scratch - fixed;
        let reads = (left / 4).clamp(LEAST_READS, MOST_READS);
        // A third of the rest is for more batches: a consumer may keep many small ones, and values have sizes of their own.
        let more = (left - reads) / 3;
        Ok(Self {
            scratch: arena.region("decoders", scratch)?,
            batches: arena.region("batches", (fixed + more).max(1))?,
            reads: arena.region("reads", reads)?,
            index_bytes,
        })
    }
}
