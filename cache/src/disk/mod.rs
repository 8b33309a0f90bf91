//! The NVMe tier: a sparse file per object, checked on every read, under a quota that is never exceeded.
//!
//! Promises: what is served is what was stored; `cache_limit` holds at every moment, counted in allocated blocks with index,
//! checksums and aux files; after kill -9 or power loss the folder serves at once and leaks nothing; what somebody holds a
//! [`Grant`] of is neither punched nor rewritten; a failing disk never fails a read, it only makes a miss.
//!
//! Leaves to others: where missing bytes come from ([`crate::tiered`]), and what moves them ([`crate::io`]).

mod advice;
mod aux;
mod checksum;
mod choose;
mod commits;
mod database;
mod freer;
mod grant;
mod health;
mod index;
mod layout;
mod lock;
mod pages;
mod quota;
pub mod reader;
mod recover;
mod removal;
mod report;
mod serve;
mod state;
mod store;
mod verify;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::io::BlockIo;
use crate::object::{ByteRange, Location, ObjectId, ObjectMeta};
use crate::running::{Running, Underway};
use crate::stats::{CacheStats, Counters};

pub(crate) use advice::{AdviceBook, Advisor, ITSELF, advised_blocks};
pub use checksum::CrcPage;
pub use grant::{BlockGrant, Grant};
pub use lock::FolderLock;
pub use report::{CachedObject, Evict, Finding, Progress, Status};

use commits::{keep_room, note_commits};
use health::is_full;
use index::{Index, ObjectRecord};
use layout::Layout;
use pages::Pages;
use state::State;
use writer::IndexWriter;

/// What the plan wants with a block. Of several plans the one that wants most counts: later ones are more.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Advice {
    /// Nothing is known; goes first, the least recently used object before others.
    #[default]
    None,
    /// Read in this epoch; goes next.
    Done,
    /// Will be read in this epoch: never evicted.
    WillNeed,
}

/// The folder, open. Ends its threads when dropped; what is granted stays readable.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    freer: Mutex<Option<JoinHandle<()>>>,
}

/// What grants, writes under way and the threads share.
pub(super) struct Shared {
    layout: Layout,
    io: Arc<dyn BlockIo>,
    counters: Arc<Counters>,
    index: Arc<Index>,
    writer: IndexWriter,
    state: Arc<Mutex<State>>,
    /// Wakes the thread that frees.
    work: Condvar,
    /// Counts up when room may have appeared, or the walk through the folder has ended.
    room: watch::Sender<u64>,
    pages: Mutex<Pages>,
    /// One removal at a time: each groups its index entries and paces its punching.
    removal: Mutex<()>,
    runtime: Handle,
    /// File work on threads of the runtime: the lock of the folder outlives it.
    files: Running,
    lock: Mutex<Option<FolderLock>>,
    open_limit: usize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({})", self.layout.dir().display())
    }
}

/// How a folder is opened.
#[derive(Debug)]
pub(crate) struct DiskOptions {
    pub(crate) dir: PathBuf,
    pub(crate) limit_bytes: u64,
    pub(crate) io: Arc<dyn BlockIo>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) runtime: Handle,
    pub(crate) lock: Option<FolderLock>,
    pub(crate) hold_evictions: bool,
    pub(crate) bookkeeping_bytes: usize,
}

