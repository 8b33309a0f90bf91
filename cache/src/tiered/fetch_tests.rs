//! A block that comes to disk between the look for it and the flight that was to fetch it.

use tokio::sync::oneshot;

use super::super::flight::{Served, Waiter};
use super::super::{Cache, CacheOptions};
use super::*;
use crate::io::Blocking;
use crate::memory::{Arena, Region};
use crate::testing::{FakeOrigin, Fault, Gate, Op, Rule};

struct World {
    _dir: tempfile::TempDir,
    origin: Arc<FakeOrigin>,
    region: Region,
    cache: Cache,
    object: Arc<ObjectMeta>,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let origin = Arc::new(FakeOrigin::new());
    let object = Arc::new(origin.put("s3://b/a", vec![7; 12 << 20]));
    let arena = Arena::new(64 << 20).unwrap();
    let (memory, region) =
        (arena.region("blocks", 32 << 20).unwrap(), arena.region("samples", 32 << 20).unwrap());
    let io = Arc::new(Blocking::new(2).unwrap());
    let cache = Cache::open(CacheOptions::new(dir.path(), 64 << 20, memory, origin.clone(), io)).unwrap();
    World { _dir: dir, origin, region, cache, object }
}

#[tokio::test]
async fn a_prefetch_that_looked_too_early_fetches_only_what_is_not_there() {
    let world = world();
    let gate = Gate::closed();
    world.origin.inject(Rule::new(Fault::Stall { after_bytes: 0, gate: gate.clone() }).on(Op::Get).times(1));
    let (cache, object) = (world.cache.clone(), world.object.clone());
    let first = tokio::spawn(async move { cache.prefetch(&object, object.block_range(1)).await });
    gate.arrived(1).await;
    // Another one looks now: nothing is on disk. By the time it starts its fetches the middle block is.
    let inner = world.cache.inner.clone();
    let wanted: Vec<u32> = (0..3)
        .filter(|&index| !inner.disk().unwrap().is_present(BlockId { object: world.object.id, index }))
        .collect();
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().stored, 1);
    let mut done = Prefetched::default();
    for outcome in inner.start_fetches(&world.object, &wanted, false) {
        settle(Some(outcome), &mut done).await.unwrap();
    }
    assert_eq!(done.stored, 3);
    let asked: Vec<_> = world.origin.requests().into_iter().filter(|request| request.op == Op::Get).collect();
    assert_eq!(world.cache.stats().origin_bytes, world.object.size_bytes, "{asked:?}");
}

#[tokio::test]
async fn a_reader_whose_block_came_to_disk_is_told_to_look_there() {
    let world = world();
    let block = world.object.block_range(1);
    world.cache.prefetch(&world.object, block).await.unwrap();
    let inner = &world.cache.inner;
    let (reply, answer) = oneshot::channel();
    let slab = world.region.try_allocate(4096).unwrap();
    let id = BlockId { object: world.object.id, index: 1 };
    let part = ByteRange::new(block.start, block.start + 4096);
    let (flight, new) = inner.flights.join(id, Some(Waiter { slab, at: 0, part, reply }));
    assert!(new);
    inner.start_urgent(&world.object, 1, &flight, part.start);
    assert!(matches!(answer.await.unwrap().1, Served::OnDisk));
    assert!(inner.flights.get(id).is_none());
    assert_eq!(world.origin.count(Op::Get), 1);
}
