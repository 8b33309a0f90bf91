//! Counts bytes as they arrive, so that work that takes long is told from work that stands still.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Error, Location, ObjectMeta};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A count of bytes; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals(Arc<AtomicU64>);

impl Arrivals {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// An origin whose bytes are counted chunk by chunk.
pub(crate) struct Counting {
    inner: Arc<dyn Origin>,
    arrivals: Arrivals,
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn Origin>, arrivals: Arrivals) -> Self {
        Self { inner, arrivals }
    }
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Origin for Counting {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta, Error>> {
        self.inner.head(location)
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta, Error>> {
        self.inner.list(prefix)
    }

    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes, Error>> {
        let arrivals = self.arrivals.clone();
        let count = move |chunk: &Result<Bytes, Error>| {
            arrivals.add(chunk.as_ref().map_or(0, |bytes| bytes.len() as u64));
        };
        self.inner.get(object, range).inspect(count).boxed()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}
