//! The account of the folder in memory: objects, blocks, who holds what, what the plan wants.
//!
//! A block is absent → writing → present → doomed → absent. Only present ones are served; doomed ones wait until nobody holds
//! them, lose their index entry, and are then punched. Good blocks that are chosen to make room are doomed by the one who removes them, and
//! present again where that fails. One short lock guards it all; no I/O happens under it but `fstat`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::health::Health;
use super::index::ObjectRecord;
use super::quota::Quota;
use super::{Advice, AdviceBook, Advisor};
use crate::io::IoFile;
use crate::object::{BlockId, ObjectId};

/// How long `nothing may go` is believed before eviction looks again.
const STUCK_FOR: std::time::Duration = std::time::Duration::from_secs(1);

/// How long a bad block whose space could not be given back is left alone.
const DEFER_FOR: std::time::Duration = std::time::Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Writing,
    Present,
    Doomed,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) phase: Phase,
    pub(super) page_crc: u32,
    pub(super) pins: u32,
}

#[derive(Debug, Default)]
pub(super) struct Object {
    pub(super) record: ObjectRecord,
    /// None: still in the index only.
    pub(super) blocks: Option<HashMap<u32, Block>>,
    pub(super) file: Option<Arc<IoFile>>,
    /// Bytes that its data and checksums take.
    pub(super) allocated: u64,
    /// Bytes that its aux files take.
    pub(super) aux: u64,
    /// Its files are being unlinked: nothing is served, nothing is admitted.
    pub(super) removing: bool,
    /// Turn of the clock when it was last used in this process; 0: not yet.
    pub(super) tick: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) quota: Quota,
    pub(super) health: Health,
    pub(super) objects: HashMap<ObjectId, Object>,
    /// Objects with an entry are referenced.
    advice: AdviceBook,
    /// Blocks to remove as soon as nobody holds them.
    pub(super) doomed: Vec<BlockId>,
    /// Those of them whose removal failed, and when it is tried again.
    deferred: Vec<BlockId>,
    deferred_until: Option<Instant>,
    /// Bytes that the next waiting writer needs.
    pub(super) wanted: u64,
    /// Nothing is punched: clients of a former owner may still read.
    pub(super) held: bool,
    /// The index has said what there is.
    pub(super) known: bool,
    /// The folder was walked, so `quota` knows everything.
    pub(super) ready: bool,
    pub(super) ended: bool,
    stuck_since: Option<Instant>,
    tick: u64,
    pub(super) open_files: usize,
}

impl State {
    pub(super) fn new(limit: u64, held: bool) -> Self {
        Self {
            quota: Quota::new(limit),
            known: true,
            health: Health::default(),
            objects: HashMap::new(),
            advice: AdviceBook::default(),
            doomed: Vec::new(),
            deferred: Vec::new(),
            deferred_until: None,
            wanted: 0,
            held,
            ready: false,
            ended: false,
            stuck_since: None,
            tick: 0,
            open_files: 0,
        }
    }

    /// Enters what the index knows; the blocks follow when they are asked for.
    pub(super) fn enter_objects(&mut self, records: Vec<(ObjectId, ObjectRecord)>) {
        for (id, record) in records {
            self.objects.insert(id, Object { record, ..Object::default() });
        }
    }

    /// Notes a use of an object. True where the index should learn of it: once an hour, so that the order of eviction survives
    /// a crash well enough. One that takes nothing at present learns it later.
    pub(super) fn touch(&mut self, id: &ObjectId) -> bool {
        self.tick += 1;
        let Some(object) = self.objects.get_mut(id) else { return false };
        object.tick = self.tick;
        let now = now_seconds();
        let due = self.health.index_works() && now.saturating_sub(object.record.last_use) > 3600;
        if due {
            object.record.last_use = now;
        }
        due
    }

    pub(super) fn block(&mut self, id: BlockId) -> Option<&mut Block> {
        self.objects.get_mut(&id.object)?.blocks.as_mut()?.get_mut(&id.index)
    }

    /// Takes a present block out of service. False where it wasn't present.
    pub(super) fn doom(&mut self, id: BlockId) -> bool {
        let Some(block) = self.block(id).filter(|block| block.phase == Phase::Present) else { return false };
        block.phase = Phase::Doomed;
        self.doomed.push(id);
        true
    }

    /// A doomed block could not be removed: tried again in a while.
    pub(super) fn defer(&mut self, id: BlockId) {
        self.deferred.push(id);
        self.deferred_until = Some(Instant::now() + DEFER_FOR);
    }

