//! What programs that measure reads are asked for, and how they go about it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail, ensure};
use clap::Args;
use forebay_cache::memory::{Arena, Region};

use crate::mixed;

/// Options of a measurement of reads.
#[derive(Args, Clone, Debug)]
pub struct Reading {
    /// Where what is read is made; removed at the end.
    #[arg(long)]
    pub folder: PathBuf,
    /// Size of all that is read in GiB: more than the disk's own cache.
    #[arg(long, default_value_t = 2)]
    pub gib: u64,
    /// Reads in flight.
    #[arg(long, default_value_t = 32)]
    pub depth: usize,
    /// Threads that wait for reads; checksums are verified on them.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Measurements of each kind, in turn.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

/// Option of a measurement of reads of several sizes.
#[derive(Args, Clone, Debug)]
pub struct Sizes {
    /// Bytes per read.
    #[arg(long, value_delimiter = ',', default_values_t = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20])]
    pub sizes: Vec<usize>,
}

impl Reading {
    /// # Errors
    /// Options that don't go together.
    pub fn check(&self) -> Result<()> {
        ensure!(self.depth >= self.threads && self.threads > 0, "depth must be threads or more");
        Ok(())
    }

    /// Has every thread read until it has enough, given how many of the reads in flight are its own; gives the bytes that they have read.
    ///
    /// # Errors
    /// A thread's own, or that it panicked.
    pub fn on_threads(&self, read: impl Fn(usize) -> Result<u64> + Sync) -> Result<u64> {
        let depth = |thread| self.depth / self.threads + usize::from(thread < self.depth % self.threads);
        let read = &read;
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.threads).map(|thread| scope.spawn(move || read(depth(thread)))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a reader panicked")))
                .sum()
        })
    }
}

impl Sizes {
    /// # Errors
    /// Sizes that can't be read past the page cache.
    pub fn check(&self) -> Result<()> {
        let whole = |size: &usize| *size > 0 && size.is_multiple_of(4096);
        ensure!(self.sizes.iter().all(whole), "sizes must be whole granules of 4096 bytes");
        Ok(())
    }
}

/// Memory for reads.
///
/// # Errors
/// There is not as much.
pub fn region(bytes: usize) -> Result<Region> {
    Ok(Arena::new(bytes as u64)?.region("reads", bytes)?)
}

/// Places in so many bytes, one after the other or drawn, for any number of threads.
#[derive(Debug)]
pub struct Places {
    next: AtomicU64,
    random: bool,
}

impl Places {
    /// From the start.
    pub fn new(random: bool) -> Self {
        Self { next: AtomicU64::new(0), random }
    }

    /// The next of `count` places.
    pub fn next(&self, count: u64) -> u64 {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        (if self.random { mixed(turn) } else { turn }) % count
    }
}
