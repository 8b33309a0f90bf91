//! Blocks that a plan holds in host memory: read once, counted as what they are, and let go with the plan.

use std::sync::Arc;

use forebay_cache::{ByteRange, ObjectMeta, Tier};

use super::faults::{file_of, filled, flip};
use super::world::{MIB, World, expect, whole};

/// A folder with an object of three blocks, the last one short.
async fn on_disk() -> (World, Arc<ObjectMeta>, Vec<u8>) {
    let world = World::new(128 * MIB);
    let (object, all) = world.put("a.tar", 10 * MIB + 1, 1);
    filled(&world, &object).await;
    (world, object, all)
}

/// Samples of 10 kB in all of an object.
fn samples(size_bytes: u64) -> impl Iterator<Item = ByteRange> {
    (0..size_bytes / 10_000).map(|at| ByteRange::new(at * 10_000, (at + 1) * 10_000))
}

#[tokio::test]
async fn a_held_block_is_read_once_for_all_its_samples_and_they_count_as_from_disk() {
    let (world, object, all) = on_disk().await;
    let cache = world.open();
    let hold = cache.hold(&object, whole(&object)).await.unwrap();
    assert_eq!(hold.blocks(), 3, "three eighths of eight slabs");
    let before = world.io.counts().reads;
    for range in samples(8 * MIB) {
        assert_eq!(expect(&cache, &world, &object, range, &all).await.tiers.farthest(), Tier::Disk);
    }
    assert_eq!(world.io.counts().reads, before);
    drop(hold);
    let range = ByteRange::new(5 * MIB, 5 * MIB + 10_000);
    assert_eq!(expect(&cache, &world, &object, range, &all).await.tiers.farthest(), Tier::Disk);
    assert_eq!(world.io.counts().reads, before + 1, "what was held is read again");
}

#[tokio::test]
async fn a_damaged_block_is_left_to_its_readers_who_fetch_it() {
    let (world, object, all) = on_disk().await;
    flip(&file_of(&world, &object, "data"), 5 * MIB);
    let cache = world.open();
    let hold = cache.hold(&object, whole(&object)).await.unwrap();
    assert_eq!(cache.stats().quarantined_blocks, 1);
    let (good, bad) = (ByteRange::new(MIB, 2 * MIB), ByteRange::new(5 * MIB - 10, 5 * MIB + 10));
    assert_eq!(expect(&cache, &world, &object, good, &all).await.tiers.farthest(), Tier::Disk);
    assert_eq!(expect(&cache, &world, &object, bad, &all).await.tiers.farthest(), Tier::Origin);
    drop(hold);
}

#[tokio::test]
async fn what_comes_from_the_origin_is_held_from_its_arrival() {
    let (world, object, all) = on_disk().await;
    let (other, bytes) = world.put("other.tar", 40 * MIB, 7);
    let (late, of_late) = world.put("late.tar", 4 * MIB, 8);
    let cache = world.open();
    let hold = cache.hold(&late, whole(&late)).await.unwrap();
    let range = ByteRange::new(100, 20_000);
    assert_eq!(expect(&cache, &world, &late, range, &of_late).await.tiers.farthest(), Tier::Origin);
    for range in samples(other.size_bytes).step_by(50) {
        expect(&cache, &world, &other, range, &bytes).await;
    }
    assert_eq!(expect(&cache, &world, &late, range, &of_late).await.tiers.farthest(), Tier::Ram);
    drop(hold);
    expect(&cache, &world, &object, range, &all).await;
}

#[tokio::test]
async fn a_hold_of_a_closed_cache_is_dropped_in_peace_and_frees_its_memory() {
    let (world, object, _) = on_disk().await;
    let cache = world.open();
    let hold = cache.hold(&object, whole(&object)).await.unwrap();
    cache.close().await.unwrap();
    drop(cache);
    drop(hold);
    // The region of the first cache is free again.
    world.open().close().await.unwrap();
}
