//! One slab that many threads fill at once, each its own row.
//!
//! Rows are handed out by value, each once, so no two writers share a byte; the slab becomes readable only when every row
//! has come back. That makes parallel decoding into a batch safe without a lock and without copying.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::lease::Lease;
use super::slab::Slab;

/// One row of a slab, to write into from any thread.
pub struct Row {
    home: Arc<Slab>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a row is the only access to its bytes, like a Box<[u8]>.
unsafe impl Send for Row {}
// SAFETY: shared access only reads.
unsafe impl Sync for Row {}

impl Row {
    /// Cuts `slab` into `count` rows of `row_bytes`; bytes behind the last one are out of reach until the rows are joined.
    ///
    /// # Panics
    /// Where the slab is shorter than that, or where there is no row.
    pub fn split(slab: Slab, row_bytes: usize, count: usize) -> Vec<Row> {
        let needed = row_bytes.checked_mul(count).filter(|&needed| needed <= slab.len() && count > 0);
        assert!(needed.is_some(), "{count} rows of {row_bytes} bytes from a slab of {}", slab.len());
        let home = Arc::new(slab);
        let cut = |index: usize| {
            // SAFETY: inside the slab, as just checked; the Arc keeps it in place, and nobody reads through `home`.
            let start = unsafe { NonNull::new_unchecked(home.as_ptr().cast_mut().add(index * row_bytes)) };
            Row { home: home.clone(), start, len: row_bytes }
        };
        (0..count).map(cut).collect()
    }

    /// Puts all rows of a slab, in any order, back together for reading. `None` where one is missing or of another slab.
    pub fn join(rows: Vec<Row>) -> Option<Lease> {
        let home = rows.first()?.home.clone();
        if rows.iter().any(|row| !Arc::ptr_eq(&row.home, &home)) {
            return None;
        }
        drop(rows);
        // Only the last reference unwraps: a row that is still out keeps its own.
        Some(Arc::into_inner(home)?.freeze())
    }
}

impl Deref for Row {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, initialised, and reached through this row alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Row {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Arena;
    use super::*;

    #[test]
    fn rows_written_by_many_threads_are_read_as_one() {
        let region = Arena::new(1 << 20).unwrap().region("batch", 8192).unwrap();
        let mut rows = Row::split(region.try_allocate(300).unwrap(), 100, 3);
        std::thread::scope(|scope| {
            for (value, row) in (1..).zip(&mut rows) {
                scope.spawn(move || row.fill(value));
            }
        });
        rows.reverse();
        let lease = Row::join(rows).unwrap();
        assert_eq!((lease[0], lease[99], lease[100], lease[299]), (1, 1, 2, 3));
    }

    #[test]
    fn a_slab_is_not_readable_while_a_row_is_out() {
        let region = Arena::new(1 << 20).unwrap().region("batch", 8192).unwrap();
        let mut rows = Row::split(region.try_allocate(200).unwrap(), 100, 2);
        let out = rows.pop();
        assert!(Row::join(rows).is_none());
        assert_ne!(region.used_bytes(), 0, "the row that is out keeps the slab");
        drop(out);
        assert_eq!(region.used_bytes(), 0);
    }
}
