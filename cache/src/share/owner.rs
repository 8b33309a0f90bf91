//! The owner's side of a shared folder: lets clients in, keeps what they were lent, and says when eviction may begin.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::folder::Folder;
use super::lock::{ClientWatch, client_names};
use super::message::{FolderFacts, MAX_LEASE_BYTES};
use super::session;
use super::socket::{Connection, Listener};
use super::takeover::Gate;
use super::view;
use crate::disk::{Advisor, Grant, ITSELF};
use crate::error::Result;
use crate::memory::{Arena, Lease, Region};
use crate::object::GRANULE_BYTES;
use crate::tiered::Sharing;

/// How often the locks of clients that have gone silent are tried. The kernel offers no event for a flock.
const WATCH: Duration = Duration::from_millis(50);

/// Clients at the same time: two descriptors each, and a node has far fewer processes.
const MAX_CLIENTS: usize = 1024;

/// What all sessions of an owner share.
#[derive(Debug)]
pub(crate) struct Owner {
    /// The tiers.
    pub(crate) folder: Arc<dyn Folder>,
    /// Where the folder is.
    pub(crate) dir: PathBuf,
    /// The limits.
    pub(crate) sharing: Sharing,
    gate: Mutex<Gate>,
    released: AtomicBool,
    /// By the name of its lock: the client's present session.
    clients: Mutex<HashMap<Arc<str>, Arc<Lent>>>,
    memory: Mutex<Option<Arc<SharedMemory>>>,
    advisors: AtomicU64,
}

/// Memory that clients can read.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    /// Where bytes for clients land.
    pub(crate) region: Region,
    /// The same memory as a file.
    pub(crate) fd: OwnedFd,
}

/// What one client was lent in one session.
#[derive(Debug)]
pub(crate) struct Lent {
    /// As whom it advises.
    pub(crate) advisor: Advisor,
    leases: Mutex<HashMap<u64, Loan>>,
    next: AtomicU64,
    /// Room for further leases.
    pub(crate) room: Arc<Semaphore>,
    superseded: AtomicBool,
}

/// One lease: what it keeps in place, and the room that it takes.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not read: dropping them ends the lease")]
pub(crate) struct Loan {
    /// Blocks of the folder, or bytes in shared memory.
    pub(crate) what: Pinned,
    /// None for those taken over from a former owner, which came without asking.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// What a lease keeps in place.
#[derive(Debug)]
#[expect(dead_code, reason = "as above")]
pub(crate) enum Pinned {
    File(Grant),
    Memory(Lease),
}

impl Lent {
    fn new(advisor: Advisor, limit: u32) -> Self {
        Self {
            advisor,
            leases: Mutex::default(),
            next: AtomicU64::new(1),
            room: Arc::new(Semaphore::new(limit as usize)),
            superseded: AtomicBool::new(false),
        }
    }

    /// Enters a lease; its number.
    pub(crate) fn lend(&self, loan: Loan) -> u64 {
        let lease = self.next.fetch_add(1, Ordering::Relaxed);
        self.leases.lock().insert(lease, loan);
        lease
    }

    /// Ends leases. A number that isn't known means nothing: it may be a former owner's.
    pub(crate) fn end(&self, leases: &[u64]) {
        let ended: Vec<_> = {
            let mut held = self.leases.lock();
            leases.iter().filter_map(|lease| held.remove(lease)).collect()
        };
        drop(ended);
    }

    /// Leases held.
    pub(crate) fn count(&self) -> usize {
        self.leases.lock().len()
    }
}

impl Owner {
    /// Looks who lived when this process took the folder over. `own` is this process's own lock.
    pub(crate) fn survivors(dir: &std::path::Path, own: &str) -> Result<Gate> {
        let mut alive: Vec<Arc<str>> = Vec::new();
        for name in client_names(dir)? {
            if name != own
                && let Some(mut watch) = ClientWatch::open(dir, &name)?
                && !watch.is_gone()?
            {
                alive.push(name.into());
            }
        }
        Ok(Gate::new(alive))
    }

    /// An owner whose folder holds evictions back until `gate` opens.
    pub(crate) fn new(folder: Arc<dyn Folder>, dir: PathBuf, sharing: Sharing, gate: Gate) -> Arc<Self> {
        Arc::new(Self {
            folder,
            dir,
            sharing,
            released: AtomicBool::new(false),
            gate: Mutex::new(gate),
            clients: Mutex::default(),
            memory: Mutex::default(),
            advisors: AtomicU64::new(ITSELF + 1),
        })
    }

