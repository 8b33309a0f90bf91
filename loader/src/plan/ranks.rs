//! Which positions a rank takes, in which batch.
//!
//! Rank r of R takes the positions p ≡ r (mod R). From a start s, global batch g is `[s + g·GB, s + (g+1)·GB)` with
//! GB = batch size × R: every residue occurs batch-size times in it, whatever s is, so any world size may go on where any
//! other stopped. What stands at a position is the order's matter.

use crate::{Error, Result};

/// One rank among those that share an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    rank: u32,
    size: u32,
}

impl World {
    /// Rank `rank` of `size`.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no such rank.
    pub fn new(rank: u32, size: u32) -> Result<Self> {
        if rank < size {
            return Ok(Self { rank, size });
        }
        Err(Error::config(format!(
            "rank {rank} of world_size {size} does not exist; ranks count from 0 (check rank=, world_size=, RANK and WORLD_SIZE)"
        )))
    }

    /// The rank, from 0.
    pub fn rank(self) -> u32 {
        self.rank
    }

    /// R: how many ranks there are.
    pub fn size(self) -> u32 {
        self.size
    }
}

/// How far the ranks together have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which epoch.
    pub epoch: u64,
    /// Positions of it that are delivered, over all ranks.
    pub consumed: u64,
}

/// What is left of an epoch, cut in batches for one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochCut {
    total: u64,
    start: Progress,
    batch_size: u64,
    world: World,
    drop_last: bool,
}

impl EpochCut {
    /// Cuts an epoch of `total` samples from `start` on; `batch_size` is rows per rank.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch size of 0, [`Error::Dataset`] for no samples, [`Error::State`] for a start behind the
    /// end.
    pub fn new(total: u64, start: Progress, batch_size: u64, world: World, drop_last: bool) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::config("batch_size is 0; give at least 1"));
        }
        if total == 0 {
            return Err(Error::Dataset { message: "the dataset has no samples".to_owned() });
        }
        if start.consumed > total {
            let message = format!(
                "{} samples are said to be consumed of an epoch of {total}; the state is of another dataset",
                start.consumed
            );
            return Err(Error::State { message });
        }
        Ok(Self { total, start, batch_size, world, drop_last })
    }

    /// GB: samples of a full batch over all ranks.
    pub fn global_batch(&self) -> u64 {
        self.batch_size.saturating_mul(u64::from(self.world.size))
    }

    /// Batches that are left, the same on every rank.
    pub fn batches(&self) -> u64 {
        let left = self.total - self.start.consumed;
        if self.drop_last { left / self.global_batch() } else { left.div_ceil(self.global_batch()) }
    }

    /// Batch `index` of this rank, from 0 at the start of the cut; `None` behind the last one.
    pub fn batch(&self, index: u64) -> Option<RankBatch> {
        if index >= self.batches() {
            return None;
        }
        let ranks = u64::from(self.world.size);
        let start = self.start.consumed + index * self.global_batch();
        let left = self.total - start;
        let rows = left.div_ceil(ranks).min(self.batch_size);
        let first = start + (u64::from(self.world.rank) + ranks - start % ranks) % ranks;
        let valid = self.total.saturating_sub(first).div_ceil(ranks).min(rows);
        Some(RankBatch { index, start, first, rows, valid, ranks, total: self.total })
    }

    /// Where all ranks stand after `batches` of this cut: behind the last one it is the start of the next epoch, also
    /// where a rest was dropped, or nothing was left to begin with.
    pub fn progress(&self, batches: u64) -> Progress {
        if batches >= self.batches() {
            return Progress { epoch: self.start.epoch.saturating_add(1), consumed: 0 };
        }
        Progress { epoch: self.start.epoch, consumed: self.start.consumed + batches * self.global_batch() }
    }
}

