//! What a user relies on: every sample once, the same everywhere, another order each epoch, few shards per rank.

use std::collections::HashSet;

use forebay_loader::plan::{Cursor, OrderMode, OrderSpec};
use proptest::prelude::*;

use crate::{MODES, any_spec, laid_out, numbers, spec};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_epoch_holds_every_sample_once(spec in any_spec()) {
        let mut seen = numbers(&spec);
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..spec.counts.iter().sum()));
    }

    #[test]
    fn walking_gives_what_seeking_gives(spec in any_spec(), jumps in prop::collection::vec(any::<u64>(), 100)) {
        let order = laid_out(&spec);
        let mut cursor = Cursor::new(order.clone());
        for position in jumps.into_iter().map(|jump| jump % order.total()) {
            let stop = cursor.at(position);
            prop_assert_eq!(stop.sample, order.sample(position));
            prop_assert_eq!(stop.page, order.page_of(position));
        }
    }

    #[test]
    fn a_samples_position_is_where_it_stands(spec in any_spec()) {
        let order = laid_out(&spec);
        let mut cursor = Cursor::new(order.clone());
        for position in 0..order.total() {
            let sample = cursor.at(position).sample;
            prop_assert_eq!(order.position_of(sample), position);
            prop_assert_eq!(order.sample_numbered(order.sample_number(sample)), sample);
        }
    }

    #[test]
    fn replacements_are_the_rest_of_the_window_then_what_follows_and_end(spec in any_spec(), at: u64) {
        let order = laid_out(&spec);
        let position = at % order.total();
        let page = order.page(order.page_of(position)).unwrap();
        prop_assert_eq!(order.replacement(position, 0), Some(order.sample(position)));
        let follows = (order.total() > 1).then(|| order.sample((position + 1) % order.total()));
        prop_assert_eq!(order.replacement(position, page.samples), follows);
        prop_assert_eq!(order.replacement(position, page.samples + order.total() - 1), None);
        let tried: HashSet<_> = (0..page.samples).map(|attempt| order.replacement(position, attempt).unwrap()).collect();
        prop_assert_eq!(tried.len() as u64, page.samples);
        let covered = |s: &forebay_loader::plan::SampleRef| {
            order.pieces(page.id).iter().any(|piece| piece.shard == s.shard && piece.samples.contains(&s.index))
        };
        prop_assert!(tried.iter().all(covered));
    }
}

#[test]
fn a_replacement_is_what_the_lane_delivers_next() {
    let order = laid_out(&spec(&[200; 50], OrderMode::Shuffle));
    let page = order.page(order.page_of(0)).unwrap();
    let lanes = (page.last - page.first) / (page.samples - 1);
    assert_eq!(order.replacement(page.first, 1), Some(order.sample(page.first + lanes)));
    assert_eq!(order.replacement(page.last, 1), Some(order.sample(page.first)));
}

#[test]
fn epochs_and_seeds_differ() {
    for mode in [OrderMode::Shuffle, OrderMode::Sticky, OrderMode::Global] {
        let of = |seed, epoch| numbers(&OrderSpec { seed, epoch, ..spec(&[40; 30], mode) });
        let (base, next, swapped) = (of(1, 0), of(1, 1), of(0, 1));
        for other in [&next, &swapped, &of(0, 0)] {
            let same = base.iter().zip(other).filter(|(a, b)| a == b).count();
            assert!(same < base.len() / 20, "{mode:?}: {same} of {} positions agree", base.len());
        }
        assert_ne!(next, swapped, "{mode:?}");
    }
}

#[test]
fn storage_order_depends_on_nothing() {
    let all: Vec<u64> = (0..1200).collect();
    let spec = OrderSpec { seed: 5, epoch: 7, shuffle_window: 1, ..spec(&[40; 30], OrderMode::Storage) };
    assert_eq!(numbers(&spec), all);
}

/// The shards that each of `ranks` ranks reads in an epoch.
fn shards_by_rank(spec: &OrderSpec, ranks: usize) -> Vec<HashSet<u32>> {
    let order = laid_out(spec);
    let mut cursor = Cursor::new(order.clone());
    let mut shards = vec![HashSet::new(); ranks];
    for position in 0..order.total() {
        shards[position as usize % ranks].insert(cursor.at(position).sample.shard);
    }
    shards
}

#[test]
fn ranks_together_read_little_more_than_the_dataset() {
    for mode in [OrderMode::Shuffle, OrderMode::Sticky] {
        for (ranks, most) in [(2, 1.03), (6, 1.03), (8, 1.03), (16, 1.03), (64, 1.12)] {
            let spec = OrderSpec { canonical_ranks: ranks, ..spec(&[200; 500], mode) };
            let read: usize = shards_by_rank(&spec, ranks as usize).iter().map(HashSet::len).sum();
            assert!(read as f64 <= most * 500.0, "{mode:?}: {ranks} ranks read {read} shards of 500");
        }
    }
}

#[test]
fn sticky_keeps_the_shards_of_a_rank_and_reorders_their_samples() {
    let base = spec(&[200; 500], OrderMode::Sticky);
    let (one, two) = (base.clone(), base.in_epoch(1));
    assert_eq!(shards_by_rank(&one, 8), shards_by_rank(&two, 8));
    assert_ne!(numbers(&one), numbers(&two));
    let moving = spec(&[200; 500], OrderMode::Shuffle);
    assert_ne!(shards_by_rank(&moving, 8), shards_by_rank(&moving.in_epoch(1), 8));
}

#[test]
fn a_plan_of_a_billion_samples_is_a_few_megabytes_and_reaches_its_end() {
    let counts = vec![10_000u64; 100_000];
    for mode in MODES {
        let order = laid_out(&OrderSpec { shuffle_window: 131_072, ..spec(&counts, mode) });
        assert_eq!(order.total(), 1_000_000_000);
        assert!(order.memory_bytes() < 10 << 20, "{mode:?}: {} bytes", order.memory_bytes());
        let last = order.sample(order.total() - 1);
        assert!(last.shard < 100_000 && last.index < 10_000);
        assert_eq!(order.position_of(last), order.total() - 1);
        assert!(order.memory_bytes() < 10 << 20, "{mode:?}: {} bytes", order.memory_bytes());
    }
}
