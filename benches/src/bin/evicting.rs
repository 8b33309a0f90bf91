//! A dataset larger than the cache: reads of drawn blocks, of which some are there and the others come from an origin that costs nothing,
//! are written, and push others out. In turn with fio doing the same to files of the same size: as many reads as writes, allocating and
//! punching as often.
//!
//! `evicting --folder DIR` prints one JSON object per measurement; `value` is what went to and from the disk, in GB/s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use forebay_bench::fio;
use forebay_bench::folder::{objects, open};
use forebay_bench::process::{cpu_seconds, peak_rss_bytes};
use forebay_bench::reading::{Places, Reading, region};
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
    /// Measure the cache alone.
    #[arg(long)]
    without_fio: bool,
}

/// Each is a file of the cache.
const OBJECTS: u64 = 16;

/// The cache has room for one of so many parts of the dataset.
const PARTS: u64 = 2;

/// What was done in a measurement.
struct Done {
    read_bytes: u64,
    written_bytes: u64,
    evicted_blocks: u64,
    seconds: f64,
    line: Value,
}

fn main() -> Result<()> {
    let Args { reading, without_fio } = Args::parse();
    reading.check()?;
    let folder = tempfile::Builder::new().prefix("evicting-").tempdir_in(&reading.folder)?;
    let (engine, report) = forebay_cache::io::open(folder.path(), reading.depth.max(32))?;
    eprintln!("{}", serde_json::to_string(&report)?);
    let objects = objects(OBJECTS, reading.gib << 30)?;
    let limit = (reading.gib << 30) / PARTS;
    let cache = open(&folder.path().join("cache"), limit, engine)?;
    let region = region(reading.depth * BLOCK_BYTES as usize)?;
    let places = Places::new(true);
    let go = |until: &(dyn Fn(u64) -> bool + Sync)| run(&reading, &cache, &objects, &region, &places, until);
    // First until blocks go as fast as they come.
    let blocks = limit / BLOCK_BYTES;
    go(&|evicted| evicted >= blocks / 4)?;
    let rival = if without_fio { None } else { Some(Rival::new(folder.path(), limit)?) };
    for round in 0..reading.rounds {
        let start = Instant::now();
        let end = Duration::from_secs_f64(reading.seconds);
        let done = go(&|_| start.elapsed() >= end)?;
        let mut line = done.line.clone();
        line["contender"] = "forebay".into();
        line["round"] = round.into();
        println!("{line}");
        let Some(rival) = &rival else { continue };
        let command = rival.command(&reading, &done);
        let answer = fio::run(&command)?;
        println!(
            "{}",
            json!({
                "contender": "fio", "round": round, "value": answer.gb_per_s, "seconds": answer.seconds,
                "cpu_seconds": answer.cpu_seconds, "command": command,
            })
        );
    }
    block_on(cache.close())?;
    Ok(())
}

/// Reads drawn blocks until `until` says that it is enough, given how many were evicted since the start.
fn run(
    reading: &Reading,
    cache: &Cache,
    objects: &[Arc<ObjectMeta>],
    region: &Region,
    places: &Places,
    until: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Done> {
    let before = cache.stats();
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let in_one = u64::from(objects[0].blocks());
    let submit = || {
        let at = places.next(in_one * objects.len() as u64);
        let first = at % in_one * BLOCK_BYTES;
        cache.read(&objects[(at / in_one) as usize], ByteRange::new(first, first + BLOCK_BYTES), region)
    };
    let enough = || until(cache.stats().evicted_blocks - before.evicted_blocks);
    let consume = |depth: usize| {
        block_on(async {
            let mut reads: FuturesUnordered<_> = (0..depth).map(|_| submit()).collect();
            let mut bytes = 0;
            while let Some(read) = reads.next().await {
                drop(read?);
                bytes += BLOCK_BYTES;
                if !enough() {
                    reads.push(submit());
                }
            }
            Ok(bytes)
        })
    };
    reading.on_threads(consume)?;
    let (after, seconds) = (cache.stats(), start.elapsed().as_secs_f64());
    let read_bytes = after.disk.bytes - before.disk.bytes;
    let written_bytes = (after.stored_blocks - before.stored_blocks) * BLOCK_BYTES;
    let evicted_blocks = after.evicted_blocks - before.evicted_blocks;
    Ok(Done {
        read_bytes,
        written_bytes,
        evicted_blocks,
        seconds,
        line: json!({
            "value": (read_bytes + written_bytes) as f64 / 1e9 / seconds,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds()? - cpu,
            "peak_rss_bytes": peak_rss_bytes()?,
            "read_bytes": read_bytes,
            "written_bytes": written_bytes,
            "evicted_blocks": evicted_blocks,
            "declined_blocks": after.declined_blocks - before.declined_blocks,
        }),
    })
}

/// fio's files: one that is read and written, and one whose space comes and goes.
struct Rival {
    data: PathBuf,
    space: PathBuf,
    bytes: u64,
}

impl Rival {
    fn new(folder: &Path, limit: u64) -> Result<Self> {
        let bytes = limit / BLOCK_BYTES * BLOCK_BYTES;
        let rival = Self { data: folder.join("fio.data"), space: folder.join("fio.space"), bytes };
        // Written once, as the cache's blocks are: what was only allocated reads faster than the disk.
        let mut command: Vec<String> = [
            "fio",
            "--name=lay",
            "--rw=write",
            "--bs=4M",
            "--direct=1",
            "--ioengine=io_uring",
            "--iodepth=8",
        ]
        .map(str::to_owned)
        .to_vec();
        command.extend([format!("--filename={}", fio::in_list(&rival.data)), format!("--size={bytes}")]);
        fio::output(&command)?;
        std::fs::File::create(&rival.space)?.set_len(bytes)?;
        Ok(rival)
    }

    /// The same mixture at full speed, and beside it allocations and punches as often as the cache had them.
    fn command(&self, reading: &Reading, done: &Done) -> Vec<String> {
        let moved = (done.read_bytes + done.written_bytes).max(1);
        let mut command = fio::common(reading.seconds);
        command.extend([
            format!("--bs={BLOCK_BYTES}"),
            format!("--size={}", self.bytes),
            "--name=blocks".into(),
            format!("--filename={}", fio::in_list(&self.data)),
            "--ioengine=io_uring".into(),
            format!("--iodepth={}", reading.depth),
            "--rw=randrw".into(),
            format!("--rwmixread={}", done.read_bytes * 100 / moved),
            "--norandommap".into(),
        ]);
        let per_second = (done.evicted_blocks as f64 / done.seconds).ceil();
        for (name, how) in [("space-allocated", "randread"), ("space-punched", "randtrim")] {
            command.extend([
                format!("--name={name}"),
                format!("--filename={}", fio::in_list(&self.space)),
                "--ioengine=falloc".into(),
                "--iodepth=1".into(),
                "--direct=0".into(),
                format!("--rw={how}"),
                "--norandommap".into(),
                format!("--rate_iops={}", per_second.max(1.0)),
            ]);
        }
        command
    }
}
