//! Ranges of a decompressed object, in any order, cut anywhere, and at the same time.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use forebay_cache::testing::FakeOrigin;
use futures::TryStreamExt;
use futures::future::join_all;
use proptest::prelude::*;

use super::*;
use crate::dataset::Malformed;

fn data(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    });
    noise.take(bytes).collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A store with the object, and its decompressed form of `size` bytes.
fn store(packed: &[u8], size: usize) -> (FakeOrigin, Gunzip, ObjectMeta) {
    let origin = FakeOrigin::new();
    let meta = origin.put("s3://b/a.tar.gz", packed.to_vec());
    let object = unpacked(&meta, size as u64).unwrap();
    (origin.clone(), Gunzip::new(Arc::new(origin)), object)
}

async fn read(origin: &Gunzip, object: &ObjectMeta, range: ByteRange) -> Result<Vec<u8>> {
    let chunks: Vec<Bytes> = origin.get(object, range).try_collect().await?;
    Ok(chunks.concat())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// The ranges that were asked of the store.
fn requests(origin: &FakeOrigin) -> usize {
    origin.gets(&Location::new("s3://b/a.tar.gz")).len()
}

#[tokio::test]
async fn ranges_that_follow_each_other_decompress_once_also_when_asked_for_at_once() {
    let data = data(3 << 20);
    let (store, origin, object) = store(&gzip(&data), data.len());
    let step = 400_000;
    let ranges = (0..data.len() as u64)
        .step_by(step)
        .map(|start| ByteRange::new(start, (start + step as u64).min(data.len() as u64)));
    let ranges: Vec<ByteRange> = ranges.collect();
    for range in &ranges {
        assert_eq!(
            read(&origin, &object, *range).await.unwrap(),
            data[range.start as usize..range.end as usize]
        );
    }
    assert_eq!(requests(&store), 1);
    let at_once = join_all(ranges.iter().map(|range| read(&origin, &object, *range))).await;
    let all: Vec<u8> = at_once.into_iter().flat_map(|part| part.unwrap()).collect();
    assert!(all == data);
    assert_eq!(requests(&store), 2);
}

#[tokio::test]
async fn a_range_that_is_left_halfway_holds_nobody_up() {
    let data = data(2 << 20);
    let (_, origin, object) = store(&gzip(&data), data.len());
    let mut first = origin.get(&object, ByteRange::new(0, 1 << 20));
    first.next().await.unwrap().unwrap();
    let behind = read(&origin, &object, ByteRange::new(1 << 20, 2 << 20));
    let leave = async { drop(first) };
    let (got, ()) = futures::join!(behind, leave);
    assert!(got.unwrap() == data[1 << 20..]);
}

#[tokio::test]
async fn a_wrong_size_is_found_before_the_last_bytes_are_given() {
    let data = data(1 << 20);
    for size in [data.len() - 1, data.len() + 1] {
        let (_, origin, object) = store(&gzip(&data), size);
        let mut chunks = origin.get(&object, ByteRange::new(0, size as u64));
        let mut given = 0;
        let error = loop {
            match chunks.next().await.unwrap() {
                Ok(chunk) => given += chunk.len(),
                Err(error) => break error,
            }
        };
        assert!(given < size);
        let Error::Origin { source, .. } = error else { panic!("{error}") };
        assert!(source.downcast_ref::<WrongSize>().is_some());
    }
}

#[tokio::test]
async fn a_cut_stream_names_the_compressed_object_and_its_offset() {
    let data = data(1 << 20);
    let packed = gzip(&data);
    let (_, origin, object) = store(&packed[..packed.len() / 2], data.len());
    let error = read(&origin, &object, ByteRange::new(0, data.len() as u64)).await.unwrap_err();
    let Error::Origin { source, location, .. } = error else { panic!("{error}") };
    assert_eq!(location.as_str(), "s3://b/a.tar.gz");
    assert_eq!(source.downcast_ref::<Malformed>().unwrap().offset, packed.len() as u64 / 2);
}

#[test]
fn another_version_of_the_shard_is_another_decompressed_object() {
    let origin = FakeOrigin::new();
    let one = origin.put("s3://b/a.tar.gz", gzip(b"a"));
    let two = origin.put("s3://b/a.tar.gz", gzip(b"b"));
    assert_ne!(unpacked(&one, 1).unwrap().id, unpacked(&two, 1).unwrap().id);
    assert_eq!(packed(&unpacked(&one, 1).unwrap()), Some(one));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_ranges_at_the_same_time_give_their_bytes(
        bytes in 1usize..900_000,
        members in 1usize..4,
        cuts in proptest::collection::vec((0.0f64..1.0, 0.0f64..1.0), 1..12),
    ) {
        let data = data(bytes);
        let packed: Vec<u8> = data.chunks(bytes.div_ceil(members)).flat_map(gzip).collect();
        let (_, origin, object) = store(&packed, bytes);
        let ranges: Vec<ByteRange> = cuts.iter().map(|(one, other)| {
            let at = |part: f64| (part * bytes as f64) as u64;
            ByteRange::new(at(one.min(*other)), at(one.max(*other)) + 1)
        }).collect();
        let parts = runtime().block_on(join_all(ranges.iter().map(|range| read(&origin, &object, *range))));
        for (range, part) in ranges.iter().zip(parts) {
            prop_assert!(part.unwrap() == data[range.start as usize..range.end as usize]);
        }
    }
}
