//! Gzip shards as objects of their own: what lies at `s3://b/a.tar.gz` compressed is `gunzip+s3://b/a.tar.gz` to the cache.
//!
//! [`Gunzip`] is an origin around another one. An object made by [`unpacked`] is read from the compressed one and decompressed on
//! its way; everything else passes through. Its version holds size and version of the compressed object, so that the derived
//! object alone tells what to read, and another version of the one is another version of the other.
//!
//! A range that goes on where an earlier one ended goes on with the same decompressor ([`turns`]); any other one is right too, and
//! costs decompressing what lies before it. How large the decompressed object is has to be known before: [`super::unzip`] finds out.

mod inflate;
mod turns;

use std::sync::Arc;

use bytes::Bytes;
use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Error, Location, ObjectMeta, Result, Version};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};

pub(crate) use inflate::Inflating;
use turns::{Turn, Turns};

/// What stands before the scheme of the compressed object; no store has such a scheme.
const SCHEME: &str = "gunzip+";

/// Bytes decompressed at a time: a quarter of a millisecond of work on a blocking thread, small against a block.
const STEP_BYTES: usize = 256 << 10;

/// What the version of a decompressed object says of the compressed one.
#[derive(Debug, Serialize, Deserialize)]
struct Packed {
    size_bytes: u64,
    version: Version,
}

/// The decompressed stream ended before the size that the object was said to have, or goes on behind it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the gzip stream does not decompress to {size_bytes} bytes: the shard changed, or its kept size is wrong"
)]
pub(crate) struct WrongSize {
    size_bytes: u64,
}

/// True for a name that promises gzip; what is in it decides.
pub(crate) fn is_gzip_name(location: &Location) -> bool {
    let name = location.file_name().to_ascii_lowercase();
    name.ends_with(".gz") || name.ends_with(".tgz")
}

/// Where the decompressed bytes of `packed` are said to lie.
pub(crate) fn location(packed: &Location) -> Location {
    Location::new(format!("{SCHEME}{}", packed.as_str()))
}

/// The object of the decompressed bytes of `packed`, of which there are `size_bytes`.
pub(crate) fn unpacked(packed: &ObjectMeta, size_bytes: u64) -> Result<ObjectMeta> {
    let version = Packed { size_bytes: packed.size_bytes, version: packed.version.clone() };
    let version = serde_json::to_string(&version).map_err(|error| Error::config(error.to_string()))?;
    Ok(ObjectMeta::new(location(&packed.location), size_bytes, Version::Id(version)))
}

/// The compressed object of a decompressed one; nothing for any other object.
fn packed(object: &ObjectMeta) -> Option<ObjectMeta> {
    let location = object.location.as_str().strip_prefix(SCHEME)?;
    let Version::Id(version) = &object.version else { return None };
    let Packed { size_bytes, version } = serde_json::from_str(version).ok()?;
    Some(ObjectMeta::new(Location::new(location), size_bytes, version))
}

/// An origin that also has the decompressed form of its gzip objects. Clones share their decompressors.
#[derive(Clone, Debug)]
pub struct Gunzip {
    inner: Arc<dyn Origin>,
    turns: Arc<Turns>,
}

impl Gunzip {
    /// Around `inner`.
    pub fn new(inner: Arc<dyn Origin>) -> Self {
        Self { inner, turns: Arc::default() }
    }
}

impl Origin for Gunzip {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>> {
        if location.as_str().starts_with(SCHEME) {
            let what = format!("{location}: the size of a decompressed object is not known to its origin");
            return async move { Err(Error::config(what)) }.boxed();
        }
        self.inner.head(location)
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        let Some(packed) = packed(object) else { return self.inner.get(object, range) };
        if range.end > object.size_bytes {
            let (location, size_bytes) = (object.location.clone(), object.size_bytes);
            return stream::iter([Err(Error::OutOfRange { location, range, size_bytes })]).boxed();
        }
        let reading =
            Reading { origin: self.clone(), packed, object: object.clone(), left: range, turn: None };
        let step =
            |mut reading: Reading| async move { Ok(reading.next().await?.map(|bytes| (bytes, reading))) };
        stream::try_unfold(reading, step).boxed()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

/// One range on its way.
struct Reading {
    origin: Gunzip,
    packed: ObjectMeta,
    object: ObjectMeta,
    left: ByteRange,
    turn: Option<Turn>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let mut turn = match self.turn.take() {
            Some(turn) => turn,
            None => self.begin().await?,
        };
        let most = self.left.len().min(STEP_BYTES as u64) as usize;
        let bytes = turn.inflating()?.next(most).await?;
        if bytes.is_empty() {
            return Err(self.wrong_size());
        }
        self.left.start += bytes.len() as u64;
        if self.left.start == self.object.size_bytes {
            // Checked before the last bytes are handed out: a block is complete, and kept, as soon as it has all of them.
            if !turn.inflating()?.next(1).await?.is_empty() {
                return Err(self.wrong_size());
            }
        } else if self.left.is_empty() {
            turn.park();
        } else {
            self.turn = Some(turn);
        }
        Ok(Some(bytes))
    }

    /// A decompressor that stands at the range's start.
    async fn begin(&mut self) -> Result<Turn> {
        let fresh = || Inflating::start(&*self.origin.inner, &self.packed);
        let mut turn = self.origin.turns.take(self.object.id, self.left, fresh).await;
        loop {
            let inflating = turn.inflating()?;
            let before = self.left.start - inflating.position();
            if before == 0 {
                return Ok(turn);
            }
            if inflating.next(before.min(STEP_BYTES as u64) as usize).await?.is_empty() {
                return Err(self.wrong_size());
            }
        }
    }

    fn wrong_size(&self) -> Error {
        Error::Origin {
            location: self.object.location.clone(),
            range: self.left,
            attempts: 1,
            source: Arc::new(WrongSize { size_bytes: self.object.size_bytes }),
        }
    }
}

#[cfg(test)]
mod tests;
