//! One attempt at a store, and how it can fail. What to do about a failure is decided in `retry`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::secret::Secrets;
use crate::error::{Cause, Error};
use crate::object::{ByteRange, Location, ObjectMeta};

/// The bytes of one attempt: those asked for, in order, and none beyond them; an early end is a cut
/// connection.
pub(super) type Body = BoxStream<'static, Result<Bytes, Fault>>;

/// A store, seen one request at a time: no retries and no patience of its own.
pub(super) trait Store: Send + Sync + fmt::Debug + 'static {
    /// Size and version.
    fn head(&self, location: &Location) -> BoxFuture<'static, Result<ObjectMeta, Fault>>;

    /// Asks for a range that isn't empty and lies inside the object; the answer is checked to be of this
    /// version.
    fn open(&self, object: &ObjectMeta, range: ByteRange) -> BoxFuture<'static, Result<Body, Fault>>;

    /// Objects below a prefix, in the order of their keys where the listing can fail halfway; only those
    /// behind `after`.
    fn list(
        &self,
        prefix: &Location,
        after: Option<&Location>,
    ) -> BoxStream<'static, Result<ObjectMeta, Fault>>;

    fn kind(&self) -> &'static str;
}

/// Why an attempt failed.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    NotFound,
    Denied(Cause),
    /// Another version is there now.
    Changed,
    /// May work on another attempt, not before `after`.
    Again {
        cause: Cause,
        after: Option<Duration>,
    },
    /// Won't work on another attempt.
    Broken(Cause),
    /// Not a failure of the store: what was asked can't be done with it.
    Unusable(Error),
}

impl Fault {
    pub(super) fn again(said: Said) -> Self {
        Self::Again { cause: Arc::new(said), after: None }
    }

    pub(super) fn broken(said: Said) -> Self {
        Self::Broken(Arc::new(said))
    }
}

/// What a store or the network said, scrubbed of secrets and cut to a readable length.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Said(String);

impl Said {
    /// Error pages can be long; the first lines tell.
    const LONGEST: usize = 600;

    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The whole chain of an error that may hold secrets, as one line.
    pub(super) fn scrubbed(error: &dyn std::error::Error, secrets: &Secrets) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let said = inner.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            source = inner.source();
        }
        let mut text = secrets.scrub(&text.split_whitespace().collect::<Vec<_>>().join(" "));
        if let Some((cut, _)) = text.char_indices().nth(Self::LONGEST) {
            text.truncate(cut);
            text.push('…');
        }
        Self(text)
    }
}
