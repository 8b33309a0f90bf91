//! Takes blocks, aux files and whole objects out of the folder.
//!
//! The order: out of service, entry gone and durable, then the space. A crash in between leaves space that the next start reclaims,
//! never an entry without its bytes. Where the entry or the space can't be given up, good blocks are back in service as they were.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::checksum::PAGE_BYTES;
use super::index::{Change, ObjectRecord, shared, unshared};
use super::layout::{owner_of, remove};
use super::state::{Phase, State};
use super::{Shared, store};
use crate::io::IoFile;
use crate::object::{BLOCK_BYTES, BlockId, ObjectId};
use crate::stats::count;

/// Rest between punches when nobody waits for room. A punch takes the disk 8 ms with discard (measured), and reads beside it fell
/// to a third; half the time is theirs.
const PACE: Duration = Duration::from_millis(8);

/// Paths of aux files, by object.
pub(super) type AuxFiles = HashMap<ObjectId, Vec<PathBuf>>;

/// What one removal takes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Doomed blocks that nobody holds.
    pub(super) blocks: Vec<BlockId>,
    /// Objects that lose their aux files. Where no block is left either they go as a whole, also where the plan refers to them.
    pub(super) aux: Vec<ObjectId>,
    /// Good blocks that make room, not what was left of failures.
    pub(super) chosen: bool,
}

/// What it takes of one object.
#[derive(Debug, Default)]
struct Part {
    /// Blocks, in order.
    blocks: Vec<u32>,
    /// No other block is left of the object: its data and checksums are unlinked.
    files: bool,
    /// Its aux files go.
    aux: bool,
    /// Aux files are left: the object stays in the account.
    keeps: Option<ObjectRecord>,
}

/// What became of it.
struct Outcome {
    /// So many of its blocks, from the front, are gone.
    blocks: usize,
    /// The object's data file is.
    data: bool,
    result: io::Result<()>,
}

impl Outcome {
    fn nothing(error: io::Error) -> Self {
        Self { blocks: 0, data: false, result: Err(error) }
    }
}

impl Shared {
    /// Entries first, then space. An error says why not all of it was given back; what was is gone all the same.
    pub(super) fn remove(&self, batch: Batch) -> io::Result<()> {
        let _one_at_a_time = self.removal.lock();
        if let Err(error) = self.try_index() {
            self.put_back(&batch);
            return Err(unshared(error));
        }
        let parts = self.divide(&batch);
        for (id, part) in &parts {
            if !part.files {
                let remove = |&index| self.writer.send(Change::RemoveBlock(BlockId { object: *id, index }));
                part.blocks.iter().for_each(remove);
                continue;
            }
            self.writer.send(Change::RemoveObject(*id));
            if let Some(record) = &part.keeps {
                self.writer.send(Change::PutObject(*id, record.clone()));
            }
        }
        let entered = match self.writer.flush_blocking() {
            Err(_) if self.index.is_gone() => Ok(()),
            entered => entered,
        };
        let result = match entered {
            Ok(()) => self.give_all_back(&parts, batch.chosen),
            Err(error) => {
                for (id, part) in &parts {
                    let nothing = Outcome::nothing(unshared(error.clone()));
                    self.settle_removal(id, part, &nothing, batch.chosen);
                }
                Err(unshared(error))
            }
        };
        if result.is_err() {
            self.answer(&mut self.state.lock());
        }
        result
    }

    /// Where the index takes nothing it is tried first: what waits for it must not grow with every removal that is tried.
    fn try_index(&self) -> Result<(), Arc<io::Error>> {
        if self.state.lock().health.index_works() || self.index.is_gone() {
            return Ok(());
        }
        self.writer.flush_blocking()
    }

    /// Nothing of a batch can go, and nothing was changed yet: it is as it was.
    fn put_back(&self, batch: &Batch) {
        let mut state = self.state.lock();
        for &id in &batch.blocks {
            if !batch.chosen {
                state.defer(id);
            } else if let Some(block) = state.block(id) {
                block.phase = Phase::Present;
            }
        }
        self.answer(&mut state);
    }

