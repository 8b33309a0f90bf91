//! The pass over a shard that finds its samples, where nothing else knows them. What it reads stays in the cache.

use std::sync::Arc;

use forebay_cache::memory::Region;
use forebay_cache::{ByteRange, Cache, ObjectMeta};

use crate::dataset::tar::Event;
use crate::dataset::{Grouper, SampleEntry, ShardIndex, ShardIndexBuilder, TarScanner};
use crate::error::Result;

/// Bytes read at a time: a block's part, so that the first samples are known before a block is down.
const STEP_BYTES: u64 = 1 << 20;

/// Reads `object` from its beginning to its end; `sample` sees every sample as soon as it is complete, `read` every step's bytes.
pub(crate) async fn scan(
    cache: &Cache,
    object: &Arc<ObjectMeta>,
    region: &Region,
    mut sample: impl FnMut(&SampleEntry),
    mut read: impl FnMut(u64),
) -> Result<ShardIndex> {
    let at = |error: crate::dataset::Malformed| error.at(&object.location);
    let (mut scanner, mut grouper) = (TarScanner::new(Some(object.size_bytes)), Grouper::new());
    let mut builder = ShardIndexBuilder::new();
    let mut found = |entry: SampleEntry| {
        sample(&entry);
        builder.push(&entry).map_err(at)
    };
    let mut offset = 0;
    while offset < object.size_bytes {
        let end = (offset / STEP_BYTES * STEP_BYTES + STEP_BYTES).min(object.size_bytes);
        let step = cache.read(object, ByteRange::new(offset, end), region).await?;
        let mut input: &[u8] = &step.lease;
        while let Some(event) = scanner.scan(&mut input).map_err(at)? {
            if let Event::Member(member) = event
                && let Some(entry) = grouper.push(&member).map_err(at)?
            {
                found(entry)?;
            }
        }
        read(end - offset);
        offset = end;
    }
    if let Some(Event::Member(member)) = scanner.finish().map_err(at)?
        && let Some(entry) = grouper.push(&member).map_err(at)?
    {
        found(entry)?;
    }
    if let Some(entry) = grouper.finish() {
        found(entry)?;
    }
    builder.finish(object.id, object.size_bytes).map_err(at)
}
