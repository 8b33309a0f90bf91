//! What the loaders of one process share: one runtime, one arena, one cache per folder.
//!
//! Two loaders on the same folder (training and validation) are readers of one cache; `host_memory_limit` is the process's, so
//! the first one that opens the folder sets it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Weak};

use forebay_cache::memory::{Arena, Held};
use forebay_cache::origin::{Origin, Origins};
use forebay_cache::{Cache, CacheOptions};
use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};

use crate::arrivals::{Arrivals, Counting};
use crate::catalog::Gunzip;
use crate::error::{Error, Result};
use crate::options::CacheSettings;
use crate::trace::Listeners;

/// The least host memory that does anything useful: four blocks on their way, reads and two small batches.
pub(crate) const LEAST_MEMORY_BYTES: u64 = 64 << 20;

/// Memory from which an owner serves other processes what is not on disk.
const LEAST_SHARED_BYTES: usize = 16 << 20;
const MOST_SHARED_BYTES: usize = 32 << 20;

/// Memory for the block index's pages and for checksums: what [`CacheOptions::bookkeeping_bytes`] takes by default, less under small limits.
const MOST_BOOKKEEPING_BYTES: usize = 48 << 20;
const LEAST_BOOKKEEPING_BYTES: usize = 2 << 20;

/// The unit in which memory is carved.
pub(crate) const PAGE: usize = 4096;

/// Reads and writes of cache files in flight at once: deep enough for NVMe, few enough to stay fair.
const IO_DEPTH: usize = 64;

static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Session>>>> = LazyLock::new(Mutex::default);

/// One cache folder in this process.
#[derive(Debug)]
pub struct Session {
    settings: CacheSettings,
    cache: Cache,
    origins: Arc<dyn Origin>,
    arrivals: Arrivals,
    listeners: Listeners,
    arena: Arena,
    /// What the cache maps for other processes, as a memfd of its own, and what its bookkeeping keeps on the heap.
    _beside: Held,
    io: forebay_cache::io::Report,
    pid: u32,
    /// Taken on drop: a runtime must not be dropped where it runs tasks, and not at all in a forked child.
    runtime: Option<Runtime>,
}

impl Session {
    /// The session of `settings.dir`: the one that is open, or a new one.
    pub fn open(settings: &CacheSettings) -> Result<Arc<Self>> {
        let dir = absolute(&settings.dir)?;
        let mut open = OPEN.lock();
        open.retain(|_, session| session.strong_count() > 0);
        if let Some(session) = open.get(&dir).and_then(Weak::upgrade) {
            session.check_process()?;
            session.same_limits(settings)?;
            return Ok(session);
        }
        let session = Arc::new(Self::new(&dir, settings)?);
        open.insert(dir, Arc::downgrade(&session));
        Ok(session)
    }

    fn new(dir: &Path, settings: &CacheSettings) -> Result<Self> {
        Self::over(Arc::new(Origins::new(settings.storage_options.clone())?), dir, settings)
    }

