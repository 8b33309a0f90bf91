//! Block I/O against fio: random and sequential direct reads through the engine, every granule verified by the threads that
//! consume them, and fio's io_uring reads of the same file, size and depth, in turn.
//!
//! `cargo run --release -p forebay-bench --bin blockio -- --folder DIR`; the ratio of the medians is the result.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_bench::fio::Job;
use forebay_bench::median;
use forebay_bench::process::cpu_seconds;
use forebay_bench::reading::{Places, Reading, Sizes, region};
use forebay_cache::granule::{granule_crcs, verify};
use forebay_cache::io::{self, BlockIo, IoFile};
use forebay_cache::memory::Slab;
use forebay_cache::object::{BLOCK_BYTES, GRANULE_BYTES};
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    sizes: Sizes,
    /// Read without verifying.
    #[arg(long)]
    unverified: bool,
    /// Measure the engine alone.
    #[arg(long)]
    without_fio: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    args.reading.check()?;
    args.sizes.check()?;
    let (engine, report) = io::open(&args.reading.folder, args.reading.depth)?;
    eprintln!("{}", serde_json::to_string(&report)?);
    let path = args.reading.folder.join("blockio.data");
    let data = Data::write(&*engine, &path, args.reading.gib << 30)?;
    let result = compare(&args, &*engine, &data, &path);
    std::fs::remove_file(&path)?;
    result
}

fn compare(args: &Args, engine: &dyn BlockIo, data: &Data, path: &Path) -> Result<()> {
    println!("order       bytes   forebay GB/s   fio GB/s   ratio   core-seconds/GB (forebay, fio)");
    for random in [true, false] {
        for &size in &args.sizes.sizes {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..args.reading.rounds {
                // Taking turns at being first: a disk behind a rate limiter is faster after a rest.
                let fio_first = round % 2 == 1;
                for turn in [fio_first, !fio_first] {
                    match turn {
                        true if args.without_fio => {}
                        true => theirs.push(fio(args, path, size, random)?),
                        false => ours.push(read(args, engine, data, size, random)?),
                    }
                }
            }
            let (ours, theirs) = (middle(&ours), middle(&theirs));
            println!(
                "{:10} {size:>7} {:>14.3} {:>10.3} {:>7.3}   {:.3}, {:.3}",
                if random { "random" } else { "sequential" },
                ours.gb_per_s,
                theirs.gb_per_s,
                ours.gb_per_s / theirs.gb_per_s,
                ours.cores_per_gb,
                theirs.cores_per_gb
            );
        }
    }
    Ok(())
}

struct Figure {
    gb_per_s: f64,
    cores_per_gb: f64,
}

fn middle(figures: &[Figure]) -> Figure {
    Figure {
        gb_per_s: median(figures.iter().map(|figure| figure.gb_per_s)),
        cores_per_gb: median(figures.iter().map(|figure| figure.cores_per_gb)),
    }
}

/// The file and the checksums of its granules.
struct Data {
    file: Arc<IoFile>,
    bytes: u64,
    crcs: Vec<u32>,
}

impl Data {
    fn write(engine: &dyn BlockIo, path: &Path, bytes: u64) -> Result<Self> {
        let file = Arc::new(IoFile::open(path, true).with_context(|| path.display().to_string())?);
        let region = region(8 * BLOCK_BYTES as usize)?;
        let mut crcs = Vec::new();
        let mut state = 1u64;
        block_on(async {
            let mut writing = FuturesUnordered::new();
            for offset in (0..bytes).step_by(BLOCK_BYTES as usize) {
                if writing.len() == 8 {
                    writing.next().await.unwrap_or(Ok(()))?;
                }
                let mut slab = region.allocate(BLOCK_BYTES as usize).await?;
                for word in slab.chunks_exact_mut(8) {
                    state = next(state);
                    word.copy_from_slice(&state.to_le_bytes());
                }
                crcs.extend(granule_crcs(&slab));
                writing.push(io::write(engine, &file, offset, slab.freeze()));
            }
            while let Some(result) = writing.next().await {
                result?;
            }
            anyhow::Ok(())
        })?;
        file.file().sync_all()?;
        Ok(Self { file, bytes, crcs })
    }

    fn check(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        verify(bytes, &self.crcs[(offset / GRANULE_BYTES) as usize..])?;
        Ok(())
    }
}

/// xorshift64: bytes that no disk compresses.
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}

fn read(args: &Args, engine: &dyn BlockIo, data: &Data, size: usize, random: bool) -> Result<Figure> {
    let region = region(args.reading.depth * size)?;
    let places = Places::new(random);
    let place = || places.next(data.bytes / size as u64) * size as u64;
    let end = Duration::from_secs_f64(args.reading.seconds);
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let consume = |depth: usize| {
        block_on(async {
            let mut reading = FuturesUnordered::new();
            let submit = |slab: Slab| {
                let offset = place();
                async move { (offset, io::read(engine, &data.file, offset, size, slab).await) }
            };
            let mut bytes = 0;
            for _ in 0..depth {
                reading.push(submit(region.allocate(size).await?));
            }
            while let Some((offset, (slab, result))) = reading.next().await {
                ensure!(result? == size, "a short read at {offset}");
                let slab = slab.context("the read kept its slab")?;
                if !args.unverified {
                    data.check(offset, &slab)?;
                }
                bytes += size as u64;
                if start.elapsed() < end {
                    reading.push(submit(slab));
                }
            }
            Ok(bytes)
        })
    };
    let gb = args.reading.on_threads(consume)? as f64 / 1e9;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Figure { gb_per_s: gb / seconds, cores_per_gb: (cpu_seconds()? - cpu) / gb })
}

fn fio(args: &Args, path: &Path, size: usize, random: bool) -> Result<Figure> {
    let job = Job {
        files: vec![path.into()],
        block_bytes: size,
        depth: args.reading.depth,
        seconds: args.reading.seconds,
        random,
        processes: 1,
        registered: false,
    };
    let answer = job.run()?;
    Ok(Figure {
        gb_per_s: answer.gb_per_s,
        cores_per_gb: answer.cpu_seconds / (answer.gb_per_s * answer.seconds),
    })
}
