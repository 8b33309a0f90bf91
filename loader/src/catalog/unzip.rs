//! Gzip shards: which ones they are, how many bytes they decompress to, and the pass that finds that out.
//!
//! Content decides, not the name. A name that promises gzip costs one small request; any other shard is looked at when it is scanned,
//! in bytes that the scan reads anyway. The size is kept with the compressed object: the pass is made once.
//!
//! The last four bytes of a gzip file say how long its last member is, modulo 2³²: for a shard of one member that is the size. Where
//! that can be so, the pass goes through the cache, fills it, and the origin is read once. Where it turns out otherwise (several members,
//! padding), the pass decompresses beside the cache, and the shard is read again when its samples are.

use std::sync::Arc;

use forebay_cache::disk::Evict;
use forebay_cache::{ByteRange, ObjectMeta};

use super::gunzip::{Inflating, WrongSize, is_gzip_name, location, unpacked};
use super::scan::{Pass, STEP_BYTES, Scan};
use super::{Catalog, fetch_range};
use crate::dataset::gzip::is_gzip;
use crate::dataset::{Malformed, ShardIndex};
use crate::error::{Error, Result};

/// Name of a shard's decompressed size among the cache's small files.
const SIZE: &str = "gunzip-size";

/// Bytes that tell gzip from anything else.
const MAGIC_BYTES: u64 = 3;

/// The least that a gzip file takes: header, an empty block, trailer.
const LEAST_GZIP_BYTES: u64 = 20;

impl Catalog {
    /// The object that a shard's samples are read from: the shard, or what it decompresses to, as far as that is known.
    pub fn served(&self, shard: u32) -> Result<Arc<ObjectMeta>> {
        let raw = self.object(shard)?;
        Ok(self.unzipped.lock().get(&(shard as usize)).unwrap_or(raw).clone())
    }

    /// Decompressed sizes of the gzip shards, as far as they are known.
    pub(super) fn unzipped_sizes(&self) -> Vec<(usize, u64)> {
        self.unzipped.lock().iter().map(|(shard, object)| (*shard, object.size_bytes)).collect()
    }

