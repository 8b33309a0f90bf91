//! Counters of what the pipeline did.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use forebay_cache::{Tier, Tiers};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Most error texts kept for `stats()`.
const KEPT_ERRORS: usize = 100;

/// A loader's counters since it was opened.
#[derive(Debug)]
pub(crate) struct Account {
    samples: [AtomicU64; TIERS],
    bytes: [AtomicU64; TIERS],
    decode_nanos: AtomicU64,
    max_errors: u64,
    skipped: Mutex<Skipped>,
}

#[derive(Debug, Default)]
struct Skipped {
    count: u64,
    texts: Vec<String>,
}

/// Names of the tiers in the order of `Account`'s counters: those of members' bytes, nearest first, then those of decoded samples, in host
/// memory and on a device.
pub(crate) const TIER_NAMES: [&str; TIERS] = ["memory", "nvme", "origin", "decoded", "gpu"];
const TIERS: usize = 5;
const DECODED: usize = 3;
const DEVICE: usize = 4;

impl Account {
    pub(crate) fn new(max_errors: u64) -> Self {
        Self {
            samples: Default::default(),
            bytes: Default::default(),
            decode_nanos: AtomicU64::new(0),
            max_errors,
            skipped: Mutex::default(),
        }
    }

    /// Counts one sample's reads.
    pub(crate) fn read(&self, tiers: Tiers) {
        let farthest = match tiers.farthest() {
            Tier::Ram => 0,
            Tier::Disk => 1,
            Tier::Origin => 2,
        };
        self.samples[farthest].fetch_add(1, Relaxed);
        for (counter, bytes) in self.bytes.iter().zip([tiers.ram, tiers.disk, tiers.origin]) {
            counter.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts samples that were made of what was kept of them.
    pub(crate) fn kept(&self, samples: u64, bytes: u64) {
        self.samples[DECODED].fetch_add(samples, Relaxed);
        self.bytes[DECODED].fetch_add(bytes, Relaxed);
    }

    /// Counts samples that a device made of what it kept of them.
    pub(crate) fn near(&self, samples: u64, bytes: u64) {
        self.samples[DEVICE].fetch_add(samples, Relaxed);
        self.bytes[DEVICE].fetch_add(bytes, Relaxed);
    }

    /// Counts a worker's time for one sample.
    pub(crate) fn decoded(&self, took: Duration) {
        self.decode_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts and lists a skipped sample; an error where it is one too many.
    pub(crate) fn skip(&self, error: &Error) -> Result<()> {
        let mut skipped = self.skipped.lock();
        if skipped.count >= self.max_errors {
            return Err(Error::TooManyErrors {
                skipped: skipped.count,
                max: self.max_errors,
                last: Box::new(error.clone()),
            });
        }
        skipped.count += 1;
        tracing::warn!(%error, "sample skipped");
        if skipped.texts.len() < KEPT_ERRORS {
            skipped.texts.push(error.to_string());
        }
        Ok(())
    }

    pub(crate) fn samples_by_tier(&self) -> [u64; TIERS] {
        std::array::from_fn(|tier| self.samples[tier].load(Relaxed))
    }

    pub(crate) fn bytes_by_tier(&self) -> [u64; TIERS] {
        std::array::from_fn(|tier| self.bytes[tier].load(Relaxed))
    }

    pub(crate) fn decode_time(&self) -> Duration {
        Duration::from_nanos(self.decode_nanos.load(Relaxed))
    }

    /// How many samples were skipped, and the first errors' texts.
    pub(crate) fn skipped(&self) -> (u64, Vec<String>) {
        let skipped = self.skipped.lock();
        (skipped.count, skipped.texts.clone())
    }
}
