//! Pages, which prefetching and eviction live by, against the samples that an epoch really delivers.

use std::collections::{HashMap, HashSet};

use forebay_loader::plan::{
    Order, OrderMode, OrderSpec, Page, PageId, Piece, Readers, SampleRef, World, merge_pieces,
};
use proptest::prelude::*;

use crate::{any_spec, laid_out, spec};

fn samples(pieces: &[Piece]) -> Vec<SampleRef> {
    let of = |piece: &Piece| {
        let shard = piece.shard;
        piece.samples.clone().map(move |index| SampleRef { shard, index })
    };
    pieces.iter().flat_map(of).collect()
}

/// Every page, and the samples that positions took from it.
fn delivered(order: &Order) -> HashMap<PageId, Vec<(u64, SampleRef)>> {
    let mut pages: HashMap<PageId, Vec<_>> = HashMap::new();
    for position in 0..order.total() {
        pages.entry(order.page_of(position)).or_default().push((position, order.sample(position)));
    }
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_page_is_exactly_what_its_positions_deliver(spec in any_spec()) {
        let order = laid_out(&spec);
        let delivered = delivered(&order);
        for (&id, taken) in &delivered {
            let page = order.page(id).unwrap();
            let (first, last) = (taken[0].0, taken[taken.len() - 1].0);
            prop_assert_eq!(page, Page { id, first, last, samples: taken.len() as u64 });
            let mut want: Vec<_> = taken.iter().map(|&(_, sample)| sample).collect();
            want.sort_unstable();
            prop_assert_eq!(samples(&order.pieces(id)), want);
        }
        let listed: Vec<Page> = order.pages_from(0, &Readers::all()).collect();
        prop_assert!(listed.is_sorted_by_key(|page| page.first));
        prop_assert_eq!(listed.len(), delivered.len());
    }

    #[test]
    fn open_pages_hold_the_next_sample_of_every_lane(spec in any_spec(), at: u64) {
        let order = laid_out(&spec);
        let position = at % (order.total() + 1);
        let open = order.resident(position, &Readers::all());
        prop_assert!(open.iter().all(|page| page.last >= position));
        prop_assert!(position == order.total() || open.iter().any(|page| page.id == order.page_of(position)));
        let lanes: HashSet<u32> = open.iter().map(|page| page.id.place).collect();
        prop_assert_eq!(lanes.len(), open.len());
        let pieces = order.resident_pieces(position, &Readers::all());
        prop_assert_eq!(&merge_pieces(pieces.clone()), &pieces);
        prop_assert_eq!(pieces.iter().map(Piece::len).sum::<u64>(), open.iter().map(|page| page.samples).sum::<u64>());
    }

    #[test]
    fn a_reader_is_told_every_page_that_its_positions_touch(spec in any_spec(), size in 1u32..70, rank: u32, at: u64) {
        let order = laid_out(&spec);
        let (from, rank) = (at % order.total(), rank % size);
        let world = World::new(rank, size).unwrap();
        let told: HashSet<PageId> = order.pages_from(from, &world.into()).map(|page| page.id).collect();
        for position in (from..order.total()).filter(|p| p % u64::from(size) == u64::from(rank)) {
            prop_assert!(told.contains(&order.page_of(position)));
        }
    }

    #[test]
    fn the_peak_is_the_most_that_is_open_at_any_position(spec in any_spec(), at: u64, ahead in 0u64..200) {
        let order = laid_out(&spec);
        let from = at % order.total();
        let bytes = |piece: &Piece| 100 * piece.len() + u64::from(piece.shard);
        let cost = |page: &Page| order.pieces(page.id).iter().map(bytes).sum::<u64>();
        let pages: Vec<(Page, u64)> =
            order.pages_from(from, &Readers::all()).map(|page| (page, cost(&page))).collect();
        let open_at = |t: u64| pages.iter().filter(move |(page, _)| page.first <= t + ahead && t <= page.last);
        prop_assume!(pages.len() < 2_000, "the model is quadratic");
        // Open bytes rise only where a page opens.
        let opens = pages.iter().map(|(page, _)| page.first.saturating_sub(ahead).max(from));
        let want = opens.map(|t| open_at(t).map(|(_, bytes)| bytes).sum::<u64>()).max().unwrap();
        prop_assert_eq!(order.peak_bytes(from, ahead, &Readers::all(), bytes), want);
    }
}

