//! Patience: what a store does once is tried again where that can help, and a stream goes on at the byte
//! where it broke.
//!
//! Failures in a row are bounded, with exponential backoff and jitter between them; `Retry-After` is
//! honoured. There is no limit on total time: only the lack of progress ends a wait. A stream ends with every
//! byte of its range, or with an error.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::time::{sleep, timeout};

use super::Origin;
use super::attempt::{Body, Fault, Said, Store};
use crate::error::{Cause, Error, Result};
use crate::object::{ByteRange, Location, ObjectMeta};

/// A server may ask for any `Retry-After`; longer than this it is as good as down.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Bytes after which failures count from one again: a connection that is cut now and then does not end a long
/// range, one that is cut after every packet does.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Stalls in a row: each has already cost the whole `stall`.
const MAX_STALLS: u32 = 3;

/// How patient to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Attempts in a row without progress.
    pub(super) attempts: u32,
    /// How long no byte may arrive.
    pub(super) stall: Duration,
    /// Wait before the second attempt; doubles up to `longest_backoff`.
    pub(super) first_backoff: Duration,
    /// Where the doubling ends.
    pub(super) longest_backoff: Duration,
}

impl Default for Policy {
    /// Eight attempts spread over about 13 s: a store's own failover takes seconds, a dead one should not
    /// hold a job for minutes.
    fn default() -> Self {
        Self {
            attempts: 8,
            stall: Duration::from_secs(30),
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(10),
        }
    }
}

/// A store with patience: what the cache sees.
#[derive(Clone)]
pub(super) struct Patient {
    store: Arc<dyn Store>,
    policy: Policy,
}

impl fmt::Debug for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.store, f)
    }
}

impl Patient {
    pub(super) fn new(store: Arc<dyn Store>, policy: Policy) -> Self {
        Self { store, policy }
    }

    pub(super) fn head_of(&self, location: &Location) -> BoxFuture<'static, Result<ObjectMeta>> {
        let Self { store, policy } = self.clone();
        let location = location.clone();
        Box::pin(async move {
            let mut tries = Tries::new(policy, location.clone(), ByteRange::new(0, 0));
            loop {
                match within(policy.stall, store.head(&location)).await {
                    Ok(found) => return Ok(found),
                    Err(failed) => tries.failed(failed).await?,
                }
            }
        })
    }

    pub(super) fn list_of(&self, prefix: &Location) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = Listing {
            store: self.store.clone(),
            tries: Tries::new(self.policy, prefix.clone(), ByteRange::new(0, 0)),
            prefix: prefix.clone(),
            last: None,
            open: None,
        };
        stream::try_unfold(listing, |mut listing| async move {
            Ok(listing.next().await?.map(|found| (found, listing)))
        })
        .boxed()
    }

    fn get_of(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        if range.end > object.size_bytes {
            let (location, size_bytes) = (object.location.clone(), object.size_bytes);
            return stream::iter([Err(Error::OutOfRange { location, range, size_bytes })]).boxed();
        }
        let reading = Reading {
            store: self.store.clone(),
            tries: Tries::new(self.policy, object.location.clone(), range),
            object: object.clone(),
            left: range,
            open: None,
        };
        stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        })
        .boxed()
    }
}

impl Origin for Patient {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>> {
        self.head_of(location)
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>> {
        self.list_of(prefix)
    }

    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        self.get_of(object, range)
    }

    fn kind(&self) -> &'static str {
        self.store.kind()
    }
}

/// One range on its way.
struct Reading {
    store: Arc<dyn Store>,
    tries: Tries,
    object: ObjectMeta,
    left: ByteRange,
    open: Option<Body>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            match self.step().await {
                Ok(Some(chunk)) if chunk.len() as u64 <= self.left.len() => {
                    self.left.start += chunk.len() as u64;
                    self.tries.progressed(chunk.len() as u64);
                    if !chunk.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) => {}
                Ok(Some(_)) => {
                    let said = Said::new("the store sent more bytes than it was asked for");
                    return Err(self.tries.give_up(Failed::Fault(Fault::broken(said))));
                }
                Err(failed) => {
                    self.open = None;
                    self.tries.failed(failed).await?;
                }
            }
        }
        Ok(None)
    }

    /// The next chunk; nothing where the connection has just been opened.
    async fn step(&mut self) -> Result<Option<Bytes>, Failed> {
        let stall = self.tries.policy.stall;
        let Some(body) = &mut self.open else {
            self.open = Some(within(stall, self.store.open(&self.object, self.left)).await?);
            return Ok(None);
        };
        match within(stall, body.try_next()).await? {
            Some(chunk) => Ok(Some(chunk)),
            None => {
                let said = Said::new(format!("the body ended {} bytes early", self.left.len()));
                Err(Failed::Fault(Fault::again(said)))
            }
        }
    }
}

