//! Evictions that fail: no good block is lost, reads go on, and when the disk is well again eviction is too.

use forebay_cache::disk::{Evict, FolderLock};
use forebay_cache::stats::DiskState;
use forebay_cache::testing::{Effect, IoFault, Kind};
use forebay_cache::{ByteRange, Error};

use super::faults::{file_of, filled, flip};
use super::world::{MIB, World, expect, until, whole};

#[tokio::test]
async fn when_holes_cannot_be_punched_good_blocks_stay_and_admission_stops_until_they_can() {
    for effect in [Effect::Errno(libc::EIO), Effect::Errno(libc::EOPNOTSUPP), Effect::Torn { bytes: 8192 }] {
        // More of the old object than is in the way: a file all of whose blocks go is unlinked, not punched.
        let world = World::new(56 * MIB);
        let (old, old_bytes) = world.put("old", 40 * MIB, 1);
        let (new, new_bytes) = world.put("new", 32 * MIB, 2);
        let cache = world.open();
        // While many blocks are being written they count twice, so that one may be evicted without need.
        until("all of it is stored", async || cache.prefetch(&old, whole(&old)).await.unwrap().present == 10)
            .await;
        let evicted = cache.stats().evicted_blocks;
        world.io.inject(IoFault::new(Kind::Punch, effect).on_files(".data"));

        let done = cache.prefetch(&new, whole(&new)).await.unwrap();
        assert!(done.declined > 0, "{effect:?}: {done:?}");
        let stats = cache.stats();
        assert!(stats.admission_stopped && stats.io_errors > 0, "{effect:?}: {stats:?}");
        assert_eq!((stats.evicted_blocks, stats.disk_state), (evicted, DiskState::Degraded), "{effect:?}");
        assert!(world.allocated() <= world.limit_bytes);
        assert_eq!(cache.prefetch(&old, whole(&old)).await.unwrap().present, 10, "{effect:?}: none was lost");
        expect(&cache, &world, &new, whole(&new), &new_bytes).await;
        // A punch that stopped halfway has hurt its block: that one fails its checksum and is fetched again.
        expect(&cache, &world, &old, whole(&old), &old_bytes).await;

        world.io.heal();
        // Who asks for room does not wait until the rest after the failure is over, and what gives room ends the rest.
        cache.evict(Evict::DownTo { bytes: world.limit_bytes / 2 }).await.unwrap();
        assert!(cache.stats().evicted_blocks > evicted, "{effect:?}");
        until("there is room", async || cache.prefetch(&new, whole(&new)).await.unwrap().declined == 0).await;
        expect(&cache, &world, &old, whole(&old), &old_bytes).await;
        assert!(world.allocated() <= world.limit_bytes);
        cache.close().await.unwrap();
        let cache = world.open();
        expect(&cache, &world, &new, whole(&new), &new_bytes).await;
    }
}

#[tokio::test]
async fn blocks_that_could_not_be_evicted_are_still_there_after_a_restart() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 16 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, whole(&object)).await.unwrap();
    world.io.inject(IoFault::new(Kind::Punch, Effect::Errno(libc::EIO)).times(1));
    let used = cache.stats().used_bytes;
    let error = cache.evict(Evict::DownTo { bytes: used - 6 * MIB }).await.unwrap_err();
    assert!(matches!(&error, Error::Disk { path, .. } if path == world.dir.path()), "{error}");
    cache.close().await.unwrap();
    drop(cache);
    let cache = world.open();
    let read = expect(&cache, &world, &object, whole(&object), &all).await;
    assert_eq!(read.tiers.disk, object.size_bytes);
    assert!(cache.evict(Evict::DownTo { bytes: used - 6 * MIB }).await.unwrap() >= 6 * MIB);
}

#[tokio::test]
async fn an_object_whose_file_cannot_be_removed_stays_and_the_others_go() {
    let world = World::new(64 * MIB);
    let (stays, stays_bytes) = world.put("stays", 8 * MIB, 1);
    let (goes, _) = world.put("goes", 8 * MIB, 2);
    let cache = world.open();
    cache.prefetch(&stays, whole(&stays)).await.unwrap();
    cache.prefetch(&goes, whole(&goes)).await.unwrap();
    // Nobody can unlink a folder, root neither.
    let (path, aside) = (file_of(&world, &stays, "data"), world.dir.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = cache.evict(Evict::All).await.unwrap_err();
    assert!(error.to_string().contains("given back"), "{error}");
    assert_eq!(cache.prefetch(&goes, ByteRange::new(0, 1)).await.unwrap().present, 0);
    assert_eq!(cache.prefetch(&stays, whole(&stays)).await.unwrap().present, 2);
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    cache.close().await.unwrap();
    drop(cache);
    let cache = world.open();
    assert_eq!(expect(&cache, &world, &stays, whole(&stays), &stays_bytes).await.tiers.disk, 8 * MIB);
    cache.evict(Evict::All).await.unwrap();
    assert!(cache.status().await.unwrap().objects.is_empty());
}

#[tokio::test]
async fn the_folder_is_let_go_only_when_nothing_is_being_punched() {
    for by_the_freer in [true, false] {
        let world = World::new(64 * MIB);
        let (object, all) = world.put("a", 16 * MIB, 1);
        filled(&world, &object).await;
        if by_the_freer {
            flip(&file_of(&world, &object, "data"), 5 * MIB);
        }
        let cache = world.open();
        world.io.hold(Kind::Punch);
        // A bad block's space is given back behind the service, other blocks' where somebody asks for that.
        expect(&cache, &world, &object, whole(&object), &all).await;
        let of_task = cache.clone();
        let down_to = Evict::DownTo { bytes: cache.stats().used_bytes - 6 * MIB };
        let evicting =
            tokio::spawn(async move { if by_the_freer { Ok(0) } else { of_task.evict(down_to).await } });
        let io = world.io.clone();
        assert!(tokio::task::spawn_blocking(move || io.wait_for_held(1)).await.unwrap());

        let of_task = cache.clone();
        let closing = tokio::spawn(async move { of_task.close().await });
        // As long as it takes to close folders in which nothing is under way.
        for _ in 0..3 {
            let other = World::new(64 * MIB);
            let (object, _) = other.put("a", 16 * MIB, 1);
            filled(&other, &object).await;
        }
        assert!(!closing.is_finished(), "a punch is under way");
        assert!(FolderLock::try_acquire(world.dir.path()).unwrap().is_none());
        world.io.release();
        closing.await.unwrap().unwrap();
        evicting.await.unwrap().unwrap();
        assert!(FolderLock::try_acquire(world.dir.path()).unwrap().is_some());
        expect(&world.open(), &world, &object, whole(&object), &all).await;
    }
}
