//! The line: shards, or pieces of them, one behind the other.
//!
//! Promises that a number on the line finds its sample in O(log pieces). In what order the pieces lie is the order's choice.

use std::ops::Range;
use std::sync::OnceLock;

/// One sample of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleRef {
    /// The shard's number in the dataset.
    pub shard: u32,
    /// Which of the shard's samples, from 0 in storage order.
    pub index: u64,
}

/// Neighbouring samples of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The shard's number in the dataset.
    pub shard: u32,
    /// Which of its samples, in storage order.
    pub samples: Range<u64>,
}

impl Piece {
    /// How many samples.
    pub fn len(&self) -> u64 {
        self.samples.end - self.samples.start
    }

    /// True where it holds none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// The same samples in as few pieces as possible, in storage order.
pub fn merge_pieces(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| (piece.shard, piece.samples.start));
    let mut merged: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if last.shard == piece.shard && last.samples.end >= piece.samples.start => {
                last.samples.end = last.samples.end.max(piece.samples.end);
            }
            _ => merged.push(piece),
        }
    }
    merged
}

/// Pieces one behind the other, none empty.
#[derive(Debug, Default)]
pub(super) struct Line {
    firsts: Vec<SampleRef>,
    ends: Vec<u64>,
    /// The slots in storage order, once somebody looks for a sample.
    sorted: OnceLock<Vec<u32>>,
}

impl Line {
    pub(super) fn with_capacity(pieces: usize) -> Self {
        Self { firsts: Vec::with_capacity(pieces), ends: Vec::with_capacity(pieces), sorted: OnceLock::new() }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        debug_assert!(!piece.is_empty());
        self.ends.push(self.len() + piece.len());
        self.firsts.push(SampleRef { shard: piece.shard, index: piece.samples.start });
    }

    /// Samples on the line.
    pub(super) fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let sorted = self.sorted.get().map_or(0, Vec::capacity);
        self.firsts.capacity() * size_of::<SampleRef>()
            + self.ends.capacity() * size_of::<u64>()
            + sorted * size_of::<u32>()
    }

    /// The slots of the pieces that a stretch of the line touches.
    pub(super) fn slots(&self, stretch: &Range<u64>) -> Range<usize> {
        if stretch.is_empty() {
            return 0..0;
        }
        let first = self.ends.partition_point(|&end| end <= stretch.start);
        let last = first + self.ends[first..].partition_point(|&end| end < stretch.end);
        first..last + 1
    }

    /// The sample at `x`, which lies in one of the pieces `slots`.
    pub(super) fn at(&self, x: u64, slots: &Range<usize>) -> SampleRef {
        let slot = slots.start + self.ends[slots.clone()].partition_point(|&end| end <= x);
        let begin = slot.checked_sub(1).map_or(0, |before| self.ends[before]);
        let first = self.firsts[slot];
        SampleRef { shard: first.shard, index: first.index + (x - begin) }
    }

    /// Where on the line a sample lies; `None` where no piece holds it.
    pub(super) fn place_of(&self, sample: SampleRef) -> Option<u64> {
        let sorted = self.sorted.get_or_init(|| {
            let mut slots: Vec<u32> = (0..self.firsts.len() as u32).collect();
            slots.sort_unstable_by_key(|&slot| self.firsts[slot as usize]);
            slots
        });
        let behind = sorted.partition_point(|&slot| self.firsts[slot as usize] <= sample);
        let slot = sorted[behind.checked_sub(1)?] as usize;
        let begin = slot.checked_sub(1).map_or(0, |before| self.ends[before]);
        let x = begin + sample.index.checked_sub(self.firsts[slot].index)?;
        (self.firsts[slot].shard == sample.shard && x < self.ends[slot]).then_some(x)
    }

    /// All slots.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.ends.len()
    }

    /// What a stretch of the line holds, in the line's order.
    pub(super) fn pieces(&self, stretch: Range<u64>) -> impl Iterator<Item = Piece> {
        self.slots(&stretch).map(move |slot| {
            let begin = slot.checked_sub(1).map_or(0, |before| self.ends[before]);
            let (from, to) = (stretch.start.max(begin), stretch.end.min(self.ends[slot]));
            let first = self.firsts[slot];
            Piece { shard: first.shard, samples: first.index + from - begin..first.index + to - begin }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(shard: u32, samples: Range<u64>) -> Piece {
        Piece { shard, samples }
    }

    #[test]
    fn a_stretch_is_cut_at_the_edges_of_pieces() {
        let mut line = Line::default();
        [piece(4, 10..13), piece(1, 0..2), piece(4, 0..10)].into_iter().for_each(|piece| line.push(piece));
        let cut: Vec<_> = line.pieces(1..6).collect();
        assert_eq!(cut, [piece(4, 11..13), piece(1, 0..2), piece(4, 0..1)]);
        assert_eq!(line.pieces(3..5).collect::<Vec<_>>(), [piece(1, 0..2)]);
        assert_eq!(line.pieces(5..5).count(), 0);
        assert_eq!(line.at(4, &line.all()), SampleRef { shard: 1, index: 1 });
        for x in 0..line.len() {
            assert_eq!(line.place_of(line.at(x, &line.all())), Some(x));
        }
        for (shard, index) in [(0, 0), (1, 2), (4, 13), (5, 0)] {
            assert_eq!(line.place_of(SampleRef { shard, index }), None);
        }
        assert_eq!(merge_pieces(cut), [piece(1, 0..2), piece(4, 0..1), piece(4, 11..13)]);
    }

    #[test]
    fn neighbouring_pieces_merge() {
        let merged = merge_pieces(vec![piece(1, 5..9), piece(0, 0..1), piece(1, 0..5), piece(1, 7..8)]);
        assert_eq!(merged, [piece(0, 0..1), piece(1, 0..9)]);
    }
}