impl Disk {
    /// Opens or makes the folder; serves at once, the walk through its files goes on behind the service.
    pub(crate) fn open(options: DiskOptions) -> Result<Self> {
        if options.limit_bytes < quota::LEAST_LIMIT {
            return Err(Error::QuotaTooSmall {
                limit_bytes: options.limit_bytes,
                needed_bytes: quota::LEAST_LIMIT,
                what: "the block index and a few blocks".into(),
            });
        }
        let dir = options.dir;
        let lock = match options.lock {
            Some(lock) => lock,
            None => FolderLock::try_acquire(&dir)?.ok_or_else(|| Error::Owned { path: dir.clone() })?,
        };
        let layout = Layout::new(&dir);
        let mut state = State::new(options.limit_bytes, options.hold_evictions);
        let page_cache_bytes = options.bookkeeping_bytes / 3;
        let (index, refused) = match open_index(&layout, &options.counters, page_cache_bytes) {
            Ok((index, objects)) => {
                state.enter_objects(objects);
                (index, None)
            }
            Err(error) if is_full(&error) => {
                tracing::error!(%error, path = %layout.index().display(), "the disk is too full to open the block index: nothing is cached until it has room");
                state.health.index_refused(&error, Instant::now());
                state.known = false;
                (Index::unopened(&layout.index(), page_cache_bytes), Some(error))
            }
            Err(error) => {
                return Err(unusable(&layout.index(), "the block index can't be opened and read", error));
            }
        };
        let index = Arc::new(index);
        let state = Arc::new(Mutex::new(state));
        keep_room(&state, &index);
        let written = note_commits(state.clone(), index.clone(), options.counters.clone());
        let threads = |error| unusable(&dir, "a thread for it could not be started", error);
        let shared = Arc::new(Shared {
            writer: IndexWriter::start(index.clone(), refused, written).map_err(threads)?,
            layout,
            io: options.io,
            counters: options.counters,
            index,
            state,
            work: Condvar::new(),
            room: watch::Sender::new(0),
            pages: Mutex::new(Pages::new(options.bookkeeping_bytes / 3 * 2)),
            removal: Mutex::new(()),
            runtime: options.runtime,
            files: Running::default(),
            lock: Mutex::new(Some(lock)),
            open_limit: open_limit(),
        });
        let of_freer = shared.clone();
        let freer = std::thread::Builder::new()
            .name("forebay-evict".into())
            .spawn(move || of_freer.free_ahead())
            .map_err(threads)?;
        let (of_walk, underway) = (shared.clone(), shared.files.begin());
        shared.runtime.spawn_blocking(move || {
            let _underway = underway;
            if of_walk.wait_for_index() {
                of_walk.walk();
            }
        });
        Ok(Self { shared, freer: Mutex::new(Some(freer)) })
    }

    /// Says what a plan wants with the blocks that `range` touches.
    pub(crate) fn advise(&self, by: Advisor, id: &ObjectId, range: ByteRange, advice: Advice) {
        self.shared.state.lock().advise(by, id, advised_blocks(range), advice);
        if advice != Advice::WillNeed {
            self.shared.work.notify_all();
        }
    }

    /// Forgets what an advisor has said.
    pub(crate) fn withdraw(&self, by: Advisor) {
        self.shared.state.lock().withdraw(by);
        self.shared.work.notify_all();
    }

    /// Lets the thread that frees do its work after a take-over.
    pub(crate) fn release_evictions(&self) {
        self.shared.state.lock().held = false;
        self.shared.work.notify_all();
        self.shared.tell_room();
    }

    /// The newest cached version of a location.
    pub(crate) async fn newest(&self, location: &Location) -> Result<Option<ObjectMeta>> {
        let (shared, location) = (self.shared.clone(), location.clone());
        let path = self.shared.layout.index();
        let flushed = self.shared.writer.flush_if_it_works();
        let found = self.shared.blocking(move || {
            drop(flushed.blocking_recv());
            shared.index.newest(&location)
        });
        found.await?.map_err(|error| Error::Disk {
            path,
            what: "reading the block index".into(),
            source: index::shared(error),
        })
    }

    /// Fills in what the disk knows of itself.
    pub(crate) fn fill(&self, stats: &mut CacheStats) {
        let state = self.shared.state.lock();
        stats.engine = self.shared.io.engine();
        stats.direct = state.objects.values().find_map(|object| Some(object.file.as_ref()?.is_direct()));
        stats.disk_state = state.health.state(Instant::now());
        stats.admission_stopped = state.admission_stopped();
        stats.used_bytes = state.quota.used();
        stats.limit_bytes = state.quota.limit();
    }

