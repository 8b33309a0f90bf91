//! The pass over a shard that finds its samples, where nothing else knows them. What it reads stays in the cache.

use std::sync::Arc;

use forebay_cache::memory::Region;
use forebay_cache::{ByteRange, Cache, ObjectMeta};
use tokio::task::AbortHandle;

use crate::dataset::tar::Event;
use crate::dataset::{Grouper, Malformed, SampleEntry, ShardIndex, ShardIndexBuilder, TarScanner};
use crate::error::Result;

/// Bytes read at a time: a block's part, so that the first samples are known before a block is down.
const STEP_BYTES: u64 = 1 << 20;

/// A shard that is being read from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    cache: &'a Cache,
    object: Arc<ObjectMeta>,
    region: &'a Region,
    scanner: TarScanner,
    grouper: Grouper,
    builder: ShardIndexBuilder,
    offset: u64,
    ahead: AbortHandle,
}

/// What one step found.
#[derive(Debug)]
pub(crate) struct Step {
    /// The samples that are complete now, in storage order.
    pub(crate) samples: Vec<SampleEntry>,
    /// Bytes that the step read.
    pub(crate) bytes: u64,
}

impl<'a> Scan<'a> {
    /// Begins; the blocks behind the first step come on their own.
    pub(crate) fn new(cache: &'a Cache, object: &Arc<ObjectMeta>, region: &'a Region) -> Self {
        let (ahead, of, whole) = (cache.clone(), object.clone(), ByteRange::new(0, object.size_bytes));
        let ahead = tokio::spawn(async move {
            // Only an effort ahead of the pass: what fails here is met again, and reported, by the pass itself.
            if let Err(error) = ahead.prefetch(&of, whole).await {
                tracing::debug!(%error, "a prefetch failed");
            }
        });
        Self {
            cache,
            object: object.clone(),
            region,
            scanner: TarScanner::new(Some(object.size_bytes)),
            grouper: Grouper::new(),
            builder: ShardIndexBuilder::new(),
            offset: 0,
            ahead: ahead.abort_handle(),
        }
    }

    /// Reads on; `None` at the end.
    pub(crate) async fn step(&mut self) -> Result<Option<Step>> {
        if self.offset >= self.object.size_bytes {
            return Ok(None);
        }
        let end = (self.offset / STEP_BYTES * STEP_BYTES + STEP_BYTES).min(self.object.size_bytes);
        let range = ByteRange::new(self.offset, end);
        let read = self.cache.read(&self.object, range, self.region).await?;
        let mut samples = Vec::new();
        self.feed(&read.lease, end == self.object.size_bytes, &mut samples)
            .map_err(|error| error.at(&self.object.location))?;
        self.offset = end;
        Ok(Some(Step { samples, bytes: range.len() }))
    }

    fn feed(
        &mut self,
        mut input: &[u8],
        last: bool,
        samples: &mut Vec<SampleEntry>,
    ) -> Result<(), Malformed> {
        while let Some(event) = self.scanner.scan(&mut input)? {
            if let Event::Member(member) = event {
                samples.extend(self.grouper.push(&member)?);
            }
        }
        if last {
            if let Some(Event::Member(member)) = self.scanner.finish()? {
                samples.extend(self.grouper.push(&member)?);
            }
            samples.extend(self.grouper.finish());
        }
        samples.iter().try_for_each(|sample| self.builder.push(sample))
    }

    /// The index of a shard that was read to its end.
    pub(crate) fn finish(mut self) -> Result<ShardIndex> {
        let builder = std::mem::replace(&mut self.builder, ShardIndexBuilder::new());
        builder
            .finish(self.object.id, self.object.size_bytes)
            .map_err(|error| error.at(&self.object.location))
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        self.ahead.abort();
    }
}
