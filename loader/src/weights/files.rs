//! A model's files as files: all that lies in its folder brought into the cache, and what is there checked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_cache::{BlockId, ByteRange, Cache, ObjectId, ObjectMeta, Prefetched};
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::find::is_pickle;
use super::held::{Held, Shown};
use super::model::{File, Weights};
use super::pins::Pin;
use super::source::Source;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::stop::Stop;
use crate::whole::{self, TooLarge};

/// Blocks that are checked at once: reads of a disk that is busy, in memory that is bounded.
const CHECKS_AT_ONCE: usize = 8;

/// How often a bad block is asked for again, and how long between: its space is given back by a thread of its own.
const MENDS: u32 = 100;
const BETWEEN_MENDS: Duration = Duration::from_millis(20);

/// A file beside the weights: a tokenizer, a configuration, a compile cache.
#[derive(Clone, Debug)]
pub struct Other {
    /// Its name in the model's folder.
    pub name: String,
    /// The version of it that was there when the model was opened.
    pub object: Arc<ObjectMeta>,
}

/// What a prefetch brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Files that are in the cache now; those read where they lie don't count.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What became of their blocks.
    pub blocks: Prefetched,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Bytes of cached blocks that were read and are what was stored.
    pub checked_bytes: u64,
    /// Bytes that were not cached, or were bad, and have been fetched; what comes from the origin is checked on its way.
    pub fetched_bytes: u64,
    /// Bytes that the cache has no room for: nothing to check.
    pub declined_bytes: u64,
    /// Bytes of local files, which have no checksums: they could be read.
    pub read_bytes: u64,
    /// Cached blocks that were bad.
    pub bad: Vec<Bad>,
}

/// A cached block that was not what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// The file's name.
    pub file: String,
    /// Which of its blocks.
    pub block: u32,
    /// The block's bytes in the file.
    pub range: ByteRange,
    /// It was fetched again, and is right now. Where not, it is fetched when it is read.
    pub mended: bool,
}

/// What an open model keeps beside its weights.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Dropped before what it shows is let go.
    pub(super) shown: Mutex<Option<Shown>>,
    pub(super) held: Mutex<HashMap<ObjectId, Arc<Held>>>,
    pins: Mutex<Vec<Pin>>,
}

impl Beside {
    /// Keeps one version of a file in the cache until the model is closed.
    pub(super) fn pin(&self, session: &Arc<Session>, object: &Arc<ObjectMeta>) {
        let mut pins = self.pins.lock();
        if !pins.iter().any(|pin| pin.holds(object)) {
            pins.push(Pin::new(session, object));
        }
    }
}

impl Weights {
    /// The other files of its folder that are not read by running them: tokenizers, configurations, compile caches, weights of other formats.
    /// None where single files were opened, whose folder nobody listed.
    pub fn others(&self) -> Vec<Other> {
        let listed = self.folder.iter().flat_map(|folder| &folder.files);
        let other = |name: &str| !self.files().iter().any(|file| file.name == name) && !is_pickle(name);
        let others = listed.filter(|(name, _)| other(name));
        others.map(|(name, object)| Other { name: name.clone(), object: Arc::new(object.clone()) }).collect()
    }

    /// Brings all files of the model into the cache folder: the weights and, of a folder, also what lies beside them, unless `weights_only`.
    /// They stay there for as long as the model is open. Files that are read where they lie are left alone.
    ///
    /// # Errors
    /// [`forebay_cache::Error::QuotaTooSmall`] where the files don't fit under `cache_limit` together; whatever fetching them gives.
    pub fn prefetch(&self, weights_only: bool, stop: &Stop) -> Result<Brought> {
        self.ground.check_process()?;
        self.ground.until(stop, self.bring(weights_only, &|_| {}))
    }

