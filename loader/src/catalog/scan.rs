//! The pass over a shard that finds its samples, where nothing else knows them. What it reads stays in the cache.

use std::sync::Arc;

use forebay_cache::memory::Region;
use forebay_cache::{ByteRange, Cache, ObjectId, ObjectMeta};
use tokio::task::AbortHandle;

use crate::dataset::tar::Event;
use crate::dataset::{Grouper, Malformed, SampleEntry, ShardIndex, ShardIndexBuilder, TarScanner};
use crate::error::Result;

/// Bytes read at a time: a block's part, so that the first samples are known before a block is down.
pub(super) const STEP_BYTES: u64 = 1 << 20;

/// A shard's bytes in, its samples and its index out.
#[derive(Debug)]
pub(super) struct Scan {
    scanner: TarScanner,
    grouper: Grouper,
    builder: ShardIndexBuilder,
    fed: u64,
}

impl Scan {
    /// Of a shard of `length` bytes, where that is known.
    pub(super) fn new(length: Option<u64>) -> Self {
        let (grouper, builder) = (Grouper::new(), ShardIndexBuilder::new());
        Self { scanner: TarScanner::new(length), grouper, builder, fed: 0 }
    }

    /// Takes the next bytes; gives the samples that are complete now.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<Vec<SampleEntry>, Malformed> {
        self.fed += bytes.len() as u64;
        let mut samples = Vec::new();
        while let Some(event) = self.scanner.scan(&mut bytes)? {
            if let Event::Member(member) = event {
                samples.extend(self.grouper.push(&member)?);
            }
        }
        self.found(samples)
    }

    /// The samples that the end completes.
    pub(super) fn end(&mut self) -> Result<Vec<SampleEntry>, Malformed> {
        let mut samples = Vec::new();
        if let Some(Event::Member(member)) = self.scanner.finish()? {
            samples.extend(self.grouper.push(&member)?);
        }
        samples.extend(self.grouper.finish());
        self.found(samples)
    }

    /// The index, behind the end, of an object with this id.
    pub(super) fn index(self, id: ObjectId) -> Result<ShardIndex, Malformed> {
        self.builder.finish(id, self.fed)
    }

    fn found(&mut self, samples: Vec<SampleEntry>) -> Result<Vec<SampleEntry>, Malformed> {
        samples.iter().try_for_each(|sample| self.builder.push(sample))?;
        Ok(samples)
    }
}

/// A shard that is being read through the cache, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    cache: &'a Cache,
    object: Arc<ObjectMeta>,
    region: &'a Region,
    scan: Scan,
    offset: u64,
    ended: bool,
    ahead: AbortHandle,
}

/// What one step found.
#[derive(Debug)]
pub(super) struct Step {
    /// The samples that are complete now, in storage order.
    pub(super) samples: Vec<SampleEntry>,
    /// Bytes that the step read.
    pub(super) bytes: u64,
}

impl<'a> Pass<'a> {
    /// Begins; the blocks behind the first step come on their own.
    pub(super) fn new(cache: &'a Cache, object: &Arc<ObjectMeta>, region: &'a Region) -> Self {
        let (ahead, of, whole) = (cache.clone(), object.clone(), ByteRange::new(0, object.size_bytes));
        let ahead = tokio::spawn(async move {
            // Only an effort ahead of the pass: what fails here is met again, and reported, by the pass itself.
            if let Err(error) = ahead.prefetch(&of, whole).await {
                tracing::debug!(%error, "a prefetch failed");
            }
        });
        let scan = Scan::new(Some(object.size_bytes));
        Self {
            cache,
            object: object.clone(),
            region,
            scan,
            offset: 0,
            ended: false,
            ahead: ahead.abort_handle(),
        }
    }

    /// Reads on; `None` at the end.
    pub(super) async fn step(&mut self) -> Result<Option<Step>> {
        let size = self.object.size_bytes;
        if self.ended {
            return Ok(None);
        }
        let range =
            ByteRange::new(self.offset, (self.offset / STEP_BYTES * STEP_BYTES + STEP_BYTES).min(size));
        let read = self.cache.read(&self.object, range, self.region).await?;
        let mut samples = self.scan.feed(&read.lease).map_err(|error| error.at(&self.object.location))?;
        self.ended = range.end == size;
        if self.ended {
            samples.extend(self.scan.end().map_err(|error| error.at(&self.object.location))?);
        }
        self.offset = range.end;
        Ok(Some(Step { samples, bytes: range.len() }))
    }

    /// The index of a shard that was read to its end.
    pub(super) fn finish(mut self) -> Result<ShardIndex> {
        let scan = std::mem::replace(&mut self.scan, Scan::new(None));
        scan.index(self.object.id).map_err(|error| error.at(&self.object.location))
    }

    /// All steps at once; `read` sees each step's bytes.
    pub(super) async fn run(mut self, mut read: impl FnMut(u64)) -> Result<ShardIndex> {
        while let Some(step) = self.step().await? {
            read(step.bytes);
        }
        self.finish()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.ahead.abort();
    }
}
