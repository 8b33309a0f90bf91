//! Decides when space is given back: one thread that keeps a little free ahead of the writers, and what `evict` asks for. How it is
//! given back is [`removal`](super::removal)'s.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choose::{AUX_SHARE, Choice, choose};
use super::health::is_full;
use super::index::{shared, unshared};
use super::removal::Batch;
use super::report::Evict;
use super::state::{Phase, State};
use super::{Disk, Shared};
use crate::error::{Error, Result};
use crate::object::{BlockId, ObjectId};

/// Blocks per removal: one commit of the index stands for 256 MiB.
const BATCH: usize = 64;

impl Disk {
    /// Removes what is asked, as far as nobody holds it, and gives the bytes that came free. Waits where evictions are held back. Tries also
    /// where the last removal failed.
    pub(crate) async fn evict(&self, what: Evict) -> Result<u64> {
        let mut room = self.shared.room.subscribe();
        let failed = |error| Error::Disk {
            path: self.shared.layout.dir().into(),
            what: "not all of the space could be given back; what could not stays cached".into(),
            source: shared(error),
        };
        let opening = {
            let state = self.shared.state.lock();
            if state.known { None } else { Some(self.shared.begin(&state)?) }
        };
        if let Some(opening) = opening {
            let of_task = self.shared.clone();
            self.shared.under(opening, move || of_task.open_index(what)).await?.map_err(failed)?;
        }
        let evicting = loop {
            {
                let state = self.shared.state.lock();
                let evicting = self.shared.begin(&state)?;
                if state.ready && !state.held {
                    break evicting;
                }
            }
            room.changed().await.map_err(|_| Error::Closed)?;
        };
        let of_task = self.shared.clone();
        self.shared.under(evicting, move || of_task.evict(what)).await?.map_err(failed)
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
            } else if let Err(error) = self.remove(batch) {
                tracing::error!(%error, dir = %self.layout.dir().display(), "space in the cache folder could not be given back");
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
        if !state.health.index_works() {
            // Entries can't be removed any more, so nothing can.
            self.answer(state);
            return None;
        }
        let blocks = state.take_doomed(BATCH);
        if !blocks.is_empty() {
            return Some((Batch { blocks, ..Batch::default() }, None));
        }
        let need = state.deficit();
        if need == 0 || !state.health.removes(Instant::now()) || (state.stuck() && !wanted) {
            if wanted {
                self.answer(state);
            }
            return None;
        }
        match choose(state, need, state.quota.limit() / AUX_SHARE, BATCH) {
            Choice::Load(id) => Some((Batch::default(), Some(id))),
            Choice::Remove { blocks, aux } => {
                let blocks = self.retire(state, blocks);
                Some((Batch { blocks, aux, chosen: true }, None))
            }
            Choice::Nothing => {
                state.set_stuck(true);
                self.answer(state);
                None
            }
        }
    }

    /// Tells waiting writers to look again.
    pub(super) fn answer(&self, state: &mut State) {
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
        }
        blocks
    }

    /// Opens the index that the disk was too full for.
    fn open_index(&self, what: Evict) -> io::Result<()> {
        let opened = self.writer.flush_blocking().map_err(unshared);
        if opened.as_ref().is_err_and(is_full) && matches!(what, Evict::All) {
            self.index.forget()?;
            self.state.lock().known = true;
            return Ok(());
        }
        opened
    }

    fn evict(&self, what: Evict) -> io::Result<u64> {
        let before = self.state.lock().quota.files();
        let mut done = self.evict_once(what);
        if done.as_ref().is_err_and(is_full) && matches!(what, Evict::All) {
            // No room even for removing entries. Everything is to go, so the index may go first, and with it every entry.
            done = self.index.forget().and_then(|()| self.evict_once(what));
        }
        if self.index.is_gone() {
            done = done.and(self.writer.flush_blocking().map_err(unshared));
        }
        self.tell_room();
        done.map(|()| before.saturating_sub(self.state.lock().quota.files()))
    }

    fn evict_once(&self, what: Evict) -> io::Result<()> {
        match what {
            Evict::All => {
                let ids = self.state.lock().objects.keys().copied().collect();
                self.evict_objects(ids)
            }
            Evict::Object(id) => self.evict_objects(vec![id]),
            Evict::DownTo { bytes } => self.evict_down_to(bytes),
        }
    }

    /// Removes what nobody holds of these, at once: one commit of the index. One that can't go does not keep the others.
    fn evict_objects(&self, mut ids: Vec<ObjectId>) -> io::Result<()> {
        let mut loaded = Ok(());
        ids.retain(|id| match self.load_or_fail(id) {
            Ok(()) => true,
            Err(error) => {
                loaded = Err(error);
                false
            }
        });
        let mut state = self.state.lock();
        if state.held {
            return loaded;
        }
        ids.retain(|id| state.objects.get(id).is_some_and(|object| object.blocks.is_some()));
        let blocks = ids.iter().flat_map(|id| free_blocks(&state, id)).collect();
        let blocks = self.retire(&mut state, blocks);
        drop(state);
        self.remove(Batch { blocks, aux: ids, chosen: true }).and(loaded)
    }

    /// Brings an object's entries into memory; an error where the index can't be read at present.
    fn load_or_fail(&self, id: &ObjectId) -> io::Result<()> {
        let unloaded = |state: &State| {
            state.objects.get(id).is_some_and(|object| object.blocks.is_none() && !object.removing)
        };
        if !self.load_blocking(id) && unloaded(&self.state.lock()) {
            return Err(io::Error::other("the block index can't be read at present"));
        }
        Ok(())
    }

    fn evict_down_to(&self, bytes: u64) -> io::Result<()> {
        loop {
            let mut state = self.state.lock();
            let need = state.quota.used().saturating_sub(bytes);
            if need == 0 || state.held {
                return Ok(());
            }
            match choose(&state, need, bytes / AUX_SHARE, BATCH) {
                Choice::Nothing => return Ok(()),
                Choice::Load(id) => {
                    drop(state);
                    self.load_or_fail(&id)?;
                }
                Choice::Remove { blocks, aux } => {
                    let blocks = self.retire(&mut state, blocks);
                    drop(state);
                    self.remove(Batch { blocks, aux, chosen: true })?;
                }
            }
        }
    }
}

/// The good blocks of an object that nobody holds.
fn free_blocks(state: &State, id: &ObjectId) -> Vec<BlockId> {
    let blocks = state.objects.get(id).and_then(|object| object.blocks.as_ref()).into_iter().flatten();
    let free = blocks.filter(|(_, block)| block.phase == Phase::Present && block.pins == 0);
    free.map(|(&index, _)| BlockId { object: *id, index }).collect()
}
