//! `forebay index`: knows where every sample lies before a job asks, and writes that beside the shards.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use forebay_cache::{Location, ObjectMeta};
use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::percent_decode;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::{self, Report, clean, count};
use super::place::{CacheArguments, Place};
use crate::catalog::Catalog;
use crate::dataset::{ShardIndex, sidecar};
use crate::size;

/// Indexes looked up at once, and shards read from end to end at once: as the loader does.
const LOOKUPS_AT_ONCE: usize = 16;
const PASSES_AT_ONCE: usize = 4;

/// Make the index of every shard, in the cache; with --write-sidecars also as files that need no pass over the data anywhere else.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The dataset, as a loader names it: URLs, globs, folders, braces
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    /// Write a sidecar in wds2idx's format (v1.2) for every shard: beside local shards, or into --output
    #[arg(long)]
    write_sidecars: bool,
    /// Folder for the sidecars; needed where shards are not local: upload them beside the shards
    #[arg(long, value_name = "FOLDER", requires = "write_sidecars")]
    output: Option<PathBuf>,
    /// Replace sidecars that say something else
    #[arg(long, requires = "write_sidecars")]
    overwrite: bool,
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Debug, Serialize)]
struct Indexed {
    samples: u64,
    members: u64,
    /// Bytes of shards that had to be read.
    scanned_bytes: u64,
    shards: Vec<Shard>,
}

#[derive(Debug, Serialize)]
struct Shard {
    location: String,
    size_bytes: u64,
    samples: u64,
    members: u64,
    /// Whether this command read the shard.
    scanned: bool,
    sidecar: Option<PathBuf>,
    /// Why no sidecar was written.
    no_sidecar: Option<String>,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let place = Place::open(&arguments.cache, interrupt)?;
    let left = "indexes and sidecars made until then are kept: the same command goes on from there";
    let indexed = place.run(left, index(&place, arguments))?;
    output::print(&indexed, json)?;
    let without: Vec<&Shard> = indexed.shards.iter().filter(|shard| shard.no_sidecar.is_some()).collect();
    match (without.len() as u64, without.first().and_then(|shard| shard.no_sidecar.as_ref())) {
        (0, _) | (_, None) => Ok(()),
        (missing, Some(why)) => {
            Err(Failure::Found(format!("{} got no sidecar; the first: {why}", count(missing, "shard"))))
        }
    }
}

async fn index(place: &Place<'_>, arguments: &Arguments) -> Result<Indexed, Failure> {
    let catalog = place.catalog(place.shards(&arguments.sources).await?)?;
    let objects = catalog.objects();
    let targets = targets(objects, arguments)?;
    let known: Vec<bool> = stream::iter(0..objects.len())
        .map(async |shard| Ok::<_, Failure>(catalog.index_without_pass(shard).await?.is_some()))
        .buffered(LOOKUPS_AT_ONCE)
        .try_collect()
        .await?;
    let missing =
        || objects.iter().zip(&known).filter(|(_, known)| !**known).map(|(object, _)| object.size_bytes);
    let scanned_bytes = missing().sum();
    if scanned_bytes > 0 {
        place.reporter.announce(format!(
            "{} without an index: reading {} once (this fills the cache)",
            count(missing().count() as u64, "shard"),
            size::show(scanned_bytes)
        ));
    }
    let bar = place.reporter.bar("indexing", scanned_bytes);
    let shards: Vec<Shard> = stream::iter(0..objects.len())
        .map(async |at| {
            let target = targets.get(at).cloned().flatten();
            shard(&catalog, at, known[at], target, arguments.overwrite, |bytes| bar.inc(bytes)).await
        })
        .buffered(PASSES_AT_ONCE)
        .try_collect()
        .await?;
    bar.finish_and_clear();
    // Counts of all of them are kept too: a loader then starts with one lookup.
    catalog.counts().await?;
    let sum = |of: fn(&Shard) -> u64| shards.iter().map(of).sum();
    Ok(Indexed {
        samples: sum(|shard| shard.samples),
        members: sum(|shard| shard.members),
        scanned_bytes,
        shards,
    })
}

async fn shard(
    catalog: &Catalog,
    at: usize,
    known: bool,
    target: Option<PathBuf>,
    overwrite: bool,
    read: impl FnMut(u64),
) -> Result<Shard, Failure> {
    let object = &catalog.objects()[at];
    let index = catalog.load(at, read).await?;
    let mut shard = Shard {
        location: object.location.to_string(),
        size_bytes: object.size_bytes,
        samples: index.len(),
        members: index.members(),
        scanned: !known,
        sidecar: None,
        no_sidecar: None,
    };
    if let Some(path) = target {
        match text(object, &index) {
            Ok(text) => {
                write_once(&path, &text, overwrite)?;
                shard.sidecar = Some(path);
            }
            Err(why) => shard.no_sidecar = Some(why),
        }
    }
    Ok(shard)
}

