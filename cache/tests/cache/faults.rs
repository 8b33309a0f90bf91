//! Flipped bits, full and failing disks, folders that can't be used, forks.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use forebay_cache::disk::Evict;
use forebay_cache::stats::DiskState;
use forebay_cache::testing::{Effect, Failure, Fault, IoFault, Kind, Op, Rule};
use forebay_cache::tiered::Cache;
use forebay_cache::{ByteRange, Error, ObjectMeta, Tier};

use super::world::{MIB, World, expect, location, until, whole};

pub(super) fn file_of(world: &World, object: &ObjectMeta, kind: &str) -> PathBuf {
    let id = object.id.to_string();
    world.dir.path().join(format!("objects/{}/{id}.{kind}", &id[..2]))
}

pub(super) fn flip(path: &std::path::Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    file.sync_all().unwrap();
}

pub(super) async fn filled(world: &World, object: &std::sync::Arc<ObjectMeta>) {
    let cache = world.open();
    cache.prefetch(object, whole(object)).await.unwrap();
    cache.close().await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_data_or_checksums_is_fetched_again_and_counted() {
    for (kind, offset) in [("data", 5 * MIB + 77), ("crc", 4096 + 20)] {
        let world = World::new(64 * MIB);
        let (object, all) = world.put("a", 10 * MIB, 1);
        filled(&world, &object).await;
        flip(&file_of(&world, &object, kind), offset);
        let cache = world.open();
        let range = ByteRange::new(4 * MIB, 8 * MIB);
        assert_eq!(
            expect(&cache, &world, &object, range, &all).await.tiers.farthest(),
            Tier::Origin,
            "{kind}"
        );
        assert_eq!(cache.stats().quarantined_blocks, 1, "{kind}");
        // The other blocks are untouched, and the bad one is not served from disk before it is written again.
        assert_eq!(
            expect(&cache, &world, &object, ByteRange::new(0, 4 * MIB), &all).await.tiers.disk,
            4 * MIB
        );
        expect(&cache, &world, &object, whole(&object), &all).await;
    }
}

#[tokio::test]
async fn verify_finds_every_bad_block_and_names_its_place() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 10 * MIB, 1);
    filled(&world, &object).await;
    flip(&file_of(&world, &object, "data"), 9 * MIB);
    flip(&file_of(&world, &object, "crc"), 3);
    let cache = world.open();
    let mut progress = cache.verify().unwrap();
    let mut findings = Vec::new();
    let mut last = None;
    while let Some(step) = progress.recv().await {
        findings.extend(step.finding.clone());
        last = Some(step);
    }
    let last = last.unwrap();
    assert_eq!((last.checked_blocks, last.total_blocks), (3, 3));
    let found: Vec<_> = findings.iter().map(|finding| (finding.block.index, finding.what.as_str())).collect();
    assert_eq!(found[0].0, 0);
    assert_eq!(found[1], (2, "bytes 9437184..9441280 fail their checksum"));
    assert_eq!(findings[0].location, "s3://b/a");
    expect(&cache, &world, &object, whole(&object), &all).await;
}

#[tokio::test]
async fn flipped_bits_anywhere_in_the_index_never_give_a_wrong_byte() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 10 * MIB, 1);
    filled(&world, &object).await;
    let index = world.dir.path().join("index.redb");
    let good = std::fs::read(&index).unwrap();
    let used: Vec<usize> =
        (0..good.len() / 64).filter(|at| good[at * 64..at * 64 + 64].iter().any(|b| *b != 0)).collect();
    for turn in 0..24 {
        let mut bad = good.clone();
        bad[used[turn * 7919 % used.len()] * 64 + turn % 64] ^= 1 << (turn % 8);
        std::fs::write(&index, bad).unwrap();
        let cache = world.open();
        expect(&cache, &world, &object, whole(&object), &all).await;
        drop(cache.close().await);
        drop(cache);
    }
    std::fs::write(&index, b"garbage").unwrap();
    let cache = world.open();
    expect(&cache, &world, &object, whole(&object), &all).await;
    assert!(cache.stats().quarantined_blocks >= 1, "a broken index is counted");
}

#[tokio::test]
async fn a_full_disk_stops_admission_and_no_read_fails() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 40 * MIB, 1);
    world.io.inject(IoFault::new(Kind::Write, Effect::Errno(libc::ENOSPC)));
    let cache = world.open();
    expect(&cache, &world, &object, whole(&object), &all).await;
    let done = cache.prefetch(&object, whole(&object)).await.unwrap();
    assert_eq!((done.stored, done.present), (0, 0));
    let stats = cache.stats();
    assert!(stats.admission_stopped && stats.disk_state == DiskState::Degraded, "{stats:?}");
}

