//! What a prefetch brought into a cache folder, of shards or of a model: the keys and the text of both commands.

use std::path::PathBuf;
use std::time::Instant;

use forebay_cache::{CacheStats, Prefetched};
use serde::Serialize;

use super::failure::Failure;
use super::output::count;
use crate::size;

#[derive(Debug, Serialize)]
pub(super) struct Fetched {
    dir: PathBuf,
    /// Of what is in the folder now.
    bytes: u64,
    present_blocks: u32,
    stored_blocks: u32,
    declined_blocks: u32,
    /// By this process: none where another one owns the folder, and fetched them.
    origin_bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
    used_bytes: u64,
    limit_bytes: u64,
}

impl Fetched {
    /// `before`: bytes from the origin when it began, at `start`.
    pub(super) fn new(
        dir: PathBuf,
        bytes: u64,
        done: Prefetched,
        start: Instant,
        before: u64,
        stats: &CacheStats,
    ) -> Self {
        let (seconds, origin_bytes) = (start.elapsed().as_secs_f64(), stats.origin_bytes - before);
        Self {
            dir,
            bytes,
            present_blocks: done.present,
            stored_blocks: done.stored,
            declined_blocks: done.declined,
            origin_bytes,
            seconds,
            bytes_per_second: origin_bytes as f64 / seconds.max(1e-9),
            used_bytes: stats.used_bytes,
            limit_bytes: stats.limit_bytes,
        }
    }

    /// An error where something found no place.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.declined_blocks {
            0 => Ok(()),
            declined => Err(Failure::Found(format!(
                "{} found no room that may be freed in {}, or a disk that fails; give a larger --cache-limit, or see `forebay status`",
                count(declined.into(), "block"),
                self.dir.display()
            ))),
        }
    }

    /// "2 files of 3.51 GB: 3.51 GB fetched in 4.2 s (836 MB/s); /nvme/forebay takes 3.55 GB of 20.0 GB".
    pub(super) fn text(&self, number: usize, what: &str) -> String {
        let fetched = match (self.stored_blocks, self.origin_bytes) {
            (0, 0) if self.declined_blocks == 0 => "all of it was there already".to_owned(),
            (0, 0) => "nothing fetched".to_owned(),
            (stored, 0) => format!("{} fetched in {:.1} s", count(stored.into(), "block"), self.seconds),
            (_, bytes) => format!(
                "{} fetched in {:.1} s ({}/s)",
                size::show(bytes),
                self.seconds,
                size::show(self.bytes_per_second as u64)
            ),
        };
        format!(
            "{} of {}: {fetched}; {} takes {} of {}",
            count(number as u64, what),
            size::show(self.bytes),
            self.dir.display(),
            size::show(self.used_bytes),
            size::show(self.limit_bytes)
        )
    }
}
