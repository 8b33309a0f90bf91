//! Gzip shards, as a training process meets them.

mod shards;

use forebay_loader::{Error, Loader, LoaderOptions};
use shards::{epoch, failure, folder, gzip, members, open, options, says, tar};

const BYTES: usize = 3000;

fn all() -> Vec<usize> {
    (0..60).collect()
}

/// Three shards of twenty samples.
fn plain(shard: usize) -> Vec<u8> {
    tar(&members(shard * 20..(shard + 1) * 20, BYTES))
}

#[test]
fn gzip_shards_deliver_the_samples_of_plain_ones_and_are_read_once() {
    let packed: Vec<Vec<u8>> = (0..3).map(|shard| gzip(&plain(shard))).collect();
    let dir = folder([("a.tar.gz", packed[0].clone()), ("b.tgz", packed[1].clone()), ("c.tar", plain(2))]);
    let loader = open(&dir);
    assert_eq!(epoch(&loader, BYTES), all());
    let stats = loader.stats();
    let said = stats.notes.iter().filter(|note| note.contains("decompressed once")).count();
    assert_eq!(said, 1, "{:?}", stats.notes);
    let whole: usize = (0..3).map(|shard| plain(shard).len()).sum();
    assert_eq!(stats.cache.origin_bytes, whole as u64, "every decompressed byte came once");
    assert_eq!(epoch(&loader, BYTES), all());
    assert_eq!(loader.stats().cache.origin_bytes, whole as u64, "a second epoch asks for nothing");
    drop(loader);
    let again = open(&dir);
    assert_eq!(epoch(&again, BYTES), all());
    assert_eq!(again.stats().cache.origin_bytes, 0, "nor does another process");
    assert_eq!(again.len(), Some(9));
}

#[test]
fn content_decides_and_not_the_name() {
    let dir = folder([("a.tar", gzip(&plain(0))), ("b.tar.gz", plain(1)), ("c.tar", plain(2))]);
    let loader = open(&dir);
    assert_eq!(epoch(&loader, BYTES), all());
    let before = loader.stats().cache.origin_bytes;
    assert_eq!(epoch(&loader, BYTES), all());
    assert_eq!(loader.stats().cache.origin_bytes, before);
}

#[test]
fn shards_of_several_members_and_padding_are_read_whole() {
    let tar = plain(0);
    let (front, back) = tar.split_at(tar.len() / 3);
    let members = [gzip(front), gzip(back)].concat();
    let padded = [gzip(&plain(2)), vec![0; 700]].concat();
    let middle = plain(1);
    let (front, back) = middle.split_at(middle.len() - 10_000);
    let large_end = [gzip(&front[..100]), gzip(&front[100..]), gzip(back)].concat();
    let dir = folder([("a.tar.gz", members), ("b.tar.gz", large_end), ("c.tar.gz", padded)]);
    let loader = open(&dir);
    assert_eq!(epoch(&loader, BYTES), all());
    assert!(loader.stats().notes.iter().any(|note| note.contains("several members")));
    let before = loader.stats().cache.origin_bytes;
    assert_eq!(epoch(&loader, BYTES), all());
    assert_eq!(loader.stats().cache.origin_bytes, before);
}

#[test]
fn a_shard_of_many_blocks_is_decompressed_once() {
    let bytes = 500_000;
    let tar = tar(&members(0..40, bytes));
    let dir = folder([("a.tar.gz", gzip(&tar))]);
    let loader = open(&dir);
    assert_eq!(epoch(&loader, bytes), (0..40).collect::<Vec<_>>());
    assert_eq!(loader.stats().cache.origin_bytes, tar.len() as u64);
}

#[test]
fn a_truncated_shard_names_itself_and_the_offset() {
    let packed = gzip(&plain(0));
    let cut = packed.len() / 2;
    let dir = folder([("a.tar.gz", packed[..cut].to_vec())]);
    let error = failure(options(dir.path()));
    says(&error, &["/a.tar.gz: byte", "ends early", "truncated"]);
    let Error::Shard { offset, .. } = error else { panic!("{error:?}") };
    assert_eq!(offset, cut as u64);
}

#[test]
fn a_corrupt_shard_names_itself_and_the_offset() {
    let packed = gzip(&plain(0));
    for at in [packed.len() / 3, packed.len() - 8] {
        let mut packed = packed.clone();
        packed[at] ^= 0x55;
        let dir = folder([("a.tar.gz", packed)]);
        let error = failure(options(dir.path()));
        says(&error, &["a.tar.gz: byte"]);
        assert!(matches!(error, Error::Shard { .. }), "{error:?}");
    }
}

#[test]
fn a_tar_that_is_broken_inside_names_the_offset_in_the_decompressed_stream() {
    let tar = plain(0);
    let dir = folder([("a.tar.gz", gzip(&tar[..5000]))]);
    says(&failure(options(dir.path())), &["gunzip+file://", "a.tar.gz: byte", "truncated"]);
}

#[test]
fn a_shard_that_decompresses_to_more_than_the_cache_is_an_error_and_fills_nothing() {
    let bomb = gzip(&vec![0; 80 << 20]);
    let dir = folder([("a.tar.gz", [gzip(&plain(0)[..512]), bomb].concat())]);
    let mut options: LoaderOptions = options(dir.path());
    options.cache.limit_bytes = 64 << 20;
    options.cache.host_memory_limit_bytes = 128 << 20;
    let loader = Loader::open(options).unwrap();
    let error = shards::try_epoch(&loader, BYTES).unwrap_err();
    says(&error, &["a.tar.gz: byte", "more than cache_limit", "raise cache_limit"]);
    assert_eq!(loader.stats().cache.stored_blocks, 0);
}
