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

use crate::trace::Listeners;

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

/// An origin whose bytes are counted chunk by chunk, and whose requests are traced where somebody listens.
pub(crate) struct Counting {
    inner: Arc<dyn Origin>,
    arrivals: Arrivals,
    listeners: Listeners,
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn Origin>, arrivals: Arrivals, listeners: Listeners) -> Self {
        Self { inner, arrivals, listeners }
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
        let mut fetch = self.listeners.fetch(&object.location, range);
        let count = move |chunk: &Result<Bytes, Error>| {
            let bytes = chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
            arrivals.add(bytes);
            if let Some(fetch) = &mut fetch {
                fetch.arrived(bytes);
            }
        };
        self.inner.get(object, range).inspect(count).boxed()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}
