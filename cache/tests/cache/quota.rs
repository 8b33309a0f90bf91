//! `cache_limit`, counted from outside while the cache runs.

use forebay_cache::ByteRange;
use forebay_cache::disk::Evict;
use forebay_cache::testing::Watch;

use super::world::{MIB, World, expect, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_at_every_moment() {
    let world = World::new(40 * MIB);
    let objects: Vec<_> = (0..10).map(|at| world.put(&format!("{at}"), 9 * MIB + at * 1111, at)).collect();
    let cache = world.open();
    let watch = Watch::over(world.dir.path()).unwrap();
    for turn in 0..60u64 {
        let (object, all) = &objects[(turn * 7 % 10) as usize];
        let start = turn * 1_234_567 % (object.size_bytes - 300_000);
        expect(&cache, &world, object, ByteRange::new(start, start + 300_000), all).await;
        if turn % 5 == 0 {
            cache.prefetch(object, ByteRange::new(0, object.size_bytes)).await.unwrap();
            cache.aux_put("index", &object.id, vec![1; 200_000]).await.unwrap();
        }
    }
    cache.close().await.unwrap();
    let (peak, looks) = watch.end();
    assert!(looks > 10);
    assert!(peak <= world.limit_bytes, "{peak} bytes were allocated under a limit of {}", world.limit_bytes);
    assert!(peak > world.limit_bytes / 2, "the limit was put to use: {peak}");
    assert!(cache.stats().evicted_blocks > 0);
}

#[tokio::test]
async fn what_the_cache_says_it_takes_is_what_it_takes_or_a_little_more() {
    let world = World::new(64 * MIB);
    let (object, _) = world.put("a", 21 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, ByteRange::new(0, object.size_bytes)).await.unwrap();
    let (said, real) = (cache.stats().used_bytes, world.allocated());
    assert!(said >= real, "{said} < {real}");
    assert!(said - real < 4 * MIB, "{said} is far from {real}");
    let freed = cache.evict(Evict::DownTo { bytes: 12 * MIB }).await.unwrap();
    assert!(freed >= 8 * MIB && cache.stats().used_bytes <= 12 * MIB);
    cache.evict(Evict::All).await.unwrap();
    let (said, real) = (cache.stats().used_bytes, world.allocated());
    assert!(said >= real && real < 3 * MIB, "{real} bytes are left of an empty cache");
}

#[tokio::test]
async fn space_without_an_entry_and_files_of_nobody_are_reclaimed_behind_the_service() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 12 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, ByteRange::new(0, 4 * MIB)).await.unwrap();
    cache.close().await.unwrap();
    drop(cache);
    // As if a process had died between writing and entering: data without entry, a file of an unknown object, half an aux file.
    let id = object.id.to_string();
    let data = world.dir.path().join(format!("objects/{}/{id}.data", &id[..2]));
    let file = std::fs::OpenOptions::new().write(true).open(&data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![9; 4 << 20], 8 << 20).unwrap();
    let stray = "00112233445566778899aabbccddeeff";
    std::fs::create_dir_all(world.dir.path().join("objects/00")).unwrap();
    for name in [
        format!("objects/00/{stray}.data"),
        format!("objects/00/{stray}.crc"),
        format!("aux/{stray}.index"),
        format!("aux/{id}.index.tmp"),
    ] {
        std::fs::write(world.dir.path().join(name), vec![1; 3 << 20]).unwrap();
    }
    let cache = world.open();
    let first = ByteRange::new(0, 4 * MIB);
    assert_eq!(expect(&cache, &world, &object, first, &all).await.tiers.disk, 4 * MIB);
    // Waiting for the walk: an eviction of nothing comes after it, and the space goes in the background.
    cache.evict(Evict::DownTo { bytes: u64::MAX }).await.unwrap();
    until("the space of nobody is reclaimed", async || world.allocated() <= 7 * MIB).await;
    expect(&cache, &world, &object, ByteRange::new(0, 12 * MIB), &all).await;
}
