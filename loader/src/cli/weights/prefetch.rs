//! `forebay weights prefetch`: brings a model into the cache before a process needs it.

use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::super::failure::Failure;
use super::super::fetched::Fetched;
use super::super::interrupt::Interrupt;
use super::super::output::{self, Report};
use super::{Model, ModelArguments};
use crate::error::Error;
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
struct Files {
    files: usize,
    #[serde(flatten)]
    fetched: Fetched,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let start = Instant::now();
    let model = Model::open(&arguments.model, interrupt)?;
    let Some(session) = model.weights.session() else {
        return Err(Failure::Usage(
            "these files are local and read where they lie; name a --cache-dir to cache them, as those of a slow mount"
                .into(),
        ));
    };
    let bar = model.reporter.bar("prefetching", model.weights.cached_bytes(arguments.weights_only));
    let progress = |bytes| bar.inc(bytes);
    let fetch = async {
        let brought = model.weights.bring(arguments.weights_only, &progress).await;
        brought.map_err(|error| roomier(error, arguments.weights_only))
    };
    let fetched = model.run("what was fetched is kept: the same command goes on from there", fetch);
    bar.finish_and_clear();
    let Brought { files, bytes, blocks } = fetched?;
    // With what was read for the headers.
    let fetched = Fetched::new(session.dir().to_owned(), bytes, blocks, start, 0, &session.cache().stats());
    let report = Files { files, fetched };
    output::print(&report, json)?;
    report.fetched.check()
}

/// Says what else would fit.
fn roomier(error: Error, weights_only: bool) -> Failure {
    match error {
        Error::Cache(forebay_cache::Error::QuotaTooSmall { .. }) => {
            let or = if weights_only { "" } else { ", or --weights-only" };
            Failure::Failed(format!("{error}; give a larger --cache-limit{or}"))
        }
        other => other.into(),
    }
}

impl Report for Files {
    fn text(&self) -> String {
        self.fetched.text(self.files, "file")
    }
}
