//! The order of samples and its users: golden vectors of the reference, and properties.

// A helper that unwraps is a test that fails; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

mod golden;
mod order;
mod pages;
mod quality;
mod resume;

use std::sync::Arc;

use forebay_loader::plan::{Cursor, Order, OrderMode, OrderSpec};
use proptest::prelude::*;

const MODES: [OrderMode; 4] = [OrderMode::Shuffle, OrderMode::Sticky, OrderMode::Global, OrderMode::Storage];

fn spec(counts: &[u64], mode: OrderMode) -> OrderSpec {
    OrderSpec { counts: counts.into(), seed: 1, epoch: 0, canonical_ranks: 8, shuffle_window: 13_107, mode }
}

fn laid_out(spec: &OrderSpec) -> Arc<Order> {
    Arc::new(Order::new(spec).unwrap())
}

/// Every position's sample, by its number in storage order.
fn numbers(spec: &OrderSpec) -> Vec<u64> {
    let order = laid_out(spec);
    let mut cursor = Cursor::new(order.clone());
    (0..order.total()).map(|p| order.sample_number(cursor.at(p).sample)).collect()
}

/// Datasets with empty shards, fewer samples than lanes, fewer shards than lanes, windows of one sample.
fn any_spec() -> impl Strategy<Value = OrderSpec> {
    let count = prop_oneof![Just(0u64), Just(1), Just(2), Just(17), Just(100), Just(333), Just(1500)];
    let counts = prop::collection::vec(count, 1..24).prop_filter("no samples", |c| c.iter().any(|&n| n > 0));
    let ranks =
        prop_oneof![Just(1u32), Just(2), Just(3), Just(6), Just(8), Just(12), Just(16), Just(64), Just(97)];
    let window = prop_oneof![Just(1u64), Just(48), Just(500), Just(131_072), Just(u64::MAX)];
    (counts, any::<u64>(), any::<u64>(), ranks, window, prop::sample::select(&MODES[..])).prop_map(
        |(counts, seed, epoch, canonical_ranks, shuffle_window, mode)| OrderSpec {
            counts: counts.into(),
            seed,
            epoch,
            canonical_ranks,
            shuffle_window,
            mode,
        },
    )
}
