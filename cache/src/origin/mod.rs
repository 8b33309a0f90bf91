//! Ranged reads of object stores: retried, with If-Match on every range; one file per family of stores.
//!
//! [`resolve`] makes a URL absolute, [`Origins`] finds its store, and an [`Origin`] reads it. Inside, a store
//! makes one attempt and says how it failed (`attempt`), and `retry` decides what to do about it, the same
//! for all. What is promised: bytes of exactly one version, complete or an error, and no credentials in
//! anything that is said. Cutting reads into ranges, and how many run at once, is left to the caller.

mod attempt;
mod azure;
mod cloud;
mod gcs;
mod http;
mod local;
mod location;
mod options;
mod origins;
mod profile;
mod retry;
mod s3;
mod secret;
mod transport;

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::object::{ByteRange, Location, ObjectMeta};

pub use local::is_version;
pub use location::{local_path, path_location, resolve};
use origins::Notes;
pub use origins::Origins;

/// Where objects come from.
pub trait Origin: Send + Sync + fmt::Debug {
    /// Size and version of an object.
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>>;

    /// Every object under a prefix (recursive), unordered, as a stream.
    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>>;

    /// The bytes of `range` of exactly this version, in order, in chunks as they arrive; complete or an
    /// error, never short. Retries and resumes inside; a changed object is
    /// [`Error::Changed`](crate::Error::Changed).
    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>>;

    /// "s3", "local", ... for stats.
    fn kind(&self) -> &'static str;
}
