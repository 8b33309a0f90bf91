//! Faults as a decorator around any origin: fail, cut, stall, delay, corrupt, shorten; and a log of every
//! request.
//!
//! A rule says what goes wrong, where, and how often; the first rule that matches a request takes it. The log
//! counts a request when its future or stream is first polled, since that is when a real store would see it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;

use super::Gate;
use crate::error::{Cause, Error, Result};
use crate::object::{ByteRange, Location, ObjectMeta};
use crate::origin::Origin;

/// Which call a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Size and version.
    Head,
    /// A listing.
    List,
    /// A range of bytes.
    Get,
}

/// One request as the origin saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which call.
    pub op: Op,
    /// The object, or the prefix of a listing.
    pub location: Location,
    /// The range of a `get`; empty otherwise.
    pub range: ByteRange,
}

/// The error that a fault ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// [`Error::NotFound`].
    NotFound,
    /// [`Error::PermissionDenied`].
    PermissionDenied,
    /// [`Error::Changed`].
    Changed,
    /// [`Error::Origin`]: the store failed after its retries.
    Unavailable,
    /// [`Error::Stalled`].
    Stalled,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request fails before a byte arrives.
    Fail(Failure),
    /// Some bytes arrive, then the request fails.
    Cut {
        /// Bytes of the range that still arrive.
        after_bytes: u64,
        /// How it ends.
        failure: Failure,
    },
    /// Some bytes arrive, then nothing until the gate opens; then the rest. With 0 bytes: a delayed answer.
    Stall {
        /// Bytes of the range that arrive at once.
        after_bytes: u64,
        /// What it waits for.
        gate: Gate,
    },
    /// One byte arrives wrong: the bits of `mask` are flipped. Does nothing to a range without that byte.
    Corrupt {
        /// Offset in the object.
        offset: u64,
        /// Which bits.
        mask: u8,
    },
    /// The stream ends early without an error. A correct origin never does that: it shows that its caller
    /// counts.
    Short {
        /// Bytes of the range that arrive.
        bytes: u64,
    },
}

/// A fault, where it strikes, and how often.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    op: Option<Op>,
    location: Option<Location>,
    within: Option<ByteRange>,
    left: Option<usize>,
}

impl Rule {
    /// Strikes every `get` until it is narrowed.
    pub fn new(fault: Fault) -> Self {
        Self { fault, op: Some(Op::Get), location: None, within: None, left: None }
    }

    /// The origin is down: every call fails.
    pub fn down() -> Self {
        Self { op: None, ..Self::new(Fault::Fail(Failure::Unavailable)) }
    }

    /// Only this call. `Head` and `List` know [`Fault::Fail`] and [`Fault::Stall`] alone.
    pub fn on(self, op: Op) -> Self {
        Self { op: Some(op), ..self }
    }

    /// Only this object.
    pub fn at(self, location: &Location) -> Self {
        Self { location: Some(location.clone()), ..self }
    }

    /// Only ranges that share a byte with `range`.
    pub fn within(self, range: ByteRange) -> Self {
        Self { within: Some(range), ..self }
    }

    /// Only the first `count` requests that match.
    pub fn times(self, count: usize) -> Self {
        Self { left: Some(count), ..self }
    }

    fn matches(&self, request: &Request) -> bool {
        self.left != Some(0)
            && self.op.is_none_or(|op| op == request.op)
            && self.location.as_ref().is_none_or(|location| *location == request.location)
            && self.within.is_none_or(|range| !range.intersect(request.range).is_empty())
    }
}

/// The rules in force and the log of requests; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<Request>,
}

impl Faults {
    /// Adds a rule behind those in force.
    pub fn add(&self, rule: Rule) {
        self.state.lock().rules.push(rule);
    }

    /// From now on nothing goes wrong.
    pub fn clear(&self) {
        self.state.lock().rules.clear();
    }

