//! The walk through the folder after it was opened: what everything takes, and what belongs to nothing.
//!
//! Reads are served meanwhile; writes wait for the sums, which take a `stat` per file. Then what a crash left behind is
//! reclaimed: files of unknown objects, half-written aux files, and space of blocks without an entry.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::checksum::PAGE_BYTES;
use super::layout::{allocated, allocated_at, owner_of, remove};
use super::state::{Block, Object, Phase};
use crate::object::{BLOCK_BYTES, BlockId, GRANULE_BYTES, ObjectId};

/// How often the walk looks whether the index has come.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the walk found.
#[derive(Default)]
struct Found {
    /// Bytes of data and checksums, and of aux files, by object.
    objects: HashMap<ObjectId, (u64, u64)>,
    /// Bytes of folders and of files that are none of these.
    fixed: u64,
    /// Temporary files of a process that died.
    leftovers: Vec<PathBuf>,
}

impl Shared {
    /// Sums up, opens the folder for writing, reclaims.
    pub(super) fn walk(self: Arc<Self>) {
        let found = self.sum_up().unwrap_or_else(|error| {
            // Without the sums the quota can't be kept: the folder is read, not written.
            tracing::error!(%error, "the cache folder can't be walked; nothing is admitted");
            self.state.lock().health.index_broken(Instant::now());
            Found::default()
        });
        let unknown = self.enter(found);
        self.tell_room();
        self.work.notify_all();
        if !self.wait_for_release() {
            return;
        }
        self.reclaim_unknown(unknown);
        let known: Vec<_> = self.state.lock().objects.keys().copied().collect();
        for id in known {
            if self.state.lock().ended {
                return;
            }
            self.reclaim_gaps(&id);
        }
    }

    /// Where the index could not be opened at first, nobody knows yet what belongs to nothing. False where the folder was closed meanwhile.
    pub(super) fn wait_for_index(&self) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                while !state.known && !state.health.index_works() && !state.ended {
                    self.work.wait_for(&mut state, LOOK_AGAIN);
                }
                if state.known || state.ended {
                    return !state.ended;
                }
            }
            let records = match self.layout.make_dirs().and_then(|()| self.index.objects()) {
                Ok(records) => records,
                Err(error) if self.is_passing(&error) => continue,
                Err(error) => {
                    self.index_is_broken(&error);
                    Vec::new()
                }
            };
            let mut state = self.state.lock();
            state.enter_objects(records);
            state.known = true;
            return true;
        }
    }

    fn sum_up(&self) -> io::Result<Found> {
        let mut found = Found::default();
        found.fixed += allocated_at(self.layout.dir());
        // Its files are empty.
        found.fixed += allocated_at(&self.layout.dir().join(crate::share::lock::CLIENTS));
        for entry in std::fs::read_dir(self.layout.dir())? {
            let entry = entry?;
            // Other processes come and go here: a file of a probe may be gone when it is asked about.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() && entry.path() != self.layout.index() {
                found.fixed += allocated(&meta);
            }
        }
        self.sum_dir(&self.layout.aux_dir(), &mut found)?;
        found.fixed += allocated_at(&self.layout.objects());
        for bucket in std::fs::read_dir(self.layout.objects())? {
            let bucket = bucket?;
            if bucket.file_type()?.is_dir() {
                self.sum_dir(&bucket.path(), &mut found)?;
            }
        }
        Ok(found)
    }

    fn sum_dir(&self, dir: &Path, found: &mut Found) -> io::Result<()> {
        found.fixed += allocated_at(dir);
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            // A file may go between listing and asking: an eviction.
            let Ok(meta) = entry.metadata() else { continue };
            match name.to_str().and_then(owner_of) {
                Some((_, kind)) if kind.ends_with(".tmp") => found.leftovers.push(entry.path()),
                Some((id, "data" | "crc")) => found.objects.entry(id).or_default().0 += allocated(&meta),
                Some((id, _)) => found.objects.entry(id).or_default().1 += allocated(&meta),
                None => found.fixed += allocated(&meta),
            }
        }
        Ok(())
    }

    /// Puts the sums into the account and opens it. Objects without a record are entered as being removed; their ids come back.
    fn enter(&self, found: Found) -> Vec<ObjectId> {
        for path in &found.leftovers {
            if let Err(error) = remove(path) {
                tracing::warn!(%error, path = %path.display(), "a leftover file could not be removed");
            }
        }
        let mut unknown = Vec::new();
        let mut state = self.state.lock();
        state.quota.add_fixed(found.fixed);
        for (id, (files, aux)) in found.objects {
            let object = state.objects.entry(id).or_insert_with(|| {
                unknown.push(id);
                Object { removing: true, ..Object::default() }
            });
            let before = object.allocated + object.aux;
            (object.allocated, object.aux) = (files, aux);
            state.quota.moved(before, files + aux);
        }
        state.ready = true;
        unknown
    }

    /// Clients of a former owner may hold what has no entry yet. False where the folder was closed meanwhile.
    fn wait_for_release(&self) -> bool {
        let mut state = self.state.lock();
        while state.held && !state.ended {
            self.work.wait(&mut state);
        }
        !state.ended
    }

    fn reclaim_unknown(&self, ids: Vec<ObjectId>) {
        let aux = match self.aux_files(ids.iter().copied()) {
            Ok(aux) => aux,
            Err(error) => {
                tracing::warn!(%error, "files of unknown objects could not be listed and stay");
                return;
            }
        };
        for id in ids {
            let files = [self.layout.data(&id), self.layout.crc(&id)];
            let aux = aux.get(&id).into_iter().flatten();
            match files.iter().chain(aux).try_for_each(|path| remove(path)) {
                Ok(()) => self.state.lock().forget(&id),
                Err(error) => {
                    tracing::warn!(%error, object = %id, "files of an unknown object could not be removed")
                }
            }
            self.tell_room();
        }
    }

    /// Blocks without an entry whose space is allocated: written, or being written, when the process died.
    fn reclaim_gaps(&self, id: &ObjectId) {
        if !self.load_blocking(id) {
            return;
        }
        let mut state = self.state.lock();
        let Some(object) = state.objects.get_mut(id) else { return };
        let Some(blocks) = object.blocks.as_mut() else { return };
        let size = object.record.size_bytes;
        let bytes = |index: u32| {
            let start = u64::from(index) * BLOCK_BYTES;
            size.min(start + BLOCK_BYTES).saturating_sub(start).next_multiple_of(GRANULE_BYTES)
        };
        // Extent trees take a node of 4 KiB per 340 extents; four extents a block are many.
        let trees = (16 << 10) + blocks.len() as u64 / 85 * 4096;
        let expected: u64 = blocks.keys().map(|&index| bytes(index) + PAGE_BYTES as u64).sum();
        if object.allocated <= expected + if blocks.is_empty() { 0 } else { trees } {
            return;
        }
        let count = u32::try_from(size.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX);
        let gaps: Vec<u32> = (0..count).filter(|index| !blocks.contains_key(index)).collect();
        for &index in &gaps {
            blocks.insert(index, Block { phase: Phase::Doomed, page_crc: 0, pins: 0 });
        }
        state.doomed.extend(gaps.iter().map(|&index| BlockId { object: *id, index }));
        drop(state);
        self.work.notify_all();
    }
}