/// One rank's part of one global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankBatch {
    /// Its number, from 0 at the start of the cut.
    pub index: u64,
    /// The first position of the global batch.
    pub start: u64,
    /// Rows, the same on every rank.
    pub rows: u64,
    /// Rows that are not padding; they come first. May be 0 in the last batch of an epoch.
    pub valid: u64,
    first: u64,
    ranks: u64,
    total: u64,
}

impl RankBatch {
    /// The position of every row. Padding takes up positions from the epoch's beginning, as torch's DistributedSampler does;
    /// their pages, finished long ago, are needed once more.
    pub fn positions(&self) -> impl ExactSizeIterator<Item = u64> + use<> {
        let Self { first, ranks, total, rows, .. } = *self;
        Rows { next: 0, rows, first, ranks, total }
    }
}

struct Rows {
    next: u64,
    rows: u64,
    first: u64,
    ranks: u64,
    total: u64,
}

impl Iterator for Rows {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let row = self.next;
        (row < self.rows).then(|| {
            self.next += 1;
            (self.first + row * self.ranks) % self.total
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.rows - self.next).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Rows {}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(
        total: u64,
        consumed: u64,
        batch_size: u64,
        (rank, size): (u32, u32),
        drop_last: bool,
    ) -> EpochCut {
        let world = World::new(rank, size).unwrap();
        EpochCut::new(total, Progress { epoch: 3, consumed }, batch_size, world, drop_last).unwrap()
    }

    #[test]
    fn a_start_that_ranks_do_not_divide_still_gives_every_rank_full_batches() {
        let rows = |rank| cut(20, 5, 2, (rank, 3), true).batch(0).unwrap().positions().collect::<Vec<_>>();
        assert_eq!([rows(0), rows(1), rows(2)], [vec![6, 9], vec![7, 10], vec![5, 8]]);
    }

    #[test]
    fn the_last_batch_is_padded_from_the_beginning_of_the_epoch() {
        let last = |rank| cut(10, 0, 2, (rank, 4), false).batch(1).unwrap();
        let rows = |rank| last(rank).positions().collect::<Vec<_>>();
        assert_eq!([rows(0), rows(1), rows(2), rows(3)], [vec![8], vec![9], vec![0], vec![1]]);
        assert_eq!([0, 1, 2, 3].map(|rank| last(rank).valid), [1, 1, 0, 0]);
        assert!(cut(10, 0, 2, (0, 4), false).batch(2).is_none());
    }

    #[test]
    fn more_ranks_than_samples_wrap_more_than_once() {
        let rows = |rank| cut(2, 0, 8, (rank, 7), false).batch(0).unwrap().positions().collect::<Vec<_>>();
        assert_eq!((0..7).flat_map(rows).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn behind_the_last_full_batch_the_next_epoch_begins() {
        let cut = cut(20, 0, 3, (0, 2), true);
        assert_eq!(cut.batches(), 3);
        assert_eq!(cut.progress(2), Progress { epoch: 3, consumed: 12 });
        assert_eq!(cut.progress(3), Progress { epoch: 4, consumed: 0 });
    }

    #[test]
    fn a_rest_smaller_than_a_batch_is_the_end_of_its_epoch() {
        let cut = cut(20, 18, 3, (0, 2), true);
        assert_eq!((cut.batches(), cut.progress(0)), (0, Progress { epoch: 4, consumed: 0 }));
    }

    #[test]
    fn numbers_out_of_range_are_errors() {
        assert!(World::new(2, 2).unwrap_err().to_string().contains("rank 2 of world_size 2"));
        let world = World::new(0, 1).unwrap();
        let start = |consumed| Progress { epoch: 0, consumed };
        assert!(EpochCut::new(5, start(6), 1, world, true).is_err());
        assert!(EpochCut::new(5, start(0), 0, world, true).is_err());
        assert!(EpochCut::new(0, start(0), 1, world, true).is_err());
        let vast = EpochCut::new(5, start(0), u64::MAX, World::new(1, u32::MAX).unwrap(), false).unwrap();
        assert_eq!(vast.batch(0).unwrap().positions().collect::<Vec<_>>(), [1]);
    }
}
