//! Which sample stands at which position of an epoch.
//!
//! A pure function of counts, seed, epoch, canonical ranks, window and mode, defined to the bit: the same on every machine,
//! at every world size, whatever is cached. A position costs O(log shards) time and O(1) memory wherever it lies. Who takes
//! which position is decided in [`ranks`](super::ranks).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lanes::Lanes;
use super::line::{Line, Piece, SampleRef};
use super::perm::Perm;
use super::residency::PageId;
use crate::{Error, Result};

/// Which definition of the order this is. Another definition gets another number and other keys.
pub const ALGORITHM_VERSION: u64 = 1;

/// Samples in the windows of all lanes together: 14 GB of 110 kB photographs, in reach of an NVMe disk and far beyond a batch.
pub const DEFAULT_SHUFFLE_WINDOW: u64 = 131_072;

/// The most canonical ranks: every lane costs memory in each epoch's plan.
pub const MAX_CANONICAL_RANKS: u32 = 1 << 20;

/// The most samples, so that sums of positions never overflow.
const MAX_SAMPLES: u64 = 1 << 62;

/// Samples of a page in storage order. Nothing is shuffled there, so that a page only says how finely reading slides on.
const STORAGE_PAGE: u64 = 32;

/// How far samples are mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderMode {
    /// Shards permuted, and samples within windows: reads stay sequential enough for a disk and an object store.
    #[default]
    Shuffle,
    /// As `Shuffle`, but every lane keeps its shards from epoch to epoch.
    Sticky,
    /// One permutation over all samples; the cache must hold the dataset.
    Global,
    /// The order of storage: `shuffle=False`.
    Storage,
}

impl OrderMode {
    /// Its name in a state and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shuffle => "shuffle",
            Self::Sticky => "sticky",
            Self::Global => "global",
            Self::Storage => "storage",
        }
    }

    /// True where canonical ranks and window shape the order.
    pub fn has_lanes(self) -> bool {
        matches!(self, Self::Shuffle | Self::Sticky)
    }
}

/// Everything that an epoch's order depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderSpec {
    /// Samples of each shard, in the dataset's order; zeros are allowed.
    pub counts: Arc<[u64]>,
    /// The user's seed.
    pub seed: u64,
    /// Which epoch, from 0.
    pub epoch: u64,
    /// The number of ranks that the order suits best, 1 to [`MAX_CANONICAL_RANKS`]: the world size of the first start.
    pub canonical_ranks: u32,
    /// Samples in the windows of all lanes together, at least 1.
    pub shuffle_window: u64,
    /// How far samples are mixed.
    pub mode: OrderMode,
}

impl OrderSpec {
    /// 32 hexadecimal digits over everything but the epoch. Ranks whose digests are equal have the same order in every
    /// epoch. Costs a pass over the counts.
    pub fn hash(&self) -> String {
        let (ranks, window) = match self.mode.has_lanes() {
            true => (u64::from(self.canonical_ranks), self.shuffle_window),
            false => (0, 0),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"forebay-order-hash").update(self.mode.as_str().as_bytes());
        numbers(&mut hasher, [ALGORITHM_VERSION, self.seed, ranks, window, self.counts.len() as u64]);
        numbers(&mut hasher, self.counts.iter().copied());
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The same dataset and settings in another epoch.
    pub fn in_epoch(&self, epoch: u64) -> Self {
        Self { epoch, ..self.clone() }
    }

    /// Checks every number, and returns how many samples there are.
    fn check(&self) -> Result<u64> {
        let message = if self.canonical_ranks == 0 || self.canonical_ranks > MAX_CANONICAL_RANKS {
            format!("canonical_ranks is {}; 1 to {MAX_CANONICAL_RANKS} are possible", self.canonical_ranks)
        } else if self.shuffle_window == 0 {
            "shuffle_window is 0; give at least 1 sample, or shuffle=False".to_owned()
        } else if u32::try_from(self.counts.len()).is_err() {
            format!("the dataset has {} shards; at most {} are possible", self.counts.len(), u32::MAX)
        } else {
            return match self.counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count)) {
                Some(0) => Err(dataset("the dataset has no samples: every shard is empty".to_owned())),
                Some(total) if total <= MAX_SAMPLES => Ok(total),
                _ => Err(dataset(format!(
                    "the shards claim more than {MAX_SAMPLES} samples; check the index or the sidecars"
                ))),
            };
        };
        Err(Error::Config { message })
    }
}

fn dataset(message: String) -> Error {
    Error::Dataset { message }
}

/// The order of one epoch.
#[derive(Debug)]
pub struct Order {
    spec: OrderSpec,
    key: [u8; 32],
    line: Line,
    pub(super) lanes: Lanes,
    /// The number in storage order of every shard's first sample.
    first_numbers: Vec<u64>,
}

