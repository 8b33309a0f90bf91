//! Cached blocks against fio: whole blocks and parts of them read through the cache, every granule verified, in turn with fio's
//! direct io_uring reads of the very files that the cache keeps, at the same size and depth.
//!
//! `cached --folder DIR` prints one JSON object per measurement. The folder's disk is the one measured.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use forebay_bench::fio::Job;
use forebay_bench::mixed;
use forebay_bench::process::{cpu_seconds, peak_rss_bytes};
use forebay_cache::io::BlockIo;
use forebay_cache::memory::{Arena, Region, Unpinned};
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Cache, CacheOptions, Location, ObjectMeta, Version};
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use serde_json::json;

#[derive(Parser)]
struct Args {
    /// Where the cache folder is made; removed at the end.
    #[arg(long)]
    folder: PathBuf,
    /// Size of all objects in GiB: more than the disk's own cache.
    #[arg(long, default_value_t = 2)]
    gib: u64,
    /// Objects, each a file of the cache.
    #[arg(long, default_value_t = 8)]
    objects: u64,
    /// Reads in flight.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Threads that wait for reads; checksums are verified on them.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measurements of each kind, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes per read.
    #[arg(long, value_delimiter = ',', default_values_t = [128 << 10, 1 << 20, 4 << 20])]
    sizes: Vec<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.depth >= args.threads && args.threads > 0, "depth must be threads or more");
    let folder = tempfile::Builder::new().prefix("cached-").tempdir_in(&args.folder)?;
    let (engine, report) = forebay_cache::io::open(folder.path(), args.depth.max(32))?;
    eprintln!("{}", serde_json::to_string(&report)?);
    let objects = fill(&args, folder.path(), engine.clone())?;
    // Opened again: nothing is in its host tier, which reads from disk leave alone.
    let cache = open(folder.path(), engine)?;
    let files = data_files(folder.path())?;
    ensure!(files.len() as u64 == args.objects, "{} data files for {} objects", files.len(), args.objects);
    for &size in &args.sizes {
        let job = Job {
            files: files.clone(),
            block_bytes: size,
            depth: args.depth,
            seconds: args.seconds,
            random: true,
        };
        let region = region(args.depth * size)?;
        // One turn to begin with: pages that are touched for the first time are slow, and a loader's memory is not new.
        read(&args, &cache, &objects, size, &region, 0.0)?;
        for round in 0..args.rounds {
            // Taking turns at being first: a disk behind a rate limiter is faster after a rest.
            let fio_first = round % 2 == 1;
            for fio in [fio_first, !fio_first] {
                let answer = match fio {
                    true => fio_round(&job)?,
                    false => read(&args, &cache, &objects, size, &region, args.seconds)?,
                };
                let contender = if fio { "fio" } else { "forebay" };
                let mut line = json!({ "contender": contender, "block_bytes": size, "round": round });
                if let (Some(line), Some(answer)) = (line.as_object_mut(), answer.as_object()) {
                    line.extend(answer.clone());
                }
                println!("{line}");
            }
        }
    }
    block_on(cache.close())?;
    Ok(())
}

fn fio_round(job: &Job) -> Result<serde_json::Value> {
    let answer = job.run()?;
    Ok(json!({
        "value": answer.gb_per_s,
        "seconds": answer.seconds,
        "cpu_seconds": answer.cpu_seconds,
        "command": job.command(),
    }))
}

/// Brings all objects into the cache, and closes it.
fn fill(args: &Args, folder: &Path, engine: Arc<dyn BlockIo>) -> Result<Vec<Arc<ObjectMeta>>> {
    let bytes = (args.gib << 30) / args.objects / BLOCK_BYTES * BLOCK_BYTES;
    ensure!(bytes > 0, "--gib is too small for --objects");
    let meta = |number| {
        let location = Location::new(format!("noise://objects/{number}"));
        Arc::new(ObjectMeta::new(location, bytes, Version::Etag("1".into())))
    };
    let objects: Vec<_> = (0..args.objects).map(meta).collect();
    let cache = open(folder, engine)?;
    block_on(async {
        for object in &objects {
            let done = cache.prefetch(object, ByteRange::new(0, object.size_bytes)).await?;
            ensure!(done.stored == object.blocks(), "the cache kept {done:?} of {object:?}");
        }
        Ok(cache.close().await?)
    })?;
    rustix::fs::syncfs(std::fs::File::open(folder)?)?;
    Ok(objects)
}

