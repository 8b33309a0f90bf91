//! What readers see: tiers, one fetch, leases, versions, offline, aux files, closing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_cache::disk::{Advice, Evict};
use forebay_cache::origin::Origin;
use forebay_cache::testing::{Failure, Fault, Gate, Op, Rule};
use forebay_cache::tiered::Cache;
use forebay_cache::{ByteRange, CacheOptions, Error, Location, ObjectMeta, Tier};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::world::{MIB, World, expect, location, until, whole};

#[tokio::test]
async fn bytes_come_from_the_origin_once_then_from_memory_then_after_a_restart_from_disk() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a.tar", 9 * MIB + 12_345, 1);
    let cache = world.open();
    let range = ByteRange::new(4 * MIB - 1000, 4 * MIB + 200_000);
    assert_eq!(expect(&cache, &world, &object, range, &all).await.tiers.farthest(), Tier::Origin);
    cache.prefetch(&object, whole(&object)).await.unwrap();
    assert_eq!(cache.stats().origin_bytes, object.size_bytes, "every byte came once");
    let near = ByteRange::new(5 * MIB, 5 * MIB + 10);
    assert_eq!(expect(&cache, &world, &object, near, &all).await.tiers.farthest(), Tier::Ram);
    cache.close().await.unwrap();
    assert!(matches!(cache.read(&object, near, &world.region).await, Err(Error::Closed)));
    drop(cache);

    let requests = world.origin.count(Op::Get);
    let cache = world.open();
    for range in
        [whole(&object), range, ByteRange::new(0, 1), ByteRange::new(9 * MIB + 12_344, 9 * MIB + 12_345)]
    {
        assert_eq!(expect(&cache, &world, &object, range, &all).await.tiers.farthest(), Tier::Disk);
    }
    assert_eq!(world.origin.count(Op::Get), requests);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.disk_state), (4, 0, Default::default()));
}

#[tokio::test]
async fn an_empty_range_and_one_behind_the_end() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 100, 1);
    let cache = world.open();
    expect(&cache, &world, &object, ByteRange::new(100, 100), &all).await;
    let error = cache.read(&object, ByteRange::new(90, 101), &world.region).await.unwrap_err();
    assert!(matches!(error, Error::OutOfRange { size_bytes: 100, .. }), "{error}");
}

#[tokio::test]
async fn however_many_ask_for_a_block_the_origin_sees_one_request() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 4 * MIB, 1);
    let cache = world.open();
    let readers = (0..32u64).map(|reader| {
        let range = ByteRange::new(reader * 1000, reader * 1000 + 5000);
        expect(&cache, &world, &object, range, &all)
    });
    futures::future::join_all(readers).await;
    cache.prefetch(&object, whole(&object)).await.unwrap();
    assert_eq!(world.origin.count(Op::Get), 1);
    assert_eq!(cache.stats().origin_requests, 1);
}

#[tokio::test]
async fn an_urgent_read_is_served_before_its_block_is_whole() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 4 * MIB, 1);
    let gate = Gate::closed();
    // The front of the block never comes until the gate opens; the reader's bytes are at its end.
    let rule = Rule::new(Fault::Stall { after_bytes: 0, gate: gate.clone() });
    world.origin.inject(rule.on(Op::Get).within(ByteRange::new(0, 3 * MIB)));
    let cache = world.open();
    let range = ByteRange::new(3 * MIB, 3 * MIB + 100_000);
    assert_eq!(expect(&cache, &world, &object, range, &all).await.tiers.origin, 100_000);
    gate.open();
    assert_eq!(cache.prefetch(&object, whole(&object)).await.unwrap().declined, 0);
    assert_eq!(cache.stats().origin_bytes, object.size_bytes);
}

#[tokio::test]
async fn a_reader_that_gives_up_cancels_nothing_that_others_wait_for() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 4 * MIB, 1);
    let gate = Gate::closed();
    world.origin.inject(Rule::new(Fault::Stall { after_bytes: 1000, gate: gate.clone() }).on(Op::Get));
    let cache = world.open();
    let range = ByteRange::new(100_000, 200_000);
    let mut gone = Box::pin(cache.read(&object, range, &world.region));
    let mut stays = Box::pin(expect(&cache, &world, &object, range, &all));
    assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut stays).is_pending());
    tokio::select! {
        _ = gate.arrived(1) => {}
        _ = &mut gone => panic!("nothing has arrived yet"),
    }
    drop(gone);
    gate.open();
    stays.await;
    assert_eq!(world.origin.count(Op::Get), 1);
    cache.close().await.unwrap();
    assert_eq!(world.region.used_bytes(), 0, "the one who left got its memory back");
}

