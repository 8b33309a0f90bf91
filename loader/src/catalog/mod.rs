//! The shards of a dataset and what is in them: which objects, how many samples, where each one lies.
//!
//! An index of a shard comes from, in this order: the cache, a sidecar beside the shard, or an announced pass over the shard that fills
//! the cache on its way. Counts alone may also come from a wids JSON. Everything is kept under the shard's ObjectId, so that
//! an object that changed is looked at anew.

mod discover;
mod gunzip;
mod loaded;
mod resolve;
mod scan;
mod unzip;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_cache::memory::Region;
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Cache, Lease, Location, ObjectId, ObjectMeta};
use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::arrivals::Arrivals;
use crate::dataset::{SampleEntry, ShardIndex, sidecar};
use crate::error::{Error, Result};
use crate::plan::{Piece, SampleRef};
use crate::report::Reporter;
pub(crate) use discover::discover;
use loaded::Loaded;
use scan::Pass;

pub use gunzip::Gunzip;
pub use resolve::{Shards, resolve};

/// Name of a shard's index among the cache's small files.
const INDEX: &str = "index";
/// Name of a shard's index that a sidecar gave.
const CLAIMED: &str = "index-sidecar";
/// Name of a dataset's counts among the cache's small files.
const COUNTS: &str = "counts";
/// Shards looked at at once: more connections than that gain nothing on one store.
const AT_ONCE: usize = 16;
/// Shards read from end to end at once: each keeps a block or two on their way.
const SCANS_AT_ONCE: usize = 4;

/// A sample, found: its shard, and its members in it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which sample.
    pub at: SampleRef,
    /// Its shard.
    pub object: Arc<ObjectMeta>,
    /// Its members.
    pub entry: SampleEntry,
    /// A sidecar says where they lie, and nobody has looked yet: their headers are to be read with them, and checked.
    pub claimed: bool,
}

/// What is kept of a dataset whose shards were all counted.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    counts: Vec<u64>,
    /// Decompressed sizes of gzip shards.
    unzipped: Vec<(usize, u64)>,
}

/// The shards of one dataset.
#[derive(Debug)]
pub struct Catalog {
    cache: Cache,
    origin: Arc<dyn Origin>,
    region: Region,
    reporter: Reporter,
    shards: Shards,
    counts: OnceCell<Arc<[u64]>>,
    loaded: Loaded,
    /// What gzip shards decompress to, as far as it is known.
    unzipped: Mutex<BTreeMap<usize, Arc<ObjectMeta>>>,
    /// Bytes that passes over shards have read, from wherever.
    passed: Arrivals,
}

impl Catalog {
    /// A catalog of `shards`. Passes over shards read into `region`; at most `index_bytes` of indexes stay in memory.
    pub fn new(
        cache: Cache,
        origin: Arc<dyn Origin>,
        region: Region,
        reporter: Reporter,
        shards: Shards,
        index_bytes: usize,
    ) -> Self {
        Self {
            cache,
            origin,
            region,
            reporter,
            shards,
            counts: OnceCell::new(),
            loaded: Loaded::new(index_bytes),
            unzipped: Mutex::default(),
            passed: Arrivals::default(),
        }
    }

    /// The shards' objects as they lie at the origin, in the dataset's order. Samples are read from [`Self::served`].
    pub fn objects(&self) -> &[Arc<ObjectMeta>] {
        &self.shards.objects
    }

