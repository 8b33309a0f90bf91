//! Where things lie in a contiguous memory: extents of any size, used or free.

use std::collections::{BTreeMap, BTreeSet};

/// Part of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Whose it is; `None`: free.
    pub(super) holder: Option<u64>,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// All extents. Free neighbours are one extent.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// By offset: length and holder.
    extents: BTreeMap<u64, (u64, Option<u64>)>,
    /// Free ones as (length, offset).
    free: BTreeSet<(u64, u64)>,
    capacity: u64,
}

impl Space {
    /// A memory of these parts, as (offset, length), all free.
    pub(super) fn new(parts: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut space = Self::default();
        for (offset, len) in parts.into_iter().filter(|&(_, len)| len > 0) {
            space.capacity += len;
            space.extents.insert(offset, (len, None));
            space.free.insert((len, offset));
        }
        space
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The smallest free extent that holds `len` bytes: large ones stay whole for large things.
    pub(super) fn fit(&self, len: u64) -> Option<u64> {
        self.free.range((len, 0)..).next().map(|&(_, offset)| offset)
    }

    /// Gives the first `len` bytes of the free extent at `offset` to `holder`.
    pub(super) fn take(&mut self, offset: u64, len: u64, holder: u64) {
        let Some(extent) = self.extents.get_mut(&offset) else { return };
        let whole = extent.0;
        debug_assert!(extent.1.is_none() && len <= whole);
        *extent = (len, Some(holder));
        self.free.remove(&(whole, offset));
        if len < whole {
            self.extents.insert(offset + len, (whole - len, None));
            self.free.insert((whole - len, offset + len));
        }
    }

    /// Frees the extent at `offset`.
    pub(super) fn give_back(&mut self, offset: u64) {
        let Some(mut freed) = self.at(offset) else { return };
        for next in [self.left_of(&freed), self.right_of(&freed)].into_iter().flatten() {
            if next.holder.is_none() {
                self.free.remove(&(next.len, next.offset));
                self.extents.remove(&next.offset);
                freed =
                    Extent { offset: freed.offset.min(next.offset), len: freed.len + next.len, holder: None };
            }
        }
        self.extents.remove(&offset);
        self.extents.insert(freed.offset, (freed.len, None));
        self.free.insert((freed.len, freed.offset));
    }

    pub(super) fn at(&self, offset: u64) -> Option<Extent> {
        self.extents.get(&offset).map(|&(len, holder)| Extent { offset, len, holder })
    }

    /// What ends where `extent` begins.
    pub(super) fn left_of(&self, extent: &Extent) -> Option<Extent> {
        let (&offset, &(len, holder)) = self.extents.range(..extent.offset).next_back()?;
        (offset + len == extent.offset).then_some(Extent { offset, len, holder })
    }

    /// What begins where `extent` ends.
    pub(super) fn right_of(&self, extent: &Extent) -> Option<Extent> {
        self.at(extent.end())
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<Extent> {
        self.extents.iter().map(|(&offset, &(len, holder))| Extent { offset, len, holder }).collect()
    }
}
