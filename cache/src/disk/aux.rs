//! Small files kept with an object, such as the index of a shard: counted in the quota, checked when read, replaced by rename.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use super::index::Change;
use super::layout::{allocated_at, remove};
use super::state::Object;
use super::{Disk, Shared};
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::object::ObjectId;
use crate::stats::count;

/// Magic number, crc32c of the rest, then the bytes.
const MAGIC: &[u8; 8] = b"frbyaux1";
const HEADER: usize = 12;

/// What a file may take besides its bytes: header, a part of a block, growth of its folder.
const OVERHEAD: u64 = 32 << 10;

impl Disk {
    /// Reads a file; none where there is none, or where its bytes are not those that were written (then it is removed, and counted).
    pub(crate) async fn aux_get(&self, kind: &str, id: &ObjectId) -> Result<Option<Vec<u8>>> {
        check_kind(kind)?;
        let (shared, kind, id) = (self.shared.clone(), kind.to_owned(), *id);
        self.shared.blocking(move || shared.aux_read(&kind, &id)).await
    }

    /// Writes a file. False where there is no room, or the disk is sick.
    pub(crate) async fn aux_put(&self, kind: &str, id: &ObjectId, bytes: Vec<u8>) -> Result<bool> {
        check_kind(kind)?;
        let need = bytes.len() as u64 + OVERHEAD;
        let mut room = self.shared.room.subscribe();
        let writing = loop {
            {
                let mut state = self.shared.state.lock();
                let removing = state.objects.get(id).is_some_and(|object| object.removing);
                if state.ended || removing || !state.health.admits(Instant::now()) {
                    return Ok(false);
                }
                if state.ready && state.quota.try_reserve(need) {
                    state.objects.entry(*id).or_insert_with(without_blocks);
                    state.touch(id);
                    break self.shared.files.begin();
                }
                if state.ready && state.stuck() {
                    return Ok(false);
                }
                state.wanted = state.wanted.max(need);
            }
            self.shared.work.notify_all();
            room.changed().await.map_err(|_| Error::Closed)?;
        };
        let (shared, kind, id) = (self.shared.clone(), kind.to_owned(), *id);
        self.shared.under(writing, move || shared.aux_write(&kind, &id, &bytes, need)).await
    }
}

impl Shared {
    fn aux_read(&self, kind: &str, id: &ObjectId) -> Option<Vec<u8>> {
        let path = self.layout.aux(kind, id);
        let mut bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                count(&self.counters.io_errors);
                self.state.lock().health.failed(&error, Instant::now());
                return None;
            }
        };
        self.state.lock().touch(id);
        let whole = bytes.len() >= HEADER
            && bytes[..8] == *MAGIC
            && bytes[8..HEADER] == crc32c(&bytes[HEADER..]).to_le_bytes();
        if whole {
            return Some(bytes.split_off(HEADER));
        }
        count(&self.counters.quarantined_blocks);
        tracing::warn!(path = %path.display(), "an aux file of the cache is bad and is removed");
        let before = allocated_at(&path);
        if remove(&path).is_ok() {
            let mut state = self.state.lock();
            if let Some(object) = state.objects.get_mut(id) {
                object.aux = object.aux.saturating_sub(before);
                state.quota.moved(before, 0);
            }
        }
        None
    }

    fn aux_write(&self, kind: &str, id: &ObjectId, bytes: &[u8], reserved: u64) -> bool {
        let path = self.layout.aux(kind, id);
        // One file at a time: the sums below are of files that nobody else moves.
        let _one = self.removal.lock();
        let began = Instant::now();
        let folder = self.layout.aux_dir();
        let (old, old_folder) = (allocated_at(&path), allocated_at(&folder));
        let written = write_whole(&path, bytes);
        let now = allocated_at(&path);
        let grown = allocated_at(&folder).saturating_sub(old_folder);
        let mut state = self.state.lock();
        state.quota.release(reserved);
        state.quota.add_fixed(grown);
        state.quota.moved(old, now);
        // It may have been evicted since there was room for this.
        let object = state.objects.entry(*id).or_insert_with(without_blocks);
        object.aux = (object.aux + now).saturating_sub(old);
        let record = object.record.clone();
        match written {
            Ok(()) => {
                drop(state);
                self.writer.send(Change::PutObject(*id, record));
                true
            }
            Err(error) => {
                state.health.write_failed(&error, began, Instant::now());
                count(&self.counters.io_errors);
                tracing::warn!(%error, path = %path.display(), "an aux file could not be written");
                false
            }
        }
    }
}

/// An object that only has aux files: there are no blocks to be loaded.
fn without_blocks() -> Object {
    Object { blocks: Some(Default::default()), ..Object::default() }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = Path::new(&name);
    let write = || {
        let mut file = std::fs::File::create(temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(&crc32c(bytes).to_le_bytes())?;
        file.write_all(bytes)?;
        std::fs::rename(temporary, path)
    };
    write().inspect_err(|_| drop(remove(temporary)))
}

fn check_kind(kind: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    if (1..=32).contains(&kind.len()) && kind.bytes().all(fine) && kind != "data" && kind != "crc" {
        return Ok(());
    }
    Err(Error::config(format!("{kind:?} is no kind of aux file: 1 to 32 of a-z, 0-9, _ and - were expected")))
}