    /// Hash over the identities of all shards: tells whether two loaders read the same bytes.
    pub fn fingerprint(&self) -> ObjectId {
        let mut hash = blake3::Hasher::new();
        for object in self.objects() {
            hash.update(object.id.as_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize().as_bytes()[..16]);
        ObjectId::from_bytes(id)
    }

    /// Bytes that passes over shards have read while an epoch runs.
    pub(crate) fn passed(&self) -> &Arrivals {
        &self.passed
    }

    /// Every shard's count, where they are known already.
    pub fn known_counts(&self) -> Option<Arc<[u64]>> {
        self.counts.get().cloned()
    }

    /// Looks whether every shard's count is known without a pass over the data: from a wids JSON or from the cache.
    pub async fn try_counts(&self) -> Result<Option<Arc<[u64]>>> {
        if let Some(counts) = self.counts.get() {
            return Ok(Some(counts.clone()));
        }
        let listed = self.shards.counts.iter().copied().collect::<Option<Arc<[u64]>>>();
        let counts = match listed {
            Some(counts) => Some(counts),
            None => self.kept_counts().await?,
        };
        match counts {
            Some(counts) => Ok(Some(self.counts.get_or_init(async || counts).await.clone())),
            None => Ok(None),
        }
    }

    /// Every shard's count; a shard that nothing knows is read once, with a progress bar.
    pub async fn counts(&self) -> Result<Arc<[u64]>> {
        if let Some(counts) = self.try_counts().await? {
            return Ok(counts);
        }
        self.counts.get_or_try_init(async || self.find_counts().await).await.cloned()
    }

    async fn find_counts(&self) -> Result<Arc<[u64]>> {
        let quick = stream::iter(0..self.objects().len()).map(|shard| self.count_without_pass(shard));
        let known: Vec<Option<u64>> = quick.buffered(AT_ONCE).try_collect().await?;
        let missing: Vec<usize> = (0..known.len()).filter(|&shard| known[shard].is_none()).collect();
        let mut counts: Vec<u64> = known.iter().map(|count| count.unwrap_or(0)).collect();
        if !missing.is_empty() {
            for (shard, count) in self.pass_over(&missing).await? {
                counts[shard] = count;
            }
        }
        self.keep_counts(&counts).await?;
        Ok(counts.into())
    }

    async fn count_without_pass(&self, shard: usize) -> Result<Option<u64>> {
        match self.shards.counts[shard] {
            Some(count) => Ok(Some(count)),
            None => Ok(self.index_without_pass(shard).await?.map(|index| index.len())),
        }
    }

    /// The announced pass.
    async fn pass_over(&self, shards: &[usize]) -> Result<Vec<(usize, u64)>> {
        let total: u64 = shards.iter().map(|&shard| self.objects()[shard].size_bytes).sum();
        self.reporter.announce(format!(
            "{} of {} shards have no index: reading {total} bytes once to count their samples (this fills the cache; \
             `forebay index --write-sidecars` makes indexes that need no such pass)",
            shards.len(),
            self.objects().len(),
        ));
        if !self.fits() {
            self.reporter.announce(format!(
                "the dataset's {} bytes do not fit into cache_limit, so that the pass reads what the epoch will read \
                 again; `forebay index --write-sidecars` avoids that",
                self.served_bytes()
            ));
        }
        let bar = self.reporter.bar("indexing", total);
        let scans = stream::iter(shards.to_vec()).map(|shard| {
            let load = self.load(shard, |bytes| bar.inc(bytes));
            load.map_ok(move |index| (shard, index.len()))
        });
        let counts = scans.buffer_unordered(SCANS_AT_ONCE).try_collect().await;
        bar.finish_and_clear();
        if !self.unzipped.lock().is_empty() && !self.fits() {
            self.reporter.announce(format!(
                "with its gzip shards decompressed the dataset has {} bytes, which do not fit into cache_limit: a shard that left the cache \
                 is read and decompressed from its beginning again, each epoch; a larger cache_limit or plain .tar shards avoid that",
                self.served_bytes()
            ));
        }
        counts
    }

    /// Bytes of the dataset as samples are read from it: in whole blocks, gzip shards decompressed, as far as that is known.
    pub fn served_bytes(&self) -> u64 {
        let unzipped = self.unzipped.lock();
        let objects = self.objects().iter().enumerate();
        objects
            .map(|(shard, raw)| u64::from(unzipped.get(&shard).unwrap_or(raw).blocks()) * BLOCK_BYTES)
            .sum()
    }

    /// True where the cache folder can hold the whole dataset.
    pub fn fits(&self) -> bool {
        self.fitting_limit_bytes() <= self.cache.stats().limit_bytes
    }

    /// The least limit with which the folder can hold the whole dataset: a tenth is for indexes, checksums, and what stays free for
    /// writes.
    pub fn fitting_limit_bytes(&self) -> u64 {
        self.served_bytes().div_ceil(9).saturating_mul(10)
    }

    /// Where a sample lies.
    pub async fn find(&self, at: SampleRef) -> Result<Found> {
        let index = self.index(at.shard).await?;
        let object = self.served(at.shard)?;
        let mut entries = index.samples(at.index..at.index + 1).map_err(|error| stale(&object, &error))?;
        let entry = entries.pop().ok_or_else(|| Error::Dataset {
            message: format!("{} has {} samples, {} was asked for", object.location, index.len(), at.index),
        })?;
        Ok(Found { at, object, entry, claimed: index.is_claimed() })
    }

    /// From the first header to the last byte of a piece's samples.
    pub async fn bytes_of(&self, piece: &Piece) -> Result<(Arc<ObjectMeta>, ByteRange)> {
        if piece.is_empty() {
            return Ok((self.served(piece.shard)?, ByteRange::new(0, 0)));
        }
        let index = self.index(piece.shard).await?;
        let object = self.served(piece.shard)?;
        let edge = |at: u64| {
            Ok::<_, Error>(index.samples(at..at + 1).map_err(|error| stale(&object, &error))?.pop())
        };
        let (first, last) = (edge(piece.samples.start)?, edge(piece.samples.end - 1)?);
        let start = first.map_or(0, |entry| entry.range().start);
        let end = last.map_or(0, |entry| entry.range().end);
        Ok((object, ByteRange::new(start, end)))
    }

    /// A shard's index; its offsets are those of [`Self::served`].
    pub async fn index(&self, shard: u32) -> Result<Arc<ShardIndex>> {
        self.loaded.get(shard, self.load(shard as usize, |_| {})).await
    }

    fn object(&self, shard: u32) -> Result<&Arc<ObjectMeta>> {
        let none = || Error::Dataset {
            message: format!("the dataset has {} shards, none is number {shard}", self.objects().len()),
        };
        self.objects().get(shard as usize).ok_or_else(none)
    }

    /// A shard's index, by a pass over it where nothing else has it; `read` sees the bytes of each step. Not kept in memory.
    pub(crate) async fn load(&self, shard: usize, mut read: impl FnMut(u64)) -> Result<Arc<ShardIndex>> {
        let read = |bytes| {
            self.passed.add(bytes);
            read(bytes);
        };
        if let Some(index) = self.index_without_pass(shard).await? {
            return self.counted(shard, index);
        }
        let index = match self.plain(shard).await? {
            Some(object) => Pass::new(&self.cache, &object, &self.region).run(read).await?,
            None => self.unzip(shard, read).await?,
        };
        self.keep(INDEX, &index).await?;
        self.counted(shard, index)
    }

    /// The object that a pass over the shard reads as plain tar; `None` for a gzip shard whose size nobody knows yet.
    async fn plain(&self, shard: usize) -> Result<Option<Arc<ObjectMeta>>> {
        if let Some(object) = self.known_unzipped(shard).await? {
            return Ok(Some(object));
        }
        let raw = &self.objects()[shard];
        Ok((!self.begins_as_gzip(raw).await?).then(|| raw.clone()))
    }

    /// Checks an index against the count that the dataset's list promised.
    fn counted(&self, shard: usize, index: ShardIndex) -> Result<Arc<ShardIndex>> {
        match self.shards.counts[shard] {
            Some(promised) if promised != index.len() => Err(Error::Dataset {
                message: format!(
                    "{} has {} samples, the dataset's JSON says {promised}; write the JSON anew",
                    self.objects()[shard].location,
                    index.len()
                ),
            }),
            _ => Ok(Arc::new(index)),
        }
    }

    /// From the cache, or from a sidecar.
    pub(crate) async fn index_without_pass(&self, shard: usize) -> Result<Option<ShardIndex>> {
        let raw = &self.objects()[shard];
        let unzipped = self.known_unzipped(shard).await?;
        let object = unzipped.as_ref().unwrap_or(raw);
        if let Some(index) = self.kept_index(INDEX, object).await? {
            return Ok(Some(index));
        }
        // Sidecars are of plain shards.
        if unzipped.is_some() || gunzip::is_gzip_name(&raw.location) {
            return Ok(None);
        }
        if let Some(index) = self.kept_index(CLAIMED, object).await? {
            return Ok(Some(index.claimed()));
        }
        let Some((location, text)) = self.sidecar(object).await? else { return Ok(None) };
        let index =
            sidecar::read(&text, object.id, object.size_bytes).map_err(|error| error.at(&location))?;
        self.keep(CLAIMED, &index).await?;
        Ok(Some(index.claimed()))
    }

    async fn kept_index(&self, kind: &str, object: &ObjectMeta) -> Result<Option<ShardIndex>> {
        let bytes = self.cache.aux_get(kind, &object.id).await?;
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        match ShardIndex::from_bytes(Lease::from_vec(bytes), object.id) {
            Ok(index) => Ok(Some(index)),
            // Made anew; said, since it should not happen.
            Err(error) => {
                let what = format!("the cached index of {} is unusable ({error})", object.location);
                self.reporter.announce(what);
                Ok(None)
            }
        }
    }

    /// Frees the indexes in memory.
    pub(crate) fn forget_indexes(&self) {
        self.loaded.clear();
    }

    /// Forgets what a sidecar said of a shard, since it turned out wrong: the next loader looks again.
    pub async fn distrust(&self, shard: u32) -> Result<()> {
        self.loaded.forget(shard);
        self.cache.aux_put(CLAIMED, &self.object(shard)?.id, Vec::new()).await?;
        self.cache.aux_put(COUNTS, &self.fingerprint(), Vec::new()).await?;
        Ok(())
    }

    async fn sidecar(&self, object: &ObjectMeta) -> Result<Option<(Location, Vec<u8>)>> {
        for location in sidecar::candidates(&object.location) {
            match self.origin.head(&location).await {
                Ok(meta) => return Ok(Some((location, fetch(&*self.origin, &meta).await?))),
                // A store that lets nobody list says 403 for a key that doesn't exist.
                Err(
                    forebay_cache::Error::NotFound { .. } | forebay_cache::Error::PermissionDenied { .. },
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    async fn keep(&self, kind: &str, index: &ShardIndex) -> Result<()> {
        let kept = self.cache.aux_put(kind, &index.object(), index.as_bytes().to_vec()).await?;
        if !kept {
            self.reporter.announce(
                "there is no room in the cache folder for indexes of shards: they will be made again",
            );
        }
        Ok(())
    }

    async fn kept_counts(&self) -> Result<Option<Arc<[u64]>>> {
        let Some(bytes) = self.cache.aux_get(COUNTS, &self.fingerprint()).await? else { return Ok(None) };
        let kept: Option<Kept> = serde_json::from_slice(&bytes).ok();
        let Some(kept) = kept.filter(|kept| kept.counts.len() == self.objects().len()) else {
            return Ok(None);
        };
        for (shard, size_bytes) in kept.unzipped {
            if shard < self.objects().len() {
                self.is_unzipped(shard, size_bytes)?;
            }
        }
        Ok(Some(kept.counts.into()))
    }

    async fn keep_counts(&self, counts: &[u64]) -> Result<()> {
        let kept = Kept { counts: counts.to_vec(), unzipped: self.unzipped_sizes() };
        let bytes = serde_json::to_vec(&kept).map_err(|error| Error::config(error.to_string()))?;
        self.cache.aux_put(COUNTS, &self.fingerprint(), bytes).await?;
        Ok(())
    }
}

/// A whole small object.
pub(crate) async fn fetch(origin: &dyn Origin, object: &ObjectMeta) -> Result<Vec<u8>> {
    /// More than this is no index of a shard, nor a list of shards.
    const MOST: u64 = 1 << 30;
    if object.size_bytes > MOST {
        return Err(Error::Dataset {
            message: format!("{} has {} bytes; {MOST} are the most", object.location, object.size_bytes),
        });
    }
    fetch_range(origin, object, ByteRange::new(0, object.size_bytes)).await
}

/// A few bytes of an object, not through the cache.
async fn fetch_range(origin: &dyn Origin, object: &ObjectMeta, range: ByteRange) -> Result<Vec<u8>> {
    let chunks = origin.get(object, range);
    let mut bytes = Vec::with_capacity(range.len() as usize);
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

fn stale(object: &ObjectMeta, error: &crate::dataset::Malformed) -> Error {
    Error::Shard {
        location: object.location.clone(),
        offset: error.offset,
        what: format!("its index is unusable: {}", error.what),
    }
}