    /// A session whose objects come from `origin`.
    pub(crate) fn over(origin: Arc<dyn Origin>, dir: &Path, settings: &CacheSettings) -> Result<Self> {
        let limit = settings.host_memory_limit_bytes;
        if limit < LEAST_MEMORY_BYTES {
            return Err(Error::Cache(forebay_cache::Error::MemoryTooSmall {
                limit_bytes: limit,
                needed_bytes: LEAST_MEMORY_BYTES,
                what: "blocks on their way, reads and two batches".into(),
            }));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .thread_name("forebay-net")
            .enable_all()
            .build()
            .map_err(|error| Error::config(format!("the network threads could not be started: {error}")))?;
        let arena = Arena::new(limit)?;
        // Half for the cache: what its other processes on this node are served from, blocks on their way, and the host tier. The other
        // half is carved by loaders, for batches and reads.
        let parts = CacheParts::of(arena.limit_bytes());
        let beside =
            arena.hold("what the cache keeps beside its blocks", parts.shared + parts.bookkeeping)?;
        let blocks = arena.region("cache blocks", parts.blocks)?;
        let (arrivals, listeners) = (Arrivals::default(), Listeners::default());
        let origins: Arc<dyn Origin> = Arc::new(Counting::new(origin, arrivals.clone(), listeners.clone()));
        std::fs::create_dir_all(dir).map_err(|error| forebay_cache::Error::CacheDir {
            path: dir.into(),
            what: "it could not be made; name a cache_dir on a local disk that may be written".into(),
            source: Arc::new(error),
        })?;
        let origin = Arc::new(Gunzip::new(origins.clone()));
        let (io, report) = forebay_cache::io::open(dir, IO_DEPTH)?;
        let mut options = CacheOptions::new(dir, settings.limit_bytes, blocks, origin, io);
        options.runtime = Some(runtime.handle().clone());
        options.sharing.memory_bytes = parts.shared;
        options.sharing.patience = settings.patience;
        options.bookkeeping_bytes = parts.bookkeeping;
        let cache = {
            let _inside = runtime.enter();
            Cache::open(options)?
        };
        let settings = CacheSettings { dir: dir.into(), ..settings.clone() };
        Ok(Self {
            settings,
            cache,
            origins,
            arrivals,
            listeners,
            arena,
            _beside: beside,
            io: report,
            pid: std::process::id(),
            runtime: Some(runtime),
        })
    }

    fn same_limits(&self, wanted: &CacheSettings) -> Result<()> {
        let differ = |what: &str, have: u64, want: u64| {
            Error::config(format!(
                "{} is already open in this process with {what} of {have} bytes, and {want} is asked for; give every loader of \
                 the folder the same one, or another cache_dir",
                self.settings.dir.display()
            ))
        };
        let have = &self.settings;
        if have.limit_bytes != wanted.limit_bytes {
            return Err(differ("cache_limit", have.limit_bytes, wanted.limit_bytes));
        }
        if have.host_memory_limit_bytes != wanted.host_memory_limit_bytes {
            return Err(differ(
                "host_memory_limit",
                have.host_memory_limit_bytes,
                wanted.host_memory_limit_bytes,
            ));
        }
        if have.patience != wanted.patience {
            return Err(Error::config(format!(
                "{} is already open in this process with a patience of {:?}, and {:?} is asked for; give every loader of the folder the same one",
                have.dir.display(),
                have.patience,
                wanted.patience
            )));
        }
        if have.storage_options != wanted.storage_options {
            return Err(Error::config(format!(
                "{} is already open in this process with other storage_options; give the loader another cache_dir",
                have.dir.display()
            )));
        }
        Ok(())
    }

    /// An error in a forked child, where none of the session's threads exist.
    pub fn check_process(&self) -> Result<()> {
        if self.pid == std::process::id() { Ok(()) } else { Err(forebay_cache::Error::Forked.into()) }
    }

    /// The cache folder.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where objects come from.
    pub fn origin(&self) -> &dyn Origin {
        &*self.origins
    }

    /// Where objects come from, to keep.
    pub fn origins(&self) -> Arc<dyn Origin> {
        self.origins.clone()
    }

    /// Bytes that came from origins.
    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Traces that hear of fetches.
    pub(crate) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// What is left of `host_memory_limit`.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// What reads and writes the folder, and why.
    pub fn io(&self) -> &forebay_cache::io::Report {
        &self.io
    }

    /// Where tasks run.
    pub fn handle(&self) -> Handle {
        match &self.runtime {
            Some(runtime) => runtime.handle().clone(),
            None => Handle::current(),
        }
    }

    /// Runs a future to its end on the calling thread, which must be none of the runtime's.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle().block_on(future)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.pid != std::process::id() {
            // The threads don't exist here: joining them would wait for ever.
            std::mem::forget(runtime);
            return;
        }
        let close = async {
            if let Err(error) = self.cache.close().await {
                tracing::warn!(%error, "the cache could not be closed");
            }
        };
        if Handle::try_current().is_err() {
            // What was fetched is entered in the index before the folder is let go.
            runtime.block_on(close);
        }
        runtime.shutdown_background();
    }
}

/// What of a limit the cache takes.
struct CacheParts {
    /// A memfd from which other processes are served.
    shared: usize,
    /// Pages of the block index and of checksums, on the heap.
    bookkeeping: usize,
    /// Blocks on their way, and the host tier.
    blocks: usize,
}

impl CacheParts {
    fn of(limit_bytes: usize) -> Self {
        let shared = (limit_bytes / 16).clamp(LEAST_SHARED_BYTES, MOST_SHARED_BYTES);
        Self {
            shared,
            bookkeeping: (limit_bytes / 48).clamp(LEAST_BOOKKEEPING_BYTES, MOST_BOOKKEEPING_BYTES),
            blocks: (limit_bytes / 2).saturating_sub(shared),
        }
    }
}

/// What of a limit the loaders of a folder share, in whole pages.
pub(crate) fn loaders_bytes(limit_bytes: usize) -> usize {
    let CacheParts { shared, bookkeeping, blocks } = CacheParts::of(limit_bytes);
    let cache = (shared + bookkeeping).next_multiple_of(PAGE) + blocks.next_multiple_of(PAGE);
    limit_bytes.saturating_sub(cache)
}

/// The folder's absolute path, without asking that it exists.
fn absolute(dir: &Path) -> Result<PathBuf> {
    if let Ok(found) = dir.canonicalize() {
        return Ok(found);
    }
    std::path::absolute(dir).map_err(|error| Error::config(format!("cache_dir {}: {error}", dir.display())))
}
