//! S3, GCS and Azure: one attempt through the `object_store` crate, every answer checked to be of the version
//! that was asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{CredentialProvider, GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::sync::OnceCell;

use super::attempt::{Body, Fault, Said, Store};
use super::location::Address;
use super::secret::Secrets;
use super::transport::Answer;
use crate::error::{Error, Result};
use crate::object::{ByteRange, Location, ObjectMeta, Version};

/// A metadata service answers within milliseconds where there is one.
const METADATA_LIMIT: Duration = Duration::from_secs(3);

/// Objects of a listing without etags that are asked for one by one, at the same time.
const HEADS_AT_ONCE: usize = 16;

/// Asks for credentials once; used where only the metadata service is left to ask.
pub(super) type Probe = Arc<dyn Fn() -> BoxFuture<'static, object_store::Result<()>> + Send + Sync>;

/// The probe of a provider of credentials.
pub(super) fn probe<T: fmt::Debug + Send + Sync + 'static>(
    provider: Arc<dyn CredentialProvider<Credential = T>>,
) -> Probe {
    Arc::new(move || {
        let provider = provider.clone();
        Box::pin(async move { provider.get_credential().await.map(drop) })
    })
}

/// One bucket or container.
#[derive(Clone)]
pub(super) struct Cloud {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    kind: &'static str,
    /// `s3://bucket`, in front of every key.
    root: String,
    secrets: Secrets,
    probe: Option<Probe>,
    probed: OnceCell<()>,
}

impl fmt::Debug for Cloud {
    /// The store library's own `Debug` shows its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cloud({})", self.shared.root)
    }
}

impl Cloud {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        kind: &'static str,
        root: String,
        secrets: Secrets,
        probe: Option<Probe>,
    ) -> Self {
        Self { shared: Arc::new(Shared { store, kind, root, secrets, probe, probed: OnceCell::new() }) }
    }
}

impl Shared {
    /// Where only a metadata service can have credentials, it is asked with a short limit before the first
    /// request.
    async fn ready(&self) -> Result<(), Fault> {
        let Some(probe) = &self.probe else { return Ok(()) };
        let asked = self.probed.get_or_try_init(|| async {
            let why = match tokio::time::timeout(METADATA_LIMIT, probe()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => Said::scrubbed(&error, &self.secrets).to_string(),
                Err(_) => format!("no answer within {} s", METADATA_LIMIT.as_secs()),
            };
            let root = &self.root;
            Err(Error::config(format!(
                "{root}: no credentials in storage_options, the environment or the usual files, and the machine's metadata service \
                 gave none ({why}); set them, or \"skip_signature\": \"true\" for public data"
            )))
        });
        asked.await.copied().map_err(Fault::Unusable)
    }

    fn path(&self, location: &Location) -> Result<Path, Fault> {
        let key = Address::of(location).map_err(Fault::Unusable)?.key;
        let path = Path::parse(&key).map_err(|why| self.unusable_key(location, &why.to_string()))?;
        if path.as_ref() == key {
            return Ok(path);
        }
        Err(self.unusable_key(location, "it begins or ends with a slash"))
    }

    fn unusable_key(&self, location: &Location, why: &str) -> Fault {
        Fault::Unusable(Error::config(format!(
            "{location}: this key can't be read through {}: {why}",
            self.kind
        )))
    }

    fn meta(&self, found: object_store::ObjectMeta) -> ObjectMeta {
        let location = Location::new(format!("{}/{}", self.root, found.location));
        let version = version(&found);
        ObjectMeta::new(location, found.size, version)
    }

    async fn head(&self, location: &Location) -> Result<ObjectMeta, Fault> {
        let path = self.path(location)?;
        self.ready().await?;
        let found = self.store.head(&path).await.map_err(|error| self.fault(error))?;
        Ok(ObjectMeta::new(location.clone(), found.size, version(&found)))
    }

    async fn open(self: Arc<Self>, object: ObjectMeta, range: ByteRange) -> Result<Body, Fault> {
        let path = self.path(&object.location)?;
        self.ready().await?;
        let mut options =
            GetOptions { range: Some(GetRange::Bounded(range.start..range.end)), ..GetOptions::default() };
        match &object.version {
            Version::Etag(etag) => options.if_match = Some(etag.clone()),
            Version::Id(id) => options.version = Some(id.clone()),
            Version::Modified(_) | Version::File { .. } => {}
        }
        let got = self.store.get_opts(&path, options).await.map_err(|error| self.fault(error))?;
        // Also where If-Match was sent: not every store that speaks S3 obeys it.
        if got.meta.size != object.size_bytes || version(&got.meta) != object.version {
            return Err(Fault::Changed);
        }
        if got.range != (range.start..range.end) {
            let said =
                format!("asked for bytes {range}, the store sent {}..{}", got.range.start, got.range.end);
            return Err(Fault::again(Said::new(said)));
        }
        Ok(got.into_stream().map_err(move |error| self.fault(error)).boxed())
    }

