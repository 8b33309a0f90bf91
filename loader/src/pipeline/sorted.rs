//! Looks whether labels are sorted by shard: a shuffle within windows then mixes few classes, and training suffers without a sign.

use std::collections::HashMap;

use forebay_cache::memory::Row;
use parking_lot::Mutex;

/// Samples that are looked at; enough to tell, and then the question is closed.
const LOOKED_AT: usize = 2048;
/// A shard with fewer of them says nothing.
const LEAST_OF_A_SHARD: usize = 16;
/// A shard is nearly constant where this part of its samples has one label.
const NEARLY: f64 = 0.95;

/// Collects (shard, label) pairs of the first samples.
#[derive(Debug)]
pub(crate) struct SortedLabels {
    /// None: enough was seen.
    seen: Mutex<Option<Vec<(u32, i64)>>>,
}

impl Default for SortedLabels {
    fn default() -> Self {
        Self { seen: Mutex::new(Some(Vec::new())) }
    }
}

impl SortedLabels {
    /// Takes a batch's labels; true once, where what was seen looks sorted.
    pub(crate) fn look(&self, labels: impl Iterator<Item = (u32, i64)>) -> bool {
        let mut seen = self.seen.lock();
        let Some(so_far) = &mut *seen else { return false };
        so_far.extend(labels);
        if so_far.len() < LOOKED_AT {
            return false;
        }
        seen.take().is_some_and(|seen| is_sorted_by_shard(&seen))
    }
}

/// The label that a decoder wrote into a row.
pub(crate) fn label(row: &Row) -> Option<i64> {
    Some(i64::from_ne_bytes((**row).try_into().ok()?))
}

/// True where almost every shard has almost one label, and not all the same one.
fn is_sorted_by_shard(seen: &[(u32, i64)]) -> bool {
    let mut shards: HashMap<u32, HashMap<i64, usize>> = HashMap::new();
    for &(shard, label) in seen {
        *shards.entry(shard).or_default().entry(label).or_default() += 1;
    }
    let mut constant = HashMap::new();
    let (mut judged, mut nearly) = (0, 0);
    for labels in shards.values() {
        let all: usize = labels.values().sum();
        let Some((&label, &most)) = labels.iter().max_by_key(|(_, count)| **count) else { continue };
        if all < LEAST_OF_A_SHARD {
            continue;
        }
        judged += 1;
        if most as f64 >= NEARLY * all as f64 {
            nearly += 1;
            *constant.entry(label).or_insert(0) += 1;
        }
    }
    judged >= 2 && constant.len() >= 2 && nearly as f64 >= NEARLY * f64::from(judged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(label: impl Fn(u32, usize) -> i64) -> bool {
        let labels = SortedLabels::default();
        (0..LOOKED_AT).any(|sample| {
            let shard = (sample % 8) as u32;
            labels.look(std::iter::once((shard, label(shard, sample))))
        })
    }

    #[test]
    fn a_class_per_shard_is_sorted_and_mixed_or_single_classes_are_not() {
        assert!(looks(|shard, _| i64::from(shard)));
        assert!(looks(|shard, sample| if sample % 256 == 3 { -1 } else { i64::from(shard / 2) }));
        assert!(!looks(|_, sample| sample as i64 / 8 % 10));
        assert!(!looks(|_, _| 7), "one class in all is no order");
    }

    #[test]
    fn it_is_said_once() {
        let labels = SortedLabels::default();
        let all = || (0..LOOKED_AT).map(|sample| ((sample % 4) as u32, (sample % 4) as i64));
        assert!(labels.look(all()));
        assert!(!labels.look(all()));
    }
}
