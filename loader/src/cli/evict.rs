//! `forebay evict`: gives room of a cache folder back.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use forebay_cache::ObjectId;
use forebay_cache::disk::{CachedObject, Evict};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::{self, Report, count};
use super::place::{CacheArguments, Place};
use super::status::is_object;
use crate::dataset::urls::{self, Pattern, Surroundings};
use crate::size;

/// Remove cached objects; what a running loader holds stays. Origins are not asked, and nothing is removed there.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true)))]
pub(super) struct Arguments {
    /// The objects to remove, as a loader names them: URLs, globs, folders, braces
    #[arg(value_name = "SOURCE", group = "what")]
    sources: Vec<String>,
    /// Remove everything
    #[arg(long, group = "what")]
    all: bool,
    /// Remove what was used least recently, until the folder takes this many bytes, such as 100GiB
    #[arg(long, value_name = "SIZE", value_parser = size::parse, group = "what")]
    down_to: Option<u64>,
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Debug, Serialize)]
struct Evicted {
    dir: PathBuf,
    freed_bytes: u64,
    used_bytes: u64,
    /// Objects of which nothing is left.
    objects: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let place = Place::open_existing(&arguments.cache, interrupt)?;
    let evicted = place.run("what was removed until then is gone", evict(&place, arguments))?;
    output::print(&evicted, json)?;
    match arguments.down_to {
        Some(bytes) if evicted.used_bytes > bytes => Err(Failure::Found(format!(
            "the folder still takes {}, more than {}: the rest is in use, or is what an empty cache takes",
            size::show(evicted.used_bytes),
            size::show(bytes)
        ))),
        _ => Ok(()),
    }
}

async fn evict(place: &Place<'_>, arguments: &Arguments) -> Result<Evicted, Failure> {
    let cache = place.session.cache();
    let before = cache.status().await?;
    let mut freed_bytes = 0;
    if arguments.all {
        freed_bytes = cache.evict(Evict::All).await?;
    } else if let Some(bytes) = arguments.down_to {
        freed_bytes = cache.evict(Evict::DownTo { bytes }).await?;
    } else {
        for id in meant(&arguments.sources, &before.objects)? {
            freed_bytes += cache.evict(Evict::Object(id)).await?;
        }
    }
    let after = cache.status().await?;
    let left: std::collections::HashSet<ObjectId> = after.objects.iter().map(|object| object.id).collect();
    let gone = before.objects.into_iter().filter(|object| is_object(object) && !left.contains(&object.id));
    let objects = gone.map(|object| object.location).collect();
    Ok(Evicted { dir: after.dir, freed_bytes, used_bytes: after.used_bytes, objects })
}

/// The cached objects that these sources name.
fn meant(sources: &[String], objects: &[CachedObject]) -> Result<Vec<ObjectId>, Failure> {
    let mut ids = Vec::new();
    for source in sources {
        let patterns = urls::resolve(std::slice::from_ref(source), &Surroundings::of_process()?)?;
        let before = ids.len();
        for pattern in &patterns {
            ids.extend(
                objects.iter().filter(|object| fits(pattern, &object.location)).map(|object| object.id),
            );
        }
        if ids.len() == before {
            return Err(Failure::failed(format!(
                "nothing that {source:?} names is cached; `forebay status` lists what is"
            )));
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Whether a cached object's name, which is without the query of a signed URL, is meant.
fn fits(pattern: &Pattern, location: &str) -> bool {
    match pattern {
        Pattern::Exact(exact) => exact.to_string() == location,
        pattern => {
            let key = pattern.folder().and_then(|folder| location.strip_prefix(folder.as_str()));
            key.is_some_and(|key| {
                percent_decode_str(key).decode_utf8().is_ok_and(|key| pattern.matches(&key))
            })
        }
    }
}

impl Report for Evicted {
    fn text(&self) -> String {
        format!(
            "{}: {} freed ({} removed), {} on disk now",
            self.dir.display(),
            size::show(self.freed_bytes),
            count(self.objects.len() as u64, "object"),
            size::show(self.used_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached(locations: &[&str]) -> Vec<CachedObject> {
        let object = |(at, location): (usize, &&str)| CachedObject {
            id: ObjectId::from_bytes([at as u8; 16]),
            location: (*location).into(),
            size_bytes: 1,
            cached_blocks: 1,
            last_use_seconds: 0,
        };
        locations.iter().enumerate().map(object).collect()
    }

    #[test]
    fn sources_name_cached_objects_without_asking_the_origin() {
        let objects = cached(&["s3://b/t/a%20b.tar", "s3://b/t/c.tar", "https://h/d.tar?…"]);
        let names = |source: &str| -> Vec<u8> {
            let ids = meant(&[source.into()], &objects).unwrap();
            ids.iter().map(|id| id.as_bytes()[0]).collect()
        };
        assert_eq!(names("s3://b/t/a b.tar"), [0]);
        assert_eq!(names("s3://b/t/"), [0, 1]);
        assert_eq!(names("s3://b/t/[ac]*.tar"), [0, 1]);
        assert_eq!(names("s3://b/t/{c,x}.tar::s3://b/t/c.tar"), [1]);
        assert_eq!(names("https://h/d.tar?X-Amz-Signature=abc"), [2]);
        assert!(matches!(meant(&["s3://b/e.tar".into()], &objects), Err(Failure::Failed(_))));
        assert!(matches!(meant(&["ftp://b".into()], &objects), Err(Failure::Usage(_))));
    }
}
