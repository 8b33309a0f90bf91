//! Patience against a scripted store, on a clock that tokio moves by itself.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::*;
use crate::object::Version;
use crate::testing::conformance::{pattern, read};

/// What one attempt does.
#[derive(Clone, Debug)]
enum Act {
    /// Delivers this many bytes, then ends without an error.
    End(u64),
    /// Delivers this many bytes, then fails.
    Fail(u64, Fault),
    /// Delivers this many bytes, then nothing ever.
    Hang(u64),
    /// Delivers more than was asked for.
    TooMuch,
}

#[derive(Debug)]
struct Scripted {
    bytes: Bytes,
    acts: Mutex<VecDeque<Act>>,
    asked: Mutex<Vec<ByteRange>>,
}

impl Store for Scripted {
    fn head(&self, location: &Location) -> BoxFuture<'static, Result<ObjectMeta, Fault>> {
        let act = self.acts.lock().pop_front();
        let meta = object(location, self.bytes.len() as u64);
        Box::pin(async move {
            match act {
                Some(Act::Fail(_, fault)) => Err(fault),
                Some(Act::Hang(_)) => futures::future::pending().await,
                _ => Ok(meta),
            }
        })
    }

    fn open(&self, _: &ObjectMeta, range: ByteRange) -> BoxFuture<'static, Result<Body, Fault>> {
        self.asked.lock().push(range);
        let part = |len: u64| {
            let part = self.bytes.slice(range.start as usize..(range.start + len).min(range.end) as usize);
            stream::iter([Ok(part)])
        };
        let body: Body = match self.acts.lock().pop_front() {
            None => part(range.len()).boxed(),
            Some(Act::End(len)) => part(len).boxed(),
            Some(Act::Fail(0, fault)) => return Box::pin(async move { Err(fault) }),
            Some(Act::Fail(len, fault)) => part(len).chain(stream::iter([Err(fault)])).boxed(),
            Some(Act::Hang(len)) => part(len).chain(stream::pending()).boxed(),
            Some(Act::TooMuch) => stream::iter([Ok(self.bytes.clone())]).boxed(),
        };
        Box::pin(async move { Ok(body) })
    }

    fn list(&self, _: &Location, after: Option<&Location>) -> BoxStream<'static, Result<ObjectMeta, Fault>> {
        let first =
            after.map_or(0, |after| after.as_str().rsplit('/').next().unwrap().parse::<u64>().unwrap() + 1);
        let found = (first..6).map(|index| Ok(object(&Location::new(format!("s3://b/{index}")), 1)));
        match self.acts.lock().pop_front() {
            Some(Act::Fail(len, fault)) => {
                stream::iter(found.take(len as usize).chain([Err(fault)]).collect::<Vec<_>>()).boxed()
            }
            _ => stream::iter(found.collect::<Vec<_>>()).boxed(),
        }
    }

    fn kind(&self) -> &'static str {
        "scripted"
    }
}

fn object(location: &Location, size: u64) -> ObjectMeta {
    ObjectMeta::new(location.clone(), size, Version::Etag("\"1\"".into()))
}

const SIZE: u64 = 400_000;

fn scripted(acts: impl IntoIterator<Item = Act>) -> (Patient, Arc<Scripted>, ObjectMeta) {
    let store = Arc::new(Scripted {
        bytes: pattern(SIZE as usize, 9),
        acts: Mutex::new(acts.into_iter().collect()),
        asked: Mutex::default(),
    });
    let meta = object(&Location::new("s3://b/0"), SIZE);
    (Patient::new(store.clone(), Policy::default()), store, meta)
}

