//! Ranged reads of one object store: retried, with If-Match on every range; one file per family of stores.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::object::{ByteRange, Location, ObjectMeta};

/// Where objects come from.
pub trait Origin: Send + Sync + fmt::Debug {
    /// Size and version of an object.
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>>;

    /// Every object under a prefix (recursive), unordered, as a stream.
    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>>;

    /// The bytes of `range` of exactly this version, in order, in chunks as they arrive; complete or an error, never
    /// short. Retries and resumes inside; a changed object is [`Error::Changed`](crate::Error::Changed).
    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>>;

    /// "s3", "local", ... for stats.
    fn kind(&self) -> &'static str;
}
