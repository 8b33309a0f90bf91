//! The pass over a shard that finds its samples, where nothing else knows them. What it reads stays in the cache.

use std::sync::Arc;

use forebay_cache::memory::Region;
use forebay_cache::{ByteRange, Cache, ObjectId, ObjectMeta};

use crate::dataset::tar::{Event, Member};
use crate::dataset::{Grouper, Malformed, SampleEntry, ShardIndex, ShardIndexBuilder, TarScanner};
use crate::error::Result;

/// Bytes read at a time: a block's part, so that the first samples are known before a block is down.
pub(super) const STEP_BYTES: u64 = 1 << 20;

/// Reads `object` from its beginning to its end; `sample` sees every sample as soon as it is complete, `read` every step's bytes.
pub(crate) async fn scan(
    cache: &Cache,
    object: &Arc<ObjectMeta>,
    region: &Region,
    sample: impl FnMut(&SampleEntry),
    mut read: impl FnMut(u64),
) -> Result<ShardIndex> {
    let at = |error: Malformed| error.at(&object.location);
    let mut scan = Scan::new(Some(object.size_bytes), sample);
    let mut offset = 0;
    while offset < object.size_bytes {
        let end = (offset / STEP_BYTES * STEP_BYTES + STEP_BYTES).min(object.size_bytes);
        let step = cache.read(object, ByteRange::new(offset, end), region).await?;
        scan.feed(&step.lease).map_err(at)?;
        read(end - offset);
        offset = end;
    }
    scan.finish(|_| object.id).map_err(at)
}

/// A shard's bytes in, its index out.
pub(crate) struct Scan<F> {
    scanner: TarScanner,
    grouper: Grouper,
    builder: ShardIndexBuilder,
    fed: u64,
    sample: F,
}

impl<F: FnMut(&SampleEntry)> Scan<F> {
    /// Of a shard of `length` bytes, where that is known; `sample` sees every sample as soon as it is complete.
    pub(crate) fn new(length: Option<u64>, sample: F) -> Self {
        let (grouper, builder) = (Grouper::new(), ShardIndexBuilder::new());
        Self { scanner: TarScanner::new(length), grouper, builder, fed: 0, sample }
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        self.fed += bytes.len() as u64;
        while let Some(event) = self.scanner.scan(&mut bytes)? {
            if let Event::Member(member) = event {
                self.member(&member)?;
            }
        }
        Ok(())
    }

    /// The index; `id` gives the object that it belongs to from the shard's length.
    pub(crate) fn finish(mut self, id: impl FnOnce(u64) -> ObjectId) -> Result<ShardIndex, Malformed> {
        if let Some(Event::Member(member)) = self.scanner.finish()? {
            self.member(&member)?;
        }
        if let Some(entry) = self.grouper.finish() {
            self.found(&entry)?;
        }
        self.builder.finish(id(self.fed), self.fed)
    }

    fn member(&mut self, member: &Member) -> Result<(), Malformed> {
        match self.grouper.push(member)? {
            Some(entry) => self.found(&entry),
            None => Ok(()),
        }
    }

    fn found(&mut self, entry: &SampleEntry) -> Result<(), Malformed> {
        (self.sample)(entry);
        self.builder.push(entry)
    }
}
