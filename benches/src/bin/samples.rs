//! What a dataset's size costs: the plan of an epoch of so many samples, begun in its middle, up to the members of its first batch, and
//! batches after it. The dataset is simulated: every shard has the index of the one that is given, over and over.
//!
//! `samples --samples 1000000000 SHARD` prints one JSON object.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_bench::photos;
use forebay_bench::process::{cpu_seconds, peak_rss_bytes, reset_peak_rss};
use forebay_cache::ObjectId;
use forebay_loader::dataset::index::{ShardIndex, ShardIndexBuilder};
use forebay_loader::plan::{
    Cursor, DEFAULT_SHUFFLE_WINDOW, EpochCut, Order, OrderMode, OrderSpec, Progress, RankBatch, World,
};

/// Samples of a shard, where there are enough: 1 GB of photographs of 100 kB.
const SHARD: u64 = 10_000;

#[derive(Parser)]
struct Args {
    /// Samples of the dataset.
    #[arg(long)]
    samples: u64,
    /// Samples of a batch.
    #[arg(long, default_value_t = 256)]
    batch: u64,
    /// Batches after the first, at most.
    #[arg(long, default_value_t = 400)]
    batches: u64,
    /// A tar shard whose index every shard has.
    shard: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.samples > 0 && args.batch > 0, "samples and batch must be 1 or more");
    let (index, index_bytes) = index_of(&args.shard)?;
    let full = args.samples / SHARD;
    let counts: Arc<[u64]> =
        (0..full).map(|_| SHARD).chain(Some(args.samples % SHARD).filter(|rest| *rest > 0)).collect();
    reset_peak_rss()?;
    let (before, cpu, start) = (peak_rss_bytes()?, cpu_seconds()?, Instant::now());
    let order = Order::new(&OrderSpec {
        counts,
        seed: 1,
        epoch: 2,
        canonical_ranks: 8,
        shuffle_window: DEFAULT_SHUFFLE_WINDOW,
        mode: OrderMode::Shuffle,
    })?;
    let middle = Progress { epoch: 2, consumed: args.samples / 2 };
    let cut = EpochCut::new(args.samples, middle, args.batch, World::new(0, 1)?, false)?;
    let mut cursor = Cursor::new(Arc::new(order));
    let first = cut.batch(0).context("the epoch has no batch")?;
    let mut members = deliver(&first, &mut cursor, &index)?;
    let seconds = start.elapsed().as_secs_f64();
    let (mut walked, walk) = (0, Instant::now());
    for number in 1..cut.batches().min(1 + args.batches) {
        let batch = cut.batch(number).context("a batch that was counted")?;
        walked += batch.rows;
        members += deliver(&batch, &mut cursor, &index)?;
    }
    let answer = serde_json::json!({
        "value": seconds * 1e3,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds()? - cpu,
        "peak_rss_bytes": peak_rss_bytes()?,
        "grown_bytes": peak_rss_bytes()?.saturating_sub(before),
        "us_per_sample": (walked > 0).then(|| walk.elapsed().as_secs_f64() * 1e6 / walked as f64),
        "index_bytes_per_member": index_bytes as f64 / index.members() as f64,
        "members": members,
    });
    println!("{answer}");
    Ok(())
}

/// Finds the members of a batch's samples, one after the other: a loader reads entries by the window. How many there are.
fn deliver(batch: &RankBatch, cursor: &mut Cursor, index: &ShardIndex) -> Result<u64> {
    let mut members = 0;
    for position in batch.positions() {
        let at = cursor.at(position).sample.index % index.len();
        members += index.samples(at..at + 1)?.iter().map(|sample| sample.members.len() as u64).sum::<u64>();
    }
    Ok(members)
}

/// The index of a shard, and its size in bytes.
fn index_of(path: &PathBuf) -> Result<(ShardIndex, usize)> {
    let read = || -> Result<(ShardIndex, usize)> {
        let shard = std::fs::read(path)?;
        let mut builder = ShardIndexBuilder::new();
        for sample in &photos::samples(&shard)? {
            builder.push(sample)?;
        }
        ensure!(!builder.is_empty(), "it holds no samples");
        let index = builder.finish(ObjectId::from_bytes([1; 16]), shard.len() as u64)?;
        let bytes = index.as_bytes().len();
        Ok((index, bytes))
    };
    read().with_context(|| path.display().to_string())
}
