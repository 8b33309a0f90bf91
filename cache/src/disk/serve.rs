//! Who may read what: looks blocks up, pins them, takes bad ones out of service.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::checksum::{CrcPage, PAGE_BYTES};
use super::grant::{BlockGrant, Grant};
use super::health::is_full;
use super::index::{Change, name_key};
use super::reader::ReadFault;
use super::state::{Block, Phase};
use super::{Disk, Shared};
use crate::error::Result;
use crate::io::IoFile;
use crate::object::{BLOCK_BYTES, BlockId, ByteRange, ObjectId, ObjectMeta};
use crate::stats::count;

/// Indexes of blocks, with the crcs of their pages.
type Crcs = Vec<(u32, u32)>;

/// Pages of checksums by block, of one object.
type PagesOf = HashMap<u32, Arc<CrcPage>>;

/// Holds blocks of one object in place.
struct Pins {
    shared: Arc<Shared>,
    object: ObjectId,
    blocks: Vec<u32>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let mut doomed = false;
        for &index in &self.blocks {
            let id = BlockId { object: self.object, index };
            let Some(block) = state.block(id) else { continue };
            block.pins = block.pins.saturating_sub(1);
            if block.pins == 0 {
                doomed |= block.phase == Phase::Doomed;
                state.let_go(id);
            }
        }
        drop(state);
        if doomed {
            self.shared.work.notify_all();
        }
    }
}

impl Disk {
    /// Grants of the parts of `range` that are here, in order; blocks that aren't leave gaps. An error of the disk is
    /// counted and leaves a gap too.
    pub(crate) async fn lookup(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Vec<Grant>> {
        let shared = &self.shared;
        if !shared.load(&object.id).await? {
            return Ok(Vec::new());
        }
        let Some((pins, crcs)) = shared.pin(&object.id, range) else { return Ok(Vec::new()) };
        let id = object.id;
        let known: HashMap<u32, Arc<CrcPage>> = {
            let mut pages = shared.pages.lock();
            let known = |&(index, _): &(u32, u32)| Some((index, pages.get(BlockId { object: id, index })?));
            crcs.iter().filter_map(known).collect()
        };
        let file = shared.state.lock().objects.get(&id).and_then(|object| object.file.clone());
        let (file, pages) = match file {
            Some(file) if known.len() == crcs.len() => (file, known),
            file => {
                let of_task = shared.clone();
                let (crcs, pins) = (crcs.clone(), pins.clone());
                let opened = shared.blocking(move || {
                    let _held = pins;
                    of_task.open_and_load(&id, file, &crcs, known)
                });
                match opened.await? {
                    Some(found) => found,
                    None => return Ok(Vec::new()),
                }
            }
        };
        let guard: Arc<dyn std::any::Any + Send + Sync> = pins;
        Ok(runs(object, range, &crcs, &pages)
            .into_iter()
            .map(|(range, blocks)| Grant::new(file.clone(), object.clone(), range, blocks, guard.clone()))
            .collect())
    }

    /// Takes a block out of service for what a reader found. Its space comes back when nobody holds it.
    pub(crate) fn quarantine(&self, fault: &ReadFault) {
        let block = fault.block();
        let mut state = self.shared.state.lock();
        if let ReadFault::Io { error, .. } = fault {
            count(&self.shared.counters.io_errors);
            state.health.failed(error, Instant::now());
        }
        let doomed = state.doom(block);
        drop(state);
        if doomed {
            tracing::warn!(object = %block.object, block = block.index, ?fault, "a cached block is bad; it is fetched again");
            self.shared.retired(block);
        }
    }

    /// Counts a read of several blocks that failed; which of them is to blame is not known yet.
    pub(crate) fn failed(&self, error: &io::Error) {
        count(&self.shared.counters.io_errors);
        self.shared.state.lock().health.failed(error, Instant::now());
    }

    /// Notes that a read worked.
    pub(crate) fn worked(&self) {
        self.shared.state.lock().health.worked();
    }

    /// The origin says that this is the version of its location now: the one to serve when the origin can't be asked.
    pub(crate) fn is_current(&self, object: &ObjectMeta) {
        let known = self.shared.state.lock().objects.get(&object.id).is_some_and(|object| !object.removing);
        if known {
            self.shared.writer.send(Change::PutName(name_key(&object.location), object.id));
        }
    }

    /// True where the block is here or being written.
    pub(crate) async fn has(&self, block: BlockId) -> Result<bool> {
        let known = self.shared.load(&block.object).await?;
        let phase = self.shared.state.lock().block(block).map(|block| block.phase);
        Ok(known && matches!(phase, Some(Phase::Present | Phase::Writing)))
    }

    /// True where the block can be read, as far as is known without asking the index.
    pub(crate) fn is_present(&self, block: BlockId) -> bool {
        self.shared.is_present(block)
    }

    /// True where a block of this many bytes would find room, or room could be made.
    pub(crate) fn admits(&self) -> bool {
        let state = self.shared.state.lock();
        state.health.admits(Instant::now()) && !(state.stuck() && state.deficit() > 0)
    }
}

impl Shared {
    /// Counts a block out of service and wakes the thread that gives its space back.
    pub(super) fn retired(&self, block: BlockId) {
        count(&self.counters.quarantined_blocks);
        self.pages.lock().remove(block);
        self.work.notify_all();
    }

