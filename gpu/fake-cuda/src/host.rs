//! Host memory that devices copy from and to: what is pinned, and what the CPU must leave alone while a copy is under way.
//!
//! A copy's source is hashed when the copy is submitted, and again when the host first knows that it is complete: any write of the CPU in
//! between is found, whenever the copy itself ran. A copy's target is poisoned at submission, so that a reader who doesn't wait reads
//! nonsense on every run; that it still holds the poison is checked when the copy runs, and what the copy wrote when the host knows of it.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range;

use crate::clocks::{Clock, Point};
use crate::places::Origin;

/// What the target of a copy to the host holds until the copy ran.
pub(crate) const PENDING: u8 = 0xAD;

/// How a range came to be pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pinning {
    /// cuMemHostRegister
    Registered,
    /// cuMemHostAlloc and cuMemAllocHost
    Allocated,
}

/// A range of pinned host memory.
pub(crate) struct Pinned {
    pub(crate) end: u64,
    pub(crate) pinning: Pinning,
    pub(crate) flags: u32,
    pub(crate) context: u64,
    pub(crate) origin: Origin,
}

/// How much of a range is pinned.
pub(crate) enum Cover {
    All,
    None,
    /// A part, or parts by different calls: the driver refuses such copies.
    Part,
}

/// All pinned host memory.
#[derive(Default)]
pub(crate) struct PinnedMemory(pub(crate) BTreeMap<u64, Pinned>);

impl PinnedMemory {
    /// A pinned range that shares a page with `bytes`, which is what makes two registrations overlap.
    pub(crate) fn overlapping(&self, bytes: &Range<u64>) -> Option<&Pinned> {
        let pages = bytes.start & !4095..bytes.end.next_multiple_of(4096);
        self.0
            .range(..pages.end)
            .rev()
            .map(|(_, pinned)| pinned)
            .find(|pinned| pinned.end.next_multiple_of(4096) > pages.start)
    }

    pub(crate) fn cover(&self, bytes: &Range<u64>) -> Cover {
        match self.around(bytes.start) {
            Some((_, pinned)) if bytes.end <= pinned.end => Cover::All,
            Some(_) => Cover::Part,
            None if self.0.range(bytes.clone()).next().is_some() => Cover::Part,
            None => Cover::None,
        }
    }

    /// The pinned range that `address` lies in, and where it begins.
    pub(crate) fn around(&self, address: u64) -> Option<(u64, &Pinned)> {
        let (start, pinned) = self.0.range(..=address).next_back()?;
        (address < pinned.end).then_some((*start, pinned))
    }
}

/// Host memory that the CPU must not write to until it knows that a copy is complete.
pub(crate) struct Guard {
    pub(crate) bytes: Range<u64>,
    pub(crate) point: Point,
    pub(crate) origin: Origin,
    /// Of the source at submission or when the copy ran, or of the target once it ran.
    pub(crate) hash: Option<u64>,
    /// Whether the copy writes there.
    pub(crate) target: bool,
    /// Whether the target holds [`PENDING`] until the copy runs.
    pub(crate) poisoned: bool,
}

impl Guard {
    /// Whether the bytes are others than they were, or gone.
    fn is_changed(&self) -> bool {
        self.hash.is_some_and(|hash| !is_mapped(&self.bytes) || hash != hash_of(&self.bytes))
    }
}

/// The guards of all copies that the host doesn't know to be complete.
#[derive(Default)]
pub(crate) struct Guards(Vec<Guard>);

impl Guards {
    pub(crate) fn add(&mut self, guard: Guard) {
        self.0.push(guard);
    }

    /// Takes the guards out that `host` knows to be over, and those of them whose bytes were written to.
    pub(crate) fn release(&mut self, host: &Clock) -> Vec<Guard> {
        self.take(|guard| host.covers(guard.point))
    }

    /// Takes the guards out whose bytes an operation of `point`'s is about to write, which is its own way to change them.
    pub(crate) fn written(&mut self, bytes: &Range<u64>, point: Point) -> Vec<Guard> {
        self.take(|guard| {
            guard.point != point
                && guard.hash.is_some()
                && guard.bytes.start < bytes.end
                && bytes.start < guard.bytes.end
        })
    }

    /// Takes the guards out whose bytes were written to although they aren't over: all of them, or those that touch `bytes`.
    pub(crate) fn changed(&mut self, bytes: Option<&Range<u64>>) -> Vec<Guard> {
        let touches = |guard: &Guard| {
            bytes.is_none_or(|bytes| guard.bytes.start < bytes.end && bytes.start < guard.bytes.end)
        };
        self.0.extract_if(.., |guard| touches(guard) && guard.is_changed()).collect()
    }

    fn take(&mut self, over: impl Fn(&Guard) -> bool) -> Vec<Guard> {
        self.0.extract_if(.., |guard| over(guard)).filter(Guard::is_changed).collect()
    }

    /// The copy of `point` is about to read its source, or wrote its target: from here on the bytes stay as they are.
    pub(crate) fn look(&mut self, point: Point) {
        if let Some(guard) = self.0.iter_mut().find(|guard| guard.point == point && guard.hash.is_none()) {
            guard.hash = Some(hash_of(&guard.bytes));
        }
    }

    /// Whether somebody wrote to the target of the copy of `point`, which hasn't run yet.
    pub(crate) fn disturbed(&self, point: Point) -> bool {
        let waiting = |guard: &&Guard| guard.point == point && guard.poisoned && guard.hash.is_none();
        self.0
            .iter()
            .find(waiting)
            .is_some_and(|guard| bytes_of(&guard.bytes).iter().any(|byte| *byte != PENDING))
    }

    /// Forgets the guards of a range that is no longer pinned.
    pub(crate) fn forget(&mut self, bytes: &Range<u64>) {
        self.0.retain(|guard| guard.bytes.end <= bytes.start || bytes.end <= guard.bytes.start);
    }
}

/// Whether there is memory at every page of a range.
pub(crate) fn is_mapped(bytes: &Range<u64>) -> bool {
    let first = bytes.start & !4095;
    let pages = (bytes.end - first).div_ceil(4096) as usize;
    let mut resident = vec![0u8; pages];
    // SAFETY: looks at the page table only, and writes a byte per page.
    unsafe { libc::mincore(first as *mut c_void, pages * 4096, resident.as_mut_ptr()) == 0 }
}

fn bytes_of(bytes: &Range<u64>) -> &[u8] {
    // SAFETY: the range is pinned host memory that a copy was submitted on: its owner promised the driver that it stays mapped until the copy
    // is complete. The CPU may write to it meanwhile, which is what is being looked for; a torn read is as good as any other one then.
    unsafe { std::slice::from_raw_parts(bytes.start as *const u8, (bytes.end - bytes.start) as usize) }
}

/// A hash of host memory: four lanes of a multiply and rotate, some 10 GB/s, since a whole batch is hashed twice per copy.
pub(crate) fn hash_of(bytes: &Range<u64>) -> u64 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let bytes = bytes_of(bytes);
    let mut lanes = [1u64, 2, 3, bytes.len() as u64];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER).rotate_left(29);
        }
    }
    for byte in rest {
        lanes[0] = (lanes[0] ^ u64::from(*byte)).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    lanes.iter().fold(0, |all: u64, lane| (all ^ lane).wrapping_mul(MULTIPLIER).rotate_left(31))
}
