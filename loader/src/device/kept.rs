//! The nearest tier: decoded samples in a device's memory.
//!
//! Decoding threads bring them there, over pinned memory, as soon as they have decoded them; the batch that a sample is decoded for is made by
//! the CPU as any other. From the next epoch on kernels make its rows: no byte of it crosses the bus again.
//!
//! What guards what: a kernel that reads a sample waits for the event behind its copy. Whoever reads it keeps it pinned until the event behind
//! that kernel is passed, so that no other sample takes its place before.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use forebay_cache::memory::{Held, Region};
use forebay_gpu::mutant::{self, Mutant};
use forebay_gpu::{Address, DeviceMemory, DeviceSlab, Event, Guard, RawStream, Staging};
use parking_lot::{Condvar, Mutex};

use super::BOUNCE_PIECE;
use crate::decode::Size;
use crate::decoded::{BESIDE, Shelf, in_one_piece};
use crate::error::{Error, Result};
use crate::pipeline::sample::Kept;
use crate::pipeline::slot::Form;
use crate::report::Reporter;
use crate::session::Session;

/// Where samples begin: what every vector load asks for.
const GRANULE: u64 = 64;
/// Host memory for what is noted of samples is taken in pieces of this.
const NOTES_BYTES: usize = 1 << 20;

/// Decoded samples of one loader in a device's memory.
#[derive(Debug)]
pub(crate) struct DeviceTier {
    shelf: Arc<Shelf<OnDevice>>,
    first: Address,
    limit_bytes: u64,
    memory: Mutex<DeviceSlab>,
    /// Pinned memory over which samples go, in pieces of at most so many bytes.
    bounce: Region,
    piece_bytes: usize,
    filling: Mutex<Filling>,
    /// A piece that was being written is on its way.
    written: Condvar,
    /// Host memory in which samples are noted.
    notes: Mutex<Vec<Held>>,
    /// Tasks of the session's own runtime may hold this.
    session: Weak<Session>,
    reporter: Reporter,
    filled_bytes: AtomicU64,
}

#[derive(Debug)]
struct Filling {
    /// None once the tier is closed.
    staging: Option<Staging>,
    /// Pieces of pinned memory that somebody writes.
    writing: usize,
}

/// A sample in the device's memory.
#[derive(Debug)]
pub(crate) struct OnDevice {
    first: Address,
    values: Box<[Value]>,
    /// Behind the copy that fills it; none once that is known to be done.
    filled: Mutex<Option<Arc<Event>>>,
}

/// A field of it.
#[derive(Clone, Copy, Debug)]
struct Value {
    offset: u64,
    bytes: u64,
    /// Of pictures.
    size: Size,
}

impl OnDevice {
    /// Where a field's value lies.
    pub(super) fn address(&self, field: usize) -> Address {
        self.first.offset(self.values[field].offset)
    }

    /// The size of a field that is a picture.
    pub(crate) fn size(&self, field: usize) -> Size {
        self.values[field].size
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> u64 {
        self.values.iter().map(|value| value.bytes).sum()
    }

    /// The stream goes on only when the sample is there.
    pub(super) fn wait_on(&self, stream: RawStream) -> Result<()> {
        let mut filled = self.filled.lock();
        if let Some(event) = &*filled
            && !mutant::is(Mutant::TierNoWait)
        {
            if event.is_done()? {
                *filled = None;
            } else {
                event.wait_on(stream)?;
            }
        }
        Ok(())
    }
}

impl DeviceTier {
    /// Takes `limit_bytes` of the device's memory.
    pub(super) fn new(
        memory: &DeviceMemory,
        limit_bytes: u64,
        bounce: Region,
        session: &Arc<Session>,
        reporter: &Reporter,
    ) -> Result<Self> {
        let taken = memory.take(limit_bytes, "decoded samples (gpu_decoded_limit)")?;
        let slab = taken.ok_or_else(|| Error::Panic { message: "fresh device memory is taken".into() })?;
        let largest = bounce.parts().iter().map(|&(_, len)| len).max().unwrap_or(0);
        let filling = Filling { staging: Some(Staging::new(memory.device())?), writing: 0 };
        Ok(Self {
            shelf: Shelf::new([(0, limit_bytes)], GRANULE),
            first: slab.address(),
            limit_bytes,
            memory: Mutex::new(slab),
            bounce,
            piece_bytes: largest.min(BOUNCE_PIECE),
            filling: Mutex::new(filling),
            written: Condvar::new(),
            notes: Mutex::default(),
            session: Arc::downgrade(session),
            reporter: reporter.clone(),
            filled_bytes: AtomicU64::new(0),
        })
    }