    /// Brings an object's entries into memory. False where nothing of the object is here.
    pub(super) async fn load(self: &Arc<Self>, id: &ObjectId) -> Result<bool> {
        match self.state.lock().objects.get(id) {
            None => return Ok(false),
            Some(object) if object.removing => return Ok(false),
            Some(object) if object.blocks.is_some() => return Ok(true),
            Some(_) => {}
        }
        let (shared, id) = (self.clone(), *id);
        self.blocking(move || shared.load_blocking(&id)).await
    }

    /// As [`Self::load`], on a thread that may block.
    pub(super) fn load_blocking(&self, id: &ObjectId) -> bool {
        if let Some(object) = self.state.lock().objects.get(id)
            && object.blocks.is_some()
        {
            return !object.removing;
        }
        let (entries, bad) = match self.index.blocks(id) {
            Ok(found) => found,
            Err(error) if self.is_passing(&error) => return false,
            Err(error) => {
                self.index_is_broken(&error);
                (Vec::new(), 0)
            }
        };
        self.counters.quarantined_blocks.fetch_add(bad, Relaxed);
        let mut state = self.state.lock();
        let Some(object) = state.objects.get_mut(id).filter(|object| !object.removing) else { return false };
        let present = |page_crc| Block { phase: Phase::Present, page_crc, pins: 0 };
        object
            .blocks
            .get_or_insert_with(|| entries.into_iter().map(|(index, crc)| (index, present(crc))).collect());
        true
    }

    /// True where the disk refused to read the index, or the index waits to be opened again: until then what isn't in memory is a miss.
    pub(super) fn is_passing(&self, error: &io::Error) -> bool {
        let disk = error.raw_os_error().is_some();
        let passing = disk || error.kind() == io::ErrorKind::NotConnected;
        let mut state = self.state.lock();
        if passing && !state.ended {
            state.health.index_refused(error, Instant::now());
            drop(state);
            if disk && !is_full(error) {
                count(&self.counters.io_errors);
            }
            self.writer.retry();
        }
        passing
    }

    /// The index can't be read: nothing is admitted, and the next start makes a new one.
    pub(super) fn index_is_broken(&self, error: &io::Error) {
        tracing::error!(%error, "the block index can't be read");
        count(&self.counters.io_errors);
        self.state.lock().health.index_broken(Instant::now());
        if let Err(error) = std::fs::write(self.layout.index_is_broken(), b"") {
            tracing::error!(%error, "the broken index could not be marked");
        }
    }

