//! Memory that several reads fill at once, and that then belongs to whoever asked for it.
//!
//! An arena's slabs come back and are used again; what a consumer is to keep for ever, such as a tensor, must not. Each piece is a region of
//! its own, so that whatever reads into regions reads into it, and no two reads share a byte.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::Arena;
use super::lease::Lease;
use super::region::{PAGE, Region};
use crate::error::{Error, Result};

/// Memory for things that are kept: mapped at once, so that huge pages span what lies side by side, and given back to the system piece by piece.
#[derive(Clone, Debug)]
pub struct Sheet(Arc<Arena>);

impl Sheet {
    /// Maps `bytes`, rounded up to pages. No page is touched yet.
    ///
    /// # Errors
    /// [`Error::Config`] where so much can't be mapped.
    pub fn new(bytes: usize) -> Result<Self> {
        let refused = |_| Error::config(format!("{bytes} bytes of memory could not be mapped for tensors"));
        Ok(Self(Arc::new(Arena::new(bytes.max(PAGE) as u64).map_err(refused)?)))
    }

    /// As [`Self::new`], for things that are let go soon: their pages are not given back, but used again for the next ones, with what they
    /// held.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn lent(bytes: usize) -> Result<Self> {
        let sheet = Self::new(bytes)?;
        sheet.0.keep_pages();
        Ok(sheet)
    }

    /// What pieces of these sizes take.
    pub fn bytes_of(lens: impl Iterator<Item = usize>) -> usize {
        lens.map(|len| len.next_multiple_of(PAGE).max(PAGE)).sum()
    }
}

/// Pieces of one mapping, one behind the other.
#[derive(Debug)]
pub struct Pieces {
    regions: Vec<Region>,
    arena: Arc<Arena>,
}

impl Pieces {
    /// So many bytes for each piece; all but the last are whole pages.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] where the sheet has no room for them side by side.
    pub fn new(sheet: &Sheet, lens: &[usize]) -> Result<Self> {
        debug_assert!(lens.iter().rev().skip(1).all(|len| len % PAGE == 0 && *len > 0), "{lens:?}");
        let regions = sheet.0.neighbours("tensors", lens).ok_or_else(|| Error::MemoryTooSmall {
            limit_bytes: sheet.0.limit_bytes() as u64,
            needed_bytes: Sheet::bytes_of(lens.iter().copied()) as u64,
            what: "memory of tensors that were planned for".into(),
        })?;
        Ok(Self { regions, arena: sheet.0.clone() })
    }

    /// Where a piece is to be read into: room for it alone.
    pub fn region(&self, piece: usize) -> &Region {
        &self.regions[piece]
    }

    /// Makes what was read for a piece this memory's: it lies there already, or it is copied to `head` bytes behind the piece's start.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] where it is longer than the piece.
    pub fn own(&self, piece: usize, head: usize, read: Lease) -> Result<Lease> {
        if self.arena.contains(&read) {
            return Ok(read);
        }
        let bytes = head + read.len();
        let mut slab = self.regions[piece].try_allocate(bytes).ok_or(Error::MemoryTooSmall {
            limit_bytes: self.regions[piece].capacity_bytes() as u64,
            needed_bytes: bytes as u64,
            what: "a piece of a tensor's memory".into(),
        })?;
        slab[head..].copy_from_slice(&read);
        Ok(slab.freeze().slice(head..bytes))
    }

