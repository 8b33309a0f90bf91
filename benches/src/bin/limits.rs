//! What the machine gives: steps of decoding by themselves, and plain copies of memory. One of them per call, so that the harness
//! lets them take turns.
//!
//! `limits --threads 1 decode STEP SHARD...` and `limits --threads 1 copy` print one JSON object.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Result, anyhow, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use forebay_bench::photos;
use forebay_bench::process::{cpu_seconds, peak_rss_bytes};
use forebay_loader::decode::jpeg::alone::{Alone, Huffman};
use forebay_loader::decode::orientation::Rect;
use forebay_loader::decode::{Decoder, Limits};
use forebay_loader::measure::decoding::training;
use forebay_loader::plan::EpochRng;

#[derive(Parser)]
struct Args {
    /// Threads that do the same at the same time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Decodes JPEGs that lie in memory: images/s.
    Decode {
        step: Step,
        /// Whose Huffman decoder.
        #[arg(long, value_enum, default_value_t = Whose::Forebay)]
        huffman: Whose,
        /// Tar shards of JPEGs.
        #[arg(required = true)]
        shards: Vec<PathBuf>,
    },
    /// Copies from one large buffer to another: 10⁹ bytes/s.
    Copy {
        /// Size of a thread's buffers in MiB: far more than its caches.
        #[arg(long, default_value_t = 256)]
        mib: usize,
        /// Copies of the whole buffer.
        #[arg(long, default_value_t = 8)]
        times: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Step {
    /// The coefficients of the whole image.
    Entropy,
    /// The pixels of the whole image.
    Whole,
    /// The pixels of the box that a training crop draws, not resized.
    Crop,
}

#[derive(Clone, Copy, ValueEnum)]
enum Whose {
    Forebay,
    LibjpegTurbo,
}

impl From<Whose> for Huffman {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Forebay => Self::Forebay,
            Whose::LibjpegTurbo => Self::LibjpegTurbo,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.threads > 0, "threads must be 1 or more");
    let done = match &args.what {
        What::Decode { step, huffman, shards } => decode(args.threads, *step, *huffman, shards)?,
        What::Copy { mib, times } => copy(args.threads, *mib, *times)?,
    };
    let answer = serde_json::json!({
        "value": done.work / done.seconds,
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "peak_rss_bytes": peak_rss_bytes()?,
    });
    println!("{answer}");
    Ok(())
}

struct Done {
    /// Images, or 10⁹ bytes.
    work: f64,
    seconds: f64,
    cpu_seconds: f64,
}

fn decode(threads: usize, step: Step, huffman: Whose, shards: &[PathBuf]) -> Result<Done> {
    let mut images = Vec::new();
    for shard in shards {
        images.extend(photos::jpegs(shard)?);
    }
    let boxes = boxes(&images)?;
    // Every thread takes all images, from places of its own: no counter between them.
    let pass = |alone: &mut Alone, thread: usize| -> Result<()> {
        let start = images.len() * thread / threads;
        for at in (start..images.len()).chain(0..start) {
            let decoded = match step {
                Step::Entropy => alone.coefficients(&images[at]),
                Step::Whole => alone.pixels(&images[at], None),
                Step::Crop => alone.pixels(&images[at], Some(boxes[at])),
            };
            decoded.map_err(|error| anyhow!("image {at}: {error}"))?;
        }
        Ok(())
    };
    let made = |thread| -> Result<(Alone, usize)> {
        let mut alone = Alone::new(huffman.into(), Limits::default()).map_err(|error| anyhow!("{error}"))?;
        pass(&mut alone, thread)?;
        Ok((alone, thread))
    };
    let (seconds, cpu_seconds) = together(threads, made, |(alone, thread)| pass(alone, *thread))?;
    Ok(Done { work: (images.len() * threads) as f64, seconds, cpu_seconds })
}

/// What training crops of each image.
fn boxes(images: &[Vec<u8>]) -> Result<Vec<Rect>> {
    let (mut decoder, transforms, random) =
        (Decoder::new(Limits::default()), training(photos::SIDE), EpochRng::new(0, 0));
    let crop = |(number, bytes): (usize, &Vec<u8>)| {
        let geometry = decoder.geometry(bytes, &transforms, &random.draws(number as u64));
        let geometry = geometry.map_err(|error| anyhow!("image {number}: {error}"))?;
        Ok(geometry.stages[0].crop)
    };
    images.iter().enumerate().map(crop).collect()
}

fn copy(threads: usize, mib: usize, times: usize) -> Result<Done> {
    let made = |thread: usize| {
        let from = vec![thread as u8 + 1; mib << 20];
        Ok((vec![0u8; mib << 20], from))
    };
    let work = |(to, from): &mut (Vec<u8>, Vec<u8>)| {
        for _ in 0..times {
            to.copy_from_slice(black_box(from));
            black_box(&mut *to);
        }
        Ok(())
    };
    let (seconds, cpu_seconds) = together(threads, made, work)?;
    Ok(Done { work: ((mib << 20) * times * threads) as f64 / 1e9, seconds, cpu_seconds })
}

/// Each thread makes what it needs, which warms it up; then all begin at once. Wall seconds from there to the last one's end, and
/// processor seconds.
fn together<T>(
    threads: usize,
    make: impl Fn(usize) -> Result<T> + Sync,
    work: impl Fn(&mut T) -> Result<()> + Sync,
) -> Result<(f64, f64)> {
    let (ready, go) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let run = |thread| {
        let made = make(thread);
        // Also where it failed: the others wait.
        ready.wait();
        go.wait();
        work(&mut made?)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let started: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        ready.wait();
        let (cpu, start) = (cpu_seconds()?, Instant::now());
        go.wait();
        for thread in started {
            thread.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
        }
        Ok((start.elapsed().as_secs_f64(), cpu_seconds()? - cpu))
    })
}
