//! `forebay weights verify`: rereads a model and checks it.

use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::super::failure::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{self, Report, clean, count, grouped};
use super::{Model, ModelArguments};
use crate::size;
use crate::weights::Checked;

/// Reread every byte of a model's weights and check what is cached. A bad block is never served: it is fetched again at once. Exit code 1
/// when bad blocks were found, or when there is no room to cache the model.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
}

#[derive(Debug, Serialize)]
struct Verified {
    files: usize,
    checked_bytes: u64,
    fetched_bytes: u64,
    declined_bytes: u64,
    /// Of local files, which have no checksums.
    read_bytes: u64,
    seconds: f64,
    bad: Vec<Bad>,
}

#[derive(Debug, Serialize)]
struct Bad {
    file: String,
    block: u32,
    offset: u64,
    bytes: u64,
    mended: bool,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let start = Instant::now();
    let model = Model::open(&arguments.model, interrupt)?;
    let bytes = model.weights.files().iter().map(|file| file.object.size_bytes).sum();
    let bar = model.reporter.bar("verifying", bytes);
    let progress = |bytes| bar.inc(bytes);
    let checked = model.run(
        "what was found bad until then is quarantined; nothing else was changed",
        model.weights.check(&progress),
    );
    bar.finish_and_clear();
    let Checked { checked_bytes, fetched_bytes, declined_bytes, read_bytes, bad } = checked?;
    let bad = bad.into_iter().map(|bad| Bad {
        file: bad.file,
        block: bad.block,
        offset: bad.range.start,
        bytes: bad.range.len(),
        mended: bad.mended,
    });
    let verified = Verified {
        files: model.weights.files().len(),
        checked_bytes,
        fetched_bytes,
        declined_bytes,
        read_bytes,
        seconds: start.elapsed().as_secs_f64(),
        bad: bad.collect(),
    };
    output::print(&verified, json)?;
    verified.outcome()
}

impl Verified {
    fn outcome(&self) -> Result<(), Failure> {
        if !self.bad.is_empty() {
            let bad = count(self.bad.len() as u64, "block");
            let left = self.bad.iter().filter(|bad| !bad.mended).count() as u64;
            return Err(Failure::Found(match left {
                0 => format!("{bad} bad, and fetched again"),
                left => format!("{bad} bad, {} of them not fetched again yet: found no room", grouped(left)),
            }));
        }
        match self.declined_bytes {
            0 => Ok(()),
            bytes => Err(Failure::Found(format!(
                "{} found no room in the cache, or a disk that fails; give a larger --cache-limit, or see `forebay status`",
                size::show(bytes)
            ))),
        }
    }
}

impl Report for Verified {
    fn text(&self) -> String {
        let bytes = [
            (self.checked_bytes, "checked"),
            (self.fetched_bytes, "fetched"),
            (self.declined_bytes, "not cached"),
            (self.read_bytes, "read where it lies (local files have no checksums)"),
        ];
        let did: Vec<_> = bytes
            .iter()
            .filter(|(bytes, _)| *bytes > 0)
            .map(|(bytes, what)| format!("{} {what}", size::show(*bytes)))
            .collect();
        let bad = if self.bad.is_empty() { "none".into() } else { grouped(self.bad.len() as u64) };
        let mut text = format!(
            "{}: {} in {:.1} s, {bad} bad",
            count(self.files as u64, "file"),
            did.join(", "),
            self.seconds
        );
        for bad in &self.bad {
            let end = bad.offset + bad.bytes;
            let then = if bad.mended { "fetched again" } else { "fetched again when it is read" };
            text = format!(
                "{text}\n  {}: block {}: bytes {}..{end} were not what was stored: {then}",
                clean(&bad.file),
                bad.block,
                bad.offset
            );
        }
        text
    }
}