    /// The session that its files go through; none where all are read where they lie.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        self.ground.session.as_ref()
    }

    /// Whether a file of the weights goes through the cache.
    pub(crate) fn is_cached(&self, file: usize) -> bool {
        matches!(self.reader.files.get(file), Some(Source::Cached(..)))
    }

    /// Where its reads run.
    pub(crate) fn handle(&self) -> &Handle {
        &self.ground.handle
    }

    /// Bytes that [`Self::prefetch`] goes through.
    pub(crate) fn cached_bytes(&self, weights_only: bool) -> u64 {
        self.cached(weights_only).iter().map(|object| object.size_bytes).sum()
    }

    /// As [`Self::prefetch`]; says after each step how many bytes it was.
    pub(crate) async fn bring(&self, weights_only: bool, brought: &(dyn Fn(u64) + Sync)) -> Result<Brought> {
        let objects = self.cached(weights_only);
        let Some(session) = self.ground.session.as_ref().filter(|_| !objects.is_empty()) else {
            return Ok(Brought::default());
        };
        let cache = session.cache();
        let limit_bytes = cache.stats().limit_bytes;
        whole::check_room(&objects, limit_bytes).map_err(|TooLarge { needed_bytes, .. }| {
            let what = format!("the model's {} files, kept at the same time", objects.len());
            forebay_cache::Error::QuotaTooSmall { limit_bytes, needed_bytes, what }
        })?;
        objects.iter().for_each(|object| self.beside.pin(session, object));
        let blocks = whole::bring(cache, &objects, brought).await?;
        Ok(Brought {
            files: objects.len(),
            bytes: objects.iter().map(|object| object.size_bytes).sum(),
            blocks,
        })
    }

    /// The files that go through the cache.
    fn cached(&self, weights_only: bool) -> Vec<Arc<ObjectMeta>> {
        let of_weights = self.reader.files.iter().filter_map(|source| match source {
            Source::Cached(_, object) => Some(object.clone()),
            Source::Local(_) => None,
        });
        let mut objects: Vec<_> = of_weights.collect();
        // A folder's files are read alike.
        if !weights_only && !objects.is_empty() {
            objects.extend(self.others().into_iter().map(|other| other.object));
        }
        objects
    }

    /// Rereads every byte of the model's weights, and compares what is in the cache with its checksums. A bad block is never delivered: it is
    /// fetched again at once, and reported. What was not cached is fetched; local files are read where they lie, and have no checksums.
    ///
    /// # Errors
    /// Whatever fetching and reading give.
    pub fn verify(&self, stop: &Stop) -> Result<Checked> {
        self.ground.check_process()?;
        self.ground.until(stop, self.check(&|_| {}))
    }

    /// As [`Self::verify`]; says after each block how many bytes it was.
    pub(crate) async fn check(&self, checked: &(dyn Fn(u64) + Sync)) -> Result<Checked> {
        let mut sum = Checked::default();
        for (number, file) in self.files().iter().enumerate() {
            let blocks = 0..file.object.blocks();
            match &self.reader.files[number] {
                Source::Cached(cache, object) => {
                    let check = async |block| check_block(cache, file, object, block).await;
                    let mut found = stream::iter(blocks.map(check)).buffered(CHECKS_AT_ONCE);
                    while let Some(one) = found.try_next().await? {
                        checked(one.bytes());
                        sum.add(one);
                    }
                }
                Source::Local(_) => sum.read_bytes += self.read_through(number, checked).await?,
            }
        }
        Ok(sum)
    }

    /// Reads all of a local file.
    async fn read_through(&self, number: usize, checked: &(dyn Fn(u64) + Sync)) -> Result<u64> {
        let (slots, _, _arena) = self.ground.slots(CHECKS_AT_ONCE, 0, 0)?;
        let read = async |range: ByteRange| {
            let slot = slots.take().await?;
            let read = self.reader.read(number, range, slot.region()?).await?;
            let bytes = read.len() as u64;
            drop(slot.with(read));
            checked(bytes);
            Ok::<_, Error>(bytes)
        };
        let object = self.reader.files[number].object().clone();
        let blocks = (0..object.blocks()).map(|index| read(object.block_range(index)));
        stream::iter(blocks)
            .buffer_unordered(CHECKS_AT_ONCE)
            .try_fold(0, async |sum, read| Ok(sum + read))
            .await
    }
}

async fn check_block(cache: &Cache, file: &File, object: &Arc<ObjectMeta>, block: u32) -> Result<Checked> {
    let range = object.block_range(block);
    let bad = cache.recheck(BlockId { object: object.id, index: block }).await?;
    let done = if bad { mend(cache, object, range).await? } else { cache.prefetch(object, range).await? };
    let mut found = Checked::default();
    match (done.declined, bad || done.stored > 0) {
        (1.., _) => found.declined_bytes = range.len(),
        (0, true) => found.fetched_bytes = range.len(),
        (0, false) => found.checked_bytes = range.len(),
    }
    if bad {
        found.bad.push(Bad { file: file.name.clone(), block, range, mended: done.declined == 0 });
    }
    Ok(found)
}

/// Fetches bad blocks again. Until their space is given back nothing can be written there: that is waited for, a while. Who gives it back may
/// be another process, whose owner's protocol has no word for it: it is asked again.
pub(super) async fn mend(cache: &Cache, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Prefetched> {
    for _ in 0..MENDS {
        let done = cache.prefetch(object, range).await?;
        if done.declined == 0 {
            return Ok(done);
        }
        tokio::time::sleep(BETWEEN_MENDS).await;
    }
    Ok(cache.prefetch(object, range).await?)
}

/// Brings all of an object, as far as there is room.
pub(super) async fn fetch_whole(cache: &Cache, object: &Arc<ObjectMeta>) -> Result<Prefetched> {
    whole::bring(cache, std::slice::from_ref(object), &|_| {}).await
}

impl Checked {
    fn bytes(&self) -> u64 {
        self.checked_bytes + self.fetched_bytes + self.declined_bytes + self.read_bytes
    }

    fn add(&mut self, other: Self) {
        self.checked_bytes += other.checked_bytes;
        self.fetched_bytes += other.fetched_bytes;
        self.declined_bytes += other.declined_bytes;
        self.read_bytes += other.read_bytes;
        self.bad.extend(other.bad);
    }
}
