//! Cached blocks against fio: blocks and parts of them read through the cache, every granule verified, in turn with fio's direct
//! io_uring reads of the very files that the cache keeps, at the same size, depth and order. Of fio's settings the fastest takes part.
//!
//! `cached --folder DIR` prints one JSON object per measurement. The folder's disk is the one measured.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use forebay_bench::fio::Job;
use forebay_bench::folder::{data_files, fill, objects, open};
use forebay_bench::process::{cpu_seconds, disk_bytes, peak_rss_bytes};
use forebay_bench::reading::{Places, Reading, Sizes, region};
use forebay_cache::disk::CrcPage;
use forebay_cache::memory::Region;
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::{ByteRange, Cache, ObjectMeta};
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    sizes: Sizes,
    /// Measurements of each kind of reads below 128 KiB, where they are to be fewer.
    #[arg(long)]
    small_rounds: Option<usize>,
    /// Measure the cache alone.
    #[arg(long)]
    without_fio: bool,
}

/// Each is a file of the cache.
const OBJECTS: u64 = 8;

/// Below this size reads are also measured at places as samples have them.
const SMALL_BYTES: usize = 128 << 10;

/// Where members of a tar begin.
const TAR_BYTES: u64 = 512;

/// How places lie.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Random,
    Sequential,
    /// Drawn, where members of a tar begin: granules are read whole.
    Members,
}

fn main() -> Result<()> {
    let Args { reading, sizes, small_rounds, without_fio } = Args::parse();
    reading.check()?;
    sizes.check()?;
    let folder = tempfile::Builder::new().prefix("cached-").tempdir_in(&reading.folder)?;
    let (engine, report) = forebay_cache::io::open(folder.path(), reading.depth.max(32))?;
    eprintln!("{}", serde_json::to_string(&report)?);
    let objects = objects(OBJECTS, reading.gib << 30)?;
    fill(folder.path(), &objects, engine.clone())?;
    // Opened again: nothing is in its host tier, which reads from disk leave alone. No quota in the way: what is measured are reads.
    let cache = open(folder.path(), 1 << 50, engine)?;
    let files = data_files(folder.path())?;
    ensure!(files.len() as u64 == OBJECTS, "{} data files for {OBJECTS} objects", files.len());
    let checksums = checksum_gb_per_s();
    for &size in &sizes.sizes {
        ensure!(size as u64 <= objects[0].size_bytes, "reads of {size} bytes don't fit into an object");
        let rounds = small_rounds.filter(|_| size < SMALL_BYTES).unwrap_or(reading.rounds);
        let region = region(reading.depth * size)?;
        let ours = |order, seconds| read(&reading, &cache, &objects, size, &region, order, seconds);
        // One turn to begin with: pages that are touched for the first time are slow, and a loader's memory is not new.
        ours(Order::Random, 0.0)?;
        for order in [Order::Random, Order::Sequential] {
            let random = order == Order::Random;
            let job = Job {
                files: files.clone(),
                block_bytes: size,
                depth: reading.depth,
                seconds: reading.seconds,
                random,
                processes: 1,
                registered: false,
            };
            let job = if without_fio { None } else { Some(fastest(job.settings(reading.threads))?) };
            for round in 0..rounds {
                let print = |contender: &str, answer: Value| {
                    let order = if random { "random" } else { "sequential" };
                    let mut line = json!({
                        "contender": contender, "order": order, "block_bytes": size, "round": round,
                        "checksum_gb_per_s_per_core": checksums,
                    });
                    if let (Some(line), Some(answer)) = (line.as_object_mut(), answer.as_object()) {
                        line.extend(answer.clone());
                    }
                    println!("{line}");
                };
                // Taking turns at being first: a disk behind a rate limiter is faster after a rest.
                let fio_first = round % 2 == 1;
                for fio in [fio_first, !fio_first] {
                    match (fio, &job) {
                        (true, Some(job)) => print("fio", fio_round(job)?),
                        (true, None) => {}
                        (false, _) => print("forebay", ours(order, reading.seconds)?),
                    }
                }
                if random && size < SMALL_BYTES {
                    print("forebay, anywhere", ours(Order::Members, reading.seconds)?);
                }
            }
        }
    }
    block_on(cache.close())?;
    Ok(())
}

/// Verifying is this fast on one core: granules in memory that is larger than its caches, as a slab is that a read has just filled.
fn checksum_gb_per_s() -> f64 {
    let bytes: Vec<u8> = (0..32 << 20u32).map(|at| (at % 251) as u8).collect();
    let start = Instant::now();
    const TURNS: usize = 8;
    for _ in 0..TURNS {
        bytes.chunks(BLOCK_BYTES as usize).for_each(|block| drop(black_box(CrcPage::of(black_box(block)))));
    }
    (TURNS * bytes.len()) as f64 / 1e9 / start.elapsed().as_secs_f64()
}

/// Half as long as they are measured tells which one it is.
fn fastest(settings: Vec<Job>) -> Result<Job> {
    let mut best: Option<(f64, Job)> = None;
    for job in settings {
        let found = Job { seconds: job.seconds / 2.0, ..job.clone() }.run()?.gb_per_s;
        if best.as_ref().is_none_or(|(most, _)| found > *most) {
            best = Some((found, job));
        }
    }
    best.map(|(_, job)| job).ok_or_else(|| anyhow::anyhow!("fio has no setting"))
}

fn fio_round(job: &Job) -> Result<Value> {
    let answer = job.run()?;
    Ok(json!({
        "value": answer.gb_per_s,
        "seconds": answer.seconds,
        "cpu_seconds": answer.cpu_seconds,
        "command": job.command(),
    }))
}

/// Reads for so many seconds, `depth` of them at once.
fn read(
    reading: &Reading,
    cache: &Cache,
    objects: &[Arc<ObjectMeta>],
    size: usize,
    region: &Region,
    order: Order,
    seconds: f64,
) -> Result<Value> {
    let places = Places::new(order != Order::Sequential);
    let step = if order == Order::Members { TAR_BYTES } else { size as u64 };
    let in_one = (objects[0].size_bytes - size as u64) / step + 1;
    let place = || {
        let at = places.next(in_one * objects.len() as u64);
        let start = at % in_one * step;
        (&objects[(at / in_one) as usize], ByteRange::new(start, start + size as u64))
    };
    let end = Duration::from_secs_f64(seconds);
    let (disk, cpu, start) = (disk_bytes()?.0, cpu_seconds()?, Instant::now());
    let consume = |depth: usize| {
        block_on(async {
            let mut reading = FuturesUnordered::new();
            let submit = || {
                let (object, range) = place();
                cache.read(object, range, region)
            };
            let mut bytes = 0;
            for _ in 0..depth {
                reading.push(submit());
            }
            while let Some(answer) = reading.next().await {
                let read = answer?;
                ensure!(
                    read.tiers.disk == size as u64,
                    "read from elsewhere than the disk: {:?}",
                    read.tiers
                );
                bytes += size as u64;
                drop(read);
                if start.elapsed() < end {
                    reading.push(submit());
                }
            }
            Ok(bytes)
        })
    };
    let (bytes, seconds) = (reading.on_threads(consume)?, start.elapsed().as_secs_f64());
    Ok(json!({
        "value": bytes as f64 / 1e9 / seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds()? - cpu,
        "peak_rss_bytes": peak_rss_bytes()?,
        "disk_bytes_per_byte": (disk_bytes()?.0 - disk) as f64 / bytes as f64,
    }))
}
