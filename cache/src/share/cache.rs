//! A cache folder that several processes share: the same calls whether this process owns it or asks the one that does.

mod asking;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::client::{CallError, Reply, unexpected};
use super::crcs;
use super::fork::Birth;
use super::leases::Leases;
use super::lock::{ClientLock, LockFile, OWNER_LOCK};
use super::member::{Actor, Member, Open, Role};
use super::message::{Answer, FolderFacts, Request};
use super::notes::{self, Note};
use super::read::{Reader, file_of};
use super::view::View;
use super::whole::Whole;
use super::wishes::Wishes;
use crate::disk::{Advice, Evict, Progress, Status};
use crate::error::{Error, Result};
use crate::io::BlockIo;
use crate::memory::Region;
use crate::object::{BlockId, ByteRange, Location, ObjectId, ObjectMeta};
use crate::stats::{CacheStats, Counters};
use crate::tiered::{self, CacheOptions, Hold, Prefetched, Read, Sharing};
use asking::Asked;

/// The cache. Clones are handles of the same one; it ends with the last, or with [`Cache::close`].
///
/// The first process that opens a folder owns it; later ones become its clients, and one of them takes over when it ends or dies. What was
/// being asked is then asked again. All give the same options; `limit_bytes` and `origin` are those of the owner.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// The folder as it was last seen, for the moments without an owner.
    known: Mutex<FolderFacts>,
    roles: watch::Receiver<Role>,
    leave: watch::Sender<bool>,
    left: watch::Receiver<bool>,
    reader: Reader,
    counters: Counters,
    wishes: Arc<Wishes>,
    birth: Birth,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In a forked child nobody listens, and the channel's lock may be held by a thread that doesn't exist.
        if self.birth.check().is_ok() {
            self.leave.send_replace(true);
        }
    }
}

impl Cache {
    /// Opens (or makes) the folder, as its owner or as a client of the process that owns it.
    ///
    /// # Errors
    /// As [`tiered::Cache::open`] where this process becomes the owner. [`Error::Protocol`] where another process owns the folder and speaks
    /// another version, or says nothing for `sharing.patience`; it names that process.
    pub fn open(options: CacheOptions) -> Result<Self> {
        let (dir, sharing, io, memory) =
            (options.dir.clone(), options.sharing, options.io.clone(), options.memory.clone());
        let open: Open = Arc::new(move |lock| {
            let mine = CacheOptions {
                dir: options.dir.clone(),
                memory: options.memory.clone(),
                origin: options.origin.clone(),
                io: options.io.clone(),
                runtime: options.runtime.clone(),
                lock: Some(lock),
                hold_evictions: true,
                ..options
            };
            Ok(Arc::new(tiered::Cache::open(mine)?))
        });
        Self::open_with(&dir, sharing, io, memory, open)
    }

    /// As [`Self::open`], over any tiers.
    pub(crate) fn open_with(
        dir: &Path,
        sharing: Sharing,
        io: Arc<dyn BlockIo>,
        staging: Region,
        open: Open,
    ) -> Result<Self> {
        let birth = Birth::here();
        let member = member(dir, sharing, &*io, open)?;
        let wishes = member.wishes.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("forebay-share")
            .enable_all()
            .build()
            .map_err(|error| Error::config(format!("threads for the cache can't be started: {error}")))?;
        let handle = runtime.handle().clone();
        let (roles, seen) = watch::channel(Role::Seeking);
        let (leave, leaves) = watch::channel(false);
        let (gone, left) = watch::channel(false);
        let (first, opened) = sync_channel(1);
        let settled = seen.clone();
        // The runtime lives and ends on this thread: a forked child, where the thread doesn't exist, never waits for it.
        let run = move || {
            runtime.block_on(async {
                let actor = tokio::spawn(Actor::new(member, roles, leaves).run());
                drop(first.send(settled_role(settled).await));
                if let Err(error) = actor.await {
                    tracing::error!(%error, "the cache's membership ended");
                }
            });
            gone.send_replace(true);
        };
        std::thread::Builder::new()
            .name("forebay-share".into())
            .spawn(run)
            .map_err(|error| Error::config(format!("a thread for the cache can't be started: {error}")))?;
        let reader = Reader { io, staging, runtime: handle };
        let counters = Counters::default();
        let (dir, known) = (dir.into(), Mutex::default());
        let inner = Inner { dir, known, roles: seen, leave, left, reader, counters, wishes, birth };
        // Dropped with an error it leaves again.
        let cache = Self { inner: Arc::new(inner) };
        *cache.inner.known.lock() = opened.recv().map_err(|_| Error::Closed)??;
        Ok(cache)
    }

