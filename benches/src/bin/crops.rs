//! Crop decode and resize alone: the loader's own decoder on the loader's own boxes, with the members already in memory, on as
//! many threads. What a training pipeline could reach if everything else cost nothing.
//!
//! `crops --threads 2 --batch 256 SHARD...` prints one JSON object.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use forebay_bench::photos::{self, SIDE};
use forebay_bench::process::{cpu_seconds, peak_rss_bytes};
use forebay_loader::field::DecodeMode;
use forebay_loader::measure::decoding::{Decoding, training};
use forebay_loader::plan::EpochRng;

#[derive(Parser)]
struct Args {
    /// Decoding threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Images per batch: workers write into the slots of two batches in turn, as they do in a pipeline.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Key of the random boxes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Passes over the shards; each has boxes of its own. The first is the warm-up and isn't counted.
    #[arg(long, default_value_t = 2)]
    epochs: u64,
    /// Scale while decoding, where the output is much smaller than the crop.
    #[arg(long)]
    fast: bool,
    /// Tar shards of JPEGs.
    #[arg(required = true)]
    shards: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        args.threads > 0 && args.batch > 0 && args.epochs > 1,
        "threads, batch and epochs - 1 must be 1 or more"
    );
    let mut images = Vec::new();
    for shard in &args.shards {
        images.extend(photos::jpegs(shard)?);
    }
    let mode = if args.fast { DecodeMode::Fast } else { DecodeMode::Exact };
    let mut decoding = Decoding::new(training(SIDE), mode, args.threads, args.batch)?;
    let (mut cpu, mut seconds) = (0.0, 0.0);
    for epoch in 0..args.epochs {
        let (before, start) = (cpu_seconds()?, Instant::now());
        decoding.pass(&images, EpochRng::new(args.seed, epoch), || false)?;
        if epoch > 0 {
            seconds += start.elapsed().as_secs_f64();
            cpu += cpu_seconds()? - before;
        }
    }
    let count = images.len() as u64 * (args.epochs - 1);
    let answer = serde_json::json!({
        "value": count as f64 / seconds,
        "samples": count,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_rss_bytes": peak_rss_bytes()?,
        "output": { "dtype": "uint8", "shape": [args.batch, SIDE, SIDE, 3] },
    });
    println!("{answer}");
    Ok(())
}
