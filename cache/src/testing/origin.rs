//! An origin in memory, whose objects, faults and requests a test controls.
//!
//! It keeps the promises of [`Origin`]: a replaced object is `Changed`, also in the middle of a stream, and a
//! range behind the end is `OutOfRange`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;

use super::faults::{Faults, FaultyOrigin, Op, Request, Rule};
use crate::error::{Error, Result};
use crate::object::{ByteRange, Location, ObjectMeta, Version};
use crate::origin::Origin;

/// How much a chunk of a stream holds: as a socket gives it, so that callers meet chunks that don't fit their
/// blocks.
const CHUNK_BYTES: u64 = 50_000;

/// Objects in memory; clones share objects, faults and the log.
///
/// ```
/// # use forebay_cache::{testing::{FakeOrigin, Fault, Failure, Rule}, origin::Origin};
/// let origin = FakeOrigin::new();
/// let object = origin.put("s3://photos/a.tar", "some bytes");
/// origin.inject(Rule::new(Fault::Fail(Failure::Unavailable)).at(&object.location).times(2));
/// ```
#[derive(Clone)]
pub struct FakeOrigin {
    faulty: Arc<FaultyOrigin<Memory>>,
}

impl Default for FakeOrigin {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeOrigin {
    /// An origin without objects.
    pub fn new() -> Self {
        Self { faulty: Arc::new(FaultyOrigin::new(Memory::default())) }
    }

    /// Puts an object at a URL of any scheme, or replaces it: every put makes a new version, equal bytes or
    /// not.
    pub fn put(&self, url: &str, bytes: impl Into<Bytes>) -> ObjectMeta {
        let bytes = bytes.into();
        let mut objects = self.objects().lock();
        objects.puts += 1;
        let version = Version::Etag(format!("\"{}\"", objects.puts));
        let meta = ObjectMeta::new(Location::new(url), bytes.len() as u64, version);
        objects.by_location.insert(meta.location.clone(), (meta.clone(), bytes));
        meta
    }

    /// Takes an object away; false where there was none.
    pub fn remove(&self, location: &Location) -> bool {
        self.objects().lock().by_location.remove(location).is_some()
    }

    /// Adds a rule: what goes wrong, where, how often.
    pub fn inject(&self, rule: Rule) {
        self.faulty.faults().add(rule);
    }

    /// The rules in force and the log of requests.
    pub fn faults(&self) -> &Faults {
        self.faulty.faults()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.faults().requests()
    }

    /// The ranges of every `get` of one object so far.
    pub fn gets(&self, location: &Location) -> Vec<ByteRange> {
        self.faults().gets(location)
    }

    /// How often one call was made, over all objects.
    pub fn count(&self, op: Op) -> usize {
        self.faults().count(op)
    }

    fn objects(&self) -> &Mutex<Objects> {
        &self.faulty.inner().objects
    }
}

impl fmt::Debug for FakeOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeOrigin")
    }
}

impl Origin for FakeOrigin {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>> {
        self.faulty.head(location)
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>> {
        self.faulty.list(prefix)
    }

    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        self.faulty.get(object, range)
    }

    fn kind(&self) -> &'static str {
        self.faulty.kind()
    }
}

#[derive(Clone, Default)]
struct Memory {
    objects: Arc<Mutex<Objects>>,
}

#[derive(Default)]
struct Objects {
    by_location: BTreeMap<Location, (ObjectMeta, Bytes)>,
    puts: u64,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    fn chunk(&self, object: &ObjectMeta, asked: ByteRange, at: u64) -> Result<Bytes> {
        let location = object.location.clone();
        let objects = self.objects.lock();
        let Some((meta, bytes)) = objects.by_location.get(&location) else {
            return Err(Error::NotFound { location });
        };
        if meta.id != object.id {
            return Err(Error::Changed { location, range: asked });
        }
        if asked.end > meta.size_bytes {
            return Err(Error::OutOfRange { location, range: asked, size_bytes: meta.size_bytes });
        }
        Ok(bytes.slice(at as usize..(at + CHUNK_BYTES).min(asked.end) as usize))
    }
}

