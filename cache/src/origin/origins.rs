//! From a URL to its store: one per scheme and bucket or host, made on first use and kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;

use super::attempt::Store;
use super::http::Http;
use super::local::Local;
use super::location::{Address, Family};
use super::options::Options;
use super::retry::{Patient, Policy};
use super::{Origin, azure, gcs, s3};
use crate::error::Result;
use crate::object::{ByteRange, Location, ObjectMeta};

/// What a user should know about the stores, each said once.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(super) fn add(&self, note: String) {
        let mut notes = self.0.lock();
        if !notes.contains(&note) {
            tracing::warn!("{note}");
            notes.push(note);
        }
    }
}

/// Every store that `storage_options` and the environment open; itself an origin that dispatches by URL.
///
/// ```no_run
/// use forebay_cache::origin::{Origin, Origins, resolve};
///
/// # async fn example() -> forebay_cache::Result<()> {
/// let options = [("endpoint".to_owned(), "http://127.0.0.1:8333".to_owned())];
/// let origins = Origins::new(options.into())?;
/// let shard = origins.head(&resolve("s3://photos/train-000000.tar")?).await?;
/// println!("{} bytes", shard.size_bytes);
/// # Ok(())
/// # }
/// ```
pub struct Origins {
    options: Options,
    policy: Policy,
    stores: Mutex<HashMap<String, Patient>>,
    notes: Notes,
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stores: Vec<_> = self.stores.lock().keys().cloned().collect();
        stores.sort();
        f.debug_struct("Origins").field("options", &self.options).field("stores", &stores).finish()
    }
}

impl Origins {
    /// Takes `storage_options` and this process's environment; opens nothing yet.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an option that nobody knows (near ones are listed) or a
    /// value that can't be read.
    pub fn new(storage_options: BTreeMap<String, String>) -> Result<Self> {
        Self::with_environment(
            storage_options,
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// As [`Self::new`], with these variables for the environment.
    pub fn with_environment(
        storage_options: BTreeMap<String, String>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let options = Options::new(storage_options, environment.into_iter().collect())?;
        let usual = Policy::default();
        let policy = Policy {
            attempts: options.number("max_attempts", usual.attempts)?,
            stall: options.duration("stall_timeout", usual.stall)?,
            ..usual
        };
        Ok(Self { options, policy, stores: Mutex::default(), notes: Notes::default() })
    }

    /// The store that holds this object.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where its settings can't work: half a key, an unusable
    /// endpoint, no credentials.
    pub fn get(&self, location: &Location) -> Result<Arc<dyn Origin>> {
        Ok(Arc::new(self.store(location)?))
    }

    /// What a user should know about the stores opened so far: requests sent unsigned, a server without
    /// ranges.
    pub fn notes(&self) -> Vec<String> {
        self.notes.0.lock().clone()
    }

    fn store(&self, location: &Location) -> Result<Patient> {
        let address = Address::of(location)?;
        let mut stores = self.stores.lock();
        if let Some(store) = stores.get(&address.store) {
            return Ok(store.clone());
        }
        let (store, note): (Arc<dyn Store>, _) = match address.family {
            Family::Local => (Arc::new(Local), None),
            Family::Http => (Arc::new(Http::open(&address.store, &self.options, self.notes.clone())?), None),
            Family::S3 => s3::open(&address, &self.options)?,
            Family::Gcs => gcs::open(&address, &self.options)?,
            Family::Azure => azure::open(&address, &self.options)?,
        };
        if let Some(note) = note {
            self.notes.add(note);
        }
        let store = Patient::new(store, self.policy);
        stores.insert(address.store, store.clone());
        Ok(store)
    }
}

impl Origin for Origins {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>> {
        match self.store(location) {
            Ok(store) => store.head_of(location),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn list(&self, prefix: &Location) -> BoxStream<'_, Result<ObjectMeta>> {
        match self.store(prefix) {
            Ok(store) => store.list_of(prefix),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn get(&self, object: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        match self.store(&object.location) {
            Ok(store) => store.get(object, range),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn kind(&self) -> &'static str {
        "by URL"
    }
}

#[cfg(test)]
#[path = "origins_tests.rs"]
mod tests;