    /// What a shard decompresses to, where an earlier pass found it to be gzip.
    pub(super) async fn known_unzipped(&self, shard: usize) -> Result<Option<Arc<ObjectMeta>>> {
        if let Some(object) = self.unzipped.lock().get(&shard) {
            return Ok(Some(object.clone()));
        }
        let kept = self.cache.aux_get(SIZE, &self.objects()[shard].id).await?;
        match kept.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes) {
            Some(size) => self.is_unzipped(shard, size).map(Some),
            None => Ok(None),
        }
    }

    /// Notes that a shard is gzip, of this decompressed size.
    pub(super) fn is_unzipped(&self, shard: usize, size_bytes: u64) -> Result<Arc<ObjectMeta>> {
        let object = Arc::new(unpacked(&self.objects()[shard], size_bytes)?);
        self.unzipped.lock().insert(shard, object.clone());
        Ok(object)
    }

    /// True where the shard's first bytes are those of a gzip file.
    pub(super) async fn begins_as_gzip(&self, raw: &Arc<ObjectMeta>) -> Result<bool> {
        let start = ByteRange::new(0, MAGIC_BYTES.min(raw.size_bytes));
        if is_gzip_name(&raw.location) {
            return Ok(is_gzip(&fetch_range(&*self.origin, raw, start).await?));
        }
        let found = is_gzip(&self.cache.read(raw, start, &self.region).await?.lease);
        if found {
            // Its compressed bytes are not asked of the cache again.
            let whole = ByteRange::new(0, raw.size_bytes);
            self.cache.advise(&raw.id, whole, forebay_cache::disk::Advice::Done);
        }
        Ok(found)
    }

    /// The pass over a gzip shard. `read` sees its progress in compressed bytes.
    pub(super) async fn unzip(&self, shard: usize, mut read: impl FnMut(u64)) -> Result<ShardIndex> {
        let raw = &self.objects()[shard];
        self.reporter.announce(
            "shards are compressed with gzip, which can only be read from the beginning: each is decompressed once, and the cache keeps the \
             decompressed bytes; one that leaves the cache is read and decompressed from its beginning again. Plain .tar shards cost none \
             of this",
        );
        let index = match self.guess_size(raw).await? {
            Some(size) => self.unzip_through_cache(raw, size, &mut read).await?,
            None => None,
        };
        let index = match index {
            Some(index) => index,
            None => {
                self.reporter.announce(
                    "gzip shards of several members don't say how large they are: they are read once to find out, and again when their \
                     samples are",
                );
                self.unzip_beside_cache(raw, &mut read).await?
            }
        };
        let size = index.stream_bytes();
        self.is_unzipped(shard, size)?;
        self.cache.aux_put(SIZE, &raw.id, size.to_le_bytes().to_vec()).await?;
        Ok(index)
    }

    /// The size that the shard's last bytes promise, where it may be true and fits the cache folder.
    async fn guess_size(&self, raw: &ObjectMeta) -> Result<Option<u64>> {
        if raw.size_bytes < LEAST_GZIP_BYTES {
            return Ok(None);
        }
        let end = ByteRange::new(raw.size_bytes - 4, raw.size_bytes);
        let bytes = fetch_range(&*self.origin, raw, end).await?;
        let Ok(modulo) = bytes.try_into().map(u32::from_le_bytes) else { return Ok(None) };
        // What doesn't compress grows by 5 bytes in 16 KiB at most: a size far below the file's is another member's, or a multiple of
        // 4 GiB is missing.
        let least = raw.size_bytes - raw.size_bytes / 1000 - LEAST_GZIP_BYTES.min(raw.size_bytes / 2);
        let missing = least.saturating_sub(u64::from(modulo)).div_ceil(1 << 32);
        let size = u64::from(modulo) + (missing << 32);
        let plausible = modulo > 0 && (missing == 0 || raw.size_bytes > 1 << 31);
        Ok((plausible && size <= self.cache.stats().limit_bytes).then_some(size))
    }

    /// Scans the shard as if it decompressed to `size` bytes. None where that is not so.
    async fn unzip_through_cache(
        &self,
        raw: &ObjectMeta,
        size: u64,
        read: &mut impl FnMut(u64),
    ) -> Result<Option<ShardIndex>> {
        let object = Arc::new(unpacked(raw, size)?);
        let (mut done, mut said) = (0u64, 0);
        let progress = |bytes: u64| {
            done += bytes;
            let packed = (u128::from(raw.size_bytes) * u128::from(done) / u128::from(size)) as u64;
            read(packed - said);
            said = packed;
        };
        match Pass::new(&self.cache, &object, &self.region).run(progress).await {
            Ok(index) => Ok(Some(index)),
            // Malformed for this size: the pass beside the cache tells whether for every size.
            Err(error) if matches!(error, Error::Shard { .. }) || is_wrong_size(&error) => {
                self.cache.evict(Evict::Object(object.id)).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Scans the shard as it is decompressed; at most as much as the cache folder can hold.
    async fn unzip_beside_cache(
        &self,
        raw: &Arc<ObjectMeta>,
        read: &mut impl FnMut(u64),
    ) -> Result<ShardIndex> {
        let limit = self.cache.stats().limit_bytes;
        let at = |error: Malformed| error.at(&location(&raw.location));
        let mut inflating = Inflating::start(&*self.origin, raw);
        let mut scan = Scan::new(None);
        loop {
            let before = inflating.taken();
            let bytes = inflating.next(STEP_BYTES as usize).await?;
            if bytes.is_empty() {
                break;
            }
            if inflating.position() > limit {
                return Err(self.too_large(raw, inflating.taken(), limit));
            }
            scan.feed(&bytes).map_err(at)?;
            read(inflating.taken() - before);
        }
        let size = inflating.position();
        let object = unpacked(raw, size)?;
        scan.end().map_err(at)?;
        scan.index(object.id).map_err(at)
    }

    fn too_large(&self, raw: &ObjectMeta, offset: u64, limit: u64) -> Error {
        let what = format!(
            "the first {offset} of its {} bytes decompress to more than cache_limit, {limit} bytes: raise cache_limit, or write smaller \
             shards; if the shard should not be that large, it is corrupt or hostile",
            raw.size_bytes
        );
        Malformed::new(offset, what).at(&raw.location)
    }
}

/// True where the size that was tried is not the stream's.
fn is_wrong_size(error: &Error) -> bool {
    let Error::Cache(forebay_cache::Error::Origin { source, .. }) = error else { return false };
    source.downcast_ref::<WrongSize>().is_some()
}
