//! `forebay status`: what a cache folder holds.

use std::path::PathBuf;

use clap::Args;
use forebay_cache::disk::CachedObject;
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::stats::DiskState;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::{self, Report, Table, clean, count, grouped};
use super::place::{CacheArguments, Place};
use crate::size;

/// What the cache folder holds: objects, blocks, bytes, and how well its disk is.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Debug, Serialize)]
struct Status {
    dir: PathBuf,
    used_bytes: u64,
    /// Only where it was given: a folder doesn't know its limit.
    limit_bytes: Option<u64>,
    disk_state: DiskState,
    engine: &'static str,
    direct: bool,
    objects: Vec<Object>,
    /// Small files that belong to no cached object: listings and counts of datasets.
    notes: u64,
}

#[derive(Debug, Serialize)]
struct Object {
    location: String,
    id: String,
    size_bytes: u64,
    cached_bytes: u64,
    cached_blocks: u32,
    blocks: u32,
    last_use_seconds: u64,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let place = Place::open_existing(&arguments.cache, interrupt)?;
    let found = place.run("nothing was changed", async { Ok(place.session.cache().status().await?) })?;
    let (objects, notes): (Vec<_>, Vec<_>) = found.objects.into_iter().partition(is_object);
    let status = Status {
        dir: found.dir,
        used_bytes: found.used_bytes,
        limit_bytes: arguments.cache.cache_limit.map(|_| found.limit_bytes),
        disk_state: found.disk_state,
        engine: place.session.io().engine,
        direct: place.session.io().direct,
        objects: objects.into_iter().map(Object::from).collect(),
        notes: notes.len() as u64,
    };
    output::print(&status, json)
}

/// False for what is kept under an identity that no object has, such as a hash over a dataset.
pub(super) fn is_object(found: &CachedObject) -> bool {
    !found.location.is_empty()
}

impl From<CachedObject> for Object {
    fn from(object: CachedObject) -> Self {
        let blocks = object.size_bytes.div_ceil(BLOCK_BYTES);
        Self {
            location: object.location,
            id: object.id.to_string(),
            size_bytes: object.size_bytes,
            cached_bytes: (u64::from(object.cached_blocks) * BLOCK_BYTES).min(object.size_bytes),
            cached_blocks: object.cached_blocks,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            last_use_seconds: object.last_use_seconds,
        }
    }
}

impl Report for Status {
    fn text(&self) -> String {
        let of = self.limit_bytes.map_or(String::new(), |limit| format!(" of {}", size::show(limit)));
        let cached: u64 = self.objects.iter().map(|object| object.cached_bytes).sum();
        let disk = match self.disk_state {
            DiskState::Healthy => "healthy",
            DiskState::Degraded => "degraded: there were errors; what reads well is served",
            DiskState::Down => "down: nothing is admitted; reads go to the origin",
        };
        let mut text = format!(
            "{}: {}{of} on disk, {} of {} cached, disk {disk}",
            self.dir.display(),
            size::show(self.used_bytes),
            size::show(cached),
            count(self.objects.len() as u64, "object"),
        );
        if !self.objects.is_empty() {
            let mut table = Table::new(&["object", "size", "cached", "blocks", "last used"], &[1, 2, 3]);
            let now = std::time::SystemTime::now();
            for object in &self.objects {
                table.row([
                    clean(&object.location),
                    size::show(object.size_bytes),
                    percent(object.cached_bytes, object.size_bytes),
                    format!("{}/{}", grouped(object.cached_blocks.into()), grouped(object.blocks.into())),
                    ago(object.last_use_seconds, now),
                ]);
            }
            text = format!("{text}\n\n{}", table.text());
        }
        text
    }
}

pub(super) fn percent(part: u64, whole: u64) -> String {
    // Rounded down: 100 % is all of it.
    format!("{} %", if whole == 0 { 100 } else { u128::from(part) * 100 / u128::from(whole) })
}

/// How long ago a time in seconds since 1970 was.
fn ago(seconds: u64, now: std::time::SystemTime) -> String {
    let now = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match now.saturating_sub(seconds) {
        0..60 => "just now".into(),
        past @ 60..3600 => format!("{} ago", count(past / 60, "minute")),
        past @ 3600..86_400 => format!("{} ago", count(past / 3600, "hour")),
        past => format!("{} ago", count(past / 86_400, "day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_are_told_as_people_tell_them() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(ago(1_000_001, now), "just now");
        assert_eq!(ago(1_000_000 - 3600, now), "1 hour ago");
        assert_eq!(ago(1_000_000 - 3 * 86_400, now), "3 days ago");
        assert_eq!((percent(0, 0), percent(999, 1000)), ("100 %".into(), "99 %".into()));
    }
}
