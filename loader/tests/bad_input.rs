//! Shards, lists and sidecars that are not what they should be: each is an error that says what, where, and what to do.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod shards;

use forebay_loader::plan::OrderMode;
use forebay_loader::{Loader, LoaderOptions, OnError};
use shards::{epoch, failure, folder, header, members, open, options, says, tar, try_epoch};

fn plain(numbers: std::ops::Range<usize>) -> Vec<u8> {
    tar(&members(numbers, 100))
}

/// The sidecar of a shard of `members(numbers, bytes)`.
fn sidecar(numbers: std::ops::Range<usize>, bytes: usize) -> Vec<u8> {
    let mut text = format!("v1.2 {}\n", numbers.len());
    let mut at = 512;
    for (index, (name, data)) in members(numbers, bytes).into_iter().enumerate() {
        let suffix = name.split_once('.').unwrap().1;
        let end = if index % 2 == 0 { " " } else { "\n" };
        text += &format!("{suffix} {at} {} {name}{end}", data.len());
        at += data.len().next_multiple_of(512) + 512;
    }
    text.into_bytes()
}

fn wids(shards: &[(&str, usize)]) -> Vec<u8> {
    let shard = |(url, count): &(&str, usize)| format!(r#"{{"url":"{url}","nsamples":{count}}}"#);
    let list: Vec<_> = shards.iter().map(shard).collect();
    format!(r#"{{"__kind__":"wids-shard-index-v1","wids_version":1,"shardlist":[{}]}}"#, list.join(","))
        .into_bytes()
}

fn from_json(dir: &tempfile::TempDir) -> LoaderOptions {
    LoaderOptions {
        sources: vec![dir.path().join("data/index.json").display().to_string()],
        ..options(dir.path())
    }
}

#[test]
fn an_empty_folder() {
    let dir = folder([]);
    says(&failure(options(dir.path())), &["no shard matches", "data", "check the names"]);
}

#[test]
fn a_shard_of_zero_bytes() {
    let dir = folder([("a.tar", plain(0..5)), ("b.tar", vec![])]);
    says(&failure(options(dir.path())), &["b.tar: byte 0", "the shard has no bytes"]);
}

#[test]
fn a_truncated_shard() {
    let dir = folder([("a.tar", plain(0..5)[..3000].to_vec())]);
    says(&failure(options(dir.path())), &["a.tar: byte ", "truncated", "fetch or write it again"]);
}

#[test]
fn a_member_that_claims_more_bytes_than_there_are() {
    let mut size = [0; 12];
    size[0] = 0x80;
    size[4] = 0x80;
    let mut shard = header("000000.bin", &size).to_vec();
    shard.extend([0; 2048]);
    let dir = folder([("a.tar", shard)]);
    says(&failure(options(dir.path())), &["a.tar", "byte 0", "9223372036854775808"]);
}

#[test]
fn the_same_key_in_two_shards_is_two_samples() {
    let dir = folder([("a.tar", plain(0..5)), ("b.tar", plain(3..8))]);
    assert_eq!(epoch(&open(&dir), 100), [0, 1, 2, 3, 3, 4, 4, 5, 6, 7]);
}

#[test]
fn a_missing_field_names_sample_and_offset_or_is_replaced() {
    let mut samples = members(0..8, 100);
    samples.remove(5);
    let dir = folder([("a.tar", tar(&samples))]);
    says(&failure(options(dir.path())), &["a.tar", "\"000002\"", "byte 4096", "\"label\"", "cls", "bin"]);
    let skip = LoaderOptions { on_error: OnError::Skip, max_errors: 1, ..options(dir.path()) };
    let loader = Loader::open(skip).unwrap();
    let delivered = epoch(&loader, 100);
    assert_eq!(delivered.len(), 8);
    assert!(!delivered.contains(&2));
    assert_eq!(loader.stats().skipped, 1);
}

#[test]
fn counts_of_a_wids_list_give_the_length_without_reading_shards() {
    let dir = folder([
        ("a.tar", plain(0..5)),
        ("b.tar", plain(5..12)),
        ("index.json", wids(&[("a.tar", 5), ("b.tar", 7)])),
    ]);
    let loader = Loader::open(from_json(&dir)).unwrap();
    assert_eq!(loader.len(), Some(2));
    assert_eq!(loader.stats().cache.origin_bytes, 0);
    assert_eq!(epoch(&loader, 100), (0..12).collect::<Vec<_>>());
}

#[test]
fn a_wrong_count_in_a_wids_list_names_the_shard() {
    let dir = folder([("a.tar", plain(0..5)), ("index.json", wids(&[("a.tar", 6)]))]);
    says(&failure(from_json(&dir)), &["a.tar has 5 samples", "says 6", "write the JSON anew"]);
}

#[test]
fn sidecars_give_counts_without_a_pass() {
    let dir = folder([
        ("a.tar", plain(0..5)),
        ("a.idx", sidecar(0..5, 100)),
        ("b.tar", plain(5..9)),
        ("b.idx", sidecar(5..9, 100)),
    ]);
    let loader = open(&dir);
    loader.state().unwrap();
    assert_eq!(loader.stats().cache.origin_bytes, 0);
    assert_eq!(loader.len(), Some(2));
    assert_eq!(epoch(&loader, 100), (0..9).collect::<Vec<_>>());
    assert!(loader.stats().notes.is_empty(), "{:?}", loader.stats().notes);
}

#[test]
fn a_sidecar_of_another_version_is_found_before_a_byte_is_used_and_not_kept() {
    let newer = members(0..5, 1500);
    let dir = folder([("a.tar", tar(&newer)), ("a.idx", sidecar(0..5, 100))]);
    let error = failure(options(dir.path()));
    says(&error, &["a.tar: byte ", "another version of the shard", "forebay index --write-sidecars"]);
    std::fs::write(dir.path().join("data/a.idx"), sidecar(0..5, 1500)).unwrap();
    assert_eq!(epoch(&open(&dir), 1500), (0..5).collect::<Vec<_>>());
}

#[test]
fn a_sidecar_with_the_offsets_of_another_shard_is_told_by_its_names() {
    let dir = folder([("a.tar", plain(0..5)), ("a.idx", sidecar(5..10, 100))]);
    says(&failure(options(dir.path())), &["a.tar: byte ", "its header names \"00000"]);
}

#[test]
fn a_dataset_that_fits_the_cache_is_read_once_in_all() {
    let bytes = 300_000;
    let shards: Vec<Vec<u8>> =
        (0..3).map(|shard| tar(&members(shard * 40..(shard + 1) * 40, bytes))).collect();
    let whole: usize = shards.iter().map(Vec::len).sum();
    let names = ["a.tar", "b.tar", "c.tar"];
    let dir = folder(names.into_iter().zip(shards));
    let loader = open(&dir);
    assert_eq!(epoch(&loader, bytes).len(), 120);
    assert_eq!(loader.stats().cache.origin_bytes, whole as u64);
    assert!(loader.stats().notes.iter().any(|note| note.contains("3 of 3 shards have no index")));
}

#[test]
fn a_dataset_larger_than_the_cache_is_said_to_be_read_twice_and_is() {
    let bytes = 400_000;
    let shards: Vec<(String, Vec<u8>)> = (0..16)
        .map(|shard| (format!("{shard:02}.tar"), tar(&members(shard * 20..(shard + 1) * 20, bytes))))
        .collect();
    let whole: u64 = shards.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let dir = folder(shards.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    // In storage order: shuffled, windows of 48 lanes would have to fit.
    let mut options = LoaderOptions { mode: OrderMode::Storage, ..options(dir.path()) };
    options.cache.limit_bytes = 64 << 20;
    let loader = Loader::open(options).unwrap();
    loader.state().unwrap();
    assert_eq!(try_epoch(&loader, bytes).unwrap().len(), 320);
    let stats = loader.stats();
    assert!(stats.notes.iter().any(|note| note.contains("do not fit into cache_limit")), "{:?}", stats.notes);
    let times = stats.cache.origin_bytes as f64 / whole as f64;
    assert!((1.2..=2.5).contains(&times), "read {times} times");
}
