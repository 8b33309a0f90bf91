//! Writes a block: reserve, allocate, data, checksums, entry. In that order, so that a crash leaves nothing that could be served
//! wrongly, only space that the next start reclaims.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::Instant;

use super::checksum::{CrcPage, PAGE_BYTES};
use super::health::is_full;
use super::index::{Change, ObjectRecord, name_key};
use super::layout::{self, allocated, allocated_at};
use super::quota::{BLOCK_OVERHEAD, OBJECT_OVERHEAD};
use super::state::{Block, Phase, now_seconds};
use super::{Disk, Shared};
use crate::error::Result;
use crate::io::IoFile;
use crate::memory::Lease;
use crate::object::{BLOCK_BYTES, BlockId, GRANULE_BYTES, ObjectId, ObjectMeta};
use crate::stats::count;

/// Whether a block may be written.
enum Admission {
    Reserved(Reservation),
    /// It is here already, or being written by somebody else.
    There,
    /// It will not be kept.
    Declined,
}

/// Bytes of the quota set aside for a write.
struct Reservation {
    bytes: u64,
    at: Instant,
}

impl Disk {
    /// Writes a block (whole granules, the last one padded with zeros) and enters it. Waits for room as long as room can be made. False
    /// where the block isn't kept; whoever fetched it has it in memory.
    pub(crate) async fn store(
        &self,
        object: &Arc<ObjectMeta>,
        index: u32,
        bytes: Lease,
        page: Arc<CrcPage>,
    ) -> Result<bool> {
        let shared = &self.shared;
        let block = BlockId { object: object.id, index };
        let reserved = match shared.admit(object, block, bytes.len() as u64).await? {
            Admission::Reserved(reserved) => reserved,
            Admission::There => return Ok(true),
            Admission::Declined => {
                count(&shared.counters.declined_blocks);
                return Ok(false);
            }
        };
        let written = shared.write(object, index, bytes, &page).await;
        let done = shared.settle(object, block, &page, reserved, written);
        if !done {
            count(&shared.counters.declined_blocks);
        }
        Ok(done)
    }
}

impl Shared {
    async fn admit(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        block: BlockId,
        len: u64,
    ) -> Result<Admission> {
        let mut room = self.room.subscribe();
        loop {
            self.load(&object.id).await?;
            let wait = {
                let mut state = self.state.lock();
                if state.ended || !state.health.admits(Instant::now()) {
                    return Ok(Admission::Declined);
                }
                let known = state.objects.get(&object.id);
                if known.is_some_and(|object| object.removing) {
                    return Ok(Admission::Declined);
                }
                // An object whose entries came into the account since `load` looked.
                let unloaded = known.is_some_and(|object| object.blocks.is_none());
                match state.block(block).map(|block| block.phase) {
                    Some(Phase::Doomed) => return Ok(Admission::Declined),
                    Some(_) => return Ok(Admission::There),
                    None => {}
                }
                let need = len + BLOCK_OVERHEAD + OBJECT_OVERHEAD;
                if state.ready && !unloaded && state.quota.try_reserve(need) {
                    self.enter_writing(&mut state, object, block);
                    drop(state);
                    self.work.notify_all();
                    return Ok(Admission::Reserved(Reservation { bytes: need, at: Instant::now() }));
                }
                if state.ready && state.stuck() {
                    return Ok(Admission::Declined);
                }
                state.wanted = state.wanted.max(need);
                !unloaded
            };
            self.work.notify_all();
            if wait && room.changed().await.is_err() {
                return Ok(Admission::Declined);
            }
        }
    }

    fn enter_writing(&self, state: &mut super::State, object: &Arc<ObjectMeta>, block: BlockId) {
        let entry = state.objects.entry(object.id).or_default();
        if entry.record.version.is_none() {
            entry.record = ObjectRecord::of(object, now_seconds());
        }
        let writing = Block { phase: Phase::Writing, page_crc: 0, pins: 0 };
        entry.blocks.get_or_insert_default().insert(block.index, writing);
        state.touch(&object.id);
    }

    async fn write(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        index: u32,
        bytes: Lease,
        page: &Arc<CrcPage>,
    ) -> io::Result<()> {
        let closed = |_| io::Error::other("the cache was closed");
        let (shared, meta, len) = (self.clone(), object.clone(), bytes.len() as u64);
        let file = self.blocking(move || shared.prepare(&meta, index, len)).await.map_err(closed)??;
        crate::io::write(&*self.io, &file, u64::from(index) * BLOCK_BYTES, bytes).await?;
        let (shared, meta, page) = (self.clone(), object.clone(), page.clone());
        self.blocking(move || shared.write_page(&meta, index, &file, &page)).await.map_err(closed)?
    }

