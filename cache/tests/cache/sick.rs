//! File systems that are really full, or really read-only: mounted by the test, which says where it can't.

use forebay_cache::disk::Evict;
use forebay_cache::stats::DiskState;
use forebay_cache::testing::Mount;
use forebay_cache::tiered::Cache;
use forebay_cache::{CacheOptions, Error};

use super::world::{MIB, World, expect, whole};

/// A small file system, and options of a cache in it.
fn mounted(world: &World, bytes: u64) -> Option<(Mount, impl Fn() -> CacheOptions)> {
    match Mount::tmpfs(world.dir.path(), bytes) {
        Ok(mount) => {
            let dir = mount.path().join("cache");
            Some((mount, move || CacheOptions { dir: dir.clone(), ..world.options() }))
        }
        Err(why) => {
            eprintln!("not run: no file system of its own can be had here: {why}");
            None
        }
    }
}

#[tokio::test]
async fn on_a_full_file_system_reads_go_on_and_admission_begins_again_when_there_is_room() {
    let world = World::new(200 * MIB);
    let Some((mount, options)) = mounted(&world, 32 * MIB) else { return };
    let (object, all) = world.put("a", 40 * MIB, 1);
    let cache = Cache::open(options()).unwrap();
    let done = cache.prefetch(&object, whole(&object)).await.unwrap();
    assert!(done.stored > 3 && done.declined > 0, "{done:?}");
    let stats = cache.stats();
    assert!(stats.admission_stopped && stats.disk_state == DiskState::Degraded, "{stats:?}");
    assert_eq!(stats.io_errors, 0, "a full disk is no sick one");
    // Now somebody else takes the rest: not even an entry finds room.
    let hog = mount.path().join("hog");
    let rest =
        std::fs::File::create(&hog).and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file));
    assert_eq!(rest.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    for _ in 0..2 {
        expect(&cache, &world, &object, whole(&object), &all).await;
    }
    // Whether or not the index still finds room for the change, nothing that is served is wrong.
    let evicted = cache.evict(Evict::All).await;
    if let Err(error) = &evicted {
        assert!(error.to_string().contains(&*mount.path().to_string_lossy()), "{error}");
        assert_eq!(cache.stats().disk_state, DiskState::Down);
    }
    expect(&cache, &world, &object, whole(&object), &all).await;
    // Entries that found no room are no secret either.
    if let Err(error) = cache.close().await {
        assert!(error.to_string().contains("index.redb"), "{error}");
    }
    drop(cache);
    std::fs::remove_file(&hog).unwrap();
    let cache = Cache::open(options()).unwrap();
    expect(&cache, &world, &object, whole(&object), &all).await;
    cache.evict(Evict::All).await.unwrap();
    assert!(cache.prefetch(&object, whole(&object)).await.unwrap().stored > 3);
}

#[tokio::test]
async fn a_folder_on_a_read_only_file_system_is_a_clear_error_and_keeps_what_it_has() {
    let world = World::new(64 * MIB);
    let Some((mount, options)) = mounted(&world, 64 * MIB) else { return };
    let (object, all) = world.put("a", 12 * MIB, 1);
    let cache = Cache::open(options()).unwrap();
    cache.prefetch(&object, whole(&object)).await.unwrap();
    cache.close().await.unwrap();
    drop(cache);
    mount.remount("ro").unwrap();
    let error = Cache::open(options()).unwrap_err();
    assert!(matches!(error, Error::CacheDir { .. }), "{error}");
    assert!(error.to_string().contains("not writable"), "{error}");
    mount.remount("rw").unwrap();
    let cache = Cache::open(options()).unwrap();
    assert_eq!(expect(&cache, &world, &object, whole(&object), &all).await.tiers.disk, object.size_bytes);
}
