//! `forebay weights prefetch`: brings a model into the cache before a process needs it.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::super::failure::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{self, Report, count};
use super::{Model, ModelArguments};
use crate::size;
use crate::weights::Brought;

/// Bring all files of a model into the cache: the weights and, of a folder, tokenizers, configurations, compile caches: every file that
/// is no pickle. What is cached already is not fetched again.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Only the weights, not what lies beside them
    #[arg(long)]
    weights_only: bool,
}

#[derive(Debug, Serialize)]
struct Fetched {
    dir: PathBuf,
    files: usize,
    /// Of these files.
    bytes: u64,
    /// With those that were read for the headers.
    present_blocks: u32,
    stored_blocks: u32,
    declined_blocks: u32,
    origin_bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
    used_bytes: u64,
    limit_bytes: u64,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let start = Instant::now();
    let model = Model::open(&arguments.model, interrupt)?;
    let Some(cache) = model.weights.cache() else {
        return Err(Failure::Usage(
            "these files are local and read where they lie; name a --cache-dir to cache them, as those of a slow mount"
                .into(),
        ));
    };
    let bar = model.reporter.bar("prefetching", model.weights.cached_bytes(arguments.weights_only));
    let progress = |bytes| bar.inc(bytes);
    let fetch = async {
        let done = model.weights.bring(arguments.weights_only, &progress).await?;
        Ok((done, cache.status().await?.dir))
    };
    let fetched = model.run("what was fetched is kept: the same command goes on from there", fetch);
    bar.finish_and_clear();
    let (Brought { files, bytes, present_blocks, stored_blocks, declined_blocks }, dir) =
        fetched.map_err(|failure| roomier(failure, arguments.weights_only))?;
    let (seconds, stats) = (start.elapsed().as_secs_f64(), cache.stats());
    let report = Fetched {
        dir,
        files,
        bytes,
        present_blocks,
        stored_blocks,
        declined_blocks,
        origin_bytes: stats.origin_bytes,
        seconds,
        bytes_per_second: stats.origin_bytes as f64 / seconds.max(1e-9),
        used_bytes: stats.used_bytes,
        limit_bytes: stats.limit_bytes,
    };
    output::print(&report, json)?;
    match declined_blocks {
        0 => Ok(()),
        declined => Err(Failure::Found(format!(
            "{} found no room that may be freed in {}, or a disk that fails; give a larger --cache-limit, or see `forebay status`",
            count(declined.into(), "block"),
            report.dir.display()
        ))),
    }
}

/// Says what else would fit.
fn roomier(failure: Failure, weights_only: bool) -> Failure {
    match failure {
        Failure::Failed(text) if text.starts_with("cache_limit") => {
            let or = if weights_only { "" } else { ", or --weights-only" };
            Failure::Failed(format!("{text}; give a larger --cache-limit{or}"))
        }
        other => other,
    }
}

impl Report for Fetched {
    fn text(&self) -> String {
        let fetched = match (self.stored_blocks, self.origin_bytes) {
            (0, 0) => "all of it was there already".to_owned(),
            // Another process owns the folder, and fetched them.
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
            count(self.files as u64, "file"),
            size::show(self.bytes),
            self.dir.display(),
            size::show(self.used_bytes),
            size::show(self.limit_bytes)
        )
    }
}
