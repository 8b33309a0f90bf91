//! A process that uses the cache as it is told, line by line, and says what came of it.
#![allow(unsafe_code)]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use forebay_cache::disk::{Advice, Evict};
use forebay_cache::memory::{Arena, Region};
use forebay_cache::share::Cache;
use forebay_cache::{ByteRange, CacheOptions};

use crate::origin::{OBJECT_BYTES, OBJECTS, Remote, byte, object};

pub(crate) const DIR: &str = "FOREBAY_TEST_DIR";
pub(crate) const LIMIT: &str = "FOREBAY_TEST_LIMIT";
pub(crate) const ORIGIN: &str = "FOREBAY_TEST_ORIGIN";

/// Bytes of one read: a sample of odd size, so that reads cross granules and blocks.
const SAMPLE_BYTES: u64 = 333_333;
/// Reads at the same time.
const AT_ONCE: usize = 8;

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may be gone: then this process is about to be, too.
    drop(writeln!(out, "\n@{what}"));
    drop(out.flush());
}

struct User {
    cache: Cache,
    region: Region,
    runtime: tokio::runtime::Runtime,
}

#[test]
#[ignore = "a process of the tests in this file"]
fn process() {
    let variable = |name: &str| std::env::var(name).expect("started by a test of this file");
    let dir = PathBuf::from(variable(DIR));
    std::fs::create_dir_all(&dir).unwrap();
    let arena = Arena::new(96 << 20).unwrap();
    let memory = arena.region("blocks", 48 << 20).unwrap();
    let (io, _) = forebay_cache::io::open(&dir, 16).unwrap();
    let origin = Arc::new(Remote(variable(ORIGIN).parse().unwrap()));
    let options = CacheOptions::new(dir, variable(LIMIT).parse().unwrap(), memory, origin, io);
    let cache = match Cache::open(options) {
        Ok(cache) => cache,
        Err(error) => return say(&format!("failed to open: {error}")),
    };
    say(&format!("open {}", cache.stats().role));
    let region = arena.region("samples", 48 << 20).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let user = User { cache, region, runtime };
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Err(error) = user.obey(&line) {
            say(&format!("failed: {line}: {error}"));
        }
    }
}

impl User {
    fn obey(&self, line: &str) -> forebay_cache::Result<()> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("epoch", seed) => {
                self.runtime.block_on(self.epoch(seed.parse().unwrap_or(0)))?;
                say("done");
            }
            ("role", _) => say(&format!("role {}", self.cache.stats().role)),
            ("evict", _) => {
                self.runtime.block_on(self.cache.evict(Evict::All))?;
                let status = self.runtime.block_on(self.cache.status())?;
                say(&format!("objects {}", status.objects.len()));
            }
            ("need", index) => {
                let (id, whole) = (object(index.parse().unwrap_or(0)).id, ByteRange::new(0, OBJECT_BYTES));
                self.cache.advise(&id, whole, Advice::WillNeed);
                say("needed");
            }
            ("shrink", _) => {
                self.runtime.block_on(self.cache.evict(Evict::DownTo { bytes: 0 }))?;
                let status = self.runtime.block_on(self.cache.status())?;
                let mut left: Vec<_> = status.objects.iter().filter(|left| left.cached_blocks > 0).collect();
                left.sort_by_key(|left| left.location.clone());
                let names: Vec<_> = left.iter().filter_map(|left| left.location.rsplit('/').next()).collect();
                say(&format!("left {}", names.join(" ")));
            }
            ("verify", _) => {
                let mut progress = self.cache.verify()?;
                let mut bad = 0;
                while let Some(step) = progress.blocking_recv() {
                    bad += usize::from(step.finding.is_some());
                }
                say(&format!("bad {bad}"));
            }
            ("close", _) => {
                self.runtime.block_on(self.cache.close())?;
                say("closed");
            }
            ("fork", _) => self.fork(),
            _ => say("failed: no such command"),
        }
        Ok(())
    }

    /// Every sample once, in an order of the seed's, several at a time.
    async fn epoch(&self, seed: u64) -> forebay_cache::Result<()> {
        use futures::stream::{self, StreamExt, TryStreamExt};
        let per_object = OBJECT_BYTES.div_ceil(SAMPLE_BYTES);
        let mut samples: Vec<u64> = (0..per_object * OBJECTS as u64).collect();
        samples.sort_by_key(|sample| {
            (sample + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ seed << 17).rotate_left(29)
        });
        let reads = samples
            .into_iter()
            .map(|sample| self.sample((sample / per_object) as usize, sample % per_object));
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        let mut count = 0;
        while let Some(()) = reads.try_next().await? {
            count += 1;
            if count % 20 == 0 {
                say(&format!("step {count}"));
            }
        }
        Ok(())
    }

    async fn sample(&self, index: usize, at: u64) -> forebay_cache::Result<()> {
        let start = at * SAMPLE_BYTES;
        let range = ByteRange::new(start, (start + SAMPLE_BYTES).min(OBJECT_BYTES));
        let read = self.cache.read(&Arc::new(object(index)), range, &self.region).await?;
        let wrong =
            (range.start..range.end).zip(read.lease.iter()).find(|(at, found)| **found != byte(index, *at));
        if read.lease.len() as u64 != range.len() || wrong.is_some() {
            say(&format!("failed: object {index}, {range}: {} bytes, wrong at {wrong:?}", read.lease.len()));
        }
        Ok(())
    }

    /// Forks; the child tries to read, says what it was told, and lives until its input ends.
    fn fork(&self) {
        // SAFETY: the other threads of this process hold no lock that the child needs: it allocates, prints and exits, and glibc
        // makes its allocator usable in a forked child.
        let child = unsafe { libc::fork() };
        if child != 0 {
            // This process only waits from here on, and leaves its input to the child.
            loop {
                std::thread::park();
            }
        }
        let object = Arc::new(object(0));
        let read = self.cache.read(&object, ByteRange::new(0, 10), &self.region);
        let told = futures::executor::block_on(read).map(drop).unwrap_err().to_string();
        say(&format!("forked {told}"));
        let mut byte = [0u8];
        // SAFETY: reads into a valid buffer, then ends the child at once.
        unsafe {
            libc::read(0, byte.as_mut_ptr().cast(), 1);
            libc::_exit(0);
        }
    }
}