fn again() -> Fault {
    Fault::again(Said::new("503"))
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_goes_on_at_the_byte_where_it_broke() {
    let (patient, store, meta) = scripted([Act::Fail(1000, again()), Act::End(500), Act::Fail(0, again())]);
    let range = ByteRange::new(100, SIZE);
    assert_eq!(read(&patient, &meta, range).await.unwrap(), pattern(SIZE as usize, 9).slice(100..));
    let starts: Vec<u64> = store.asked.lock().iter().map(|range| range.start).collect();
    assert_eq!(starts, [100, 1100, 1600, 1600]);
}

#[tokio::test(start_paused = true)]
async fn attempts_without_progress_are_bounded_and_counted() {
    let (patient, store, meta) = scripted(vec![Act::Fail(0, again()); 100]);
    let error = read(&patient, &meta, ByteRange::new(0, 10)).await.unwrap_err();
    assert!(matches!(error, Error::Origin { attempts: 8, .. }), "{error:?}");
    assert_eq!(store.asked.lock().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_cut_after_every_few_bytes_ends_in_an_error_and_one_after_much_progress_does_not() {
    let (patient, _, meta) = scripted(vec![Act::End(10); 100]);
    let error = read(&patient, &meta, ByteRange::new(0, SIZE)).await.unwrap_err();
    assert!(matches!(error, Error::Origin { .. }), "a short body is never success: {error:?}");
    let (patient, store, meta) = scripted(vec![Act::End(PROGRESS_BYTES); 100]);
    // More cuts than attempts in a row.
    let patient = Patient { policy: Policy { attempts: 2, ..patient.policy }, ..patient };
    assert_eq!(read(&patient, &meta, ByteRange::new(0, SIZE)).await.unwrap(), pattern(SIZE as usize, 9));
    assert!(store.asked.lock().len() > 2);
}

#[tokio::test(start_paused = true)]
async fn one_stall_is_healed_by_another_connection_and_stalls_in_a_row_are_an_error() {
    let (patient, store, meta) = scripted([Act::Hang(1000)]);
    assert!(read(&patient, &meta, ByteRange::new(0, SIZE)).await.is_ok());
    assert_eq!(store.asked.lock().last().unwrap().start, 1000);
    let (patient, _, meta) = scripted(vec![Act::Hang(0); 100]);
    let error = read(&patient, &meta, ByteRange::new(0, SIZE)).await.unwrap_err();
    assert!(matches!(error, Error::Stalled { after, .. } if after == Duration::from_secs(90)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_no_attempt_can_heal_is_said_at_once() {
    for (fault, fits) in [
        (Fault::NotFound, (|error| matches!(error, Error::NotFound { .. })) as fn(&Error) -> bool),
        (Fault::Changed, |error| matches!(error, Error::Changed { .. })),
        (Fault::Denied(Arc::new(Said::new("403"))), |error| matches!(error, Error::PermissionDenied { .. })),
        (Fault::broken(Said::new("400")), |error| matches!(error, Error::Origin { attempts: 1, .. })),
    ] {
        let (patient, store, meta) = scripted([Act::Fail(0, fault)]);
        let error = read(&patient, &meta, ByteRange::new(0, 10)).await.unwrap_err();
        assert!(fits(&error), "{error:?}");
        assert_eq!(store.asked.lock().len(), 1);
    }
    let (patient, _, meta) = scripted([Act::TooMuch]);
    assert!(matches!(read(&patient, &meta, ByteRange::new(0, 10)).await, Err(Error::Origin { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_names_a_time_is_given_it() {
    let asked = Duration::from_secs(20);
    let busy = Fault::Again { cause: Arc::new(Said::new("429")), after: Some(asked) };
    let (patient, _, meta) = scripted([Act::Fail(0, busy)]);
    let start = tokio::time::Instant::now();
    assert!(read(&patient, &meta, ByteRange::new(0, 10)).await.is_ok());
    assert!(start.elapsed() >= asked);
    let never = Fault::Again { cause: Arc::new(Said::new("503")), after: Some(Duration::from_secs(86_400)) };
    let (patient, store, meta) = scripted([Act::Fail(0, never)]);
    assert!(matches!(read(&patient, &meta, ByteRange::new(0, 10)).await, Err(Error::Origin { .. })));
    assert_eq!(store.asked.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_range_behind_the_end_is_refused_without_a_request() {
    let (patient, store, meta) = scripted([]);
    let error = read(&patient, &meta, ByteRange::new(SIZE - 1, SIZE + 1)).await.unwrap_err();
    assert!(matches!(error, Error::OutOfRange { size_bytes: SIZE, .. }));
    assert!(store.asked.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn heads_and_listings_are_tried_again_too() {
    let (patient, _, meta) = scripted([Act::Fail(0, again()), Act::Hang(0)]);
    assert_eq!(patient.head(&meta.location).await.unwrap(), meta);
    let (patient, _, _) = scripted([Act::Fail(2, again()), Act::Fail(0, again()), Act::Fail(3, again())]);
    let found: Vec<_> = patient.list(&Location::new("s3://b")).try_collect().await.unwrap();
    let names: Vec<_> = found.iter().map(|found| found.location.file_name().to_owned()).collect();
    assert_eq!(names, ["0", "1", "2", "3", "4", "5"], "each once");
}

#[test]
fn waits_double_up_to_a_bound_and_differ() {
    let mut tries = Tries::new(Policy::default(), Location::new("s3://b/0"), ByteRange::new(0, 1));
    for (failures, least, most) in [(1, 50, 100), (2, 100, 200), (5, 800, 1600), (30, 5000, 10_000)] {
        tries.failures = failures;
        for _ in 0..100 {
            let wait = tries.backoff();
            assert!(wait >= Duration::from_millis(least) && wait <= Duration::from_millis(most), "{wait:?}");
        }
    }
    let waits: std::collections::BTreeSet<_> = (0..10).map(|_| tries.backoff()).collect();
    assert!(waits.len() > 1);
}