/// A listing on its way: after a failure it goes on behind the last key.
struct Listing {
    store: Arc<dyn Store>,
    tries: Tries,
    prefix: Location,
    last: Option<Location>,
    open: Option<BoxStream<'static, Result<ObjectMeta, Fault>>>,
}

impl Listing {
    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        loop {
            let open = self.open.get_or_insert_with(|| self.store.list(&self.prefix, self.last.as_ref()));
            match within(self.tries.policy.stall, open.try_next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(found)) => {
                    self.last = Some(found.location.clone());
                    self.tries.progressed(PROGRESS_BYTES);
                    return Ok(Some(found));
                }
                Err(failed) => {
                    self.open = None;
                    self.tries.failed(failed).await?;
                }
            }
        }
    }
}

/// How an attempt ended.
enum Failed {
    Fault(Fault),
    Stalled,
}

async fn within<T>(stall: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Failed> {
    match timeout(stall, work).await {
        Ok(result) => result.map_err(Failed::Fault),
        Err(_) => Err(Failed::Stalled),
    }
}

/// The failures in a row, and what they mean for the caller.
struct Tries {
    policy: Policy,
    location: Location,
    range: ByteRange,
    failures: u32,
    stalls: u32,
    since_failure: u64,
}

impl Tries {
    fn new(policy: Policy, location: Location, range: ByteRange) -> Self {
        Self { policy, location, range, failures: 0, stalls: 0, since_failure: 0 }
    }

    fn progressed(&mut self, bytes: u64) {
        self.since_failure += bytes;
        if self.since_failure >= PROGRESS_BYTES {
            (self.failures, self.stalls) = (0, 0);
        }
    }

    /// Waits where another attempt is due, and fails where none is.
    async fn failed(&mut self, failed: Failed) -> Result<()> {
        self.since_failure = 0;
        self.failures += 1;
        let asked = match &failed {
            Failed::Stalled => {
                self.stalls += 1;
                if self.stalls >= MAX_STALLS.min(self.policy.attempts) {
                    return Err(self.give_up(failed));
                }
                None
            }
            Failed::Fault(Fault::Again { after, .. }) => *after,
            Failed::Fault(_) => return Err(self.give_up(failed)),
        };
        if self.failures >= self.policy.attempts || asked.is_some_and(|asked| asked > LONGEST_WAIT) {
            return Err(self.give_up(failed));
        }
        let wait = self.backoff().max(asked.unwrap_or_default());
        let why = match failed {
            Failed::Fault(Fault::Again { cause, .. }) => cause.to_string(),
            _ => "no byte arrived".into(),
        };
        tracing::debug!(location = %self.location, range = %self.range, failures = self.failures, ?wait, why, "trying again");
        sleep(wait).await;
        Ok(())
    }

    /// Doubles with every failure; a random half keeps many readers from coming back at the same moment.
    fn backoff(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let full = self.policy.first_backoff.saturating_mul(1 << doublings).min(self.policy.longest_backoff);
        let random = RandomState::new().hash_one(self.failures) as u32;
        full / 2 + full.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
    }

    fn give_up(&self, failed: Failed) -> Error {
        let (location, range) = (self.location.clone(), self.range);
        let origin = |source: Cause| Error::Origin {
            location: location.clone(),
            range,
            attempts: self.failures.max(1),
            source,
        };
        match failed {
            Failed::Stalled => {
                let after = self.policy.stall.saturating_mul(self.stalls.max(1));
                Error::Stalled { location, range, after }
            }
            Failed::Fault(fault) => match fault {
                Fault::NotFound => Error::NotFound { location },
                Fault::Denied(source) => Error::PermissionDenied { location, source },
                Fault::Changed => Error::Changed { location, range },
                Fault::Again { cause, .. } | Fault::Broken(cause) => origin(cause),
                Fault::Unusable(error) => error,
            },
        }
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
