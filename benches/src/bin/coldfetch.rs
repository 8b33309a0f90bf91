//! Objects into a new cache folder, as `forebay prefetch` brings them there, until they are on disk: ended by syncfs.
//!
//! `coldfetch --cache-dir DIR --storage-option KEY=VALUE... URL...` prints one JSON object.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_bench::process::{cpu_seconds, peak_rss_bytes};
use forebay_cache::memory::{Arena, Unpinned};
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::origin::{Origins, resolve};
use forebay_cache::{ByteRange, Cache, CacheOptions};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};

/// One request to the origin, and how many are asked for at once: more than there are connections.
const STEP_BYTES: u64 = 4 * BLOCK_BYTES;
const STEPS_AT_ONCE: usize = 32;

#[derive(Parser)]
struct Args {
    /// A folder that doesn't exist yet.
    #[arg(long)]
    cache_dir: PathBuf,
    /// Memory for blocks on their way.
    #[arg(long, default_value_t = 512)]
    memory_mib: usize,
    /// An option of the object store.
    #[arg(long = "storage-option", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// What to fetch.
    #[arg(required = true)]
    urls: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let start = Instant::now();
    ensure!(!args.cache_dir.exists(), "{} exists: a cold fetch needs a new folder", args.cache_dir.display());
    std::fs::create_dir_all(&args.cache_dir)?;
    let pair = |option: &String| {
        let (key, value) = option.split_once('=').with_context(|| format!("{option:?} is no KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    let options = args.options.iter().map(pair).collect::<Result<_>>()?;
    let memory = args.memory_mib << 20;
    let region = Arena::new(memory as u64, Arc::new(Unpinned))?.region("cache blocks", memory)?;
    let (io, report) = forebay_cache::io::open(&args.cache_dir, 64)?;
    eprintln!("{}", serde_json::to_string(&report)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut settings =
        CacheOptions::new(&args.cache_dir, 1 << 50, region, Arc::new(Origins::new(options)?), io);
    settings.runtime = Some(runtime.handle().clone());
    let cache = {
        let _inside = runtime.enter();
        Cache::open(settings)?
    };
    let bytes = runtime.block_on(fetch(&cache, &args.urls))?;
    rustix::fs::syncfs(std::fs::File::open(&args.cache_dir)?)?;
    let seconds = start.elapsed().as_secs_f64();
    let answer = serde_json::json!({
        "value": bytes as f64 / 1e9 / seconds,
        "bytes": bytes,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds()?,
        "peak_rss_bytes": peak_rss_bytes()?,
    });
    println!("{answer}");
    Ok(())
}

/// Brings everything to disk; gives how many bytes that was.
async fn fetch(cache: &Cache, urls: &[String]) -> Result<u64> {
    let locations = urls.iter().map(|url| resolve(url)).collect::<Result<Vec<_>, _>>()?;
    let objects = try_join_all(locations.iter().map(|location| cache.object(location))).await?;
    let steps = objects.iter().flat_map(|object| {
        let starts = (0..object.size_bytes).step_by(STEP_BYTES as usize);
        starts.map(move |at| (object, ByteRange::new(at, (at + STEP_BYTES).min(object.size_bytes))))
    });
    let declined: u32 = stream::iter(steps)
        .map(|(object, range)| cache.prefetch(object, range))
        .buffer_unordered(STEPS_AT_ONCE)
        .try_fold(0, async |sum, done| Ok(sum + done.declined))
        .await?;
    ensure!(declined == 0, "{declined} blocks were not kept");
    cache.close().await?;
    Ok(objects.iter().map(|object| object.size_bytes).sum())
}