    pub(crate) fn shelf(&self) -> &Arc<Shelf<OnDevice>> {
        &self.shelf
    }

    /// The memory is not used for anything else before this.
    pub(super) fn guard(&self, guard: Guard) {
        self.memory.lock().guard(guard);
    }

    /// Keeps a decoded sample, where there is a place for it; whether there was one.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn offer(&self, number: u64, kept: &Kept) -> Result<bool> {
        if !self.has_room_for_notes() {
            return Ok(false);
        }
        let (places, end) = in_one_piece(kept.values.iter().map(|(_, value)| value.len()));
        let Some(place) = self.shelf.reserve(number, end as u64) else { return Ok(false) };
        let write = |start: usize, piece: &mut [u8]| {
            let end = start + piece.len();
            for (range, (_, value)) in places.iter().zip(&kept.values) {
                let (from, to) = (range.start.max(start), range.end.min(end));
                if from < to {
                    piece[from - start..to - start]
                        .copy_from_slice(&value[from - range.start..to - range.start]);
                }
            }
        };
        let filled = match self.copy(place.offset, end, write) {
            Ok(Some(filled)) => filled,
            other => {
                self.shelf.abandon(number);
                return other.map(|_| false);
            }
        };
        let value = |((form, value), range): (&(Form, Vec<u8>), &std::ops::Range<usize>)| {
            let side =
                |at: usize| form.shape.get(at).map_or(0, |&side| u32::try_from(side).unwrap_or(u32::MAX));
            let size = Size { height: side(0), width: side(1) };
            Value { offset: range.start as u64, bytes: value.len() as u64, size }
        };
        let values = kept.values.iter().zip(&places).map(value).collect();
        let first = self.first.offset(place.offset);
        self.shelf.fill(number, OnDevice { first, values, filled: Mutex::new(Some(filled)) });
        Ok(true)
    }

    /// Copies `bytes` to `offset`, over pinned memory, piece by piece as `write` makes them; none where the tier is closed. Waits for pinned
    /// memory as long as copies take.
    fn copy(
        &self,
        offset: u64,
        bytes: usize,
        write: impl Fn(usize, &mut [u8]),
    ) -> Result<Option<Arc<Event>>> {
        let mut filled = None;
        for start in (0..bytes.max(1)).step_by(self.piece_bytes) {
            let len = self.piece_bytes.min(bytes - start);
            let mut filling = self.filling.lock();
            let mut piece = loop {
                let Filling { staging, writing } = &mut *filling;
                let Some(staging) = staging else { return Ok(None) };
                staging.collect()?;
                if let Some(piece) = self.bounce.try_allocate(len) {
                    *writing += 1;
                    break piece;
                }
                if !staging.wait_for_one()? {
                    if *writing == 0 {
                        return Ok(None);
                    }
                    self.written.wait(&mut filling);
                }
            };
            drop(filling);
            write(start, &mut piece);
            let mut filling = self.filling.lock();
            filling.writing -= 1;
            let copied = match &mut filling.staging {
                Some(staging) => {
                    let lease = piece.freeze().slice(0..len);
                    staging.copy(lease, &mut self.memory.lock(), offset + start as u64).map(Some)
                }
                None => Ok(None),
            };
            drop(filling);
            self.written.notify_all();
            filled = copied?;
            if filled.is_none() {
                return Ok(None);
            }
            self.filled_bytes.fetch_add(len as u64, Relaxed);
        }
        Ok(filled)
    }

    /// Takes host memory for what is noted of one sample more, where it takes any.
    fn has_room_for_notes(&self) -> bool {
        let mut notes = self.notes.lock();
        let needed = (self.shelf.held().0 + 1) * BESIDE;
        if needed <= notes.iter().map(Held::bytes).sum() {
            return true;
        }
        let Some(session) = self.session.upgrade() else { return false };
        match session.arena().hold("notes of decoded samples", NOTES_BYTES) {
            Ok(held) => {
                notes.push(held);
                true
            }
            Err(_) => {
                self.reporter.announce(
                    "no more decoded samples are kept on the device: host memory has no room to keep account of them; raise host_memory_limit",
                );
                false
            }
        }
    }

    /// Keeps nothing from now on, and waits for copies under way.
    pub(crate) fn close(&self) {
        self.shelf.close();
        let staging = self.filling.lock().staging.take();
        self.written.notify_all();
        drop(staging);
        self.bounce.close();
        self.notes.lock().clear();
    }

    /// Samples that are kept, and the bytes that they take.
    pub(super) fn held(&self) -> (usize, u64) {
        self.shelf.held()
    }

    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Bytes that were copied here.
    pub(super) fn filled_bytes(&self) -> u64 {
        self.filled_bytes.load(Relaxed)
    }
}
