//! A model's files held whole where they lie: as memory that is mapped, and as plain files with their own names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_cache::origin::{local_path, path_location};
use forebay_cache::share::{View, Whole};
use forebay_cache::stats::DiskState;
use forebay_cache::{Lease, Location, ObjectMeta};

use super::files::{fetch_whole, mend};
use super::find::{is_inside, own_name, parent, within};
use super::model::Weights;
use super::source::Source;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::stop::Stop;
use crate::task::Task;
use crate::whole::{TooLarge, check_room};

/// How often a cached file that turns out to be bad is fetched again.
const ATTEMPTS: u32 = 3;
/// How long space that is being given back is waited for, between two of them.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

/// A cached file, all of it there and checked. While this is held none of its bytes goes.
#[derive(Debug)]
pub(super) struct Held {
    /// Dropped first: the session waits for what it has lent.
    whole: Arc<Whole>,
    session: Arc<Session>,
}

/// What an open model shows of its files by name.
#[derive(Debug)]
pub(super) struct Shown {
    view: View,
    _session: Arc<Session>,
}

impl Weights {
    /// The bytes of a file of the weights as memory of this process, without a copy: a local file's where it lies, a cached one's in the cache
    /// folder, checked once and held there for as long as the memory is, or the model is open. Writing to it changes a copy and never the file.
    /// A forked child has no memory of cached files.
    ///
    /// # Errors
    /// [`forebay_cache::Error::Changed`] for a local file that was replaced; where the cache has no room for all of a file.
    pub fn map(&self, file: usize, stop: &Stop) -> Result<Lease> {
        self.ground.check_process()?;
        match (self.reader.files.get(file), &self.ground.session) {
            (None, _) => {
                Err(Error::config(format!("the model has {} files: there is no {file}", self.files().len())))
            }
            (Some(Source::Local(local)), _) => local.map(),
            (Some(Source::Cached(..)), None) => Err(Error::Closed),
            (Some(Source::Cached(_, object)), Some(session)) => {
                let held = self.ground.until(stop, self.hold(session, object))?;
                Ok(held.whole.map(held.session.clone())?)
            }
        }
    }

    /// Any file of the model's folder (its weights, a tokenizer, a compile cache) as a plain file that other programs can open: a local one
    /// itself; one that goes through the cache, once it is there, under its own name, read-only, until the model is closed.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that leaves the folder, [`forebay_cache::Error::NotFound`], and as [`Self::map`].
    pub fn path(&self, name: &str, stop: &Stop) -> Result<PathBuf> {
        self.ground.check_process()?;
        if !is_inside(name) && !self.files().iter().any(|file| file.name == name) {
            return Err(Error::config(format!(
                "{name:?} is no file of the model's folder: give its name in it, such as \"tokenizer.json\""
            )));
        }
        self.ground.until(stop, self.path_of(name))
    }

    async fn path_of(&self, name: &str) -> Result<PathBuf> {
        let (location, known) = self.named(name)?;
        let session = match (&self.ground.session, local_path(&location)) {
            (Some(session), Err(_)) => session,
            (Some(session), Ok(_)) if self.ground.cache_local => session,
            (_, path) => {
                let path = path?;
                return if path.is_file() { Ok(path) } else { Err(missing(location)) };
            }
        };
        let object = match known {
            Some(object) => object,
            None => session.cache().object(&location).await?,
        };
        let held = self.hold(session, &object).await?;
        let mut shown = self.beside.shown.lock();
        let shown = match &mut *shown {
            Some(shown) => shown,
            none => none.insert(Shown { view: session.cache().view()?, _session: session.clone() }),
        };
        if is_inside(name) {
            return Ok(shown.view.show(&held.whole, name)?);
        }
        // A URL: what it names, apart from others of its name.
        let own = Some(own_name(&object.location)).filter(|own| is_inside(own));
        let own = own.as_deref().unwrap_or("model.safetensors");
        Ok(shown.view.show(&held.whole, &format!("{}/{own}", object.id))?)
    }

    /// Where a file of this name is, and which version of it the model has, where that is known.
    fn named(&self, name: &str) -> Result<(Location, Option<Arc<ObjectMeta>>)> {
        if let Some(file) = self.files().iter().find(|file| file.name == name) {
            return Ok((file.object.location.clone(), Some(file.object.clone())));
        }
        if let Some(folder) = &self.folder {
            let object = folder.files.get(name).ok_or_else(|| missing(folder.at(name)))?;
            return Ok((object.location.clone(), Some(Arc::new(object.clone()))));
        }
        let Some(beside) = self.files().first().map(|file| &file.object.location) else {
            return Err(Error::Closed);
        };
        let location = match local_path(beside) {
            Ok(path) => path_location(&path.with_file_name(name))?,
            Err(_) => within(&parent(beside), name),
        };
        Ok((location, None))
    }

    /// All of an object in the cache folder, checked.
    async fn hold(&self, session: &Arc<Session>, object: &Arc<ObjectMeta>) -> Result<Arc<Held>> {
        if let Some(held) = self.beside.held.lock().get(&object.id) {
            return Ok(held.clone());
        }
        let cache = session.cache();
        let limit_bytes = cache.stats().limit_bytes;
        let what = format!("all of {}, kept at the same time", object.location);
        let too_small = |needed_bytes| forebay_cache::Error::QuotaTooSmall {
            limit_bytes,
            needed_bytes,
            what: what.clone(),
        };
        check_room(std::slice::from_ref(object), limit_bytes)
            .map_err(|TooLarge { needed_bytes, .. }| too_small(needed_bytes))?;
        self.beside.pin(session, object);
        let fails = |what: String| {
            let (path, source) = (session.dir().to_owned(), std::io::Error::other("see `forebay status`"));
            let what = format!("{what}; its disk fails or is full");
            Error::Cache(forebay_cache::Error::CacheDir { path, what, source: Arc::new(source) })
        };
        for attempt in 1..=ATTEMPTS {
            let done = fetch_whole(cache, object).await?;
            let Some(whole) = cache.whole(object).await?.map(Arc::new) else {
                match (done.declined, cache.stats().disk_state) {
                    // Something went between the two calls.
                    (0, _) => continue,
                    // Space of blocks that were bad, or that nobody has entered, may still be on its way back.
                    (_, DiskState::Healthy) if attempt < ATTEMPTS => {
                        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                        continue;
                    }
                    // What is pinned or held beside it leaves no room.
                    (_, DiskState::Healthy) => {
                        return Err(too_small(limit_bytes.saturating_add(object.size_bytes)).into());
                    }
                    _ => return Err(fails(format!("{} can't be kept there whole", object.location))),
                }
            };
            let mapped = whole.map(Arc::new(()))?;
            let of_check = whole.clone();
            let bad = Task::blocking(&self.ground.handle, move || Ok(of_check.mismatch(&mapped))).await?;
            let Some(block) = bad else {
                let held = Arc::new(Held { whole, session: session.clone() });
                return Ok(self.beside.held.lock().entry(object.id).or_insert(held).clone());
            };
            tracing::warn!(object = %object.location, block = block.index, "a cached block is bad; it is fetched again");
            // A block that somebody holds is not written again.
            drop(whole);
            cache.recheck(block).await?;
            mend(cache, object, object.block_range(block.index)).await?;
        }
        Err(fails(format!("{} was bad or gone there {ATTEMPTS} times", object.location)))
    }
}

fn missing(location: Location) -> Error {
    forebay_cache::Error::NotFound { location }.into()
}