    /// As [`tiered::Cache::object`].
    pub async fn object(&self, location: &Location) -> Result<Arc<ObjectMeta>> {
        match self.ask(&Request::Object { location: location.clone() }, None).await? {
            Asked::Here(folder) => folder.object(location).await,
            Asked::There(Reply { message: Answer::Object { object }, .. }) => Ok(Arc::new(object)),
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// As [`tiered::Cache::read`]. A client reads into `region`, by its own engine.
    pub async fn read(&self, object: &Arc<ObjectMeta>, range: ByteRange, region: &Region) -> Result<Read> {
        loop {
            match self.role().await? {
                Role::Owner(folder) => return folder.read(object, range, region).await,
                Role::Client(client) => match self.inner.reader.read(&client, object, range, region).await {
                    Ok(read) => {
                        self.inner.counters.served(read.tiers);
                        return Ok(read);
                    }
                    Err(CallError::Failed(error)) => return Err(error),
                    Err(CallError::Lost) => client.end(),
                },
                _ => {}
            }
        }
    }

    /// As [`tiered::Cache::prefetch`].
    pub async fn prefetch(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Prefetched> {
        match self.ask(&Request::Prefetch { object: ObjectMeta::clone(object), range }, None).await? {
            Asked::Here(folder) => folder.prefetch(object, range).await,
            Asked::There(Reply { message: Answer::Prefetched { present, stored, declined, .. }, .. }) => {
                Ok(Prefetched { present, stored, declined })
            }
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// As [`tiered::Cache::recheck`].
    pub async fn recheck(&self, block: BlockId) -> Result<bool> {
        match self.ask(&Request::Recheck { object: block.object, index: block.index }, None).await? {
            Asked::Here(folder) => folder.recheck(block).await,
            Asked::There(Reply { message: Answer::Rechecked { bad }, .. }) => Ok(bad),
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// All bytes of an object, where they lie in the folder; none where some of them are not there.
    pub async fn whole(&self, object: &Arc<ObjectMeta>) -> Result<Option<Whole>> {
        let range = ByteRange::new(0, object.size_bytes);
        if range.is_empty() {
            return Ok(Some(Whole::nothing(object.clone())));
        }
        match self.ask(&Request::Whole { object: ObjectMeta::clone(object) }, None).await? {
            Asked::Here(folder) => {
                let Some(grant) = folder.grant(object, range).await? else { return Ok(None) };
                let Some(crcs) = crcs::of_grant(&grant, range) else { return Ok(None) };
                Ok(Some(Whole::new(object.clone(), grant.file.clone(), crcs, Arc::new(grant))))
            }
            Asked::There(Reply { message: Answer::Incomplete, .. }) => Ok(None),
            Asked::There(Reply { message: Answer::File { .. }, fds, lease }) => {
                let lease = lease.and_then(|lease| lease.claim(true, object.clone(), range));
                let held = Arc::new(lease.ok_or(Error::Closed)?);
                let mut fds = fds.into_iter();
                let file = file_of(fds.next(), object)?;
                let crcs = crcs::from_bytes(&self.memory(fds.next()).await?);
                Ok(Some(Whole::new(object.clone(), file, crcs, held)))
            }
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// A folder of cached files under names of their own, for programs that open files by name.
    pub fn view(&self) -> Result<View> {
        self.inner.birth.check()?;
        View::open(&self.inner.dir)
    }

    /// As [`tiered::Cache::hold`]; none in a client, which has no host tier.
    pub async fn hold(&self, object: &Arc<ObjectMeta>, range: ByteRange) -> Result<Option<Hold>> {
        match self.role().await? {
            Role::Owner(folder) => folder.hold(object, range).await.map(Some),
            _ => Ok(None),
        }
    }

    /// As [`tiered::Cache::advise`]. What this process advised holds until it ends, also with later owners.
    pub fn advise(&self, object: &ObjectId, range: ByteRange, advice: Advice) {
        if self.inner.birth.check().is_ok() {
            self.inner.wishes.advise(object, range, advice);
        }
    }

    /// As [`tiered::Cache::aux_get`].
    pub async fn aux_get(&self, kind: &str, id: &ObjectId) -> Result<Option<Vec<u8>>> {
        match self.ask(&Request::AuxGet { kind: kind.into(), object: *id }, None).await? {
            Asked::Here(folder) => folder.aux_get(kind, id).await,
            Asked::There(Reply { message: Answer::Aux { found: false }, .. }) => Ok(None),
            Asked::There(packet @ Reply { message: Answer::Aux { found: true }, .. }) => {
                Ok(Some(self.attached(packet).await?))
            }
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// As [`tiered::Cache::aux_put`].
    pub async fn aux_put(&self, kind: &str, id: &ObjectId, bytes: Vec<u8>) -> Result<bool> {
        match self.ask(&Request::AuxPut { kind: kind.into(), object: *id }, Some(&bytes)).await? {
            Asked::Here(folder) => folder.aux_put(kind, id, bytes).await,
            Asked::There(Reply { message: Answer::AuxKept { kept }, .. }) => Ok(kept),
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// As [`tiered::Cache::evict`]. What any process holds a lease on stays.
    pub async fn evict(&self, what: Evict) -> Result<u64> {
        match self.ask(&Request::Evict { what }, None).await? {
            Asked::Here(folder) => folder.evict(what).await,
            Asked::There(Reply { message: Answer::Evicted { bytes }, .. }) => Ok(bytes),
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// As [`tiered::Cache::verify`]; where the owner dies meanwhile, it begins again.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn verify(&self) -> Result<mpsc::Receiver<Progress>> {
        self.inner.birth.check()?;
        let (into, progress) = mpsc::channel(64);
        let cache = self.clone();
        self.inner.reader.runtime.spawn(async move {
            if let Err(error) = cache.verify_into(into).await {
                tracing::error!(%error, "verify ended early");
            }
        });
        Ok(progress)
    }

    /// As [`tiered::Cache::status`].
    pub async fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status, None).await? {
            Asked::Here(folder) => folder.status().await,
            Asked::There(packet @ Reply { message: Answer::Status, .. }) => {
                let json = self.attached(packet).await?;
                serde_json::from_slice(&json).map_err(|error| Error::Protocol {
                    message: format!("its status can't be read: {error}"),
                })
            }
            Asked::There(other) => Err(unexpected(&other.message)),
        }
    }

    /// The counters of this process, and what it is. A client shows the folder as an owner last described it, also while there is none.
    pub fn stats(&self) -> CacheStats {
        let role = self.inner.roles.borrow().clone();
        let own = CacheStats { engine: self.inner.reader.io.engine(), ..self.inner.counters.snapshot() };
        let mut known = self.inner.known.lock();
        let role = match role {
            Role::Owner(folder) => {
                let stats = CacheStats { role: "owner", ..folder.stats() };
                *known = FolderFacts::of(&stats);
                return stats;
            }
            Role::Client(client) => {
                *known = client.facts();
                "client"
            }
            Role::Seeking | Role::Stuck(_) | Role::Left => "seeking",
        };
        known.onto(CacheStats { role, ..own })
    }

    /// Leaves a few words on `board` (letters, digits and dashes) for the other processes of the folder, for as long as the note is kept.
    pub fn leave_note(&self, board: &str, text: &str) -> Result<Note> {
        self.inner.birth.check()?;
        Note::leave(&self.inner.dir, board, text)
    }

    /// The notes on `board` of every living process, this one's included.
    pub fn notes(&self, board: &str) -> Result<Vec<String>> {
        self.inner.birth.check()?;
        notes::read(&self.inner.dir, board)
    }

    /// Waits until everything fetched is written and entered, and lets the folder go: a client takes it over. Reads after that are
    /// [`Error::Closed`].
    pub async fn close(&self) -> Result<()> {
        self.inner.birth.check()?;
        self.inner.leave.send_replace(true);
        drop(self.inner.left.clone().wait_for(|left| *left).await);
        Ok(())
    }
}

fn member(dir: &Path, sharing: Sharing, io: &dyn BlockIo, open: Open) -> Result<Member> {
    std::fs::create_dir_all(dir).map_err(|error| Error::CacheDir {
        path: dir.into(),
        what: "it can't be made; choose a folder where this user may write (cache_dir)".into(),
        source: Arc::new(error),
    })?;
    let lock = LockFile::open(&dir.join(OWNER_LOCK))?;
    let client_lock = ClientLock::create(dir)?;
    let hold = |file: &LockFile| {
        io.hold(file.reference()?).map_err(|error| Error::CacheDir {
            path: dir.into(),
            what: "its lock can't be held by the I/O engine".into(),
            source: Arc::new(error),
        })
    };
    let holds = vec![hold(&lock)?, hold(client_lock.file())?];
    Ok(Member {
        dir: dir.into(),
        sharing,
        lock,
        client_lock,
        leases: Arc::new(Leases::default()),
        wishes: Arc::new(Wishes::default()),
        open,
        holds,
    })
}

/// The folder, as whoever owns it describes it, once that is settled.
async fn settled_role(mut roles: watch::Receiver<Role>) -> Result<FolderFacts> {
    match roles.wait_for(|role| !matches!(role, Role::Seeking)).await.as_deref() {
        Ok(Role::Stuck(error)) => Err(error.clone()),
        Ok(Role::Owner(folder)) => Ok(FolderFacts::of(&folder.stats())),
        Ok(Role::Client(client)) => Ok(client.facts()),
        _ => Err(Error::Closed),
    }
}
