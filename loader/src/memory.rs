//! How a loader's part of `host_memory_limit` is shared out between its stages. No stage can take another one's share.
//!
//! What a limit gives each stage is a pure function, so that an error can say which limit would do.

use forebay_cache::memory::{Arena, Budget, Held, Region};

use crate::decode::Limits;
use crate::error::{Error, Result};
use crate::options::LoaderOptions;
use crate::pipeline::slot::Layout;
use crate::session::{LEAST_MEMORY_BYTES, PAGE, loaders_bytes};

/// Batches whose memory exists at the same time beside those ahead: one in the consumer's hands, one that it is about to let go.
const HELD_BATCHES: usize = 2;
/// The least that reads get: a few large samples.
const LEAST_READS: usize = 8 << 20;
/// What reads get before anything else does: many samples of some megabytes.
const ENOUGH_READS: usize = 32 << 20;
/// The most that reads get: deeper queues gain nothing on one disk.
const MOST_READS: usize = 256 << 20;
/// What one decoding thread may hold for an image without asking, and keeps to the next: photographs of 5 megapixels stay in it.
const MOST_SCRATCH: usize = 16 << 20;
const LEAST_SCRATCH: usize = 1 << 20;
/// The least for indexes of shards in memory.
const LEAST_INDEX: usize = 4 << 20;
/// More than any machine has.
const MOST_LIMIT: usize = 1 << 50;

/// A loader's memory.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) batches: Region,
    pub(crate) reads: Region,
    /// Values of sizes that the layout doesn't know.
    pub(crate) values: Budget,
    /// Decoded samples that are kept; none where nobody asked for that.
    pub(crate) decoded: Option<Region>,
    /// What images take that need more than a thread's own scratch.
    pub(crate) large: Budget,
    /// What decoders and indexes keep on the heap.
    pub(crate) heap: Held,
    pub(crate) parts: Parts,
    pub(crate) split: Split,
}

/// What decides how a limit is shared out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    limit: usize,
    free: usize,
    threads: usize,
    /// Bytes of the batches' slabs, and of decoded samples that are kept.
    fixed: usize,
    /// Of these, for decoded samples.
    decoded: usize,
    /// Whether there are values of variable size.
    variable: bool,
}

/// Bytes by stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Of one thread: what it may take for an image, and as much again that it keeps from the ones before.
    pub(crate) scratch: usize,
    pub(crate) index: usize,
    pub(crate) large: usize,
    pub(crate) reads: usize,
    pub(crate) batches: usize,
    pub(crate) values: usize,
}

impl Split {
    /// How a limit is shared out; `None` where it is too small.
    pub(crate) fn at(&self, limit: usize) -> Option<Parts> {
        // What other loaders of the folder have taken grows with the limit.
        let others = loaders_bytes(self.limit).saturating_sub(self.free) as u128 * limit as u128;
        let others = usize::try_from(others / self.limit as u128).unwrap_or(usize::MAX);
        let free = loaders_bytes(limit).saturating_sub(others);
        let scratch = (limit / 32 / self.threads).clamp(LEAST_SCRATCH, MOST_SCRATCH);
        let index = (limit / 32).max(LEAST_INDEX);
        let heap = 2 * scratch * self.threads + index + PAGE;
        let rest = free.checked_sub(heap)?.checked_sub(self.fixed)?;
        // Another loader of the folder needs as much, and little more; where that would be most of what is left, it gets a half.
        let another = (heap + 2 * LEAST_READS).min(rest.checked_sub(2 * LEAST_READS)? / 2);
        let rest = rest - another;
        let large = (limit / 16).min((rest - 2 * LEAST_READS) / 2 + LEAST_READS / 2);
        let quarter = (rest - large) / 4;
        // Where values have sizes of their own, their batches need the memory more.
        let reads = if self.variable { quarter.min(ENOUGH_READS).max(quarter / 2) } else { quarter };
        let reads = reads.clamp(LEAST_READS, MOST_READS);
        let rest = rest - large - reads;
        // A consumer may keep many batches of fixed size. What is left is another loader's, too.
        let (more, values) = if self.variable { (rest / 6, rest / 3 * 2) } else { (rest / 3, 0) };
        let whole = |bytes: usize| bytes / PAGE * PAGE;
        Some(Parts {
            scratch,
            index,
            large: whole(large),
            reads: whole(reads),
            batches: (self.fixed - self.decoded + whole(more)).max(PAGE),
            values: whole(values),
        })
    }