    /// Up to `limit` doomed blocks that nobody holds; they are the caller's to remove.
    pub(super) fn take_doomed(&mut self, limit: usize) -> Vec<BlockId> {
        if self.deferred_until.is_some_and(|until| Instant::now() >= until) {
            self.deferred_until = None;
            self.doomed.append(&mut self.deferred);
        }
        let mut taken = Vec::new();
        let mut waiting = std::mem::take(&mut self.doomed);
        waiting.retain(|&id| {
            let free = taken.len() < limit && self.block(id).is_none_or(|block| block.pins == 0);
            if free {
                taken.push(id);
            }
            !free
        });
        self.doomed = waiting;
        taken
    }

    pub(super) fn advise(
        &mut self,
        by: Advisor,
        id: &ObjectId,
        blocks: std::ops::Range<u32>,
        advice: Advice,
    ) {
        self.advice.advise(by, id, blocks, advice);
        if advice != Advice::WillNeed {
            self.stuck_since = None;
        }
    }

    pub(super) fn withdraw(&mut self, by: Advisor) {
        self.advice.withdraw(by);
        self.stuck_since = None;
    }

    /// What the plan wants with the blocks of an object; none where it wants nothing.
    pub(super) fn advice(&self, id: &ObjectId) -> Option<&[Advice]> {
        self.advice.of(id)
    }

    /// Eviction looked and found nothing that may go.
    pub(super) fn set_stuck(&mut self, stuck: bool) {
        self.stuck_since = stuck.then(Instant::now);
    }

    /// Nobody holds this block any more: where nothing could go, it may now.
    pub(super) fn let_go(&mut self, id: BlockId) {
        let wanted = |list: &[Advice]| list.get(id.index as usize) == Some(&Advice::WillNeed);
        if self.stuck_since.is_some() && !self.advice(&id.object).is_some_and(wanted) {
            self.stuck_since = None;
        }
    }

    /// Nothing may go, as of a moment ago, or nothing can.
    pub(super) fn stuck(&self) -> bool {
        !self.health.removes(Instant::now())
            || self.stuck_since.is_some_and(|since| since.elapsed() < STUCK_FOR)
    }

    /// True where a block that arrives now would not be kept.
    pub(super) fn admission_stopped(&self) -> bool {
        let stuck = self.stuck_since.is_some() || self.health.removals_fail();
        !self.health.admits(Instant::now()) || (stuck && self.quota.free() < self.quota.headroom())
    }

    /// Bytes that eviction should free now.
    pub(super) fn deficit(&self) -> u64 {
        let ahead = self.quota.headroom().max(self.wanted);
        ahead.saturating_sub(self.quota.free())
    }

    /// Remembers an open file; returns files that are to be closed since too many are open.
    pub(super) fn keep_open(&mut self, id: &ObjectId, file: &Arc<IoFile>, limit: usize) -> Vec<Arc<IoFile>> {
        let Some(object) = self.objects.get_mut(id) else { return Vec::new() };
        if object.file.replace(file.clone()).is_none() {
            self.open_files += 1;
        }
        if self.open_files <= limit {
            return Vec::new();
        }
        let mut open: Vec<_> =
            self.objects.iter().filter(|(_, o)| o.file.is_some()).map(|(id, o)| (o.tick, *id)).collect();
        open.sort_unstable();
        open.truncate((limit / 4).max(1));
        let closed: Vec<_> = open
            .iter()
            .filter(|(_, old)| old != id)
            .filter_map(|(_, old)| self.objects.get_mut(old)?.file.take())
            .collect();
        self.open_files -= closed.len();
        closed
    }

    /// Lets the open data file of an object go.
    pub(super) fn close_file(&mut self, id: &ObjectId) {
        let file = self.objects.get_mut(id).and_then(|object| object.file.take());
        self.open_files -= usize::from(file.is_some());
    }

    /// The aux files of an object are gone.
    pub(super) fn forget_aux(&mut self, id: &ObjectId) {
        if let Some(object) = self.objects.get_mut(id) {
            self.quota.moved(std::mem::take(&mut object.aux), 0);
        }
    }

    /// Takes an object out of the account.
    pub(super) fn forget(&mut self, id: &ObjectId) {
        if let Some(object) = self.objects.remove(id) {
            self.quota.moved(object.allocated + object.aux, 0);
            self.open_files -= usize::from(object.file.is_some());
        }
    }
}

/// Seconds since 1970; a clock before that counts as 0.
pub(super) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
