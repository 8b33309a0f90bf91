//! A cache folder of the measurement's own: objects of noise, from an origin that costs next to nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, ensure};
use bytes::Bytes;
use forebay_cache::io::BlockIo;
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Cache, CacheOptions, Location, ObjectMeta, Version};
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

use crate::{mixed, reading::region};

/// So many objects of together so many bytes, in whole blocks.
///
/// # Errors
/// Less than a block for each.
pub fn objects(count: u64, total_bytes: u64) -> Result<Vec<Arc<ObjectMeta>>> {
    let bytes = total_bytes / count.max(1) / BLOCK_BYTES * BLOCK_BYTES;
    ensure!(bytes > 0, "{total_bytes} bytes are too few for {count} objects");
    let meta = |number| {
        let location = Location::new(format!("noise://objects/{number}"));
        Arc::new(ObjectMeta::new(location, bytes, Version::Etag("1".into())))
    };
    Ok((0..count).map(meta).collect())
}

/// Opens the cache in `folder`, with memory for 16 blocks.
///
/// # Errors
/// The cache's own.
pub fn open(folder: &Path, limit_bytes: u64, engine: Arc<dyn BlockIo>) -> Result<Cache> {
    let memory = region(16 * BLOCK_BYTES as usize)?;
    Ok(Cache::open(CacheOptions::new(folder, limit_bytes, memory, Arc::new(Noise), engine))?)
}

/// Brings all of these objects into the cache of `folder`, to the disk itself, and closes it.
///
/// # Errors
/// The cache's own, and where it does not keep them.
pub fn fill(folder: &Path, objects: &[Arc<ObjectMeta>], engine: Arc<dyn BlockIo>) -> Result<()> {
    let cache = open(folder, 1 << 50, engine)?;
    block_on(async {
        for object in objects {
            let done = cache.prefetch(object, ByteRange::new(0, object.size_bytes)).await?;
            ensure!(done.stored == object.blocks(), "the cache kept {done:?} of {object:?}");
        }
        Ok(cache.close().await?)
    })?;
    rustix::fs::syncfs(std::fs::File::open(folder)?)?;
    Ok(())
}

/// The files in which a cache folder keeps its objects.
///
/// # Errors
/// The folder can't be read.
pub fn data_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for bucket in std::fs::read_dir(folder.join("objects"))? {
        for file in std::fs::read_dir(bucket?.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "data") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// An origin of bytes that no disk compresses, handed out without a copy.
#[derive(Debug)]
struct Noise;

const NOISE_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: u64 = 1 << 20;

fn noise() -> &'static Bytes {
    static NOISE: OnceLock<Bytes> = OnceLock::new();
    NOISE.get_or_init(|| {
        (0..NOISE_BYTES / 8).flat_map(|word| mixed(word).to_le_bytes()).collect::<Vec<u8>>().into()
    })
}

impl Origin for Noise {
    fn head(&self, location: &Location) -> BoxFuture<'_, forebay_cache::Result<ObjectMeta>> {
        let error = forebay_cache::Error::config(format!("{location}: its size is not asked for here"));
        Box::pin(async { Err(error) })
    }

    fn list(&self, _: &Location) -> BoxStream<'_, forebay_cache::Result<ObjectMeta>> {
        stream::empty().boxed()
    }

    fn get(&self, _: &ObjectMeta, range: ByteRange) -> BoxStream<'static, forebay_cache::Result<Bytes>> {
        let piece = move |at: &mut u64| {
            let from = *at % NOISE_BYTES;
            let len = CHUNK_BYTES.min(range.end - *at).min(NOISE_BYTES - from);
            *at += len;
            (len > 0).then(|| Ok(noise().slice(from as usize..(from + len) as usize)))
        };
        let mut at = range.start;
        stream::iter(std::iter::from_fn(move || piece(&mut at))).boxed()
    }

    fn kind(&self) -> &'static str {
        "noise"
    }
}