    /// The space of what has no entries any more.
    fn give_all_back(&self, parts: &BTreeMap<ObjectId, Part>, chosen: bool) -> io::Result<()> {
        let aux =
            self.aux_files(parts.iter().filter(|(_, part)| part.aux).map(|(id, _)| *id)).map_err(shared);
        let (mut worked, mut failure) = (false, None);
        for (id, part) in parts {
            let outcome = self.give_back(id, part, &aux);
            self.settle_removal(id, part, &outcome, chosen);
            worked |= outcome.result.is_ok();
            failure = failure.or(outcome.result.err());
        }
        self.judge(chosen, worked, failure.as_ref());
        failure.map_or(Ok(()), Err)
    }

    /// What giving back says of the disk's health. What the index said is counted where it is written.
    fn judge(&self, chosen: bool, worked: bool, failure: Option<&io::Error>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        if chosen && worked {
            state.health.removal_worked(now);
        }
        if let Some(error) = failure {
            count(&self.counters.io_errors);
            state.health.failed(error, now);
            if chosen && !worked {
                state.health.removal_failed(now);
            }
        }
    }

    /// Sorts a batch by object; those that nothing else is left of are being removed from here on.
    fn divide(&self, batch: &Batch) -> BTreeMap<ObjectId, Part> {
        let mut parts: BTreeMap<ObjectId, Part> =
            batch.aux.iter().map(|id| (*id, Part { aux: true, ..Part::default() })).collect();
        for block in &batch.blocks {
            parts.entry(block.object).or_default().blocks.push(block.index);
        }
        let mut state = self.state.lock();
        for (id, part) in &mut parts {
            part.blocks.sort_unstable();
            let referenced = state.advice(id).is_some();
            let Some(object) = state.objects.get_mut(id) else { continue };
            let stays = |index: &u32| part.blocks.binary_search(index).is_err();
            // Blocks that are only in the index yet are left.
            let left = object.blocks.as_ref().is_none_or(|blocks| blocks.keys().any(stays));
            part.files = !left && !object.removing && (part.aux || !referenced);
            part.keeps = (!part.aux && object.aux > 0).then(|| object.record.clone());
            object.removing |= part.files;
        }
        parts
    }

    fn give_back(&self, id: &ObjectId, part: &Part, aux: &Result<AuxFiles, Arc<io::Error>>) -> Outcome {
        let mut outcome = if part.files { self.unlink(id, part) } else { self.punch_all(id, &part.blocks) };
        if part.aux && outcome.result.is_ok() {
            outcome.result = match aux {
                Ok(files) => files.get(id).into_iter().flatten().try_for_each(|path| remove(path)),
                Err(error) => Err(unshared(error.clone())),
            };
        }
        outcome
    }

    /// Removes data and checksums of an object. Without its data none of its blocks is there.
    fn unlink(&self, id: &ObjectId, part: &Part) -> Outcome {
        if let Err(error) = remove(&self.layout.data(id)) {
            return Outcome::nothing(error);
        }
        Outcome { blocks: part.blocks.len(), data: true, result: remove(&self.layout.crc(id)) }
    }

