//! `cache_limit`, counted in allocated blocks: space is reserved before it is written, and turned into what the file system really took
//! afterwards.

/// What one block may take besides its bytes: its page of checksums, and nodes of the extent trees that hold both files.
pub(super) const BLOCK_OVERHEAD: u64 = (4 + 32) << 10;

/// What a new object may take besides its blocks: growth of its folder, and first nodes of the trees.
pub(super) const OBJECT_OVERHEAD: u64 = 32 << 10;

/// The least that is worth running: the index's share and a few blocks.
pub(super) const LEAST_LIMIT: u64 = 16 << 20;

/// The account of one folder.
#[derive(Debug, Default)]
pub(super) struct Quota {
    limit: u64,
    /// Allocated by objects and aux files, as the file system last said.
    files: u64,
    /// Allocated by folders, the lock and other small things.
    fixed: u64,
    /// Taken by the index, or set aside for it.
    index: u64,
    reserved: u64,
}

impl Quota {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes of objects and aux files.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// Everything that counts.
    pub(super) fn used(&self) -> u64 {
        self.files + self.fixed + self.index + self.reserved
    }

    /// Bytes still free.
    pub(super) fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used())
    }

    /// Bytes that eviction should keep free ahead of writes: 2 % of the limit, a block at least.
    pub(super) fn headroom(&self) -> u64 {
        (self.limit / 50).max(crate::object::BLOCK_BYTES + BLOCK_OVERHEAD + OBJECT_OVERHEAD)
    }

    /// Sets `bytes` aside, or nothing where they don't fit.
    #[must_use]
    pub(super) fn try_reserve(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.free();
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    pub(super) fn release(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.reserved, "released more than was reserved");
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// A file that took `before` takes `now`.
    pub(super) fn moved(&mut self, before: u64, now: u64) {
        self.files = (self.files + now).saturating_sub(before);
    }

    /// Folders and the like.
    pub(super) fn add_fixed(&mut self, bytes: u64) {
        self.fixed += bytes;
    }

    /// The index file takes so many bytes, with the room that it keeps for its next growth.
    pub(super) fn set_index(&mut self, bytes: u64) {
        self.index = bytes;
    }

    /// False where more is in use than may be: the limit was lowered, or the index has grown.
    pub(super) fn holds(&self) -> bool {
        self.used() <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_reserved() {
        let mut quota = Quota::new(10 << 20);
        let free = quota.free();
        assert!(quota.try_reserve(free) && !quota.try_reserve(1));
        quota.release(free);
        quota.moved(0, 4 << 20);
        assert_eq!(quota.free(), free - (4 << 20));
        quota.moved(4 << 20, 0);
        assert_eq!(quota.free(), free);
    }
}
