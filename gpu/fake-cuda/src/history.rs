//! Who used which bytes, and whether anything orders them.
//!
//! Of every byte range, the accesses that something to come may still be unordered with. Two accesses conflict when one of them writes and
//! neither is known to the other: each carries the clock of its operation, so that it doesn't matter in which order they are entered (a
//! kernel's accesses are known only when it runs, a copy's when it is submitted).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::clocks::{Clock, Point};
use crate::places::Origin;

/// An operation, as a part of the history of the bytes that it used.
pub(crate) struct Operation {
    pub(crate) point: Point,
    pub(crate) clock: Clock,
    pub(crate) origin: Origin,
    /// What the memory was freed, unmapped or unpinned by, rather than used.
    pub(crate) ends: bool,
}

impl Operation {
    /// Whether one of the two is known to come before the other one.
    fn ordered(&self, other: &Operation) -> bool {
        self.clock.covers(other.point) || other.clock.covers(self.point)
    }
}

#[derive(Clone)]
struct Access {
    operation: Arc<Operation>,
    writes: bool,
}

impl Access {
    /// Whether all that conflicts with `other` from now on conflicts with this one too.
    fn stands_for(&self, other: &Access) -> bool {
        (self.writes || !other.writes)
            && self.operation.clock.covers(other.operation.point)
            && !Arc::ptr_eq(&self.operation, &other.operation)
    }
}

#[derive(Clone)]
struct Segment {
    end: u64,
    accesses: Vec<Access>,
}

/// Something that an access is at odds with.
pub(crate) struct Conflict {
    pub(crate) with: Arc<Operation>,
    /// Whether the earlier entry wrote.
    pub(crate) wrote: bool,
    /// The first bytes of the conflict.
    pub(crate) bytes: Range<u64>,
}

/// The accesses of all byte ranges, of devices and the host: their addresses differ.
#[derive(Default)]
pub(crate) struct History {
    segments: BTreeMap<u64, Segment>,
    /// The number of segments from which all are looked through for what is past.
    sweep_at: usize,
}

impl History {
    /// Enters an access and returns what it conflicts with, each operation once. `settled` is the clock that everything yet to be entered
    /// knows at least.
    pub(crate) fn enter(
        &mut self,
        bytes: Range<u64>,
        operation: &Arc<Operation>,
        writes: bool,
        settled: &Clock,
        all_entered: bool,
    ) -> Vec<Conflict> {
        let mut conflicts: Vec<Conflict> = Vec::new();
        if bytes.is_empty() {
            return conflicts;
        }
        self.split(bytes.start);
        self.split(bytes.end);
        self.fill(&bytes);
        let new = Access { operation: operation.clone(), writes };
        for (start, segment) in self.segments.range_mut(bytes.clone()) {
            segment.accesses.retain(|old| !settled.covers(old.operation.point));
            for old in &segment.accesses {
                if (old.writes || writes)
                    && !Arc::ptr_eq(&old.operation, operation)
                    && !old.operation.ordered(operation)
                    && conflicts.iter().all(|conflict| !Arc::ptr_eq(&conflict.with, &old.operation))
                {
                    let bytes = *start..segment.end;
                    conflicts.push(Conflict { with: old.operation.clone(), wrote: old.writes, bytes });
                }
            }
            if all_entered {
                segment.accesses.retain(|old| !new.stands_for(old));
            }
            let same = |old: &Access| Arc::ptr_eq(&old.operation, operation) && old.writes == writes;
            if !segment.accesses.iter().any(same) {
                segment.accesses.push(new.clone());
            }
        }
        if self.segments.len() > self.sweep_at.max(256) {
            self.sweep(settled);
            self.sweep_at = 2 * self.segments.len();
        }
        conflicts
    }

    /// The operations on `bytes`, or only those that write, that `clock` doesn't know to be complete, each once.
    pub(crate) fn unknown_to(
        &self,
        bytes: Range<u64>,
        clock: &Clock,
        writes_only: bool,
    ) -> Vec<Arc<Operation>> {
        let mut found: Vec<Arc<Operation>> = Vec::new();
        let before =
            self.segments.range(..bytes.start).next_back().filter(|(_, segment)| segment.end > bytes.start);
        for (_, segment) in before.into_iter().chain(self.segments.range(bytes.clone())) {
            for access in &segment.accesses {
                if (access.writes || !writes_only)
                    && !clock.covers(access.operation.point)
                    && found.iter().all(|old| !Arc::ptr_eq(old, &access.operation))
                {
                    found.push(access.operation.clone());
                }
            }
        }
        found
    }

    /// Forgets a range, whose addresses stand for other memory from now on.
    pub(crate) fn forget(&mut self, bytes: Range<u64>) {
        self.split(bytes.start);
        self.split(bytes.end);
        let starts: Vec<u64> = self.segments.range(bytes).map(|(start, _)| *start).collect();
        for start in starts {
            self.segments.remove(&start);
        }
    }

    fn split(&mut self, at: u64) {
        if let Some((_, segment)) = self.segments.range_mut(..at).next_back()
            && segment.end > at
        {
            let after = segment.clone();
            segment.end = at;
            self.segments.insert(at, after);
        }
    }

    /// Makes segments of the parts of `bytes` that have none.
    fn fill(&mut self, bytes: &Range<u64>) {
        let mut gaps = Vec::new();
        let mut at = bytes.start;
        for (start, segment) in self.segments.range(bytes.clone()) {
            if *start > at {
                gaps.push(at..*start);
            }
            at = segment.end;
        }
        if at < bytes.end {
            gaps.push(at..bytes.end);
        }
        for gap in gaps {
            self.segments.insert(gap.start, Segment { end: gap.end, accesses: Vec::new() });
        }
    }

    fn sweep(&mut self, settled: &Clock) {
        self.segments.retain(|_, segment| {
            segment.accesses.retain(|access| !settled.covers(access.operation.point));
            !segment.accesses.is_empty()
        });
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