#[tokio::test]
async fn a_disk_that_fails_reads_is_counted_and_no_read_fails() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 12 * MIB, 1);
    filled(&world, &object).await;
    world.io.inject(IoFault::new(Kind::Read, Effect::Errno(libc::EIO)).times(2));
    let cache = world.open();
    let read = expect(&cache, &world, &object, whole(&object), &all).await;
    assert!(read.tiers.origin > 0 && read.tiers.disk > 0, "one block came from the origin: {:?}", read.tiers);
    let stats = cache.stats();
    assert_eq!((stats.io_errors, stats.quarantined_blocks), (2, 1), "the run failed, then one block of it");
    assert_eq!(stats.disk_state, DiskState::Degraded);
}

#[tokio::test]
async fn a_disk_that_refuses_writes_is_still_read_and_comes_back() {
    for errno in [libc::EIO, libc::EROFS, libc::EDQUOT] {
        let world = World::new(64 * MIB);
        let (old, old_bytes) = world.put("old", 8 * MIB, 1);
        filled(&world, &old).await;
        let (new, new_bytes) = world.put("new", 8 * MIB, 2);
        world.io.inject(IoFault::new(Kind::Write, Effect::Errno(errno)));
        let cache = world.open();
        assert_eq!(cache.prefetch(&new, whole(&new)).await.unwrap().stored, 0, "{errno}");
        expect(&cache, &world, &new, whole(&new), &new_bytes).await;
        assert_eq!(expect(&cache, &world, &old, whole(&old), &old_bytes).await.tiers.disk, old.size_bytes);
        assert_eq!(cache.stats().disk_state, DiskState::Degraded);
        assert_eq!(cache.stats().quarantined_blocks, 0, "no block was ever there");
        world.io.heal();
        // Room that is made is reason enough to try again, also on a disk that was full.
        cache.evict(Evict::Object(old.id)).await.unwrap();
        until("it is written again", async || cache.prefetch(&new, whole(&new)).await.unwrap().declined == 0)
            .await;
    }
}

#[tokio::test]
async fn a_disk_that_fails_everything_goes_down_and_no_read_fails() {
    let world = World::new(200 * MIB);
    let (object, all) = world.put("a", 40 * MIB, 1);
    world.io.inject(IoFault::new(Kind::Any, Effect::Errno(libc::EIO)));
    let cache = world.open();
    for _ in 0..2 {
        expect(&cache, &world, &object, whole(&object), &all).await;
    }
    // Waits for the writes of what was read.
    assert_eq!(cache.prefetch(&object, whole(&object)).await.unwrap().stored, 0);
    assert_eq!(cache.stats().disk_state, DiskState::Down);
}

#[tokio::test]
async fn lost_and_torn_writes_are_never_served() {
    for effect in [Effect::Lost, Effect::Torn { bytes: 4096 }, Effect::FlipBit { byte: 99_999, bit: 3 }] {
        let mut world = World::new(64 * MIB);
        world.slabs = 4;
        let (object, all) = world.put("a", 20 * MIB, 1);
        world.io.inject(IoFault::new(Kind::Write, effect).after(1).times(2));
        filled(&world, &object).await;
        let cache = world.open();
        expect(&cache, &world, &object, whole(&object), &all).await;
    }
}

#[tokio::test]
async fn an_origin_that_fails_gives_its_error_and_leaves_nothing_behind() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 8 * MIB, 1);
    let cache = world.open();
    world.origin.inject(
        Rule::new(Fault::Cut { after_bytes: 5_000_000, failure: Failure::Unavailable }).on(Op::Get).times(1),
    );
    let error = cache.prefetch(&object, whole(&object)).await.unwrap_err();
    assert!(matches!(&error, Error::Origin { location: at, .. } if *at == location("a")), "{error}");
    expect(&cache, &world, &object, whole(&object), &all).await;
    assert_eq!(cache.stats().origin_errors, 1);
    world.origin.inject(Rule::new(Fault::Short { bytes: 10 }).on(Op::Get).times(1));
    let (other, other_bytes) = world.put("b", MIB, 2);
    let short = cache.read(&other, whole(&other), &world.region).await;
    assert!(short.is_err(), "a short answer is no success: {:?} {:?}", short, world.origin.requests());
    expect(&cache, &world, &other, whole(&other), &other_bytes).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_a_clear_error() {
    let world = World::new(64 * MIB);
    std::fs::write(world.dir.path().join("file"), b"").unwrap();
    let mut options = world.options();
    options.dir = world.dir.path().join("file/cache");
    let error = Cache::open(options).unwrap_err();
    assert!(matches!(error, Error::CacheDir { .. }), "{error}");
    assert!(error.to_string().contains("file/cache"), "{error}");
}
