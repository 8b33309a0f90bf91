//! Source strings → the objects that they mean, as the origin has them now.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_cache::origin::Origin;
use forebay_cache::{Cache, Location, ObjectId, ObjectMeta, Version};
use futures::{StreamExt, TryStreamExt, stream};

use super::fetch;
use crate::dataset::urls::{self, Pattern, Surroundings};
use crate::dataset::wids::Wids;
use crate::error::{Error, Result};
use crate::report::Reporter;

/// Requests for the size and version of objects at once.
const HEADS_AT_ONCE: usize = 64;

/// From this many shards of one folder on, a listing is cheaper than asking for each.
const LIST_FROM: usize = 64;

/// Name of a pattern's objects among the cache's small files.
const LISTING: &str = "listing";

/// The shards of a dataset.
#[derive(Clone, Debug, Default)]
pub struct Shards {
    /// Their objects, in the dataset's order.
    pub objects: Vec<Arc<ObjectMeta>>,
    /// Their counts, where the dataset's JSON gave them.
    pub counts: Vec<Option<u64>>,
}

/// What `sources` mean now. A source that ends in `.json` is a wids index.
pub async fn resolve(
    sources: &[String],
    cache: &Cache,
    origin: &dyn Origin,
    reporter: &Reporter,
) -> Result<Shards> {
    let patterns = urls::resolve(sources, &Surroundings::of_process()?)?;
    let mut shards = Shards::default();
    let mut exact: Vec<(Location, Option<u64>)> = Vec::new();
    for pattern in patterns {
        match pattern {
            Pattern::Exact(location) if location.file_name().ends_with(".json") => {
                let object = cache.object(&location).await?;
                let wids = Wids::read(&fetch(origin, &object).await?, &location)
                    .map_err(|error| error.at(&location))?;
                exact.extend(wids.shards.into_iter().map(|shard| (shard.location, Some(shard.samples))));
            }
            Pattern::Exact(location) => exact.push((location, None)),
            pattern => {
                shards.add(heads(std::mem::take(&mut exact), cache, origin).await?);
                let found = listed(&pattern, cache, origin, reporter).await?;
                shards.add(found.into_iter().map(|object| (object, None)).collect());
            }
        }
    }
    shards.add(heads(exact, cache, origin).await?);
    if shards.objects.is_empty() {
        return Err(Error::Dataset {
            message: format!(
                "no shard matches {sources:?}; shards are .tar files, check the names and the endpoint in storage_options"
            ),
        });
    }
    Ok(shards)
}

impl Shards {
    fn add(&mut self, found: Vec<(Arc<ObjectMeta>, Option<u64>)>) {
        let (objects, counts): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        self.objects.extend(objects);
        self.counts.extend(counts);
    }
}

/// Size and version of every object, in order.
async fn heads(
    wanted: Vec<(Location, Option<u64>)>,
    cache: &Cache,
    origin: &dyn Origin,
) -> Result<Vec<(Arc<ObjectMeta>, Option<u64>)>> {
    let known = match wanted.len() {
        LIST_FROM.. => folders(&wanted, origin).await,
        _ => HashMap::new(),
    };
    let head = async |(location, count): (Location, Option<u64>)| {
        let object = match known.get(&location) {
            Some(object) => object.clone(),
            None => cache.object(&location).await?,
        };
        Ok::<_, Error>((object, count))
    };
    stream::iter(wanted.into_iter().map(head)).buffered(HEADS_AT_ONCE).try_collect().await
}

/// What listings of the folders with many wanted objects say. Only a short cut: what is missing here, or has no entity tag, is asked for
/// by name.
async fn folders(
    wanted: &[(Location, Option<u64>)],
    origin: &dyn Origin,
) -> HashMap<Location, Arc<ObjectMeta>> {
    let mut per_folder: HashMap<&str, usize> = HashMap::new();
    for (location, _) in wanted {
        if let Some((folder, _)) = location.as_str().rsplit_once('/')
            && !folder.starts_with("http")
        {
            *per_folder.entry(folder).or_default() += 1;
        }
    }
    let mut known = HashMap::new();
    for folder in per_folder.into_iter().filter(|(_, count)| *count >= LIST_FROM).map(|(folder, _)| folder) {
        let prefix = Location::new(format!("{folder}/"));
        let mut listing = origin.list(&prefix);
        while let Some(Ok(object)) = listing.next().await {
            if matches!(object.version, Version::Etag(_)) || folder.starts_with("file:") {
                known.insert(object.location.clone(), Arc::new(object));
            }
        }
    }
    known
}

/// The objects of a folder or glob, by name. Where the origin can't be reached: those of the last time, if they are cached.
async fn listed(
    pattern: &Pattern,
    cache: &Cache,
    origin: &dyn Origin,
    reporter: &Reporter,
) -> Result<Vec<Arc<ObjectMeta>>> {
    let Some(folder) = pattern.folder() else { return Ok(Vec::new()) };
    let id = listing_id(pattern);
    let found: Result<Vec<ObjectMeta>, _> = origin.list(folder).try_collect().await;
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let kept = match cache.aux_get(LISTING, &id).await? {
                Some(bytes) => serde_json::from_slice::<Vec<ObjectMeta>>(&bytes).ok(),
                None => None,
            };
            let Some(kept) = kept else { return Err(error.into()) };
            reporter.announce(format!(
                "{folder} can't be listed ({error}); the {} shards of the last listing are used",
                kept.len()
            ));
            return Ok(kept.into_iter().map(Arc::new).collect());
        }
    };
    let relative = |object: &ObjectMeta| key_in(folder, &object.location);
    let by_location: HashMap<Location, &ObjectMeta> =
        found.iter().filter_map(|object| Some((urls::child(folder, &relative(object)?), object))).collect();
    let selected = pattern.select(found.iter().filter_map(relative));
    let objects: Vec<&ObjectMeta> = selected.iter().filter_map(|at| by_location.get(at).copied()).collect();
    let bytes = serde_json::to_vec(&objects).map_err(|error| Error::config(error.to_string()))?;
    cache.aux_put(LISTING, &id, bytes).await?;
    Ok(objects.into_iter().cloned().map(Arc::new).collect())
}

/// An object's key relative to a folder, not percent-encoded.
fn key_in(folder: &Location, object: &Location) -> Option<String> {
    let rest = object.as_str().strip_prefix(folder.as_str())?;
    percent_encoding::percent_decode_str(rest).decode_utf8().ok().map(Into::into)
}

fn listing_id(pattern: &Pattern) -> ObjectId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(format!("{pattern:?}").as_bytes()).as_bytes()[..16]);
    ObjectId::from_bytes(id)
}