#[test]
fn a_rank_of_the_canonical_world_opens_its_own_lanes_only() {
    let order = laid_out(&spec(&[200; 500], OrderMode::Shuffle));
    let all = order.resident(0, &Readers::all()).len();
    let of_rank = |rank| order.resident(0, &World::new(rank, 8).unwrap().into());
    let together: HashSet<PageId> = (0..8).flat_map(of_rank).map(|page| page.id).collect();
    assert_eq!((of_rank(3).len(), together.len()), (all / 8, all));
    assert_eq!(order.resident(0, &Readers::new(4..8, 8).unwrap()).len(), all / 2);
    assert!(Readers::new(7..9, 8).is_none() && Readers::new(3..3, 8).is_none());
}

#[test]
fn the_resident_window_of_a_large_dataset_is_its_shuffle_window() {
    let order = laid_out(&OrderSpec { shuffle_window: 131_072, ..spec(&[10_000; 1000], OrderMode::Shuffle) });
    let peak = order.peak_bytes(0, 0, &Readers::all(), |piece| 110_000 * piece.len());
    assert!((14.0e9..14.6e9).contains(&(peak as f64)), "{peak}");
}

#[test]
fn a_cache_smaller_than_the_resident_window_is_told_the_least_that_works() {
    for (mode, says) in [
        (OrderMode::Shuffle, "a smaller shuffle_window"),
        (OrderMode::Global, "the whole dataset"),
        (OrderMode::Storage, "slides over"),
    ] {
        let order = laid_out(&spec(&[200; 500], mode));
        let refusal = |limit| {
            let bytes = |piece: &Piece| 1000 * piece.len();
            let checked = order.check_cache_limit(limit, u64::MAX, 0, 512, &Readers::all(), bytes);
            checked.err().map(|error| error.to_string())
        };
        let least = order.peak_bytes(0, 512, &Readers::all(), |piece| 1000 * piece.len());
        assert_eq!(refusal(least), None);
        let message = refusal(least - 1).unwrap();
        assert!(
            message.contains(says) && message.contains(&format!("{least} bytes is the least")),
            "{message}"
        );
    }
}

#[test]
fn no_cache_needs_to_be_larger_than_the_dataset() {
    let order = laid_out(&spec(&[200; 5], OrderMode::Shuffle));
    let block = |piece: &Piece| 8_000_000 + piece.len();
    assert!(order.peak_bytes(0, 512, &Readers::all(), block) > 1_000_000);
    let checked = |limit| order.check_cache_limit(limit, 1_000_000, 0, 512, &Readers::all(), block);
    assert!(checked(1_000_000).is_ok());
    let message = checked(999_999).unwrap_err().to_string();
    assert!(message.contains("1000000 bytes is the least that works here (the whole dataset)"), "{message}");
}

#[test]
fn windows_without_number_are_bounded_instead_of_walked() {
    let order =
        laid_out(&OrderSpec { shuffle_window: 1, ..spec(&vec![10_000; 100_000], OrderMode::Shuffle) });
    let lanes = order.resident(0, &Readers::all()).len() as u64;
    let peak = |ahead| order.peak_bytes(0, ahead, &Readers::all(), |piece| 1000 * piece.len());
    assert_eq!(peak(0), 1000 * lanes);
    assert!((11 * 1000 * lanes..13 * 1000 * lanes).contains(&peak(10 * lanes)), "{}", peak(10 * lanes));
}

#[test]
fn a_global_order_needs_everything_and_storage_order_a_sliding_piece() {
    let global = laid_out(&spec(&[3000, 0, 500], OrderMode::Global));
    let all = [Piece { shard: 0, samples: 0..3000 }, Piece { shard: 2, samples: 0..500 }];
    assert_eq!(global.resident_pieces(1234, &Readers::all()), all);
    let storage = laid_out(&spec(&[3000, 0, 500], OrderMode::Storage));
    assert_eq!(storage.resident_pieces(5, &Readers::all()), [Piece { shard: 0, samples: 0..32 }]);
    let last = [Piece { shard: 2, samples: 488..500 }];
    assert_eq!(storage.resident_pieces(3499, &Readers::all()), last);
    assert!(storage.resident_pieces(3500, &Readers::all()).is_empty());
    assert!(storage.pieces(PageId { place: 9, window: 0 }).is_empty());
}