impl Origin for Memory {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>> {
        let found = match self.objects.lock().by_location.get(location) {
            Some((meta, _)) => Ok(meta.clone()),
            None => Err(Error::NotFound { location: location.clone() }),
        };
        Box::pin(async move { found })
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>> {
        let folder = format!("{}/", prefix.as_str().trim_end_matches('/'));
        let objects = self.objects.lock();
        let inside =
            objects.by_location.values().filter(|(meta, _)| meta.location.as_str().starts_with(&folder));
        let found: Vec<_> = inside.map(|(meta, _)| Ok(meta.clone())).collect();
        stream::iter(found).boxed()
    }

    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        let memory = self.clone();
        let object = object.clone();
        let chunks = stream::try_unfold(Some(range.start), move |at| {
            // The first chunk is asked for also where the range is empty: it carries the checks.
            let chunk = at.map(|at| memory.chunk(&object, range, at).map(|chunk| (chunk, at)));
            async move {
                let Some((chunk, at)) = chunk.transpose()? else { return Ok(None) };
                let next = at + chunk.len() as u64;
                Ok(Some((chunk, (next < range.end).then_some(next))))
            }
        });
        chunks.boxed()
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::conformance::{self, Fixture, pattern, read};
    use crate::testing::{Failure, Fault, Gate};

    impl Fixture for FakeOrigin {
        fn origin(&self) -> Arc<dyn Origin> {
            Arc::new(self.clone())
        }

        fn locate(&self, name: &str) -> Location {
            Location::new(format!("fake://bucket/{name}"))
        }

        fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, ()> {
            FakeOrigin::put(self, self.locate(name).as_str(), bytes);
            Box::pin(async {})
        }

        fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
            FakeOrigin::remove(self, &self.locate(name));
            Box::pin(async {})
        }
    }

    #[tokio::test]
    async fn the_fake_origin_conforms() {
        conformance::conforms(&FakeOrigin::new()).await;
    }

    #[tokio::test]
    async fn a_rule_strikes_as_often_as_it_says_and_every_request_is_counted() {
        let origin = FakeOrigin::new();
        let object = origin.put("s3://b/a", pattern(200_000, 1));
        origin.inject(Rule::new(Fault::Fail(Failure::Unavailable)).at(&object.location).times(2));
        let range = ByteRange::new(10, 150_000);
        for _ in 0..2 {
            assert!(matches!(read(&origin, &object, range).await, Err(Error::Origin { .. })));
        }
        assert_eq!(read(&origin, &object, range).await.unwrap(), pattern(200_000, 1).slice(10..150_000));
        assert_eq!(origin.gets(&object.location), vec![range; 3]);
    }

    #[tokio::test]
    async fn a_cut_stream_delivers_exactly_the_bytes_before_the_cut() {
        let origin = FakeOrigin::new();
        let object = origin.put("s3://b/a", pattern(200_000, 1));
        origin.inject(Rule::new(Fault::Cut { after_bytes: 70_001, failure: Failure::Unavailable }));
        let mut stream = origin.get(&object, ByteRange::new(0, 200_000));
        let mut got = 0;
        let error = loop {
            match stream.next().await.expect("an error before the end") {
                Ok(chunk) => got += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(got, 70_001);
        assert!(matches!(error, Error::Origin { .. }));
    }

    #[tokio::test]
    async fn a_stalled_stream_goes_on_where_it_stood_when_the_gate_opens() {
        let origin = FakeOrigin::new();
        let object = origin.put("s3://b/a", pattern(200_000, 1));
        let gate = Gate::closed();
        origin.inject(Rule::new(Fault::Stall { after_bytes: 70_001, gate: gate.clone() }));
        let reader = tokio::spawn(async move { read(&origin, &object, ByteRange::new(0, 200_000)).await });
        gate.arrived(1).await;
        assert!(!reader.is_finished());
        gate.open();
        assert_eq!(reader.await.unwrap().unwrap(), pattern(200_000, 1));
    }

    #[tokio::test]
    async fn one_byte_is_corrupt_and_no_other() {
        let origin = FakeOrigin::new();
        let object = origin.put("s3://b/a", pattern(200_000, 1));
        origin.inject(Rule::new(Fault::Corrupt { offset: 123_456, mask: 0x10 }));
        let mut got = read(&origin, &object, ByteRange::new(100_000, 200_000)).await.unwrap().to_vec();
        got[23_456] ^= 0x10;
        assert_eq!(got, pattern(200_000, 1).slice(100_000..));
    }

    #[tokio::test]
    async fn an_object_replaced_in_the_middle_of_a_stream_is_an_error() {
        let origin = FakeOrigin::new();
        let object = origin.put("s3://b/a", pattern(200_000, 1));
        let mut stream = origin.get(&object, ByteRange::new(0, 200_000));
        assert!(stream.next().await.unwrap().is_ok());
        origin.put("s3://b/a", pattern(200_000, 2));
        assert!(matches!(stream.next().await.unwrap(), Err(Error::Changed { .. })));
    }
}
