//! Block I/O against fio: random and sequential direct reads through the engine, every granule verified by the threads that
//! consume them, and fio's io_uring reads of the same file, size and depth, in turn.
//!
//! `cargo run --release -p forebay-bench --bin blockio -- --folder DIR`; the ratio of the medians is the result.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use forebay_bench::fio::Job;
use forebay_bench::process::cpu_seconds;
use forebay_bench::{median, mixed};
use forebay_cache::granule::{granule_crcs, verify};
use forebay_cache::io::{self, BlockIo, IoFile};
use forebay_cache::memory::{Arena, Region, Slab, Unpinned};
use forebay_cache::object::{BLOCK_BYTES, GRANULE_BYTES};
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;

#[derive(Parser)]
struct Args {
    /// Where the file to read is made, and removed at the end.
    #[arg(long)]
    folder: PathBuf,
    /// Size of the file in GiB: more than the disk's own cache.
    #[arg(long, default_value_t = 2)]
    gib: u64,
    /// Reads in flight.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Threads that wait for reads and verify them.
    #[arg(long, default_value_t = 2)]
    consumers: usize,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measurements of each kind, interleaved with fio's.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Bytes per read.
    #[arg(long, value_delimiter = ',', default_values_t = [4 << 10, 128 << 10, 1 << 20, 4 << 20])]
    sizes: Vec<usize>,
    /// Read without verifying.
    #[arg(long)]
    unverified: bool,
    /// Measure the engine alone.
    #[arg(long)]
    without_fio: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (engine, report) = io::open(&args.folder, args.depth)?;
    eprintln!("{}", serde_json::to_string(&report)?);
    let path = args.folder.join("blockio.data");
    let data = Data::write(&*engine, &path, args.gib << 30)?;
    let result = compare(&args, &*engine, &data, &path);
    std::fs::remove_file(&path)?;
    result
}

fn compare(args: &Args, engine: &dyn BlockIo, data: &Data, path: &Path) -> Result<()> {
    println!("order       bytes   forebay GB/s   fio GB/s   ratio   core-seconds/GB (forebay, fio)");
    for random in [true, false] {
        for &size in &args.sizes {
            ensure!(size.is_multiple_of(GRANULE_BYTES as usize), "{size} bytes are not whole granules");
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..args.rounds {
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

fn region(bytes: usize) -> Result<Region> {
    Ok(Arena::new(bytes as u64, Arc::new(Unpinned))?.region("reads", bytes)?)
}

/// xorshift64: bytes that no disk compresses.
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}

fn read(args: &Args, engine: &dyn BlockIo, data: &Data, size: usize, random: bool) -> Result<Figure> {
    let region = region(args.depth * size)?;
    let cursor = AtomicU64::new(0);
    let blocks = data.bytes / size as u64;
    let place = || {
        let turn = cursor.fetch_add(1, Ordering::Relaxed);
        let block = if random { mixed(turn) } else { turn };
        block % blocks * size as u64
    };
    let end = Duration::from_secs_f64(args.seconds);
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let consume = || {
        block_on(async {
            let mut reading = FuturesUnordered::new();
            let submit = |slab: Slab| {
                let offset = place();
                async move { (offset, io::read(engine, &data.file, offset, size, slab).await) }
            };
            let mut bytes = 0u64;
            for _ in 0..args.depth / args.consumers {
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
    let bytes = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.consumers).map(|_| scope.spawn(consume)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a consumer panicked"))).sum()
    });
    let (bytes, seconds): (Result<u64>, _) = (bytes, start.elapsed().as_secs_f64());
    let gb = bytes? as f64 / 1e9;
    Ok(Figure { gb_per_s: gb / seconds, cores_per_gb: (cpu_seconds()? - cpu) / gb })
}

fn fio(args: &Args, path: &Path, size: usize, random: bool) -> Result<Figure> {
    let (depth, seconds) = (args.depth, args.seconds);
    let answer = Job { files: vec![path.into()], block_bytes: size, depth, seconds, random }.run()?;
    Ok(Figure {
        gb_per_s: answer.gb_per_s,
        cores_per_gb: answer.cpu_seconds / (answer.gb_per_s * answer.seconds),
    })
}
