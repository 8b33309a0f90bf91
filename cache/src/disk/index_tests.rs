//! Entries over reopening, and a disk that refuses what the index writes.

use std::ops::Bound;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::super::database::open_over;
use super::*;

fn object(etag: &str) -> ObjectMeta {
    ObjectMeta::new(Location::new("s3://b/a.tar?sig=secret"), 9, Version::Etag(etag.into()))
}

fn put(object: &ObjectMeta, index: u32) -> Change {
    Change::PutBlock(BlockId { object: object.id, index }, index.wrapping_add(7))
}

#[test]
fn entries_survive_reopening_and_removal_takes_all_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let (one, two) = (object("1"), object("2"));
    let index = Index::open(&path, 1 << 20).unwrap();
    index
        .apply(&[
            Change::PutObject(one.id, ObjectRecord::of(&one, 5)),
            Change::PutName(name_key(&one.location), one.id),
            put(&one, 0),
            put(&one, u32::MAX),
            put(&two, 3),
        ])
        .unwrap();
    drop(index);
    let index = Index::open(&path, 1 << 20).unwrap();
    assert_eq!(index.blocks(&one.id).unwrap(), (vec![(0, 7), (u32::MAX, 6)], 0));
    assert_eq!(index.newest(&one.location).unwrap(), Some(one.clone()));
    index.apply(&[Change::RemoveObject(one.id)]).unwrap();
    assert_eq!(index.blocks(&one.id).unwrap().0, []);
    assert_eq!(index.newest(&one.location).unwrap(), None);
    assert_eq!(index.blocks(&two.id).unwrap().0, [(3, 10)]);
}

#[test]
fn a_signature_in_a_location_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let one = object("1");
    let index = Index::open(&path, 1 << 20).unwrap();
    index
        .apply(&[
            Change::PutObject(one.id, ObjectRecord::of(&one, 5)),
            Change::PutName(name_key(&one.location), one.id),
        ])
        .unwrap();
    drop(index);
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
}

#[test]
fn a_file_of_garbage_is_an_error_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    std::fs::write(&path, vec![0xa5; 100_000]).unwrap();
    assert!(Index::open(&path, 1 << 20).is_err());
}

/// A disk that refuses one operation that changes the file: the one so many from now.
#[derive(Debug)]
struct Disk {
    before: AtomicI64,
    done: AtomicU64,
    errno: i32,
}

impl Disk {
    fn change(&self) -> io::Result<()> {
        self.done.fetch_add(1, Ordering::Relaxed);
        match self.before.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(io::Error::from_raw_os_error(self.errno)),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    disk: Arc<Disk>,
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change().and_then(|()| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change().and_then(|()| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.change().and_then(|()| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

#[test]
fn a_commit_that_the_disk_refuses_anywhere_loses_nothing_and_is_made_later() {
    let mut refused = 0;
    // Every one of the first operations, then one of many: a commit has some hundred.
    for (turn, at) in (0..4).chain((4..).step_by(61)).enumerate() {
        let errno = [libc::ENOSPC, libc::EIO][turn % 2];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let disk = Arc::new(Disk { before: AtomicI64::new(-1), done: AtomicU64::new(0), errno });
        let (of_opener, file) = (disk.clone(), path.clone());
        let opener = move || {
            let disk = of_opener.clone();
            open_over(&file, 1 << 20, move |file, _| Ok(Faulty { file: FileBackend::new(file)?, disk }))
        };
        let index = Index { path: path.clone(), opener: Box::new(opener), slot: RwLock::new(Slot::Refused) };
        let (old, new) = (object("1"), object("2"));
        index.apply(&[put(&old, 1), put(&old, 2)]).unwrap();
        let before = path.metadata().unwrap().len();
        disk.done.store(0, Ordering::Relaxed);
        disk.before.store(at, Ordering::Relaxed);
        let group: Vec<_> = (0..30_000).map(|number| put(&new, number)).collect();
        let result = index.apply(&group);
        if disk.done.load(Ordering::Relaxed) <= at as u64 {
            result.unwrap();
            assert!(path.metadata().unwrap().len() > before, "such a commit lets the file grow");
            break;
        }
        if let Err(error) = result {
            refused += 1;
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            assert_eq!(index.blocks(&old.id).unwrap().0.len(), 2, "what was there is still read");
            let there = index.blocks(&new.id).unwrap().0.len();
            assert!(there == 0 || there == group.len(), "{there} entries: not all or nothing");
            index.apply(&group).unwrap();
        }
        drop(index);
        let index = Index::open(&path, 1 << 20).unwrap();
        assert_eq!(index.blocks(&old.id).unwrap().0.len(), 2);
        assert_eq!(index.blocks(&new.id).unwrap().0.len(), group.len());
    }
    assert!(refused > 4, "{refused} commits were refused");
}
