//! `forebay verify`: rereads and checks every cached block.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::{self, Report, clean, count, grouped};
use super::place::{CacheArguments, Place};
use crate::size;

/// Reread and check every cached block. A bad one is never served again, and is fetched anew when it is read. Exit code 1 when bad
/// blocks were found.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Debug, Serialize)]
struct Verified {
    dir: PathBuf,
    checked_blocks: u64,
    total_blocks: u64,
    checked_bytes: u64,
    seconds: f64,
    bad: Vec<Bad>,
}

#[derive(Debug, Serialize)]
struct Bad {
    location: String,
    id: String,
    block: u32,
    what: String,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let place = Place::open_existing(&arguments.cache, interrupt)?;
    let verified =
        place.run("what was found bad until then is quarantined; nothing else was changed", check(&place))?;
    output::print(&verified, json)?;
    if verified.checked_blocks < verified.total_blocks {
        return Err(Failure::failed(format!(
            "only {} of {} could be checked: the cache stopped; see `forebay status`",
            grouped(verified.checked_blocks),
            count(verified.total_blocks, "block")
        )));
    }
    match verified.bad.len() as u64 {
        0 => Ok(()),
        bad => Err(Failure::Found(format!(
            "{} bad: quarantined, and fetched again when they are read",
            count(bad, "block")
        ))),
    }
}

async fn check(place: &Place<'_>) -> Result<Verified, Failure> {
    let start = Instant::now();
    let cache = place.session.cache();
    let dir = cache.status().await?.dir;
    let mut verified =
        Verified { dir, checked_blocks: 0, total_blocks: 0, checked_bytes: 0, seconds: 0.0, bad: Vec::new() };
    let mut receiver = cache.verify()?;
    let bar = place.reporter.bar("verifying", 0);
    while let Some(progress) = receiver.recv().await {
        // A block is 4 MiB; the bar's end is right to the last block of each object.
        bar.set_length(progress.total_blocks * forebay_cache::object::BLOCK_BYTES);
        bar.set_position(progress.checked_blocks * forebay_cache::object::BLOCK_BYTES);
        verified.checked_blocks = progress.checked_blocks;
        verified.total_blocks = progress.total_blocks;
        verified.checked_bytes = progress.checked_bytes;
        if let Some(found) = progress.finding {
            let (location, id) = (found.location, found.block.object.to_string());
            verified.bad.push(Bad { location, id, block: found.block.index, what: found.what });
        }
    }
    bar.finish_and_clear();
    verified.seconds = start.elapsed().as_secs_f64();
    Ok(verified)
}

impl Report for Verified {
    fn text(&self) -> String {
        let mut text = format!(
            "{}: {} checked, {} in {:.1} s, {} bad",
            self.dir.display(),
            count(self.checked_blocks, "block"),
            size::show(self.checked_bytes),
            self.seconds,
            if self.bad.is_empty() { "none".into() } else { grouped(self.bad.len() as u64) }
        );
        for bad in &self.bad {
            text = format!("{text}\n  {}: block {}: {}", clean(&bad.location), bad.block, bad.what);
        }
        text
    }
}
