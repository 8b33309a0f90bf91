//! The plan of a first batch in an epoch of 2·10⁹ samples: from the JSON of a state to the samples that stand at the batch's positions.
//! What resuming costs that grows with nothing but the number of shards.
//!
//! `resume --position 1000000000` prints one JSON object; `value` is seconds.

use std::hint::black_box;
use std::iter;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use forebay_bench::process::{cpu_seconds, peak_rss_bytes};
use forebay_loader::checkpoint::{Fingerprint, Given, State};
use forebay_loader::plan::{Cursor, EpochCut, Order, OrderMode, OrderSpec, Progress, World};

#[derive(Parser)]
struct Args {
    /// Samples that were delivered before.
    #[arg(long)]
    position: u64,
    /// Samples of the first batch.
    #[arg(long, default_value_t = 256)]
    batch: u64,
}

const SHARDS: usize = 200_000;
const SAMPLES_PER_SHARD: u64 = 10_000;

fn main() -> Result<()> {
    let args = Args::parse();
    let counts: Arc<[u64]> = vec![SAMPLES_PER_SHARD; SHARDS].into();
    let spec = OrderSpec {
        counts: counts.clone(),
        seed: 1,
        epoch: 2,
        canonical_ranks: 8,
        shuffle_window: 131_072,
        mode: OrderMode::Shuffle,
    };
    let dataset = Fingerprint::new(&counts, iter::empty());
    let state = State::new(&spec, dataset.clone()).at(Progress { epoch: 2, consumed: args.position });
    let text = state.to_json();

    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let resumed = State::from_json(&text)?.resume(counts, &dataset, &Given::default())?;
    let order = Arc::new(Order::new(&resumed.spec)?);
    let cut = EpochCut::new(order.total(), resumed.progress, args.batch, World::new(0, 1)?, true)?;
    let batch = cut.batch(0).context("the epoch has no batch left")?;
    let mut cursor = Cursor::new(order);
    for position in batch.positions() {
        black_box(cursor.at(position));
    }
    let seconds = start.elapsed().as_secs_f64();
    let answer = serde_json::json!({
        "value": seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds()? - cpu,
        "peak_rss_bytes": peak_rss_bytes()?,
        "position": args.position,
    });
    println!("{answer}");
    Ok(())
}
