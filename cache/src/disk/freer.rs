//! Gives space back: one paced thread that keeps a little free ahead of the writers, and what `evict` asks for.
//!
//! The order of a removal: out of service, entry gone and durable, then punched. A crash in between leaves space that
//! the next start reclaims, never an entry without its bytes.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::choose::{Choice, choose};
use super::index::Change;
use super::layout::{self, allocated_at, owner_of, punch, remove};
use super::report::Evict;
use super::state::{Phase, State};
use super::{Disk, Shared, store};
use crate::error::{Error, Result};
use crate::io::IoFile;
use crate::object::{BlockId, ObjectId};
use crate::stats::count;

/// Blocks per removal: one commit of the index stands for 256 MiB.
const BATCH: usize = 64;

/// Rest between punches when nobody waits for room. A punch takes the disk 8 ms with discard (measured), and reads beside it fell
/// to a third; half the time is theirs.
const PACE: Duration = Duration::from_millis(8);

/// What one removal takes.
#[derive(Debug, Default)]
struct Batch {
    /// Doomed blocks that nobody holds.
    blocks: Vec<BlockId>,
    /// Objects without blocks, of which aux files may be left.
    empty: Vec<ObjectId>,
    /// Good blocks that make room, not what was left of failures: a full disk may be tried again.
    chosen: bool,
    /// Objects go as a whole with their last block, even where the plan refers to them.
    thorough: bool,
}

impl Disk {
    /// Removes what is asked, as far as nobody holds it, and gives the bytes that came free. Waits where evictions are held back.
    pub(crate) async fn evict(&self, what: Evict) -> Result<u64> {
        let shared = self.shared.clone();
        let mut room = shared.room.subscribe();
        while {
            let state = shared.state.lock();
            !state.ready || state.held
        } {
            room.changed().await.map_err(|_| Error::Closed)?;
        }
        self.shared.blocking(move || shared.evict(what)).await
    }
}

impl Shared {
    /// The thread: until the folder is closed.
    pub(super) fn free_ahead(self: Arc<Self>) {
        loop {
            let (batch, load) = {
                let mut state = self.state.lock();
                loop {
                    if state.ended {
                        return;
                    }
                    match self.next(&mut state) {
                        Some(work) => break work,
                        None => drop(self.work.wait_for(&mut state, Duration::from_secs(1))),
                    }
                }
            };
            if let Some(id) = load {
                self.load_blocking(&id);
            } else {
                self.remove(batch);
            }
        }
    }

    /// What to do now: a batch to remove, or an object to load; none: nothing.
    fn next(&self, state: &mut State) -> Option<(Batch, Option<ObjectId>)> {
        if !state.ready {
            return None;
        }
        let wanted = state.wanted > 0;
        if state.held {
            if wanted {
                state.set_stuck(true);
                self.answer(state);
            }
            return None;
        }
        let blocks = state.take_doomed(BATCH);
        if !blocks.is_empty() {
            return Some((Batch { blocks, ..Batch::default() }, None));
        }
        let need = state.deficit();
        if need == 0 || (state.stuck() && !wanted) {
            if wanted {
                self.answer(state);
            }
            return None;
        }
        match choose(state, need, BATCH) {
            Choice::Load(id) => Some((Batch::default(), Some(id))),
            Choice::Remove { blocks, empty } => {
                let blocks = self.retire(state, blocks);
                Some((Batch { blocks, empty, thorough: false, chosen: true }, None))
            }
            Choice::Nothing => {
                state.set_stuck(true);
                self.answer(state);
                None
            }
        }
    }

    /// Tells waiting writers to look again.
    fn answer(&self, state: &mut State) {
        state.wanted = 0;
        self.tell_room();
    }

    /// Takes chosen blocks out of service; they are the caller's to remove.
    fn retire(&self, state: &mut State, blocks: Vec<BlockId>) -> Vec<BlockId> {
        for &block in &blocks {
            if let Some(entry) = state.block(block) {
                entry.phase = Phase::Doomed;
            }
            self.pages.lock().remove(block);
            count(&self.counters.evicted_blocks);
        }
        blocks
    }

    fn evict(&self, what: Evict) -> u64 {
        let before = self.state.lock().quota.files();
        match what {
            Evict::All => {
                let ids: Vec<_> = self.state.lock().objects.keys().copied().collect();
                ids.iter().for_each(|id| self.evict_object(id));
            }
            Evict::Object(id) => self.evict_object(&id),
            Evict::DownTo { bytes } => self.evict_down_to(bytes),
        }
        self.tell_room();
        before.saturating_sub(self.state.lock().quota.files())
    }

    fn evict_object(&self, id: &ObjectId) {
        if !self.load_blocking(id) {
            return;
        }
        let mut state = self.state.lock();
        if state.held {
            return;
        }
        let Some(blocks) = state.objects.get(id).and_then(|object| object.blocks.as_ref()) else { return };
        let free = blocks.iter().filter(|(_, block)| block.phase == Phase::Present && block.pins == 0);
        let blocks = free.map(|(&index, _)| BlockId { object: *id, index }).collect();
        let blocks = self.retire(&mut state, blocks);
        drop(state);
        self.remove(Batch { blocks, empty: vec![*id], thorough: true, chosen: true });
    }

