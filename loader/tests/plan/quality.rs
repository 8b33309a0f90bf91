//! Is it random? Chi-square tests against the uniform distribution, with fixed keys, so that they pass or fail for good.
//!
//! Each bound is the quantile that a truly random shuffle passes once in 10,000 keys.

use std::collections::HashSet;

use forebay_loader::plan::perm::mix;
use forebay_loader::plan::{Cursor, OrderMode, OrderSpec, Perm};

use crate::{laid_out, numbers, spec};

fn chi_square(hits: &[u64]) -> f64 {
    let expected = hits.iter().sum::<u64>() as f64 / hits.len() as f64;
    hits.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum()
}

#[test]
fn all_orders_of_five_are_equally_likely() {
    let mut hits = [0; 3125];
    for key in 0..24_000 {
        let perm = Perm::new(5, mix(key));
        hits[(0..5).fold(0, |code, x| code * 5 + perm.at(x) as usize)] += 1;
    }
    let seen: Vec<u64> = hits.into_iter().filter(|&n| n > 0).collect();
    assert_eq!(seen.len(), 120);
    let chi = chi_square(&seen); // 119 degrees of freedom
    assert!(chi < 185.2, "{chi}");
}

#[test]
fn the_image_of_an_element_is_uniform_over_keys() {
    for (n, x) in [(200, 7), (257, 0), (300, 299), (2731, 1), (4096, 2048)] {
        let mut hits = [0; 16];
        for key in 0..8_000 {
            hits[(Perm::new(n, mix(key)).at(x) * 16 / n) as usize] += 1;
        }
        // Bins differ by one element where 16 does not divide n: weighed out by the expected count of each.
        let size = |bin: u64| ((bin + 1) * n).div_ceil(16) - (bin * n).div_ceil(16);
        let expected = |bin: u64| 8_000.0 * size(bin) as f64 / n as f64;
        let chi: f64 =
            (0..16).map(|bin| (hits[bin as usize] as f64 - expected(bin)).powi(2) / expected(bin)).sum();
        assert!(chi < 44.6, "n {n} x {x}: {chi}"); // 15 degrees of freedom
    }
}

#[test]
fn neighbours_in_a_window_are_independent() {
    // Windows of 4,096 and of 300: pairs (image of x, image of x + 1) in 8 × 8 bins. 300 elements walk the network's cycles most.
    for (n, keys) in [(4096, 8), (296, 100)] {
        let mut hits = [0; 64];
        for key in 0..keys {
            let perm = Perm::new(n, mix(key));
            let bin = |x: u64| (perm.at(x) * 8 / n) as usize;
            (0..n - 1).for_each(|x| hits[bin(x) * 8 + bin(x + 1)] += 1);
        }
        let chi = chi_square(&hits); // 63 degrees of freedom
        assert!(chi < 113.7, "n {n}: {chi}");
    }
}

#[test]
fn over_epochs_a_sample_comes_at_any_time() {
    // 20 shards of 24 samples in 48 lanes of 10: when a sample comes, in tenths of the epoch.
    let base = OrderSpec { canonical_ranks: 1, ..spec(&[24; 20], OrderMode::Shuffle) };
    for mode in [OrderMode::Shuffle, OrderMode::Sticky, OrderMode::Global] {
        let mut hits = [[0; 10]; 3];
        for epoch in 0..2_000 {
            let order = numbers(&OrderSpec { mode, ..base.in_epoch(epoch) });
            for (at, number) in order.iter().enumerate() {
                if let Some(which) = [0, 25, 479].iter().position(|watched| watched == number) {
                    hits[which][at / 48] += 1;
                }
            }
        }
        for hits in hits {
            let chi = chi_square(&hits); // 9 degrees of freedom
            assert!(chi < 33.8, "{mode:?}: {chi} {hits:?}");
        }
    }
}

#[test]
fn shards_take_every_place_equally_often() {
    // With samples far apart in storage the first position's shard is the shard permutation's doing.
    let mut hits = [0; 20];
    for epoch in 0..4_000 {
        let order = laid_out(&spec(&[24; 20], OrderMode::Shuffle).in_epoch(epoch));
        hits[order.sample(0).shard as usize] += 1;
    }
    let chi = chi_square(&hits); // 19 degrees of freedom
    assert!(chi < 50.9, "{chi}");
}

#[test]
fn a_batch_mixes_as_many_shards_as_there_are_lanes() {
    let order = laid_out(&OrderSpec { shuffle_window: 13_107, ..spec(&[200; 500], OrderMode::Shuffle) });
    let mut cursor = Cursor::new(order.clone());
    let shards: Vec<u32> = (0..order.total()).map(|p| cursor.at(p).sample.shard).collect();
    let least =
        shards.chunks_exact(256).map(|batch| batch.iter().collect::<HashSet<_>>().len()).min().unwrap();
    assert!(least >= 47, "a batch of 256 comes from {least} shards");
}