    /// Lets clients in until this future is dropped; their sessions end with it.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) {
        let mut sessions = JoinSet::new();
        self.release();
        self.sweep();
        sessions.spawn(self.clone().watch_survivors());
        loop {
            tokio::select! {
                arrived = listener.accept() => self.let_in(arrived, &mut sessions).await,
                Some(ended) = sessions.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a session with a client of the cache folder panicked");
                    }
                }
            }
        }
    }

    async fn let_in(self: &Arc<Self>, arrived: std::io::Result<Connection>, sessions: &mut JoinSet<()>) {
        match arrived {
            Ok(connection) if sessions.len() <= MAX_CLIENTS => {
                sessions.spawn(session::run(self.clone(), Arc::new(connection)));
            }
            Ok(_) => {
                tracing::warn!(dir = %self.dir.display(), "more than {MAX_CLIENTS} clients: one was turned away")
            }
            Err(error) => {
                // Out of descriptors, most likely: not a reason to spin.
                tracing::warn!(dir = %self.dir.display(), %error, "a client of the cache folder could not be let in");
                tokio::time::sleep(WATCH).await;
            }
        }
    }

    /// What clients show of the folder.
    pub(crate) fn facts(&self) -> FolderFacts {
        FolderFacts::of(&self.folder.stats())
    }

    /// Memory to serve from, mapped at the first need.
    pub(crate) fn memory(&self) -> Result<Arc<SharedMemory>> {
        let mut memory = self.memory.lock();
        if let Some(memory) = &*memory {
            return Ok(memory.clone());
        }
        // One lease of the longest kind must fit, also where it begins and ends inside a granule, and one more behind it.
        let least = 2 * (MAX_LEASE_BYTES + GRANULE_BYTES);
        let bytes = self.sharing.memory_bytes.max(usize::try_from(least).unwrap_or(usize::MAX));
        let (arena, fd) = Arena::shared(bytes).map_err(|error| {
            crate::Error::config(format!(
                "{bytes} bytes of memory to share with other processes can't be mapped: {error}"
            ))
        })?;
        let region = arena.region("other processes", bytes)?;
        let fresh = Arc::new(SharedMemory { region, fd });
        *memory = Some(fresh.clone());
        Ok(fresh)
    }

    /// Begins a session: what is lent in it.
    pub(crate) fn begin(&self) -> Arc<Lent> {
        let advisor = self.advisors.fetch_add(1, Ordering::Relaxed);
        Arc::new(Lent::new(advisor, self.sharing.leases_per_client.clamp(1, 512)))
    }

    /// A client has registered all that it holds: what an earlier session of it held ends.
    pub(crate) fn settled(&self, client: &Arc<str>, lent: &Arc<Lent>) {
        if let Some(earlier) = self.clients.lock().insert(client.clone(), lent.clone())
            && !Arc::ptr_eq(&earlier, lent)
        {
            earlier.superseded.store(true, Ordering::Release);
        }
        self.account(client);
    }

    /// Keeps what was lent, and what the client advised, until its lock says that nothing it started is still under way, or until it has
    /// come back.
    pub(crate) async fn outlive(&self, client: &Arc<str>, watch: ClientWatch, lent: Arc<Lent>) {
        let gone = gone_for_good(watch, &lent).await;
        self.folder.withdraw(lent.advisor);
        if gone {
            tracing::debug!(%client, leases = lent.count(), "a client of the cache folder is gone");
            self.clients.lock().retain(|_, other| !Arc::ptr_eq(other, &lent));
            self.account(client);
            self.sweep();
        }
    }

    /// Removes the names that ended processes gave to cached files.
    fn sweep(&self) {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = view::sweep(&dir) {
                tracing::warn!(%error, "names that ended processes gave to cached files are still there");
            }
        });
    }

    fn account(&self, client: &str) {
        self.gate.lock().accounted(client);
        self.release();
    }

    /// Lets evictions begin, once, when nobody is missing.
    fn release(&self) {
        if self.gate.lock().is_open() && !self.released.swap(true, Ordering::AcqRel) {
            tracing::debug!(dir = %self.dir.display(), "every client is registered: evictions begin");
            self.folder.release_evictions();
        }
    }

    /// Until every client of the former owner has registered or is gone. One that hangs is named, once.
    async fn watch_survivors(self: Arc<Self>) {
        let began = tokio::time::Instant::now();
        let mut told = false;
        loop {
            let missing: Vec<_> = self.gate.lock().missing().cloned().collect();
            if missing.is_empty() {
                return;
            }
            for client in &missing {
                let gone = ClientWatch::open(&self.dir, client)
                    .and_then(|watch| watch.map_or(Ok(true), |mut watch| watch.is_gone()));
                if gone.unwrap_or(false) {
                    self.account(client);
                }
            }
            if !told && began.elapsed() > self.sharing.patience {
                told = true;
                let dir = self.dir.display();
                tracing::warn!(%dir, ?missing, "clients of the former owner live but don't register: nothing is evicted until they do");
            }
            tokio::time::sleep(WATCH).await;
        }
    }
}

/// Waits until a client is gone; false where it has come back instead.
async fn gone_for_good(mut watch: ClientWatch, lent: &Lent) -> bool {
    loop {
        match watch.is_gone() {
            Ok(true) => return true,
            Ok(false) if lent.superseded.load(Ordering::Acquire) => return false,
            Ok(false) => tokio::time::sleep(WATCH).await,
            Err(error) => {
                tracing::error!(%error, "a client's lock can't be examined: its leases stay");
                tokio::time::sleep(WATCH * 20).await;
            }
        }
    }
}
