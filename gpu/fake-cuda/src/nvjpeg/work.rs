//! Decoding as an operation of a stream: pixels go to their targets.

use std::ops::Range;

use crate::codes::Code;
use crate::state::{Locked, State};

/// A group of images.
pub(crate) struct Jpeg {
    pub(super) rows: Vec<Rows>,
    /// Device memory that is written on the way.
    pub(super) writes: Vec<Range<u64>>,
    /// Pinned memory that is read.
    pub(super) reads: Vec<Range<u64>>,
    /// The compressed images where the program has them.
    pub(super) sources: Vec<Range<u64>>,
}

/// An image's pixels and where they go.
pub(super) struct Rows {
    pub(super) bytes: Vec<u8>,
    pub(super) to: u64,
    pub(super) pitch: u64,
    pub(super) row_bytes: u64,
}

impl Rows {
    /// Where each row goes.
    fn places(&self) -> impl Iterator<Item = Range<u64>> {
        let rows = self.bytes.len() as u64 / self.row_bytes.max(1);
        (0..rows).map(|row| self.to + row * self.pitch).map(|start| start..start + self.row_bytes)
    }
}

impl Jpeg {
    pub(crate) fn accesses(&self) -> Vec<(Range<u64>, bool)> {
        let reads = self.reads.iter().map(|range| (range.clone(), false));
        let mut accesses: Vec<_> =
            reads.chain(self.writes.iter().map(|range| (range.clone(), true))).collect();
        for rows in &self.rows {
            if rows.pitch == rows.row_bytes {
                accesses.push((rows.to..rows.to + rows.bytes.len() as u64, true));
            } else {
                accesses.extend(rows.places().map(|row| (row, true)));
            }
        }
        accesses
    }

    /// Host memory of the program's that nobody may write to until the host knows that this is complete.
    pub(crate) fn guarded(&self) -> impl Iterator<Item = Range<u64>> {
        self.sources.iter().filter(|range| !range.is_empty()).cloned()
    }

    /// Does it.
    pub(crate) fn run(&self, state: &mut Locked) -> Result<(), Code> {
        state.fault("launch")?;
        let shift = |state: &State, address: u64| state.memory.shadow(address) as usize;
        let scratch: Vec<_> = self
            .writes
            .iter()
            .map(|range| (shift(state, range.start), (range.end - range.start) as usize))
            .collect();
        let places: Vec<_> = self
            .rows
            .iter()
            .map(|rows| (rows, rows.places().map(|row| shift(state, row.start)).collect::<Vec<_>>()))
            .collect();
        Locked::unlocked(state, || {
            for (at, bytes) in scratch {
                // SAFETY: every range was checked at submission, and device memory is taken away only after all work on it.
                unsafe { std::ptr::write_bytes(at as *mut u8, 0x5C, bytes) };
            }
            for (rows, places) in places {
                for (row, to) in rows.bytes.chunks_exact(rows.row_bytes as usize).zip(places) {
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), to as *mut u8, row.len()) };
                }
            }
        });
        Ok(())
    }
}
