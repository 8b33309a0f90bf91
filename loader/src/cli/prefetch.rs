//! `forebay prefetch`: brings shards into the cache before a job needs them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use forebay_cache::ObjectMeta;
use forebay_cache::disk::Advice;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::{self, Report, count};
use super::place::{CacheArguments, Place};
use crate::size;
use crate::whole::{self, TooLarge};

/// Bring shards into the cache: the whole dataset, or some of it. What is cached already is not fetched again.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The dataset, as a loader names it: URLs, globs, folders, braces
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    /// Only these of the dataset's shards, by number from 0, such as 0..8 (without 8) or 0,3,5
    #[arg(long, value_name = "NUMBERS", value_parser = Numbers::parse)]
    shards: Option<Numbers>,
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Debug, Serialize)]
struct Fetched {
    dir: PathBuf,
    shards: usize,
    /// Of these shards.
    bytes: u64,
    present_blocks: u64,
    stored_blocks: u64,
    declined_blocks: u64,
    origin_bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
    used_bytes: u64,
    limit_bytes: u64,
}

/// Numbers of shards: half-open ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Numbers(Vec<std::ops::Range<usize>>);

impl Numbers {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: write numbers and ranges, such as 0..8 (without 8) or 0,3,5");
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let range = |part: &str| match part.split_once("..") {
            Some((start, end)) => Ok(number(start)?..number(end)?),
            None => number(part).map(|at| at..at.saturating_add(1)),
        };
        let ranges = text.split(',').map(range).collect::<Result<Vec<_>, String>>()?;
        if ranges.iter().any(std::ops::Range::is_empty) { Err(wrong()) } else { Ok(Self(ranges)) }
    }

    fn has(&self, number: usize) -> bool {
        self.0.iter().any(|range| range.contains(&number))
    }

    fn end(&self) -> usize {
        self.0.iter().map(|range| range.end).max().unwrap_or(0)
    }
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let place = Place::open(&arguments.cache, interrupt)?;
    let fetched = place
        .run("what was fetched is kept: the same command goes on from there", fetch(&place, arguments))?;
    output::print(&fetched, json)?;
    match fetched.declined_blocks {
        0 => Ok(()),
        declined => Err(Failure::Found(format!(
            "{} found no room that may be freed in {}, or a disk that fails; give a larger --cache-limit, or see `forebay status`",
            count(declined, "block"),
            fetched.dir.display()
        ))),
    }
}

async fn fetch(place: &Place<'_>, arguments: &Arguments) -> Result<Fetched, Failure> {
    let cache = place.session.cache();
    let objects = select(place.shards(&arguments.sources).await?.objects, arguments.shards.as_ref())?;
    check_room(&objects, cache.stats().limit_bytes)?;
    let bytes = objects.iter().map(|object| object.size_bytes).sum();
    for object in &objects {
        // Shards of this dataset don't push each other out.
        cache.advise(&object.id, whole::range(object), Advice::WillNeed);
    }
    let bar = place.reporter.bar("prefetching", bytes);
    let (start, before) = (Instant::now(), cache.stats().origin_bytes);
    let done = whole::bring(cache, &objects, &|bytes| bar.inc(bytes)).await?;
    bar.finish_and_clear();
    let (seconds, stats) = (start.elapsed().as_secs_f64(), cache.stats());
    let origin_bytes = stats.origin_bytes - before;
    Ok(Fetched {
        dir: cache.status().await?.dir,
        shards: objects.len(),
        bytes,
        present_blocks: done.present.into(),
        stored_blocks: done.stored.into(),
        declined_blocks: done.declined.into(),
        origin_bytes,
        seconds,
        bytes_per_second: origin_bytes as f64 / seconds.max(1e-9),
        used_bytes: stats.used_bytes,
        limit_bytes: stats.limit_bytes,
    })
}

/// The shards that are wanted, each once: a shard that a dataset names twice is fetched once.
fn select(objects: Vec<Arc<ObjectMeta>>, numbers: Option<&Numbers>) -> Result<Vec<Arc<ObjectMeta>>, Failure> {
    let all = objects.len();
    if let Some(numbers) = numbers.filter(|numbers| numbers.end() > all) {
        return Err(Failure::Usage(format!(
            "--shards goes up to {}, the dataset has {} (0..{all})",
            numbers.end() - 1,
            count(all as u64, "shard")
        )));
    }
    let mut seen = std::collections::HashSet::new();
    let wanted =
        objects.into_iter().enumerate().filter(|(at, _)| numbers.is_none_or(|numbers| numbers.has(*at)));
    Ok(wanted.map(|(_, object)| object).filter(|object| seen.insert(object.id)).collect())
}

fn check_room(objects: &[Arc<ObjectMeta>], limit_bytes: u64) -> Result<(), Failure> {
    whole::check_room(objects, limit_bytes).map_err(|TooLarge { bytes, needed_bytes }| {
        Failure::failed(format!(
            "{} of {} don't fit into the cache limit of {}; give --cache-limit {needed_bytes} or more, or choose some with --shards",
            count(objects.len() as u64, "shard"),
            size::show(bytes),
            size::show(limit_bytes)
        ))
    })
}

impl Report for Fetched {
    fn text(&self) -> String {
        let fetched = match self.origin_bytes {
            0 => "all of it was there already".to_owned(),
            bytes => format!(
                "{} fetched in {:.1} s ({}/s)",
                size::show(bytes),
                self.seconds,
                size::show(self.bytes_per_second as u64)
            ),
        };
        format!(
            "{} of {}: {fetched}; {} takes {} of {}",
            count(self.shards as u64, "shard"),
            size::show(self.bytes),
            self.dir.display(),
            size::show(self.used_bytes),
            size::show(self.limit_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_cache::{Location, Version};

    fn object(number: u32, size_bytes: u64) -> Arc<ObjectMeta> {
        let at = Location::new(format!("s3://b/{number}.tar"));
        Arc::new(ObjectMeta::new(at, size_bytes, Version::Etag("1".into())))
    }

    #[test]
    fn shards_are_chosen_by_number_and_fetched_once() {
        let objects: Vec<_> = [0, 1, 2, 1].into_iter().map(|number| object(number, 10)).collect();
        let chosen = |text: Option<&str>| -> Vec<Arc<ObjectMeta>> {
            let numbers = text.map(|text| Numbers::parse(text).unwrap());
            select(objects.clone(), numbers.as_ref()).unwrap()
        };
        assert_eq!(chosen(None), objects[..3]);
        assert_eq!(chosen(Some("0..2")), objects[..2]);
        assert_eq!(chosen(Some("2, 0")), [objects[0].clone(), objects[2].clone()]);
        for wrong in ["", "a", "3..3", "2..", "-1"] {
            assert!(Numbers::parse(wrong).unwrap_err().contains("0..8"), "{wrong}");
        }
        assert!(matches!(select(objects, Some(&Numbers::parse("0..5").unwrap())), Err(Failure::Usage(_))));
    }
}
