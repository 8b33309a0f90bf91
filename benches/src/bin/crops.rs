//! Crop decode and resize alone: the loader's own decoder on the loader's own boxes, with the members already in memory, on as
//! many threads. What a training pipeline could reach if everything else cost nothing.
//!
//! `crops --threads 2 --batch 256 SHARD...` prints one JSON object.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use forebay_bench::photos::{self, IMAGE_BYTES, SIDE};
use forebay_bench::process::{cpu_seconds, peak_rss_bytes};
use forebay_loader::decode::{Decoder, ImageOut, Limits};
use forebay_loader::field::DecodeMode;
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
    // Each thread's share of two batches, and its decoder: kept from pass to pass, as in a pipeline.
    let slots = (2 * args.batch).div_ceil(args.threads) * IMAGE_BYTES;
    let mut workers: Vec<_> =
        (0..args.threads).map(|_| (Decoder::new(Limits::default()), vec![0; slots])).collect();
    let (mut cpu, mut seconds) = (0.0, 0.0);
    for epoch in 0..args.epochs {
        let (before, start) = (cpu_seconds()?, Instant::now());
        pass(&args, &images, &mut workers, EpochRng::new(args.seed, epoch))?;
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

/// Decodes every image once; threads take them one by one.
fn pass(args: &Args, images: &[Vec<u8>], workers: &mut [(Decoder, Vec<u8>)], random: EpochRng) -> Result<()> {
    let transforms = photos::training();
    let mode = if args.fast { DecodeMode::Fast } else { DecodeMode::Exact };
    let next = AtomicUsize::new(0);
    let work = |(decoder, slots): &mut (Decoder, Vec<u8>)| -> Result<()> {
        for turn in 0.. {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(bytes) = images.get(number) else { return Ok(()) };
            let at = turn % (slots.len() / IMAGE_BYTES) * IMAGE_BYTES;
            let draws = random.draws(number as u64);
            let slot = ImageOut::Slot(&mut slots[at..at + IMAGE_BYTES]);
            decoder
                .image(bytes, &transforms, mode, &draws, slot)
                .map_err(|error| anyhow!("image {number}: {error}"))?;
        }
        Ok(())
    };
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(move || work(worker))).collect();
        let ended =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        ended.collect::<Result<Vec<()>>>().map(drop)
    })
}