fn open(folder: &Path, engine: Arc<dyn BlockIo>) -> Result<Cache> {
    let memory = region(16 * BLOCK_BYTES as usize)?;
    // No quota in the way: what is measured are reads.
    Ok(Cache::open(CacheOptions::new(folder, 1 << 50, memory, Arc::new(Noise), engine))?)
}

fn region(bytes: usize) -> Result<Region> {
    Ok(Arena::new(bytes as u64, Arc::new(Unpinned))?.region("reads", bytes)?)
}

fn data_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for bucket in std::fs::read_dir(folder.join("objects"))? {
        for file in std::fs::read_dir(bucket?.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "data") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Reads random places for so many seconds, `depth` of them at once.
fn read(
    args: &Args,
    cache: &Cache,
    objects: &[Arc<ObjectMeta>],
    size: usize,
    region: &Region,
    seconds: f64,
) -> Result<serde_json::Value> {
    let turns = AtomicU64::new(0);
    let place = || {
        let place = mixed(turns.fetch_add(1, Ordering::Relaxed));
        let object = &objects[(place % objects.len() as u64) as usize];
        let start = (place >> 16) % (object.size_bytes / size as u64) * size as u64;
        (object, ByteRange::new(start, start + size as u64))
    };
    let end = Duration::from_secs_f64(seconds);
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let consume = |depth: usize| {
        block_on(async {
            let mut reading = FuturesUnordered::new();
            let submit = || {
                let (object, range) = place();
                cache.read(object, range, region)
            };
            reading.extend((0..depth).map(|_| submit()));
            let mut bytes = 0u64;
            while let Some(read) = reading.next().await {
                let read = read?;
                ensure!(read.tiers.disk == size as u64, "a read came from elsewhere: {:?}", read.tiers);
                bytes += read.lease.len() as u64;
                drop(read);
                if start.elapsed() < end {
                    reading.push(submit());
                }
            }
            Ok(bytes)
        })
    };
    let bytes: Result<u64> = std::thread::scope(|scope| {
        let share = |thread| args.depth / args.threads + usize::from(thread < args.depth % args.threads);
        let threads: Vec<_> =
            (0..args.threads).map(|thread| scope.spawn(move || consume(share(thread)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a reader panicked"))).sum()
    });
    let (bytes, seconds) = (bytes?, start.elapsed().as_secs_f64());
    Ok(json!({
        "value": bytes as f64 / 1e9 / seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds()? - cpu,
        "peak_rss_bytes": peak_rss_bytes()?,
    }))
}

/// An origin of bytes that no disk compresses, made as they are asked for.
#[derive(Debug)]
struct Noise;

const CHUNK_BYTES: u64 = 1 << 20;

impl Origin for Noise {
    fn head(&self, location: &Location) -> BoxFuture<'_, forebay_cache::Result<ObjectMeta>> {
        let error = forebay_cache::Error::config(format!("{location}: its size is not asked for here"));
        Box::pin(async { Err(error) })
    }

    fn list(&self, _: &Location) -> BoxStream<'_, forebay_cache::Result<ObjectMeta>> {
        stream::empty().boxed()
    }

    fn get(&self, _: &ObjectMeta, range: ByteRange) -> BoxStream<'static, forebay_cache::Result<Bytes>> {
        let chunk = move |start: u64| {
            let words = (start..range.end.min(start + CHUNK_BYTES)).step_by(8);
            let mut bytes: Vec<u8> = words.flat_map(|at| mixed(at).to_le_bytes()).collect();
            bytes.truncate((range.end - start) as usize);
            Ok(Bytes::from(bytes))
        };
        stream::iter((range.start..range.end).step_by(CHUNK_BYTES as usize)).map(chunk).boxed()
    }

    fn kind(&self) -> &'static str {
        "noise"
    }
}