    /// Makes everything durable and lets the folder go: a successor may write to blocks that are free, so nothing may still be punched then.
    pub(crate) async fn close(&self) -> Result<()> {
        self.shared.end();
        let freer = self.freer.lock().take();
        self.shared.blocking(move || join(freer)).await?;
        self.shared.files.none().await;
        let records: Vec<_> = {
            let state = self.shared.state.lock();
            let used = state.objects.iter().filter(|(_, object)| object.tick > 0 && !object.removing);
            used.map(|(id, object)| (*id, object.record.clone())).collect()
        };
        for (id, mut record) in records {
            record.last_use = state::now_seconds();
            self.shared.writer.send(index::Change::PutObject(id, record));
        }
        let flushed = self.shared.writer.flush().await;
        let shared = self.shared.clone();
        self.shared.blocking(move || shared.index.close()).await?;
        drop(self.shared.lock.lock().take());
        match flushed {
            Ok(Err(error)) => Err(Error::Disk {
                path: self.shared.layout.index(),
                what: format!(
                    "the last {} changes of the block index could not be written; what they stand for is fetched again",
                    self.shared.writer.waiting()
                ),
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// In a forked child nothing of this may be touched or waited for.
    pub(crate) fn forget(mut self) {
        std::mem::forget(self.freer.get_mut().take());
        std::mem::forget(self.shared.clone());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.end();
        join(self.freer.get_mut().take());
    }
}

fn join(freer: Option<JoinHandle<()>>) {
    if freer.is_some_and(|freer| freer.join().is_err()) {
        tracing::error!("the thread that frees blocks panicked");
    }
}

impl Shared {
    /// Runs file work away from the threads that coordinate.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.under(self.files.begin(), work).await
    }

    /// As [`Self::blocking`], for work that counts already. The count is the work's, not the caller's, who may stop polling.
    async fn under<T: Send + 'static>(
        &self,
        underway: Underway,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let work = move || {
            let _underway = underway;
            work()
        };
        self.runtime.spawn_blocking(work).await.map_err(|_| Error::Closed)
    }

    /// Begins work that changes files: none begins any more once the folder is being closed, and what began before is waited for.
    fn begin(&self, state: &State) -> Result<Underway> {
        if state.ended { Err(Error::Closed) } else { Ok(self.files.begin()) }
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.work.notify_all();
        self.tell_room();
    }

    fn tell_room(&self) {
        self.room.send_modify(|turn| *turn += 1);
    }
}

/// Opens the index and reads its objects; one that is broken is made anew, and its blocks are reclaimed behind the service.
fn open_index(
    layout: &Layout,
    counters: &Counters,
    page_cache_bytes: usize,
) -> io::Result<(Index, Vec<(ObjectId, ObjectRecord)>)> {
    let (path, marker) = (layout.index(), layout.index_is_broken());
    layout.make_dirs()?;
    let remake = |why: &str| {
        tracing::error!(path = %path.display(), why, "the block index is broken: the cache starts empty");
        crate::stats::count(&counters.quarantined_blocks);
        layout::remove(&path)?;
        layout::remove(&marker)
    };
    let opened = || {
        let index = Index::open(&path, page_cache_bytes)?;
        let objects = index.objects()?;
        Ok((index, objects))
    };
    match if marker.exists() { Err(io::Error::from(io::ErrorKind::InvalidData)) } else { opened() } {
        Err(error) if error.raw_os_error().is_none() => remake(&error.to_string()).and_then(|()| opened()),
        other => other,
    }
}

fn unusable(path: &Path, what: &str, error: io::Error) -> Error {
    Error::CacheDir { path: path.into(), what: what.into(), source: Arc::new(error) }
}

/// Files kept open: a quarter of what the process may open, since others need descriptors too.
fn open_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(4096);
    usize::try_from(limit / 4).unwrap_or(usize::MAX).clamp(16, 4096)
}

#[cfg(test)]
mod tests;