    fn list(self: Arc<Self>, prefix: &Location, after: Option<&Location>) -> Listed {
        let key = match Address::of(prefix) {
            Ok(address) => address.key,
            Err(error) => return stream::iter([Err(Fault::Unusable(error))]).boxed(),
        };
        let folder = match Path::parse(&key) {
            Ok(folder) => folder,
            Err(why) => return stream::iter([Err(self.unusable_key(prefix, &why.to_string()))]).boxed(),
        };
        let after = match after.map(|after| self.path(after)).transpose() {
            Ok(after) => after,
            Err(fault) => return stream::iter([Err(fault)]).boxed(),
        };
        let opened = async move {
            self.ready().await?;
            let found = match &after {
                Some(after) => self.store.list_with_offset(Some(&folder), after),
                None => self.store.list(Some(&folder)),
            };
            let described = found.map(move |found| self.clone().describe(found)).buffered(HEADS_AT_ONCE);
            Ok::<_, Fault>(described.try_filter_map(|found| async { Ok(found) }))
        };
        stream::once(opened).try_flatten().boxed()
    }

    /// A listing without an etag would give another id than `head` does: ask again, so that both agree.
    async fn describe(
        self: Arc<Self>,
        found: object_store::Result<object_store::ObjectMeta>,
    ) -> Result<Option<ObjectMeta>, Fault> {
        let meta = self.meta(found.map_err(|error| self.fault(error))?);
        if !meta.version.is_stand_in() {
            return Ok(Some(meta));
        }
        match self.head(&meta.location).await {
            // Removed since it was listed.
            Err(Fault::NotFound) => Ok(None),
            other => other.map(Some),
        }
    }

    fn fault(&self, error: object_store::Error) -> Fault {
        if let Some(answer) = in_chain::<Answer>(&error) {
            return answer.fault(&self.secrets);
        }
        let said = Said::scrubbed(&error, &self.secrets);
        match &error {
            object_store::Error::NotFound { .. } => Fault::NotFound,
            object_store::Error::Precondition { .. } => Fault::Changed,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Fault::Denied(Arc::new(said))
            }
            // In a listing nobody else names it: the bucket itself.
            _ if says(&said, &["NoSuchBucket", "ContainerNotFound"]) => Fault::NotFound,
            // S3 answers 400 to credentials that are no longer, or not at all, valid; refused listings have no error of their own.
            _ if says(&said, &DENIALS) => Fault::Denied(Arc::new(said)),
            _ => match in_chain::<HttpError>(&error) {
                // Connecting, sending, or the body on its way: the network failed, not the request.
                Some(_) => Fault::again(said),
                None => Fault::broken(said),
            },
        }
    }
}

type Listed = BoxStream<'static, Result<ObjectMeta, Fault>>;

fn version(found: &object_store::ObjectMeta) -> Version {
    match (&found.e_tag, &found.version) {
        // Azure lists etags bare and answers with them quoted.
        (Some(etag), _) if etag.ends_with('"') => Version::Etag(etag.clone()),
        (Some(etag), _) => Version::Etag(format!("\"{etag}\"")),
        (None, Some(id)) => Version::Id(id.clone()),
        (None, None) => {
            let at = found.last_modified;
            Version::Modified(
                i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos()),
            )
        }
    }
}

/// What stands in answers to credentials that are not accepted.
const DENIALS: [&str; 5] =
    ["ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "401 Unauthorized", "403 Forbidden"];

/// True where the answer holds one of these codes.
fn says(said: &Said, codes: &[&str]) -> bool {
    let said = said.to_string();
    codes.iter().any(|code| said.contains(code))
}

/// The first error of this type among an error and its sources.
fn in_chain<'e, T: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

impl Store for Cloud {
    fn head(&self, location: &Location) -> BoxFuture<'static, Result<ObjectMeta, Fault>> {
        let (shared, location) = (self.shared.clone(), location.clone());
        Box::pin(async move { shared.head(&location).await })
    }

    fn open(&self, object: &ObjectMeta, range: ByteRange) -> BoxFuture<'static, Result<Body, Fault>> {
        Box::pin(self.shared.clone().open(object.clone(), range))
    }

    fn list(&self, prefix: &Location, after: Option<&Location>) -> Listed {
        self.shared.clone().list(prefix, after)
    }

    fn kind(&self) -> &'static str {
        self.shared.kind
    }
}
