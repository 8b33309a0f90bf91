//! Removals whose entries can't be removed.

use super::super::checksum::CrcPage;
use super::super::report::Evict;
use super::super::{Disk, DiskOptions};
use super::*;
use crate::io::Blocking;
use crate::memory::{Arena, Unpinned};
use crate::object::{ByteRange, Location, ObjectMeta, Version};
use crate::stats::{Counters, DiskState};

fn open(dir: &std::path::Path) -> Disk {
    Disk::open(DiskOptions {
        dir: dir.into(),
        limit_bytes: 64 << 20,
        io: Arc::new(Blocking::new(2).unwrap()),
        counters: Arc::new(Counters::default()),
        runtime: tokio::runtime::Handle::current(),
        lock: None,
        hold_evictions: false,
        bookkeeping_bytes: 2 << 20,
    })
    .unwrap()
}

async fn store(disk: &Disk, object: &Arc<ObjectMeta>, index: u32) -> bool {
    let bytes = BLOCK_BYTES as usize;
    let region = Arena::new(BLOCK_BYTES, Arc::new(Unpinned)).unwrap().region("test", bytes).unwrap();
    let mut slab = region.try_allocate(bytes).unwrap();
    slab.fill(index as u8 + 1);
    let lease = slab.freeze();
    let page = Arc::new(CrcPage::of(&lease));
    disk.store(object, index, lease, page).await.unwrap()
}

async fn blocks_served(disk: &Disk, object: &Arc<ObjectMeta>) -> usize {
    let grants = disk.lookup(object, ByteRange::new(0, object.size_bytes)).await.unwrap();
    grants.iter().map(|grant| grant.blocks.len()).sum()
}

#[tokio::test]
async fn where_the_index_cannot_be_written_nothing_is_evicted_and_everything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::new("s3://b/a");
    let object = Arc::new(ObjectMeta::new(location, 20 * BLOCK_BYTES, Version::Etag("1".into())));
    let disk = open(dir.path());
    for index in 0..3 {
        assert!(store(&disk, &object, index).await);
    }
    disk.shared.writer.flush().await.unwrap().unwrap();
    // From here on every commit fails.
    disk.shared.index.close();
    for what in [Evict::All, Evict::Object(object.id), Evict::DownTo { bytes: 0 }] {
        assert!(disk.evict(what).await.is_err(), "{what:?}");
        assert_eq!(blocks_served(&disk, &object).await, 3, "{what:?}");
    }
    assert!(!store(&disk, &object, 3).await, "nothing more is admitted, and nobody waits for ever");
    assert_eq!(disk.shared.counters.snapshot().evicted_blocks, 0);
    assert_eq!(disk.shared.state.lock().health.state(Instant::now()), DiskState::Down);
    drop(disk);
    // What could not go is there for the next start, which can evict it.
    let disk = open(dir.path());
    assert_eq!(blocks_served(&disk, &object).await, 3);
    assert!(disk.evict(Evict::All).await.unwrap() >= 3 * BLOCK_BYTES);
    assert_eq!(blocks_served(&disk, &object).await, 0);
}