/// A shard's sidecar, or why it can have none.
fn text(object: &ObjectMeta, index: &ShardIndex) -> Result<Vec<u8>, String> {
    let location = &object.location;
    if index.stream_bytes() != object.size_bytes {
        return Err(format!("{location} is compressed, and sidecars of such shards are not read"));
    }
    sidecar::write(index).map_err(|error| format!("{location}: {error}"))
}

/// Where each shard's sidecar goes; nothing without --write-sidecars.
fn targets(objects: &[Arc<ObjectMeta>], arguments: &Arguments) -> Result<Vec<Option<PathBuf>>, Failure> {
    if !arguments.write_sidecars {
        return Ok(Vec::new());
    }
    if let Some(folder) = &arguments.output {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::io(format_args!("--output {}: the folder can't be made", folder.display()), &error)
        })?;
    }
    let mut taken: HashMap<PathBuf, &Location> = HashMap::new();
    let mut targets = Vec::new();
    for object in objects {
        let location = &object.location;
        let path = target(location, arguments.output.as_deref())?;
        match taken.insert(path.clone(), location) {
            // A dataset may name a shard twice; it has one sidecar.
            Some(other) if other != location => {
                return Err(Failure::failed(format!(
                    "{location} and {other} would have the same sidecar, {}; index them one after the other, with another --output",
                    path.display()
                )));
            }
            _ => targets.push(Some(path)),
        }
    }
    Ok(targets)
}

fn target(location: &Location, output: Option<&Path>) -> Result<PathBuf, Failure> {
    let beside = sidecar::candidates(location).into_iter().next().ok_or_else(|| {
        Failure::failed(format!(
            "{location} has no suffix that .idx could stand for; rename it to end in .tar"
        ))
    })?;
    let decoded = |text: &str| OsString::from_vec(percent_decode(text.as_bytes()).collect());
    match (output, beside.as_str().strip_prefix("file://")) {
        (Some(folder), _) => Ok(folder.join(decoded(beside.file_name()))),
        (None, Some(path)) => Ok(PathBuf::from(decoded(path))),
        (None, None) => Err(Failure::Usage(format!(
            "{location} is not a local file: give --output FOLDER for the sidecars, and upload them beside the shards"
        ))),
    }
}

/// Writes a file at once or not at all; one that says the same stays, another one is an error.
fn write_once(path: &Path, text: &[u8], overwrite: bool) -> Result<(), Failure> {
    match std::fs::read(path) {
        Ok(there) if there == text => return Ok(()),
        Ok(_) if !overwrite => {
            return Err(Failure::failed(format!(
                "{} exists and says something else; look at it, then give --overwrite to replace it",
                path.display()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io(path.display(), &error)),
    }
    let failed = |error| Failure::io(format_args!("{} can't be written", path.display()), &error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = Partial(path.with_file_name(format!(".{name}.{}.partial", std::process::id())));
    let mut file = std::fs::File::create_new(&partial.0).map_err(failed)?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&partial.0, path).map_err(failed)
}

/// Removes what was begun.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Report for Indexed {
    fn text(&self) -> String {
        let scanned = self.shards.iter().filter(|shard| shard.scanned).count() as u64;
        let mut text = format!(
            "{}, {} in {}; {} read for it ({})",
            count(self.samples, "sample"),
            count(self.members, "member"),
            count(self.shards.len() as u64, "shard"),
            count(scanned, "shard"),
            size::show(self.scanned_bytes)
        );
        let mut written = self.shards.iter().filter_map(|shard| shard.sidecar.as_deref());
        if let Some(first) = written.next() {
            let all = count(1 + written.count() as u64, "sidecar");
            text = format!("{text}\n{all}, the first one: {}", clean(&first.display().to_string()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_lie_beside_local_shards_or_in_the_output() {
        let beside = |url: &str, output: Option<&str>| target(&Location::new(url), output.map(Path::new));
        assert_eq!(beside("file:///d%20e/a-0.tar", None).unwrap(), Path::new("/d e/a-0.idx"));
        assert_eq!(beside("https://b/d/a%20b.tar?v=1", Some("out")).unwrap(), Path::new("out/a b.idx"));
        assert!(
            matches!(beside("s3://b/a.tar", None), Err(Failure::Usage(message)) if message.contains("--output"))
        );
    }

    #[test]
    fn a_sidecar_that_says_something_else_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.idx");
        write_once(&path, b"one", false).unwrap();
        write_once(&path, b"one", false).unwrap();
        assert!(matches!(write_once(&path, b"two", false), Err(Failure::Failed(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        write_once(&path, b"two", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }
}
