//! `forebay prefetch`: brings shards into the cache before a job needs them.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use forebay_cache::ObjectMeta;
use forebay_cache::disk::Advice;
use serde::Serialize;

use super::failure::Failure;
use super::fetched::Fetched;
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
struct Shards {
    shards: usize,
    #[serde(flatten)]
    fetched: Fetched,
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
    fetched.fetched.check()
}

async fn fetch(place: &Place<'_>, arguments: &Arguments) -> Result<Shards, Failure> {
    let cache = place.session.cache();
    let objects = select(place.shards(&arguments.sources).await?.objects, arguments.shards.as_ref())?;
    check_room(&objects, cache.stats().limit_bytes)?;
    let bytes = objects.iter().map(|object| object.size_bytes).sum();
    for object in &objects {
        // Shards of this dataset don't push each other out.
        cache.advise(&object.id, whole::range(object), Advice::WillNeed);
    }
    let bar = place.reporter.bar("prefetching", bytes);
    let dir = place.session.dir().to_owned();
    let (start, before) = (Instant::now(), cache.stats().origin_bytes);
    let done = whole::bring(cache, &objects, &|bytes| bar.inc(bytes)).await?;
    bar.finish_and_clear();
    let fetched = Fetched::new(dir, bytes, done, start, before, &cache.stats());
    Ok(Shards { shards: objects.len(), fetched })
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

impl Report for Shards {
    fn text(&self) -> String {
        self.fetched.text(self.shards, "shard")
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