impl Order {
    /// Lays out an epoch. Costs O(shards + lanes) once, nothing per sample.
    ///
    /// # Errors
    /// [`Error::Dataset`] where there is no sample or far too many, [`Error::Config`] where a setting is out of range.
    pub fn new(spec: &OrderSpec) -> Result<Self> {
        let total = spec.check()?;
        let kept: Vec<u32> =
            (0u32..).zip(spec.counts.iter()).filter(|(_, n)| **n > 0).map(|(s, _)| s).collect();
        let sizes = || kept.iter().map(|&shard| spec.counts[shard as usize]);
        let key = key_of(b"forebay-order-1", &[spec.seed, spec.epoch], sizes());
        let line_key = match spec.mode {
            OrderMode::Sticky => key_of(b"forebay-order-1-sticky", &[spec.seed], sizes()),
            _ => key,
        };
        let slots = match spec.mode {
            OrderMode::Storage => Perm::identity(kept.len() as u64),
            _ => Perm::new(kept.len() as u64, subkey(&line_key, b"shards", 0, 0)),
        };
        let mut line = Line::with_capacity(kept.len());
        for slot in 0..kept.len() as u64 {
            let shard = kept[slots.at(slot) as usize];
            line.push(Piece { shard, samples: 0..spec.counts[shard as usize] });
        }
        let lanes = match spec.mode {
            OrderMode::Storage => Lanes::single(total, STORAGE_PAGE),
            OrderMode::Global => Lanes::single(total, total),
            _ => Lanes::new(total, spec.canonical_ranks, spec.shuffle_window),
        };
        if spec.mode == OrderMode::Sticky {
            line = permute_pieces(&line, &lanes, &key);
        }
        let first_numbers =
            spec.counts.iter().scan(0, |next, &count| Some(std::mem::replace(next, *next + count))).collect();
        Ok(Self { spec: spec.clone(), key, line, lanes, first_numbers })
    }

    /// What it was laid out from.
    pub fn spec(&self) -> &OrderSpec {
        &self.spec
    }

    /// N: samples, and so positions, of the epoch.
    pub fn total(&self) -> u64 {
        self.lanes.total()
    }

    /// See [`OrderSpec::hash`].
    pub fn hash(&self) -> String {
        self.spec.hash()
    }

    /// Bytes on the heap, the counts included: what an epoch's plan costs, however many samples there are.
    pub fn memory_bytes(&self) -> usize {
        self.line.memory_bytes()
            + self.lanes.memory_bytes()
            + (self.first_numbers.capacity() + self.spec.counts.len()) * size_of::<u64>()
    }

    /// The sample at `position`. To walk many positions, a [`Cursor`](super::Cursor) is faster.
    ///
    /// # Panics
    /// Where `position` is not below [`total`](Self::total).
    pub fn sample(&self, position: u64) -> SampleRef {
        self.nth_in_page(position, 0)
    }

    /// The position at which `sample` stands: the inverse of [`sample`](Self::sample). O(log shards); the first call sorts the shards.
    ///
    /// # Panics
    /// Where the dataset has no such sample.
    pub fn position_of(&self, sample: SampleRef) -> u64 {
        let x = self.line.place_of(sample);
        let x =
            x.unwrap_or_else(|| panic!("sample {} of shard {} does not exist", sample.index, sample.shard));
        let (place, along) = self.lanes.place_of(x);
        let opened = self.open(self.lanes.page_at(place, along));
        let offset = opened.offsets.start + opened.perm.inverse(along - opened.offsets.start);
        self.lanes.position(place, offset)
    }

    /// The sample that stands in for one that was skipped: `attempt` places on in the permuted order of its window, cyclic.
    /// Attempt 0 is the sample itself. Where the window is used up (small datasets have windows of one sample) the positions behind
    /// `position` follow, cyclic; `None` after as many attempts as there are samples, and one window.
    ///
    /// # Panics
    /// Where `position` is not below [`total`](Self::total).
    pub fn replacement(&self, position: u64, attempt: u64) -> Option<SampleRef> {
        let samples = self.page(self.page_of(position))?.samples;
        if attempt < samples {
            return Some(self.nth_in_page(position, attempt));
        }
        let further = attempt - samples + 1;
        (further < self.total()).then(|| self.sample((position + further) % self.total()))
    }

    /// The sample of this [number](Self::sample_number).
    ///
    /// # Panics
    /// Where `number` is not below [`total`](Self::total).
    pub fn sample_numbered(&self, number: u64) -> SampleRef {
        assert!(number < self.total(), "sample {number} of {}", self.total());
        // Of empty shards, whose first number is the next one's, the last that begins here holds it.
        let shard = self.first_numbers.partition_point(|&first| first <= number) - 1;
        SampleRef { shard: shard as u32, index: number - self.first_numbers[shard] }
    }

    /// The number of a sample in storage order, which random augmentation is keyed by.
    ///
    /// # Panics
    /// Where the shard is not one of the dataset's.
    pub fn sample_number(&self, sample: SampleRef) -> u64 {
        self.first_numbers[sample.shard as usize] + sample.index
    }

    fn nth_in_page(&self, position: u64, skip: u64) -> SampleRef {
        let (place, offset) = self.locate(position);
        let opened = self.open(self.lanes.page_at(place, offset));
        let k = (offset - opened.offsets.start + skip) % opened.perm.len();
        self.line.at(opened.base + opened.perm.at(k), &self.line.all())
    }