#[tokio::test]
async fn a_read_dropped_while_the_disk_works_frees_its_memory_afterwards() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 8 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, whole(&object)).await.unwrap();
    cache.close().await.unwrap();
    let cache = world.open();
    for _ in 0..20 {
        let mut read = Box::pin(cache.read(&object, whole(&object), &world.region));
        drop(futures::poll!(&mut read));
        drop(read);
    }
    expect(&cache, &world, &object, whole(&object), &all).await;
    // The region serves in line: this comes when all the memory is free.
    drop(world.region.allocate(world.region.capacity_bytes()).await.unwrap());
}

#[tokio::test]
async fn a_replaced_object_is_another_object() {
    let world = World::new(64 * MIB);
    let (old, old_bytes) = world.put("a", 5 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&old, whole(&old)).await.unwrap();
    let (new, new_bytes) = world.put("a", 5 * MIB, 2);
    assert_eq!(*cache.object(&location("a")).await.unwrap(), *new);
    expect(&cache, &world, &new, whole(&new), &new_bytes).await;
    expect(&cache, &world, &old, whole(&old), &old_bytes).await;
    cache.evict(Evict::Object(old.id)).await.unwrap();
    let error = cache.read(&old, whole(&old), &world.region).await.unwrap_err();
    assert!(matches!(&error, Error::Changed { location, .. } if *location == old.location), "{error}");
}

#[tokio::test]
async fn with_the_origin_down_the_newest_cached_version_is_served_and_said() {
    let world = World::new(64 * MIB);
    let (_old, _) = world.put("a", 3 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&_old, whole(&_old)).await.unwrap();
    let (new, all) = world.put("a", 3 * MIB, 2);
    cache.prefetch(&new, whole(&new)).await.unwrap();
    cache.close().await.unwrap();

    world.origin.inject(Rule::down());
    let cache = world.open();
    let found = cache.object(&location("a")).await.unwrap();
    assert_eq!(*found, *new);
    assert!(cache.stats().offline);
    expect(&cache, &world, &found, whole(&found), &all).await;
    assert!(matches!(cache.object(&location("b")).await, Err(Error::Origin { .. })));
    world.origin.faults().clear();
    cache.object(&location("a")).await.unwrap();
    assert!(!cache.stats().offline);
    world.origin.inject(Rule::new(Fault::Fail(Failure::PermissionDenied)).on(Op::Head));
    let refused = cache.object(&location("a")).await;
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })), "a refusal is no outage");
}

#[tokio::test]
async fn a_granted_block_stays_while_it_is_wanted_for_eviction() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 8 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, whole(&object)).await.unwrap();
    let range = ByteRange::new(100, 4 * MIB);
    let grant = cache.grant(&object, range).await.unwrap().unwrap();
    let read = expect(&cache, &world, &object, ByteRange::new(5 * MIB, 6 * MIB), &all).await;
    cache.evict(Evict::All).await.unwrap();
    assert!(cache.grant(&object, whole(&object)).await.unwrap().is_none(), "the other block went");
    let bytes = forebay_cache::disk::reader::read(&grant, &*world.io, &world.region).await.unwrap().unwrap();
    assert_eq!(bytes[..], all[100..4 << 20]);
    assert_eq!(read.lease[..], all[5 << 20..6 << 20], "a lease outlives the eviction");
    drop(grant);
    cache.evict(Evict::All).await.unwrap();
    assert!(cache.status().await.unwrap().objects.is_empty());
}