    fn evict_down_to(&self, bytes: u64) {
        loop {
            let mut state = self.state.lock();
            let need = state.quota.used().saturating_sub(bytes);
            if need == 0 || state.held {
                return;
            }
            match choose(&state, need, BATCH) {
                Choice::Nothing => return,
                Choice::Load(id) => {
                    drop(state);
                    self.load_blocking(&id);
                }
                Choice::Remove { blocks, empty } => {
                    let blocks = self.retire(&mut state, blocks);
                    drop(state);
                    self.remove(Batch { blocks, empty, thorough: false, chosen: true });
                }
            }
        }
    }

    /// Entries first, then space.
    fn remove(&self, batch: Batch) {
        let _one_at_a_time = self.removal.lock();
        let mut by_object: BTreeMap<ObjectId, Vec<u32>> =
            batch.empty.iter().map(|id| (*id, Vec::new())).collect();
        for block in &batch.blocks {
            by_object.entry(block.object).or_default().push(block.index);
        }
        let whole = self.mark_whole(&by_object, batch.thorough);
        for (id, indexes) in &by_object {
            if whole.contains(id) {
                self.writer.send(Change::RemoveObject(*id));
            } else {
                let remove = |&index| self.writer.send(Change::RemoveBlock(BlockId { object: *id, index }));
                indexes.iter().for_each(remove);
            }
        }
        if self.writer.flush_blocking().is_err() {
            // Reported by the index's thread. The blocks stay out of service, and count; the next start sees to them.
            return;
        }
        for (id, mut indexes) in by_object {
            let result = if whole.contains(&id) {
                self.unlink(&id)
            } else {
                indexes.sort_unstable();
                self.punch_all(&id, &indexes)
            };
            self.settle_removal(&id, &indexes, whole.contains(&id), &result);
        }
        if batch.chosen {
            self.state.lock().health.freed();
        }
    }

    /// The objects of a batch that nothing else is left of; from here on they are being removed.
    fn mark_whole(&self, by_object: &BTreeMap<ObjectId, Vec<u32>>, thorough: bool) -> HashSet<ObjectId> {
        let mut state = self.state.lock();
        let mut whole = HashSet::new();
        for (id, indexes) in by_object {
            let referenced = state.advice(id).is_some();
            let Some(object) = state.objects.get_mut(id) else { continue };
            let gone: HashSet<u32> = indexes.iter().copied().collect();
            let left = object.blocks.iter().flatten().any(|(index, _)| !gone.contains(index));
            if !left && !object.removing && (thorough || !referenced) {
                object.removing = true;
                whole.insert(*id);
            }
        }
        whole
    }

    fn unlink(&self, id: &ObjectId) -> io::Result<()> {
        for path in [self.layout.data(id), self.layout.crc(id)] {
            remove(&path)?;
        }
        self.unlink_aux(id)
    }

    /// Removes the aux files of an object, where the account knows of any.
    pub(super) fn unlink_aux(&self, id: &ObjectId) -> io::Result<()> {
        if self.state.lock().objects.get(id).is_some_and(|object| object.aux == 0) {
            return Ok(());
        }
        for entry in std::fs::read_dir(self.layout.aux_dir())? {
            let entry = entry?;
            if entry.file_name().to_str().and_then(owner_of).is_some_and(|(owner, _)| owner == *id) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Punches runs of neighbours, with rests in between unless somebody waits for room.
    fn punch_all(&self, id: &ObjectId, indexes: &[u32]) -> io::Result<()> {
        if indexes.is_empty() {
            return Ok(());
        }
        let known = self.state.lock().objects.get(id).and_then(|object| object.file.clone());
        let file = match known {
            Some(file) => file,
            None => Arc::new(IoFile::open(&self.layout.data(id), false)?),
        };
        let crc = store::open_crc(&self.layout.crc(id), false).ok();
        let mut at = 0;
        while at < indexes.len() {
            let run =
                indexes[at..].iter().zip(indexes[at]..).take_while(|(have, want)| **have == *want).count();
            punch(file.file(), crc.as_ref(), indexes[at], u32::try_from(run).unwrap_or(1))?;
            at += run;
            self.rest();
        }
        Ok(())
    }

    fn rest(&self) {
        let mut state = self.state.lock();
        let until = Instant::now() + PACE;
        while state.wanted == 0 && !state.ended && !self.work.wait_until(&mut state, until).timed_out() {}
    }

    fn settle_removal(&self, id: &ObjectId, indexes: &[u32], whole: bool, result: &io::Result<()>) {
        let mut state = self.state.lock();
        if let Err(error) = result {
            // The space still counts, and the blocks stay doomed: nothing is believed free that isn't.
            self.counters.io_errors.fetch_add(1, Relaxed);
            state.health.failed(error, Instant::now());
            tracing::error!(%error, object = %id, "space in the cache folder could not be given back");
            return;
        }
        if whole {
            state.forget(id);
        } else {
            if let Some(blocks) = state.objects.get_mut(id).and_then(|object| object.blocks.as_mut()) {
                blocks.retain(|index, _| indexes.binary_search(index).is_err());
            }
            self.measure(&mut state, id);
        }
        state.set_stuck(false);
        self.answer(&mut state);
    }
}

/// Bytes that a file takes, removed at once.
pub(super) fn remove_counting(path: &std::path::Path) -> io::Result<u64> {
    let bytes = allocated_at(path);
    layout::remove(path).map(|()| bytes)
}