    /// The least `host_memory_limit` that gives stages `enough`.
    pub(crate) fn least(&self, enough: impl Fn(&Parts) -> bool) -> u64 {
        let works = |pages: usize| self.at(pages * PAGE).as_ref().is_some_and(&enough);
        let (mut below, mut above) = (LEAST_MEMORY_BYTES as usize / PAGE - 1, MOST_LIMIT / PAGE);
        while below + 1 < above {
            let middle = below.midpoint(above);
            if works(middle) { above = middle } else { below = middle }
        }
        (above * PAGE) as u64
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit as u64
    }
}

impl Parts {
    /// Bounds of one decoder.
    pub(crate) fn limits(&self) -> Limits {
        Limits { max_scratch_bytes: self.scratch, max_decode_bytes: self.scratch as u64, ..Limits::default() }
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
        let batch = layout.slab_bytes(options.batch_size);
        let batches = options.prefetch_factor.saturating_add(HELD_BATCHES);
        let whole = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX) / PAGE * PAGE;
        let decoded = options.decoded_limit_bytes.map_or(0, |limit| whole(limit).max(PAGE));
        let split = Split {
            limit: arena.limit_bytes(),
            free: arena.free_bytes(),
            threads: threads.max(1),
            fixed: batch.saturating_mul(batches).saturating_add(decoded),
            decoded,
            variable: layout.is_variable(),
        };
        let Some(parts) = split.at(split.limit) else {
            let kept = match decoded {
                0 => String::new(),
                _ => format!("{decoded} bytes of decoded samples (decoded_limit), "),
            };
            return Err(Error::Cache(forebay_cache::Error::MemoryTooSmall {
                limit_bytes: split.limit_bytes(),
                needed_bytes: split.least(|_| true),
                what: format!(
                    "{kept}{batches} batches of {batch} bytes, decoders on {threads} threads, indexes, and reads; a smaller batch_size or \
                     prefetch_factor, fewer num_threads, or closing another loader needs less"
                ),
            }));
        };
        Ok(Self {
            heap: arena.hold("decoders and indexes", 2 * parts.scratch * split.threads + parts.index)?,
            batches: arena.region("batches", parts.batches)?,
            decoded: (decoded > 0).then(|| arena.region("decoded samples", decoded)).transpose()?,
            reads: arena.region("reads", parts.reads)?,
            values: Budget::new("values of variable size", arena.hold("values", parts.values)?),
            large: Budget::new("large images", arena.hold("large images", parts.large)?),
            parts,
            split,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(limit: usize, fixed: usize, variable: bool) -> Split {
        Split { limit, free: loaders_bytes(limit), threads: 2, fixed, decoded: fixed / 3, variable }
    }

    #[test]
    fn the_least_limit_works_and_a_page_less_does_not() {
        let split = split(64 << 20, 1 << 20, true);
        for bytes in [20 << 20, 100 << 20, 3_000_000_000] {
            let least = split.least(|parts| parts.values >= bytes) as usize;
            assert!(split.at(least).unwrap().values >= bytes);
            assert!(split.at(least - PAGE).is_none_or(|parts| parts.values < bytes), "{least}");
        }
        let large = split.least(|parts| parts.large >= 500 << 20) as usize;
        assert!(large > 500 << 20 && large < 10 << 30, "{large}");
    }

    proptest::proptest! {
        #[test]
        fn shares_fit_and_grow_with_the_limit(
            pages in 16384usize..4_000_000, more in 0usize..100_000, threads in 1usize..64, fixed in 0usize..1 << 31, variable: bool,
        ) {
            let limit = pages * PAGE;
            let split = Split { threads, ..split(limit, fixed, variable) };
            if let Some(parts) = split.at(limit) {
                let all = 2 * parts.scratch * threads + parts.index + parts.large + parts.reads + parts.batches + split.decoded + parts.values;
                proptest::prop_assert!(all + 2 * PAGE <= loaders_bytes(limit), "{parts:?}");
                let larger = Split { limit: limit + more * PAGE, free: loaders_bytes(limit + more * PAGE), ..split };
                let larger = larger.at(limit + more * PAGE);
                proptest::prop_assert!(larger.is_some_and(|larger| {
                    larger.values + PAGE >= parts.values && larger.large + PAGE >= parts.large && larger.reads + PAGE >= parts.reads
                }), "{larger:?} {parts:?}");
            }
        }
    }
}
