//! Ranks and resuming: whoever stops, whoever goes on, every sample comes exactly once.

use std::sync::Arc;

use forebay_cache::ObjectId;
use forebay_loader::checkpoint::{Fingerprint, Given, State};
use forebay_loader::plan::{Cursor, EpochCut, Order, OrderSpec, Progress, World};
use proptest::prelude::*;

use crate::any_spec;

/// One stretch of a run: so many ranks, rows and batches until it is stopped.
#[derive(Clone, Copy, Debug)]
struct Leg {
    ranks: u32,
    batch_size: u64,
    batches: u64,
}

fn legs() -> impl Strategy<Value = Vec<Leg>> {
    let leg = (1u32..70, 1u64..20, 0u64..6);
    prop::collection::vec(
        leg.prop_map(|(ranks, batch_size, batches)| Leg { ranks, batch_size, batches }),
        0..8,
    )
}

fn cuts(order: &Order, start: Progress, leg: Leg, drop_last: bool) -> Vec<EpochCut> {
    let of = |rank| {
        let world = World::new(rank, leg.ranks).unwrap();
        EpochCut::new(order.total(), start, leg.batch_size, world, drop_last).unwrap()
    };
    (0..leg.ranks).map(of).collect()
}

/// Runs all ranks of a leg; pushes the numbers of the samples that were not padding, and returns where they stand.
fn run(order: &Arc<Order>, start: Progress, leg: Leg, drop_last: bool, out: &mut Vec<u64>) -> Progress {
    let cuts = cuts(order, start, leg, drop_last);
    assert!(cuts.iter().all(|cut| cut.batches() == cuts[0].batches()), "len differs between ranks");
    let mut cursor = Cursor::new(order.clone());
    let batches = leg.batches.min(cuts[0].batches());
    for (cut, index) in cuts.iter().flat_map(|cut| (0..batches).map(move |index| (cut, index))) {
        let (batch, same) = (cut.batch(index).unwrap(), cuts[0].batch(index).unwrap());
        assert_eq!(batch.rows, same.rows, "rows differ between ranks");
        let full = index + 1 < cut.batches() || drop_last;
        assert!(batch.rows == leg.batch_size || !full, "a full batch has {} rows", batch.rows);
        assert_eq!(batch.positions().len() as u64, batch.rows);
        let valid = batch.positions().take(batch.valid as usize);
        out.extend(valid.map(|p| order.sample_number(cursor.at(p).sample)));
    }
    let end = cuts[0].progress(batches);
    assert!(cuts.iter().all(|cut| cut.progress(batches) == end));
    end
}

fn dataset(spec: &OrderSpec) -> Fingerprint {
    let ids: Vec<ObjectId> = (0..spec.counts.len()).map(|i| ObjectId::from_bytes([i as u8; 16])).collect();
    Fingerprint::new(&spec.counts, &ids)
}

/// Through JSON and back, as a new job would.
fn restart(spec: &OrderSpec, progress: Progress) -> (Arc<Order>, Progress) {
    let text = State::new(spec, dataset(spec)).at(progress).to_json();
    let state = State::from_json(&text).unwrap();
    let resumed = state.resume(spec.counts.clone(), &dataset(spec), &Given::default()).unwrap();
    (Arc::new(Order::new(&resumed.spec).unwrap()), resumed.progress)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chain_of_worlds_delivers_every_sample_exactly_once(
        spec in any_spec().prop_map(|spec| spec.in_epoch(spec.epoch % 1000)),
        mut legs in legs(),
        last in (1u32..70, 1u64..20),
    ) {
        legs.push(Leg { ranks: last.0, batch_size: last.1, batches: u64::MAX });
        let mut progress = Progress { epoch: spec.epoch, consumed: 0 };
        let mut seen = Vec::new();
        for leg in legs {
            let (order, start) = restart(&spec, progress);
            prop_assert_eq!(start, progress);
            progress = run(&order, start, leg, false, &mut seen);
            if progress.epoch != spec.epoch {
                break;
            }
        }
        prop_assert_eq!(progress, Progress { epoch: spec.epoch + 1, consumed: 0 });
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..spec.counts.iter().sum()));
    }

    #[test]
    fn with_drop_last_a_chain_repeats_nothing_and_drops_less_than_a_batch(
        spec in any_spec().prop_map(|spec| spec.in_epoch(spec.epoch % 1000)),
        mut legs in legs(),
    ) {
        legs.push(Leg { ranks: 3, batch_size: 2, batches: u64::MAX });
        let mut progress = Progress { epoch: spec.epoch, consumed: 0 };
        let (mut seen, mut dropped_below) = (Vec::new(), 0);
        for leg in legs {
            let (order, start) = restart(&spec, progress);
            progress = run(&order, start, leg, true, &mut seen);
            dropped_below = leg.batch_size * u64::from(leg.ranks);
            if progress.epoch != spec.epoch {
                break;
            }
        }
        let (total, delivered) = (spec.counts.iter().sum::<u64>(), seen.len() as u64);
        prop_assert!(total - delivered < dropped_below);
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len() as u64, delivered);
    }

    #[test]
    fn the_ranks_of_a_batch_take_exactly_its_positions(
        total in 1u64..5000, at: u64, ranks in 1u32..70, batch_size in 1u64..40, drop_last: bool,
    ) {
        let start = Progress { epoch: 0, consumed: at % (total + 1) };
        let world = |rank| World::new(rank, ranks).unwrap();
        let cut = |rank| EpochCut::new(total, start, batch_size, world(rank), drop_last).unwrap();
        for index in 0..cut(0).batches() {
            let batches: Vec<_> = (0..ranks).map(|rank| cut(rank).batch(index).unwrap()).collect();
            let mut real: Vec<u64> = batches.iter().flat_map(|b| b.positions().take(b.valid as usize)).collect();
            real.sort_unstable();
            let begin = start.consumed + index * cut(0).global_batch();
            prop_assert!(real.into_iter().eq(begin..(begin + cut(0).global_batch()).min(total)));
            let rows: u64 = batches.iter().map(|batch| batch.rows).sum();
            prop_assert!(rows - batches.iter().map(|batch| batch.valid).sum::<u64>() < u64::from(ranks));
        }
        prop_assert!(cut(0).batch(cut(0).batches()).is_none());
    }
}
