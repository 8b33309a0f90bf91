//! The right to read bytes where they are.
#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes that stay where they are for as long as this, a clone or a slice of it is held: not evicted, not overwritten, not
/// unmapped. Slicing copies nothing.
#[derive(Clone)]
pub struct Lease {
    owner: Arc<dyn Any + Send + Sync>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a lease only reads, and its owner is Send and Sync.
unsafe impl Send for Lease {}
// SAFETY: as above.
unsafe impl Sync for Lease {}

impl Lease {
    /// A lease of `len` bytes at `start` that `owner` keeps in place.
    ///
    /// # Safety
    /// The bytes are initialised, and neither move nor change until `owner` is dropped.
    pub unsafe fn from_raw(owner: Arc<dyn Any + Send + Sync>, start: NonNull<u8>, len: usize) -> Self {
        Self { owner, start, len }
    }

    /// A lease of bytes on the heap: small things, and tests.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let mut bytes = bytes.into_boxed_slice();
        let start = NonNull::new(bytes.as_mut_ptr()).unwrap_or(NonNull::dangling());
        let len = bytes.len();
        // SAFETY: a boxed slice doesn't move when its box does, and nobody can write to it inside the Arc.
        unsafe { Self::from_raw(Arc::new(bytes), start, len) }
    }

    /// The same bytes, with `guard` held for as long as the result or a slice of it is: for those who count what is out.
    pub fn guarded(&self, guard: Arc<dyn Any + Send + Sync>) -> Self {
        Self { owner: Arc::new((self.owner.clone(), guard)), start: self.start, len: self.len }
    }

    /// True where another lease of the same memory exists.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.owner) > 1
    }

    /// A part of these bytes.
    ///
    /// # Panics
    /// Where the range reaches behind the end.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of a lease of {} bytes",
            self.len
        );
        // SAFETY: inside the lease, as just checked.
        let start = unsafe { self.start.add(range.start) };
        Self { owner: self.owner.clone(), start, len: range.end - range.start }
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: promised by whoever made the lease.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({} bytes)", self.len)
    }
}