    pub(super) fn locate(&self, position: u64) -> (u32, u64) {
        assert!(position < self.total(), "position {position} of an epoch of {} samples", self.total());
        self.lanes.locate(position)
    }

    /// Prepares a page for look-ups.
    pub(super) fn open(&self, page: PageId) -> OpenPage {
        let offsets = self.lanes.offsets(page);
        let samples = offsets.end - offsets.start;
        let perm = match self.spec.mode {
            OrderMode::Storage => Perm::identity(samples),
            OrderMode::Global => Perm::new(samples, subkey(&self.key, b"global", 0, 0)),
            _ => Perm::new(samples, subkey(&self.key, b"window", u64::from(page.place), page.window)),
        };
        OpenPage { page, base: self.lanes.stretch(page.place).start + offsets.start, offsets, perm }
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }
}

/// A page with what its look-ups need.
#[derive(Debug)]
pub(super) struct OpenPage {
    pub(super) page: PageId,
    /// Where its first sample lies on the line.
    pub(super) base: u64,
    /// Its samples' numbers in the lane.
    pub(super) offsets: std::ops::Range<u64>,
    pub(super) perm: Perm,
}

/// Sticky: the pieces of shards inside every lane, in an order of the epoch's.
fn permute_pieces(line: &Line, lanes: &Lanes, key: &[u8; 32]) -> Line {
    let mut permuted = Line::with_capacity(line.all().len() + lanes.places().len());
    for place in lanes.places() {
        let pieces: Vec<Piece> = line.pieces(lanes.stretch(place)).collect();
        let order = Perm::new(pieces.len() as u64, subkey(key, b"pieces", u64::from(place), 0));
        for k in 0..order.len() {
            permuted.push(pieces[order.at(k) as usize].clone());
        }
    }
    permuted
}

/// A hash, not a sum: with a sum (seed 1, epoch 0) would be (0, 1).
fn key_of(name: &[u8], settings: &[u64], sizes: impl ExactSizeIterator<Item = u64>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name);
    numbers(&mut hasher, settings.iter().copied().chain([sizes.len() as u64]).chain(sizes));
    *hasher.finalize().as_bytes()
}

fn subkey(key: &[u8; 32], tag: &[u8], a: u64, b: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(tag);
    numbers(&mut hasher, [a, b]);
    super::random::first_u64(&hasher.finalize())
}

pub(crate) fn numbers(hasher: &mut blake3::Hasher, values: impl IntoIterator<Item = u64>) {
    values.into_iter().for_each(|value| {
        hasher.update(&value.to_le_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(counts: &[u64], mode: OrderMode) -> OrderSpec {
        OrderSpec { counts: counts.into(), seed: 1, epoch: 0, canonical_ranks: 2, shuffle_window: 64, mode }
    }

    #[test]
    fn what_cannot_be_ordered_is_an_error() {
        let fails = |spec: OrderSpec| Order::new(&spec).map(|order| order.total()).unwrap_err().to_string();
        assert!(fails(spec(&[], OrderMode::Shuffle)).contains("no samples"));
        assert!(fails(spec(&[0, 0], OrderMode::Storage)).contains("no samples"));
        assert!(fails(spec(&[u64::MAX, 2], OrderMode::Shuffle)).contains("claim more than"));
        let good = spec(&[5], OrderMode::Shuffle);
        assert!(fails(OrderSpec { canonical_ranks: 0, ..good.clone() }).contains("canonical_ranks"));
        assert!(fails(OrderSpec { canonical_ranks: u32::MAX, ..good.clone() }).contains("canonical_ranks"));
        assert!(fails(OrderSpec { shuffle_window: 0, ..good }).contains("shuffle_window"));
    }

    #[test]
    fn the_hash_covers_what_shapes_the_order_and_nothing_else() {
        let base = spec(&[5, 0, 7], OrderMode::Shuffle);
        let others = [
            OrderSpec { counts: [5, 7, 0].into(), ..base.clone() },
            OrderSpec { seed: 2, ..base.clone() },
            OrderSpec { canonical_ranks: 3, ..base.clone() },
            OrderSpec { shuffle_window: 65, ..base.clone() },
            OrderSpec { mode: OrderMode::Sticky, ..base.clone() },
        ];
        assert!(others.iter().all(|other| other.hash() != base.hash()));
        assert_eq!(base.in_epoch(9).hash(), base.hash());
        let storage = OrderSpec { mode: OrderMode::Storage, ..base };
        assert_eq!(
            OrderSpec { canonical_ranks: 9, shuffle_window: 1, ..storage.clone() }.hash(),
            storage.hash()
        );
    }

    #[test]
    fn storage_order_is_the_order_of_storage() {
        let order = Order::new(&spec(&[2, 0, 3], OrderMode::Storage)).unwrap();
        let samples: Vec<_> = (0..5).map(|p| order.sample(p)).map(|s| (s.shard, s.index)).collect();
        assert_eq!(samples, [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]);
        assert!((0..5).all(|p| order.sample_number(order.sample(p)) == p));
    }
}
