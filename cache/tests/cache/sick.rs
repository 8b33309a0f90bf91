//! File systems that are really full, or really read-only: mounted by the test, which says where it may not.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use forebay_cache::disk::Evict;
use forebay_cache::object::{BLOCK_BYTES, ObjectMeta};
use forebay_cache::stats::DiskState;
use forebay_cache::testing::Mount;
use forebay_cache::tiered::Cache;
use forebay_cache::{CacheOptions, Error};

use super::world::{MIB, World, expect, until, whole};

/// Options of a cache on a file system of the test's own; none where this process may not mount one.
fn mounted(world: &World, made: Result<Option<Mount>, String>) -> Option<(Mount, impl Fn() -> CacheOptions)> {
    let mount = made.unwrap()?;
    let dir = mount.path().join("cache");
    Some((mount, move || CacheOptions { dir: dir.clone(), ..world.options() }))
}

#[tokio::test]
async fn on_a_full_file_system_reads_go_on_and_admission_begins_again_when_there_is_room() {
    let world = World::new(200 * MIB);
    let Some((mount, options)) = mounted(&world, Mount::tmpfs(world.dir.path(), 32 * MIB)) else { return };
    let (object, all) = world.put("a", 40 * MIB, 1);
    let cache = Cache::open(options()).unwrap();
    let done = cache.prefetch(&object, whole(&object)).await.unwrap();
    assert!(done.stored > 3 && done.declined > 0, "{done:?}");
    let stats = cache.stats();
    assert!(stats.admission_stopped && stats.disk_state == DiskState::Degraded, "{stats:?}");
    assert_eq!(stats.io_errors, 0, "a full disk is no sick one");
    // Now somebody else takes the rest, and still the index has room for the change.
    fill(&mount);
    for _ in 0..2 {
        expect(&cache, &world, &object, whole(&object), &all).await;
    }
    assert!(cache.evict(Evict::All).await.unwrap() > 3 * BLOCK_BYTES);
    assert_eq!(expect(&cache, &world, &object, whole(&object), &all).await.tiers.disk, 0);
    until_admitted(&cache, &object).await;
    cache.close().await.unwrap();
}

/// Comes back when blocks are stored again: what a full disk left of them must be gone first, and its file system may have the room later.
async fn until_admitted(cache: &Cache, object: &Arc<ObjectMeta>) {
    until("blocks are stored again", async || {
        let done = cache.prefetch(object, whole(object)).await.unwrap();
        done.stored + done.present > 0
    })
    .await;
}