    /// The aux files of these objects, as far as the account knows of any: their folder is listed once.
    pub(super) fn aux_files(&self, ids: impl Iterator<Item = ObjectId>) -> io::Result<AuxFiles> {
        let mut found: AuxFiles = {
            let state = self.state.lock();
            let may_have = |id: &ObjectId| state.objects.get(id).is_none_or(|object| object.aux > 0);
            ids.filter(may_have).map(|id| (id, Vec::new())).collect()
        };
        if found.is_empty() {
            return Ok(found);
        }
        for entry in std::fs::read_dir(self.layout.aux_dir())? {
            let entry = entry?;
            let owner = entry.file_name().to_str().and_then(owner_of).map(|(owner, _)| owner);
            if let Some(files) = owner.and_then(|owner| found.get_mut(&owner)) {
                files.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Punches runs of neighbours, with rests in between unless somebody waits for room.
    fn punch_all(&self, id: &ObjectId, indexes: &[u32]) -> Outcome {
        let mut blocks = 0;
        let result = self.punch_runs(id, indexes, &mut blocks);
        Outcome { blocks, data: false, result }
    }

    fn punch_runs(&self, id: &ObjectId, indexes: &[u32], gone: &mut usize) -> io::Result<()> {
        if indexes.is_empty() {
            return Ok(());
        }
        let known = self.state.lock().objects.get(id).and_then(|object| object.file.clone());
        let opened = match known {
            Some(file) => Ok(file),
            None => IoFile::open(&self.layout.data(id), false).map(Arc::new),
        };
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *gone = indexes.len();
                return Ok(());
            }
            opened => opened?,
        };
        let crc_path = self.layout.crc(id);
        // Where its checksums can't be opened their pages stay allocated, and `measure` goes on counting them.
        let crc = store::open_crc(&crc_path, false).and_then(|file| IoFile::from_file(file, crc_path)).ok();
        while let Some(&first) = indexes.get(*gone) {
            let rest = &indexes[*gone..];
            let run = rest.iter().zip(first..).take_while(|(have, want)| **have == *want).count();
            let (at, count) = (u64::from(first), run as u64);
            self.io.punch(&file, at * BLOCK_BYTES, count * BLOCK_BYTES)?;
            *gone += run;
            if let Some(crc) = &crc {
                self.io.punch(crc, at * PAGE_BYTES as u64, count * PAGE_BYTES as u64)?;
            }
            self.rest();
        }
        Ok(())
    }

    fn rest(&self) {
        let mut state = self.state.lock();
        let until = Instant::now() + PACE;
        while state.wanted == 0 && !state.ended && !self.work.wait_until(&mut state, until).timed_out() {}
    }

    /// Enters into the account what became of a part. What could not go is as it was before.
    fn settle_removal(&self, id: &ObjectId, part: &Part, outcome: &Outcome, chosen: bool) {
        let (gone, kept) = part.blocks.split_at(outcome.blocks);
        if chosen {
            self.counters.evicted_blocks.fetch_add(gone.len() as u64, Relaxed);
        }
        let mut state = self.state.lock();
        if part.files && part.keeps.is_none() && outcome.result.is_ok() {
            state.forget(id);
        } else {
            if outcome.data {
                state.close_file(id);
            }
            if let Some(object) = state.objects.get_mut(id) {
                object.removing &= !part.files;
                object.blocks.iter_mut().for_each(|blocks| {
                    blocks.retain(|index, _| gone.binary_search(index).is_err());
                });
            }
            self.measure(&mut state, id);
            if part.aux && outcome.result.is_ok() {
                state.forget_aux(id);
            }
        }
        let entries = if chosen {
            reinstate(&mut state, id, kept, part.files && !outcome.data)
        } else {
            kept.iter().for_each(|&index| state.defer(BlockId { object: *id, index }));
            Vec::new()
        };
        if outcome.result.is_ok() {
            state.set_stuck(false);
            self.answer(&mut state);
        } else {
            // Others are tried before it next time.
            state.touch(id);
        }
        drop(state);
        entries.into_iter().for_each(|entry| self.writer.send(entry));
    }
}

/// Puts good blocks back into service; the entries to be made again.
fn reinstate(state: &mut State, id: &ObjectId, indexes: &[u32], record: bool) -> Vec<Change> {
    let Some(object) = state.objects.get_mut(id) else { return Vec::new() };
    let mut entries = Vec::new();
    if record {
        entries.push(Change::PutObject(*id, object.record.clone()));
    }
    for &index in indexes {
        if let Some(block) = object.blocks.as_mut().and_then(|blocks| blocks.get_mut(&index)) {
            block.phase = Phase::Present;
            entries.push(Change::PutBlock(BlockId { object: *id, index }, block.page_crc));
        }
    }
    entries
}