#[tokio::test]
async fn what_the_plan_needs_stays_and_when_nothing_may_go_reads_pass_through() {
    let world = World::new(32 * MIB);
    let (kept, kept_bytes) = world.put("kept", 16 * MIB, 1);
    let cache = world.open();
    cache.advise(&kept.id, whole(&kept), Advice::WillNeed);
    assert_eq!(cache.prefetch(&kept, whole(&kept)).await.unwrap().stored, 4);
    let (other, other_bytes) = world.put("other", 40 * MIB, 2);
    let other_range = ByteRange::new(0, other.size_bytes);
    cache.advise(&other.id, other_range, Advice::WillNeed);
    let done = cache.prefetch(&other, other_range).await.unwrap();
    assert!(done.declined > 0, "{done:?}");
    assert!(cache.stats().admission_stopped);
    expect(&cache, &world, &other, ByteRange::new(39 * MIB, 40 * MIB), &other_bytes).await;
    assert_eq!(cache.prefetch(&kept, whole(&kept)).await.unwrap().present, 4, "none of it was evicted");
    // The first object is done with: its blocks make room.
    cache.advise(&kept.id, whole(&kept), Advice::Done);
    let stored = cache.prefetch(&other, ByteRange::new(0, 16 * MIB)).await.unwrap();
    assert_eq!(stored.declined, 0, "{stored:?}");
    expect(&cache, &world, &kept, whole(&kept), &kept_bytes).await;
}

#[tokio::test]
async fn aux_files_are_kept_with_their_object_and_checked() {
    let world = World::new(64 * MIB);
    let (object, _) = world.put("a", MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, whole(&object)).await.unwrap();
    assert_eq!(cache.aux_get("index", &object.id).await.unwrap(), None);
    assert!(cache.aux_put("index", &object.id, vec![1; 5000]).await.unwrap());
    assert!(cache.aux_put("index", &object.id, vec![7; 100_000]).await.unwrap());
    cache.close().await.unwrap();
    let cache = world.open();
    assert_eq!(cache.aux_get("index", &object.id).await.unwrap(), Some(vec![7; 100_000]));
    let path = world.dir.path().join(format!("aux/{}.index", object.id));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[50_000] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(cache.aux_get("index", &object.id).await.unwrap(), None);
    assert_eq!(cache.stats().quarantined_blocks, 1);
    assert!(cache.aux_put("index", &object.id, vec![7]).await.unwrap());
    cache.evict(Evict::All).await.unwrap();
    assert_eq!(cache.aux_get("index", &object.id).await.unwrap(), None);
    assert!(matches!(cache.aux_get("../x", &object.id).await, Err(Error::Config { .. })));
}

#[tokio::test]
async fn aux_files_outlive_the_blocks_of_their_object_also_over_a_restart() {
    let world = World::new(32 * MIB);
    let (object, all) = world.put("a", 8 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, whole(&object)).await.unwrap();
    assert!(cache.aux_put("index", &object.id, vec![7; 100_000]).await.unwrap());
    let (other, _) = world.put("other", 60 * MIB, 2);
    cache.prefetch(&other, whole(&other)).await.unwrap();
    assert_eq!(cache.status().await.unwrap().objects.iter().map(|found| found.cached_blocks).min(), Some(0));
    assert_eq!(cache.aux_get("index", &object.id).await.unwrap(), Some(vec![7; 100_000]));
    let id = object.id.to_string();
    assert!(!world.dir.path().join(format!("objects/{}/{id}.data", &id[..2])).exists());
    cache.close().await.unwrap();
    drop(cache);
    let cache = world.open();
    cache.evict(Evict::DownTo { bytes: u64::MAX }).await.unwrap();
    assert_eq!(cache.aux_get("index", &object.id).await.unwrap(), Some(vec![7; 100_000]));
    expect(&cache, &world, &object, whole(&object), &all).await;
    // More than a sixteenth of the limit: the oldest ones go, to make room for blocks.
    for at in 0..40 {
        let (small, _) = world.put(&format!("{at}"), 10, 3);
        assert!(cache.aux_put("index", &small.id, vec![at; 100_000]).await.unwrap());
    }
    let (last, _) = world.put("last", 60 * MIB, 3);
    cache.prefetch(&last, whole(&last)).await.unwrap();
    let kept = std::fs::read_dir(world.dir.path().join("aux")).unwrap().count() as u64;
    assert!((10..=2 * MIB / 100_000).contains(&kept), "{kept} aux files");
    assert_eq!(cache.aux_get("index", &object.id).await.unwrap(), None);
    cache.evict(Evict::DownTo { bytes: 0 }).await.unwrap();
    assert_eq!(std::fs::read_dir(world.dir.path().join("aux")).unwrap().count(), 0);
    assert!(world.allocated() <= world.limit_bytes);
}

