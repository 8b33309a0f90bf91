//! An index that refuses or is broken, and an end beside work that goes on.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::*;
use crate::io::Blocking;
use crate::memory::Arena;
use crate::object::{BLOCK_BYTES, Version};
use crate::stats::DiskState;

fn object() -> Arc<ObjectMeta> {
    Arc::new(ObjectMeta::new(Location::new("s3://b/a"), 20 * BLOCK_BYTES, Version::Etag("1".into())))
}

fn options(dir: &Path) -> DiskOptions {
    DiskOptions {
        dir: dir.into(),
        limit_bytes: 64 << 20,
        io: Arc::new(Blocking::new(2).unwrap()),
        counters: Arc::new(Counters::default()),
        runtime: Handle::current(),
        lock: None,
        hold_evictions: false,
        bookkeeping_bytes: 2 << 20,
    }
}

fn open(dir: &Path) -> Disk {
    Disk::open(options(dir)).unwrap()
}

async fn store(disk: &Disk, object: &Arc<ObjectMeta>, index: u32) -> bool {
    let bytes = BLOCK_BYTES as usize;
    let region = Arena::new(BLOCK_BYTES).unwrap().region("test", bytes).unwrap();
    let mut slab = region.try_allocate(bytes).unwrap();
    slab.fill(index as u8 + 1);
    let lease = slab.freeze();
    let page = Arc::new(CrcPage::of(&lease));
    disk.store(object, index, lease, page).await.unwrap()
}

/// An open folder with the object's first blocks, entered in the index.
async fn with_blocks(dir: &Path, object: &Arc<ObjectMeta>, blocks: u32) -> Disk {
    let disk = open(dir);
    for index in 0..blocks {
        assert!(store(&disk, object, index).await);
    }
    disk.shared.writer.flush().await.unwrap().unwrap();
    disk
}

async fn blocks_served(disk: &Disk, object: &Arc<ObjectMeta>) -> usize {
    let grants = disk.lookup(object, ByteRange::new(0, object.size_bytes)).await.unwrap();
    grants.iter().map(|grant| grant.blocks.len()).sum()
}

#[tokio::test]
async fn where_the_index_cannot_be_written_nothing_is_evicted_and_everything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let object = object();
    let disk = with_blocks(dir.path(), &object, 3).await;
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

/// Closes the database so that it can't be opened again: nobody can open a folder as a file, root neither, nor remove it as one. Gives the
/// index's path, and where it is now.
fn take_index(disk: &Disk, dir: &Path) -> (PathBuf, PathBuf) {
    let (path, aside) = (dir.join("index.redb"), dir.join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    disk.shared.index.forget().unwrap_err();
    (path, aside)
}

#[tokio::test]
async fn evictions_that_the_index_refuses_leave_nothing_more_to_write_and_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let object = object();
    let disk = with_blocks(dir.path(), &object, 3).await;
    let (path, aside) = take_index(&disk, dir.path());

    disk.evict(Evict::All).await.unwrap_err();
    // Behind what it sent last; without another try.
    disk.shared.writer.flush_if_it_works().await.unwrap().unwrap_err();
    let waiting = disk.shared.writer.waiting();
    assert!(waiting > 0, "its removal and that it stayed");
    for what in [Evict::All, Evict::Object(object.id), Evict::DownTo { bytes: 0 }] {
        disk.evict(what).await.unwrap_err();
        assert_eq!(disk.shared.writer.waiting(), waiting, "{what:?}");
        assert_eq!(blocks_served(&disk, &object).await, 3, "{what:?}");
    }

    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    disk.shared.writer.flush().await.unwrap().unwrap();
    assert_eq!(disk.shared.writer.waiting(), 0);
    // Twice as many failures would be a disk that is down.
    assert_eq!(disk.shared.state.lock().health.state(Instant::now()), DiskState::Degraded);
    assert!(store(&disk, &object, 3).await);
    disk.close().await.unwrap();
    drop(disk);
    let disk = open(dir.path());
    assert_eq!(blocks_served(&disk, &object).await, 4);
    assert!(disk.evict(Evict::All).await.unwrap() >= 4 * BLOCK_BYTES);
}

/// Closes the folder, beside which somebody keeps a future that he doesn't poll any more.
async fn closes(disk: &Disk) {
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, disk.close()).await.expect("closing waits for nobody's future").unwrap();
}

#[tokio::test]
async fn closing_waits_for_work_and_not_for_futures_that_nobody_polls() {
    let id = object().id;
    for waits_for_room in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path());
        // Comes back when the folder was walked: from here on writes are admitted.
        disk.evict(Evict::DownTo { bytes: u64::MAX }).await.unwrap();
        let bytes = if waits_for_room { 100 << 20 } else { 1000 };
        let mut put = Box::pin(disk.aux_put("index", &id, vec![1; bytes]));
        let _ = futures::poll!(&mut put);
        let mut evict = Box::pin(disk.evict(Evict::All));
        let _ = futures::poll!(&mut evict);
        closes(&disk).await;
        assert!(matches!(disk.evict(Evict::All).await, Err(Error::Closed)));
        drop((put, evict));
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(DiskOptions { hold_evictions: true, ..options(dir.path()) }).unwrap();
    let mut held_back = Box::pin(disk.evict(Evict::All));
    assert!(futures::poll!(&mut held_back).is_pending());
    closes(&disk).await;
    assert!(matches!(held_back.await, Err(Error::Closed)));
}

#[tokio::test]
async fn an_index_that_comes_late_and_is_broken_keeps_nobody_waiting_and_is_made_anew_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let object = object();
    // Without memory for pages the database reads its file each time.
    let disk = Disk::open(DiskOptions { bookkeeping_bytes: 0, ..options(dir.path()) }).unwrap();
    assert!(store(&disk, &object, 0).await);
    disk.shared.writer.flush().await.unwrap().unwrap();
    // As where the disk was too full to open it.
    disk.shared.state.lock().known = false;
    let path = dir.path().join("index.redb");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for (number, page) in std::fs::read(&path).unwrap().chunks(4096).enumerate() {
        if page.windows(8).any(|window| window == b"s3://b/a") {
            // No page is of this kind.
            file.write_all_at(&[0xee], number as u64 * 4096).unwrap();
        }
    }

    let shared = disk.shared.clone();
    assert!(disk.shared.blocking(move || shared.wait_for_index()).await.unwrap());
    assert!(disk.shared.state.lock().known);
    assert!(!store(&disk, &object, 1).await, "nothing is admitted");
    drop(disk.close().await);
    drop(disk);
    let disk = open(dir.path());
    assert_eq!(blocks_served(&disk, &object).await, 0);
    assert_eq!(disk.shared.counters.snapshot().quarantined_blocks, 1, "a broken index is counted");
    // What is left of the old one is being reclaimed.
    let other = ObjectMeta::new(Location::new("s3://b/b"), BLOCK_BYTES, Version::Etag("1".into()));
    assert!(store(&disk, &Arc::new(other), 0).await);
}