    /// Pins the present blocks of `range`; none where there is none. Gives their indexes and the crcs of their pages.
    fn pin(self: &Arc<Self>, id: &ObjectId, range: ByteRange) -> Option<(Arc<Pins>, Crcs)> {
        let mut state = self.state.lock();
        let blocks = state.objects.get_mut(id)?.blocks.as_mut()?;
        let mut found = Vec::new();
        for index in range.blocks() {
            if let Some(block) = blocks.get_mut(&index).filter(|block| block.phase == Phase::Present) {
                block.pins += 1;
                found.push((index, block.page_crc));
            }
        }
        if found.is_empty() {
            return None;
        }
        let due = state.touch(id);
        let record = due.then(|| state.objects.get(id).map(|object| object.record.clone())).flatten();
        drop(state);
        let blocks = found.iter().map(|&(index, _)| index).collect();
        let pins = Arc::new(Pins { shared: self.clone(), object: *id, blocks });
        if let Some(record) = record {
            self.writer.send(Change::PutObject(*id, record));
        }
        Some((pins, found))
    }

    /// Opens the data file and loads missing pages. A page that is not what the index says takes its block out of service.
    fn open_and_load(
        &self,
        id: &ObjectId,
        file: Option<Arc<IoFile>>,
        crcs: &[(u32, u32)],
        mut pages: HashMap<u32, Arc<CrcPage>>,
    ) -> Option<(Arc<IoFile>, PagesOf)> {
        let opened = match file {
            Some(file) => Ok(file),
            None => IoFile::open(&self.layout.data(id), false).map(Arc::new),
        };
        let crc_file = std::fs::File::open(self.layout.crc(id));
        let (file, crc_file) = match (opened, crc_file) {
            (Ok(file), Ok(crc_file)) => (file, crc_file),
            (Err(error), _) | (_, Err(error)) => {
                for &(index, _) in crcs {
                    self.bad_page(BlockId { object: *id, index }, &error);
                }
                return None;
            }
        };
        drop(self.state.lock().keep_open(id, &file, self.open_limit));
        for &(index, page_crc) in
            crcs.iter().filter(|(index, _)| !pages.contains_key(index)).collect::<Vec<_>>()
        {
            let block = BlockId { object: *id, index };
            match load_page(&crc_file, index, page_crc) {
                Ok(page) => {
                    self.pages.lock().put(block, page.clone());
                    pages.insert(index, page);
                }
                Err(error) => self.bad_page(block, &error),
            }
        }
        Some((file, pages))
    }

    fn bad_page(&self, block: BlockId, error: &io::Error) {
        let mut state = self.state.lock();
        if error.raw_os_error().is_some() {
            count(&self.counters.io_errors);
            state.health.failed(error, Instant::now());
        }
        let doomed = state.doom(block);
        drop(state);
        if doomed {
            tracing::warn!(object = %block.object, block = block.index, %error, "the checksums of a cached block are bad");
            self.retired(block);
        }
    }
}

fn load_page(file: &std::fs::File, index: u32, page_crc: u32) -> io::Result<Arc<CrcPage>> {
    let mut bytes = vec![0; PAGE_BYTES];
    file.read_exact_at(&mut bytes, u64::from(index) * PAGE_BYTES as u64)?;
    let page = CrcPage::from_bytes(&bytes).filter(|page| page.crc() == page_crc);
    page.map(Arc::new).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the page of checksums is not the one that was written")
    })
}

/// Cuts `range` into runs of neighbouring blocks that have their pages.
fn runs(
    object: &ObjectMeta,
    range: ByteRange,
    crcs: &[(u32, u32)],
    pages: &HashMap<u32, Arc<CrcPage>>,
) -> Vec<(ByteRange, Vec<BlockGrant>)> {
    let mut runs: Vec<(ByteRange, Vec<BlockGrant>)> = Vec::new();
    for &(index, _) in crcs {
        let Some(page) = pages.get(&index) else { continue };
        let start = u64::from(index) * BLOCK_BYTES;
        let part =
            range.intersect(ByteRange::new(start, start + BLOCK_BYTES)).intersect(object.block_range(index));
        let grant = BlockGrant { index, page: page.clone() };
        match runs.last_mut() {
            Some((run, blocks)) if run.end == part.start => {
                run.end = part.end;
                blocks.push(grant);
            }
            _ => runs.push((part, vec![grant])),
        }
    }
    runs
}