    /// Opens the object's files, making them where they don't exist, and allocates the block.
    fn prepare(&self, object: &ObjectMeta, index: u32, len: u64) -> io::Result<Arc<IoFile>> {
        let known = self.state.lock().objects.get(&object.id).and_then(|object| object.file.clone());
        let file = match known {
            Some(file) => file,
            None => self.make_files(object)?,
        };
        layout::reserve(file.file(), u64::from(index) * BLOCK_BYTES, len)?;
        Ok(file)
    }

    fn make_files(&self, object: &ObjectMeta) -> io::Result<Arc<IoFile>> {
        let bucket = self.layout.bucket(&object.id);
        let before = allocated_at(&bucket);
        std::fs::create_dir_all(&bucket)?;
        let file = Arc::new(IoFile::open(&self.layout.data(&object.id), true)?);
        let crc = open_crc(&self.layout.crc(&object.id), true)?;
        // A file of its final size from the start: nothing is allocated behind an end that moves.
        if file.file().metadata()?.len() < object.size_bytes {
            file.file().set_len(object.size_bytes)?;
            crc.set_len(u64::from(object.blocks()) * PAGE_BYTES as u64)?;
        }
        let grown = allocated_at(&bucket).saturating_sub(before);
        let mut state = self.state.lock();
        state.quota.add_fixed(grown);
        drop(state.keep_open(&object.id, &file, self.open_limit));
        Ok(file)
    }

    /// Writes the page of checksums, and cuts the padding of the object's last granule off.
    fn write_page(&self, object: &ObjectMeta, index: u32, file: &IoFile, page: &CrcPage) -> io::Result<()> {
        let crc = open_crc(&self.layout.crc(&object.id), false)?;
        crc.write_all_at(page.as_bytes(), u64::from(index) * PAGE_BYTES as u64)?;
        if index + 1 == object.blocks() && !object.size_bytes.is_multiple_of(GRANULE_BYTES) {
            file.file().set_len(object.size_bytes)?;
        }
        Ok(())
    }

    /// Makes the block present, or its space reclaimable; turns the reservation into what was really allocated.
    fn settle(
        &self,
        object: &Arc<ObjectMeta>,
        block: BlockId,
        page: &Arc<CrcPage>,
        reserved: Reservation,
        written: io::Result<()>,
    ) -> bool {
        let page_crc = page.crc();
        if written.is_ok() {
            // Before the block can be evicted: its removal must come behind this in the index's queue.
            self.writer.send(Change::PutObject(object.id, ObjectRecord::of(object, now_seconds())));
            self.writer.send(Change::PutName(name_key(&object.location), object.id));
            self.writer.send(Change::PutBlock(block, page_crc));
            self.pages.lock().put(block, page.clone());
            count(&self.counters.stored_blocks);
        }
        let mut state = self.state.lock();
        state.quota.release(reserved.bytes);
        self.measure(&mut state, &object.id);
        if let Some(entry) = state.block(block) {
            entry.page_crc = page_crc;
            entry.phase = Phase::Present;
        }
        let done = match &written {
            Ok(()) => {
                state.health.worked();
                true
            }
            Err(error) => {
                state.doom(block);
                let now = Instant::now();
                let admitted = state.health.admits(now);
                state.health.write_failed(error, reserved.at, now);
                if !is_full(error) {
                    count(&self.counters.io_errors);
                    tracing::warn!(%error, object = %object.location, block = block.index, "a block could not be written to the cache folder");
                } else if admitted && !state.health.admits(now) {
                    // Once, and not for each of the blocks that were on their way.
                    tracing::warn!(dir = %self.layout.dir().display(), %error, "the cache folder's disk is full: what is fetched is delivered and not kept until it has room");
                }
                false
            }
        };
        drop(state);
        self.tell_room();
        self.work.notify_all();
        done
    }

    /// Asks the file system what an object takes. Under the lock, so that answers are applied in the order of asking.
    pub(super) fn measure(&self, state: &mut super::State, id: &ObjectId) {
        let Some(object) = state.objects.get_mut(id) else { return };
        let data = match &object.file {
            Some(file) => file.file().metadata().map_or(object.allocated, |meta| allocated(&meta)),
            None => allocated_at(&self.layout.data(id)),
        };
        // Checksums go through the page cache, and the tree that finds them on disk is allocated when it writes back.
        let trees = 4096 * (1 + object.blocks.as_ref().map_or(0, |blocks| blocks.len() as u64 / 340));
        let now = data + allocated_at(&self.layout.crc(id)) + if data == 0 { 0 } else { trees };
        let before = std::mem::replace(&mut object.allocated, now);
        state.quota.moved(before, now);
    }
}

pub(super) fn open_crc(path: &std::path::Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}
