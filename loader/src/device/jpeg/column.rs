//! A batch's images in the device's memory while they are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use forebay_gpu::{Address, DeviceSlab, Event, Guard};
use parking_lot::Mutex;

/// A batch's columns that the device draws rows of, by field.
pub(crate) type Columns = Arc<[Option<Arc<PixelColumn>>]>;

/// uint8 [rows, height, width, 3].
#[derive(Debug)]
pub(crate) struct PixelColumn {
    first: Address,
    row_bytes: u64,
    /// None once the batch has it.
    slab: Mutex<Option<DeviceSlab>>,
    /// Behind the kernels that drew rows.
    drawing: Mutex<Vec<Arc<Event>>>,
    drawn: Box<[AtomicBool]>,
}

/// A column that nobody draws to any more.
pub(in crate::device) struct Finished {
    pub(in crate::device) slab: DeviceSlab,
    pub(in crate::device) row_bytes: u64,
    /// Behind the kernels that drew rows.
    pub(in crate::device) drawing: Vec<Arc<Event>>,
    /// Which rows they drew.
    pub(in crate::device) drawn: Vec<bool>,
}

impl PixelColumn {
    pub(super) fn new(slab: DeviceSlab, rows: usize) -> Self {
        Self {
            first: slab.address(),
            row_bytes: slab.len() / rows.max(1) as u64,
            slab: Mutex::new(Some(slab)),
            drawing: Mutex::default(),
            drawn: (0..rows).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    pub(super) fn address(&self, row: usize) -> Address {
        self.first.offset(row as u64 * self.row_bytes)
    }

    /// Kernels before this event draw rows of it.
    pub(super) fn draws(&self, event: &Arc<Event>) {
        let mut drawing = self.drawing.lock();
        if !drawing.iter().any(|known| Arc::ptr_eq(known, event)) {
            drawing.push(event.clone());
            self.guard(Guard::Event(event.clone()));
        }
    }

    /// The memory is not used for anything else before this.
    pub(super) fn guard(&self, guard: Guard) {
        if let Some(slab) = &mut *self.slab.lock() {
            slab.guard(guard);
        }
    }

    /// A row is drawn, or is the host's after all.
    pub(crate) fn mark(&self, row: usize, drawn: bool) {
        self.drawn[row].store(drawn, Relaxed);
    }

    /// For its batch, once all rows are marked.
    pub(in crate::device) fn finish(&self) -> Option<Finished> {
        Some(Finished {
            slab: self.slab.lock().take()?,
            row_bytes: self.row_bytes,
            drawing: std::mem::take(&mut *self.drawing.lock()),
            drawn: self.drawn.iter().map(|drawn| drawn.load(Relaxed)).collect(),
        })
    }
}