/// Somebody else takes all of the room that is left.
fn fill(mount: &Mount) {
    let hog = std::fs::File::create(mount.path().join("hog"));
    let rest = hog.and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file));
    assert_eq!(rest.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn a_folder_opened_on_a_full_file_system_serves_what_it_has_and_makes_room() {
    let world = World::new(200 * MIB);
    for kind in [Mount::tmpfs, Mount::ext4] {
        let home = tempfile::tempdir().unwrap();
        let Some((mount, options)) = mounted(&world, kind(home.path(), 64 * MIB)) else { return };
        let (object, all) = world.put("a", 12 * MIB, 1);
        let (other, other_bytes) = world.put("b", 12 * MIB, 2);
        let cache = Cache::open(options()).unwrap();
        cache.prefetch(&object, whole(&object)).await.unwrap();
        cache.close().await.unwrap();
        drop(cache);
        fill(&mount);
        let cache = Cache::open(options()).unwrap();
        assert_eq!(expect(&cache, &world, &object, whole(&object), &all).await.tiers.disk, object.size_bytes);
        assert_eq!(
            expect(&cache, &world, &other, whole(&other), &other_bytes).await.tiers.origin,
            other.size_bytes
        );
        assert_eq!(cache.prefetch(&other, whole(&other)).await.unwrap().stored, 0);
        assert!(cache.evict(Evict::Object(object.id)).await.unwrap() >= object.size_bytes);
        until_admitted(&cache, &other).await;
        cache.close().await.unwrap();
        drop(cache);
        drop(mount);
    }
}

#[tokio::test]
async fn a_folder_made_on_a_full_file_system_passes_through_until_there_is_room() {
    let world = World::new(200 * MIB);
    let home = tempfile::tempdir().unwrap();
    let Some((mount, options)) = mounted(&world, Mount::tmpfs(home.path(), 32 * MIB)) else { return };
    let (object, all) = world.put("a", 12 * MIB, 1);
    fill(&mount);
    let cache = Cache::open(options()).unwrap();
    assert_eq!(expect(&cache, &world, &object, whole(&object), &all).await.tiers.origin, object.size_bytes);
    assert_eq!(cache.prefetch(&object, whole(&object)).await.unwrap().stored, 0);
    let stats = cache.stats();
    assert!(stats.admission_stopped && stats.disk_state == DiskState::Down, "{stats:?}");
    let error = cache.evict(Evict::All).await.unwrap_err();
    assert!(error.to_string().contains(&*mount.path().to_string_lossy()), "{error}");
    std::fs::remove_file(mount.path().join("hog")).unwrap();
    cache.evict(Evict::All).await.unwrap();
    assert_eq!(cache.prefetch(&object, whole(&object)).await.unwrap().stored, object.blocks());
    cache.close().await.unwrap();
    drop(cache);
    let cache = Cache::open(options()).unwrap();
    assert_eq!(expect(&cache, &world, &object, whole(&object), &all).await.tiers.disk, object.size_bytes);
}

#[tokio::test]
async fn where_the_index_has_no_room_of_its_own_all_can_still_be_evicted() {
    let world = World::new(200 * MIB);
    let home = tempfile::tempdir().unwrap();
    let Some((mount, options)) = mounted(&world, Mount::tmpfs(home.path(), 64 * MIB)) else { return };
    let (one, one_bytes) = world.put("a", 12 * MIB, 1);
    let (two, two_bytes) = world.put("b", 12 * MIB, 2);
    let cache = Cache::open(options()).unwrap();
    cache.prefetch(&one, whole(&one)).await.unwrap();
    cache.prefetch(&two, whole(&two)).await.unwrap();
    cache.close().await.unwrap();
    drop(cache);
    // As a file system leaves it that copies on write, or a tool that copies holes as holes.
    dig_holes(&options().dir.join("index.redb"));
    fill(&mount);
    let cache = Cache::open(options()).unwrap();
    assert!(cache.evict(Evict::Object(one.id)).await.is_err());
    assert_eq!(cache.stats().disk_state, DiskState::Down);
    for (object, all) in [(&one, &one_bytes), (&two, &two_bytes)] {
        let read = expect(&cache, &world, object, whole(object), all).await;
        assert_eq!(read.tiers.disk, object.size_bytes, "also what was not read before the index refused");
    }
    assert!(cache.evict(Evict::All).await.unwrap() >= one.size_bytes + two.size_bytes);
    until_admitted(&cache, &one).await;
    cache.close().await.unwrap();
    drop(cache);
    let cache = Cache::open(options()).unwrap();
    expect(&cache, &world, &one, whole(&one), &one_bytes).await;
    assert_eq!(cache.stats().quarantined_blocks, 0, "the new index is whole");
}

/// Gives back every page of a file that holds zeros only, and what is allocated behind its end.
fn dig_holes(path: &std::path::Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, page) in bytes.chunks(4096).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, number as u64 * 4096).unwrap();
        }
    }
}

#[tokio::test]
async fn a_folder_on_a_read_only_file_system_is_a_clear_error_and_keeps_what_it_has() {
    let world = World::new(64 * MIB);
    let Some((mount, options)) = mounted(&world, Mount::tmpfs(world.dir.path(), 64 * MIB)) else { return };
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
