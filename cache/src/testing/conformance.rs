//! What every origin must do, as one suite that every implementation passes.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::object::{ByteRange, Location, ObjectMeta};
use crate::origin::Origin;

/// An origin under test, with a way to put objects into it.
pub trait Fixture: Send + Sync {
    /// The origin.
    fn origin(&self) -> Arc<dyn Origin>;

    /// Where the object of this name is; `""` is the folder of all.
    fn locate(&self, name: &str) -> Location;

    /// Puts or replaces an object, by another road than the origin.
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, ()>;

    /// Takes an object away.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()>;

    /// False for stores without listings (HTTP): they must say so in an error.
    fn lists(&self) -> bool {
        true
    }
}

/// Runs the suite; panics at the first promise that is not kept.
pub async fn conforms(fixture: &dyn Fixture) {
    describes_objects(fixture).await;
    reads_exact_ranges(fixture).await;
    refuses_ranges_behind_the_end(fixture).await;
    names_what_is_missing(fixture).await;
    never_mixes_versions(fixture).await;
    lists_below_a_folder(fixture).await;
}

/// All bytes of a range, as one piece.
pub async fn read(origin: &dyn Origin, object: &ObjectMeta, range: ByteRange) -> Result<Bytes> {
    let chunks: Vec<Bytes> = origin.get(object, range).try_collect().await?;
    Ok(chunks.concat().into())
}

/// Bytes that tell their own place, so that a shifted or mixed range can't pass for the right one.
pub fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len).map(|at| ((at >> 8) ^ (at.wrapping_mul(31)) ^ usize::from(seed)) as u8).collect()
}

async fn describes_objects(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    fixture.put("one.tar", pattern(1000, 1)).await;
    let location = fixture.locate("one.tar");
    let once = origin.head(&location).await.expect("an object that exists");
    let again = origin.head(&location).await.expect("an object that exists");
    assert_eq!((once.size_bytes, &once.location), (1000, &location));
    assert_eq!(once.id, again.id, "an unchanged object keeps its id");
    fixture.put("empty", Bytes::new()).await;
    let empty = origin.head(&fixture.locate("empty")).await.expect("an empty object");
    assert_eq!(empty.size_bytes, 0);
    let nothing = read(&*origin, &empty, ByteRange::new(0, 0)).await.expect("an empty range");
    assert!(nothing.is_empty());
}

async fn reads_exact_ranges(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let size = 3 * 1024 * 1024 + 17;
    let bytes = pattern(size, 2);
    fixture.put("folder/big one.tar", bytes.clone()).await;
    let object = origin.head(&fixture.locate("folder/big one.tar")).await.expect("an object that exists");
    let size = size as u64;
    for (start, end) in [(0, size), (0, 1), (size - 1, size), (4096, 8192), (999_999, 2_000_001), (5, 5)] {
        let range = ByteRange::new(start, end);
        let got = read(&*origin, &object, range).await.expect("a range inside the object");
        assert_eq!(got.len() as u64, range.len(), "bytes {range}");
        assert_eq!(got, bytes.slice(start as usize..end as usize), "bytes {range}");
    }
    let all = (0..16u64).map(|part| ByteRange::new(part * size / 16, (part + 1) * size / 16));
    let parts = futures::stream::iter(all).map(|range| read(&*origin, &object, range)).buffered(16);
    let parts: Vec<Bytes> = parts.try_collect().await.expect("ranges read at the same time");
    assert_eq!(Bytes::from(parts.concat()), bytes);
}

async fn refuses_ranges_behind_the_end(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    fixture.put("short", pattern(100, 3)).await;
    let object = origin.head(&fixture.locate("short")).await.expect("an object that exists");
    for range in [ByteRange::new(0, 101), ByteRange::new(100, 200), ByteRange::new(500, 600)] {
        let error = read(&*origin, &object, range).await.expect_err("a range behind the end");
        assert!(matches!(error, Error::OutOfRange { size_bytes: 100, .. }), "{range}: {error:?}");
    }
}

async fn names_what_is_missing(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let missing = fixture.locate("missing.tar");
    let error = origin.head(&missing).await.expect_err("no such object");
    assert!(matches!(&error, Error::NotFound { location } if *location == missing), "{error:?}");
    fixture.put("gone", pattern(10, 4)).await;
    let object = origin.head(&fixture.locate("gone")).await.expect("an object that exists");
    fixture.remove("gone").await;
    let error = read(&*origin, &object, ByteRange::new(0, 10)).await.expect_err("it was removed");
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

async fn never_mixes_versions(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let location = fixture.locate("replaced");
    for (before, after) in [(100, 100), (100, 40), (100, 300)] {
        fixture.put("replaced", pattern(before, 5)).await;
        let old = origin.head(&location).await.expect("an object that exists");
        fixture.put("replaced", pattern(after, 6)).await;
        let error = read(&*origin, &old, ByteRange::new(50, 100)).await.expect_err("it was replaced");
        assert!(matches!(error, Error::Changed { .. }), "{before} → {after} bytes: {error:?}");
        let new = origin.head(&location).await.expect("the new version");
        assert_ne!(old.id, new.id, "a new version has a new id");
        let got = read(&*origin, &new, ByteRange::new(0, after as u64)).await.expect("the new version");
        assert_eq!(got, pattern(after, 6));
    }
}

async fn lists_below_a_folder(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    if !fixture.lists() {
        let error = origin.list(&fixture.locate("")).try_collect::<Vec<_>>().await;
        assert!(matches!(error, Err(Error::Config { .. })), "{error:?}");
        return;
    }
    for name in ["tree/a.tar", "tree/deep/er/b.tar", "tree/c d.tar", "treehouse/no.tar"] {
        fixture.put(name, pattern(10, 7)).await;
    }
    let mut found: Vec<ObjectMeta> =
        origin.list(&fixture.locate("tree")).try_collect().await.expect("a listing");
    found.sort_by(|a, b| a.location.cmp(&b.location));
    let mut expected: Vec<ObjectMeta> = Vec::new();
    for name in ["tree/a.tar", "tree/c d.tar", "tree/deep/er/b.tar"] {
        expected.push(origin.head(&fixture.locate(name)).await.expect("an object that exists"));
    }
    assert_eq!(found, expected, "a listing knows the ids that head gives, and nothing beside the folder");
    let empty = origin.list(&fixture.locate("no such folder")).try_collect::<Vec<_>>().await;
    match empty {
        Ok(found) => assert!(found.is_empty(), "{found:?}"),
        Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error:?}"),
    }
}