    /// All of it, from the first piece's first read byte to the last piece's last one: the caller's alone, also to write to, until the lease
    /// and its slices are dropped. A forked child gets a copy, as of any memory.
    ///
    /// # Errors
    /// [`Error::Closed`] where the pieces don't follow each other, or one of them is shared: a caller's mistake.
    pub fn join(self, pieces: Vec<Lease>) -> Result<Lease> {
        let follow = pieces.windows(2).all(|pair| pair[0].as_ptr_range().end == pair[1].as_ptr());
        let alone = pieces.iter().all(|piece| self.arena.contains(piece) && !piece.is_shared());
        let Some(first) = pieces.first().filter(|_| follow && alone) else { return Err(Error::Closed) };
        let start = NonNull::new(first.as_ptr().cast_mut()).ok_or(Error::Closed)?;
        let len = pieces.iter().map(|piece| piece.len()).sum();
        self.arena.share_with_children(start, len);
        // SAFETY: the pieces lie one behind the other in one mapping, which they keep, and nobody else has any of them.
        Ok(unsafe { Lease::from_raw(Arc::new((pieces, self)), start, len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lens: &[usize]) -> Result<Pieces> {
        Pieces::new(&Sheet::new(Sheet::bytes_of(lens.iter().copied()))?, lens)
    }

    fn read(pieces: &Pieces, piece: usize, bytes: &[u8]) -> Lease {
        let mut slab = pieces.region(piece).try_allocate(bytes.len()).unwrap();
        slab.copy_from_slice(bytes);
        slab.freeze()
    }

    #[test]
    fn what_is_read_piece_by_piece_is_one_memory() {
        let pieces = of(&[PAGE, 2 * PAGE, 10]).unwrap();
        let last = read(&pieces, 2, b"0123456789").slice(0..4);
        let first = read(&pieces, 0, &[1; PAGE]).slice(100..PAGE);
        let elsewhere = Lease::from_vec(vec![2; 2 * PAGE]);
        let middle = pieces.own(1, 0, elsewhere).unwrap();
        let whole = pieces.join(vec![first, middle, last]).unwrap();
        assert_eq!(whole.len(), PAGE - 100 + 2 * PAGE + 4);
        assert!(whole[..PAGE - 100].iter().all(|&byte| byte == 1));
        assert!(whole[PAGE - 100..3 * PAGE - 100].iter().all(|&byte| byte == 2));
        assert_eq!(&whole[3 * PAGE - 100..], b"0123");
    }

    #[test]
    fn a_copied_piece_begins_where_its_bytes_would() {
        let pieces = of(&[PAGE]).unwrap();
        let owned = pieces.own(0, 8, Lease::from_vec(vec![7; 3])).unwrap();
        assert_eq!(owned.as_ptr() as usize % PAGE, 8);
        assert!(pieces.own(0, 8, Lease::from_vec(vec![7; PAGE])).is_err());
        assert_eq!(&*pieces.join(vec![owned]).unwrap(), [7; 3]);
    }

    #[test]
    fn pieces_that_do_not_follow_each_other_are_no_memory() {
        let pieces = of(&[PAGE, PAGE]).unwrap();
        let (first, second) = (read(&pieces, 0, &[1; 5]), read(&pieces, 1, &[1; 5]));
        assert!(matches!(pieces.join(vec![first, second]), Err(Error::Closed)));
        let pieces = of(&[PAGE]).unwrap();
        let shared = read(&pieces, 0, &[1; 5]);
        let _other = shared.clone();
        assert!(matches!(pieces.join(vec![shared]), Err(Error::Closed)));
    }

    #[test]
    fn what_is_let_go_is_the_systems_again_and_neighbours_stay() {
        let sheet = Sheet::new(3 * PAGE).unwrap();
        let keep = |byte| {
            let pieces = Pieces::new(&sheet, &[PAGE]).unwrap();
            let filled = read(&pieces, 0, &[byte; PAGE]);
            pieces.join(vec![filled]).unwrap()
        };
        let (one, two, three) = (keep(1), keep(2), keep(3));
        assert!(Pieces::new(&sheet, &[PAGE]).is_err(), "all of it is taken");
        let place = two.as_ptr();
        drop(two);
        let again = Pieces::new(&sheet, &[PAGE]).unwrap();
        let slab = again.region(0).try_allocate(PAGE).unwrap();
        assert_eq!((slab.as_ptr(), slab[0]), (place, 0), "fresh pages");
        assert_eq!((one[0], three[0]), (1, 3));
    }

    #[test]
    fn lent_memory_is_used_again_as_it_is() {
        let sheet = Sheet::lent(PAGE).unwrap();
        let pieces = Pieces::new(&sheet, &[PAGE]).unwrap();
        let filled = read(&pieces, 0, &[7; PAGE]);
        let lease = pieces.join(vec![filled]).unwrap();
        assert!(Pieces::new(&sheet, &[PAGE]).is_err(), "somebody has it");
        drop(lease);
        let again = Pieces::new(&sheet, &[PAGE]).unwrap();
        assert_eq!(again.region(0).try_allocate(PAGE).unwrap()[0], 7);
    }
}
