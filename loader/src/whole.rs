//! Whole objects into the cache folder: whether they fit there together, and bringing them.

use std::sync::Arc;

use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::{ByteRange, Cache, ObjectMeta, Prefetched};
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::Result;

/// Bytes of one step: one request to the origin, where object stores reach their best rate per connection.
const STEP_BYTES: u64 = 4 * BLOCK_BYTES;

/// Steps at once: the cache's 16 connections never wait for the next one.
const STEPS_AT_ONCE: usize = 32;

/// What a block takes beside its bytes (checksums, nodes of extent trees), and an object beside its blocks.
const BLOCK_OVERHEAD_BYTES: u64 = 36 << 10;
const OBJECT_OVERHEAD_BYTES: u64 = 64 << 10;

/// Objects that can't all be cached at the same time: whatever came first would have gone when the last one came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge {
    /// Of all of them.
    pub(crate) bytes: u64,
    /// A limit under which they fit.
    pub(crate) needed_bytes: u64,
}

/// Whether the objects fit under a limit together.
pub(crate) fn check_room(objects: &[Arc<ObjectMeta>], limit_bytes: u64) -> Result<(), TooLarge> {
    let takes = |object: &Arc<ObjectMeta>| {
        object.size_bytes + u64::from(object.blocks()) * BLOCK_OVERHEAD_BYTES + OBJECT_OVERHEAD_BYTES
    };
    let bytes = objects.iter().map(|object| object.size_bytes).sum();
    let taken: u64 = objects.iter().map(takes).sum();
    // 2 % of the limit stay free for writes.
    let needed_bytes = taken + taken / 49 + (8 << 20);
    if bytes <= limit_bytes / 100 * 98 { Ok(()) } else { Err(TooLarge { bytes, needed_bytes }) }
}

/// All bytes of an object.
pub(crate) fn range(object: &ObjectMeta) -> ByteRange {
    ByteRange::new(0, object.size_bytes)
}

/// Brings the objects into the folder, and says after each step how many bytes of them it was.
pub(crate) async fn bring(
    cache: &Cache,
    objects: &[Arc<ObjectMeta>],
    brought: &(dyn Fn(u64) + Sync),
) -> Result<Prefetched> {
    let steps = objects.iter().flat_map(|object| {
        let starts = (0..object.size_bytes).step_by(STEP_BYTES as usize);
        starts.map(move |at| (object, ByteRange::new(at, (at + STEP_BYTES).min(object.size_bytes))))
    });
    let bring = async |(object, range): (&Arc<ObjectMeta>, ByteRange)| {
        let done = cache.prefetch(object, range).await?;
        brought(range.len());
        Ok(done)
    };
    stream::iter(steps.map(bring)).buffer_unordered(STEPS_AT_ONCE).try_fold(Prefetched::default(), add).await
}

async fn add(sum: Prefetched, done: Prefetched) -> Result<Prefetched> {
    Ok(Prefetched {
        present: sum.present + done.present,
        stored: sum.stored + done.stored,
        declined: sum.declined + done.declined,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_cache::{Location, Version};

    #[test]
    fn what_can_not_fit_is_told_with_the_limit_that_works() {
        let object = |number: u32| {
            let at = Location::new(format!("s3://b/{number}.tar"));
            Arc::new(ObjectMeta::new(at, 1 << 30, Version::Etag("1".into())))
        };
        let objects = [object(0), object(1)];
        assert_eq!(check_room(&objects, 4 << 30), Ok(()));
        let refused = check_room(&objects, 2 << 30).unwrap_err();
        assert_eq!(refused.bytes, 2 << 30);
        assert_eq!(check_room(&objects, refused.needed_bytes), Ok(()));
    }
}
