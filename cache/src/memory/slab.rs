//! A piece of memory with one owner: an extent of a region, or heap memory that a budget counts.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::budget::Share;
use super::lease::Lease;
use super::region::Shared;

/// Alignment of heap memory: a cache line, and what SIMD loads ask for.
pub(super) const HEAP_ALIGN: usize = 64;

/// Whose memory a slab is.
enum Home {
    Region {
        shared: Arc<Shared>,
        offset: usize,
    },
    /// Counted by a budget.
    Heap {
        _bytes: Vec<u8>,
        _share: Share,
    },
    /// It was taken away again.
    Nowhere,
}

/// A piece of memory with one owner, to write into; what it holds at first is whatever was there before. Page-aligned where it is a
/// region's, aligned to 64 bytes where a budget counts it.
pub struct Slab {
    home: Home,
    pages: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a slab is the only owner of its extent, like a Box<[u8]>.
unsafe impl Send for Slab {}
// SAFETY: shared access only reads.
unsafe impl Sync for Slab {}

impl Slab {
    /// An extent of a region: `pages` bytes at `start`, of which the first `len` are visible. Nobody else may have any of it.
    pub(super) fn in_region(
        shared: Arc<Shared>,
        offset: usize,
        pages: usize,
        start: NonNull<u8>,
        len: usize,
    ) -> Self {
        Self { home: Home::Region { shared, offset }, pages, start, len }
    }

    /// Heap memory that `share` counts.
    pub(super) fn on_heap(len: usize, share: Share) -> Self {
        // Zeros from the allocator are fresh pages where there are many: nothing is written before it is used.
        let mut bytes = vec![0; len + HEAP_ALIGN];
        let start = bytes.as_mut_ptr();
        // SAFETY: fewer bytes than the buffer has more than `len`; the buffer stays where it is when the Vec moves.
        let start = unsafe { NonNull::new_unchecked(start.add(start.align_offset(HEAP_ALIGN))) };
        Self { home: Home::Heap { _bytes: bytes, _share: share }, pages: len, start, len }
    }

    /// Where in its region it lies, and how much it takes; giving that back is the caller's now. None where it is no region's.
    pub(super) fn into_extent(mut self) -> Option<(usize, usize)> {
        match std::mem::replace(&mut self.home, Home::Nowhere) {
            Home::Region { offset, .. } => Some((offset, self.pages)),
            Home::Heap { .. } | Home::Nowhere => None,
        }
    }

    /// Bytes that may be written: whole pages (where it is a region's), at least `len()`.
    pub fn capacity(&self) -> usize {
        self.pages
    }

    /// Sets the visible length, up to the capacity: direct I/O reads whole granules, a slice is what was asked for.
    ///
    /// # Panics
    /// Where `len` is more than the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.pages, "{len} bytes in a slab of {}", self.pages);
        self.len = len;
    }

    /// The address, stable for the slab's life and its leases'.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Ends writing: from here on the bytes are read, through any number of leases.
    pub fn freeze(self) -> Lease {
        let (start, len) = (self.start, self.len);
        // SAFETY: the slab moves into the lease's owner; its memory stays where it is until that owner drops.
        unsafe { Lease::from_raw(Arc::new(self), start, len) }
    }
}

impl Deref for Slab {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, initialised (anonymous memory starts as zeros), and owned by this slab alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab({} of {} bytes)", self.len, self.pages)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        if let Home::Region { shared, offset } = &self.home {
            shared.put(*offset, self.pages);
        }
    }
}