#[tokio::test]
async fn a_folder_has_one_owner_and_a_limit_that_makes_sense() {
    let world = World::new(64 * MIB);
    let cache = world.open();
    let error = forebay_cache::tiered::Cache::open(world.options()).unwrap_err();
    assert!(matches!(error, Error::Owned { .. }), "{error}");
    cache.close().await.unwrap();
    let small = World::new(MIB);
    let error = forebay_cache::tiered::Cache::open(small.options()).unwrap_err();
    assert!(
        matches!(error, Error::QuotaTooSmall { needed_bytes, .. } if needed_bytes == 16 * MIB),
        "{error}"
    );
}

#[tokio::test]
async fn evictions_held_at_a_take_over_wait_for_the_release() {
    let world = World::new(64 * MIB);
    let (object, _) = world.put("a", 8 * MIB, 1);
    let mut options = world.options();
    options.hold_evictions = true;
    let cache = forebay_cache::tiered::Cache::open(options).unwrap();
    assert_eq!(cache.prefetch(&object, whole(&object)).await.unwrap().stored, 2, "it admits at once");
    let mut evict = Box::pin(cache.evict(Evict::Object(object.id)));
    assert!(futures::poll!(&mut evict).is_pending());
    cache.release_evictions();
    assert!(evict.await.unwrap() >= 8 * MIB);
}

#[tokio::test]
async fn readers_with_all_their_memory_taken_do_not_stop_fetches() {
    let mut world = World::new(64 * MIB);
    world.slabs = 4;
    let (object, all) = world.put("a", 40 * MIB, 1);
    let cache = world.open();
    // Holds a lease of every block: zero-copy ones must not take the last slab.
    let mut held = Vec::new();
    for block in 0..10u64 {
        for part in 0..2 {
            let start = block * 4 * MIB + part * 1000;
            held.push(expect(&cache, &world, &object, ByteRange::new(start, start + 500), &all).await);
        }
    }
    assert_eq!(held.len(), 20);
    drop(Arc::new(held));
}

#[tokio::test]
async fn closing_does_not_wait_for_whoever_asked_for_a_check_and_does_not_look() {
    const BLOCKS: u64 = 80;
    let world = World::new(64 * MIB);
    let cache = world.open();
    for number in 0..BLOCKS {
        let (object, _) = world.put(&number.to_string(), 4096, number);
        cache.prefetch(&object, whole(&object)).await.unwrap();
    }
    let unread = cache.verify().unwrap();
    until("the queue is full", async || unread.len() == unread.max_capacity()).await;
    assert!((unread.max_capacity() as u64) < BLOCKS, "the check waits for its reader");
    tokio::time::timeout(Duration::from_secs(60), cache.close()).await.unwrap().unwrap();
}

/// An origin that sends a byte twice a second.
#[derive(Debug)]
struct Dripping(Arc<dyn Origin>);

impl Origin for Dripping {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta, Error>> {
        self.0.head(location)
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta, Error>> {
        self.0.list(prefix)
    }

    fn get(&self, _: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes, Error>> {
        let drip = |left: u64| async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Some((Ok(Bytes::from_static(&[7])), left.checked_sub(1)?))
        };
        futures::stream::unfold(range.len(), drip).boxed()
    }

    fn kind(&self) -> &'static str {
        "dripping"
    }
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_long_for_an_origin_that_drips() {
    let world = World::new(64 * MIB);
    let (object, _) = world.put("a", 4 * MIB, 1);
    let origin: Arc<dyn Origin> = Arc::new(Dripping(world.origin.clone()));
    let cache = Cache::open(CacheOptions { origin, ..world.options() }).unwrap();
    let of_reader = cache.clone();
    let reader = tokio::spawn(async move { of_reader.prefetch(&object, whole(&object)).await });
    while cache.stats().origin_bytes == 0 {
        assert!(!reader.is_finished());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let began = tokio::time::Instant::now();
    cache.close().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "the clock of the test: {:?}", began.elapsed());
    assert!(reader.await.unwrap().is_err());
}