    /// Every request so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().requests.clone()
    }

    /// The ranges of every `get` of one object so far.
    pub fn gets(&self, location: &Location) -> Vec<ByteRange> {
        let state = self.state.lock();
        let of_object = state.requests.iter().filter(|seen| seen.op == Op::Get && seen.location == *location);
        of_object.map(|seen| seen.range).collect()
    }

    /// How often one call was made, over all objects.
    pub fn count(&self, op: Op) -> usize {
        self.state.lock().requests.iter().filter(|seen| seen.op == op).count()
    }

    /// Empties the log.
    pub fn forget_requests(&self) {
        self.state.lock().requests.clear();
    }

    /// Notes the request and takes the fault that strikes it.
    fn arrive(&self, request: Request) -> Option<Fault> {
        let mut state = self.state.lock();
        let rule = state.rules.iter_mut().find(|rule| rule.matches(&request));
        let fault = rule.map(|rule| {
            rule.left = rule.left.map(|left| left - 1);
            rule.fault.clone()
        });
        state.requests.push(request);
        fault
    }

    async fn before(&self, op: Op, location: &Location) -> Result<()> {
        let range = ByteRange::new(0, 0);
        match self.arrive(Request { op, location: location.clone(), range }) {
            Some(Fault::Fail(failure)) => Err(failure.at(location, range)),
            Some(Fault::Stall { gate, .. }) => {
                gate.pass().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Any origin, with faults and a log in front of it.
pub struct FaultyOrigin<O> {
    inner: O,
    faults: Faults,
}

impl<O: Origin> FaultyOrigin<O> {
    /// Wraps an origin; nothing goes wrong until a rule is added.
    pub fn new(inner: O) -> Self {
        Self { inner, faults: Faults::default() }
    }

    /// The rules and the log.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The origin inside.
    pub fn inner(&self) -> &O {
        &self.inner
    }
}

impl<O: fmt::Debug> fmt::Debug for FaultyOrigin<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyOrigin({:?})", self.inner)
    }
}

impl<O: Origin> Origin for FaultyOrigin<O> {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>> {
        let location = location.clone();
        Box::pin(async move {
            self.faults.before(Op::Head, &location).await?;
            self.inner.head(&location).await
        })
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>> {
        let prefix = prefix.clone();
        let opened = async move {
            match self.faults.before(Op::List, &prefix).await {
                Ok(()) => self.inner.list(&prefix),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(opened).flatten().boxed()
    }

    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        let faults = self.faults.clone();
        let inner = self.inner.get(object, range);
        let location = object.location.clone();
        let opened = async move {
            let request = Request { op: Op::Get, location: location.clone(), range };
            strike(faults.arrive(request), location, range, inner)
        };
        stream::once(opened).flatten().boxed()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

type Body = BoxStream<'static, Result<Bytes>>;

fn strike(fault: Option<Fault>, location: Location, range: ByteRange, inner: Body) -> Body {
    match fault {
        None => inner,
        Some(Fault::Fail(failure)) => stream::iter([Err(failure.at(&location, range))]).boxed(),
        Some(Fault::Short { bytes }) => split(inner, bytes).0,
        Some(Fault::Cut { after_bytes, failure }) => {
            let end = stream::iter([Err(failure.at(&location, range))]);
            split(inner, after_bytes).0.chain(end).boxed()
        }
        Some(Fault::Stall { after_bytes, gate }) => {
            let (first, rest) = split(inner, after_bytes);
            let rest = stream::once(async move {
                gate.pass().await;
                rest
            });
            first.chain(rest.flatten()).boxed()
        }
        Some(Fault::Corrupt { offset, mask }) => corrupt(inner, range, offset, mask),
    }
}

/// The first `bytes` bytes of a stream, and what follows them once those are read.
fn split(inner: Body, bytes: u64) -> (Body, Body) {
    let shared = Arc::new(Mutex::new((Some(inner), None::<Bytes>)));
    let rest = shared.clone();
    let first = stream::unfold((shared, bytes), |(shared, left)| async move {
        if left == 0 {
            return None;
        }
        let mut inner = shared.lock().0.take()?;
        let next = inner.next().await;
        let mut state = shared.lock();
        state.0 = Some(inner);
        let mut chunk = match next? {
            Ok(chunk) => chunk,
            Err(error) => {
                drop(state);
                return Some((Err(error), (shared, 0)));
            }
        };
        if chunk.len() as u64 > left {
            state.1 = Some(chunk.split_off(left as usize));
        }
        let left = left - chunk.len() as u64;
        drop(state);
        Some((Ok(chunk), (shared, left)))
    });
    let rest = stream::once(async move {
        let mut state = rest.lock();
        let held = stream::iter(state.1.take().map(Ok));
        held.chain(state.0.take().unwrap_or_else(|| stream::empty().boxed()))
    });
    (first.boxed(), rest.flatten().boxed())
}

fn corrupt(inner: Body, range: ByteRange, offset: u64, mask: u8) -> Body {
    let mut at = range.start;
    let flipped = inner.map(move |chunk| {
        let chunk = chunk?;
        let here = ByteRange::new(at, at + chunk.len() as u64);
        at = here.end;
        if offset < here.start || offset >= here.end {
            return Ok(chunk);
        }
        let mut wrong = chunk.to_vec();
        wrong[(offset - here.start) as usize] ^= mask;
        Ok(Bytes::from(wrong))
    });
    flipped.boxed()
}

#[derive(Debug, thiserror::Error)]
#[error("injected by the test")]
struct Injected;

impl Failure {
    fn at(self, location: &Location, range: ByteRange) -> Error {
        let location = location.clone();
        let source: Cause = Arc::new(Injected);
        match self {
            Self::NotFound => Error::NotFound { location },
            Self::PermissionDenied => Error::PermissionDenied { location, source },
            Self::Changed => Error::Changed { location, range },
            Self::Unavailable => Error::Origin { location, range, attempts: 1, source },
            Self::Stalled => Error::Stalled { location, range, after: Duration::from_secs(30) },
        }
    }
}
