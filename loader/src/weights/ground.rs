//! What an open model's reads stand on: threads, the session where one is needed, origins, and memory for slots.

use std::sync::Arc;

use forebay_cache::Location;
use forebay_cache::memory::Arena;
use forebay_cache::origin::{Origin, Origins, local_path};
use tokio::runtime::{Handle, Runtime};

use super::model::Settings;
use super::slots::{SLOT_BYTES, Slots};
use super::source::{LocalFile, Source};
use crate::error::{Error, Result};
use crate::session::{Session, loaders_bytes};
use crate::stop::Stop;
use crate::task::Task;
use crate::threads::default_threads;

/// Threads that make memory resident, check and copy: a thread is worth some 5 GB/s.
const MOST_WORKERS: usize = 8;
/// Blocking reads of local files at once, which is what their disk sees.
const FILE_READS: usize = 32;
/// Slots of reads that go on elsewhere: at least two, so that one is read while another is copied.
const LEAST_SLOTS: usize = 2;

/// What reads stand on.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) session: Option<Arc<Session>>,
    pub(super) origin: Arc<dyn Origin>,
    /// Taken on drop: a runtime must not be dropped in a forked child.
    runtime: Option<Runtime>,
    pid: u32,
    pub(super) handle: Handle,
    memory_bytes: u64,
    pub(super) cache_local: bool,
}

impl Ground {
    /// What these urls need: a session where one of them goes through the cache.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let cached = |url: &String| -> Result<bool> {
            Ok(settings.cache_local || local_path(&forebay_cache::origin::resolve(url)?).is_err())
        };
        let through_cache = settings.urls.iter().map(cached).collect::<Result<Vec<_>>>()?.contains(&true);
        let session = if through_cache { Some(Session::open(&settings.cache)?) } else { None };
        let origin: Arc<dyn Origin> = match &session {
            Some(session) => session.origins(),
            None => Arc::new(Origins::new(settings.cache.storage_options.clone())?),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(default_threads().clamp(2, MOST_WORKERS))
            .max_blocking_threads(FILE_READS)
            .thread_name("forebay-load")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::config(format!("threads for reading weights could not be started: {error}"))
            })?;
        let handle = runtime.handle().clone();
        Ok(Self {
            session,
            origin,
            runtime: Some(runtime),
            pid: std::process::id(),
            handle,
            memory_bytes: settings.cache.host_memory_limit_bytes,
            cache_local: settings.cache_local,
        })
    }

    /// An error in a forked child, where none of the threads exist.
    pub(super) fn check_process(&self) -> Result<()> {
        if self.pid == std::process::id() { Ok(()) } else { Err(forebay_cache::Error::Forked.into()) }
    }

    /// Runs `work` on the calling thread, to its end or until it is stopped.
    pub(super) fn until<T>(&self, stop: &Stop, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.handle.block_on(stop.or(work))
    }

    /// A file at its present version.
    pub(super) async fn source(&self, location: &Location) -> Result<Source> {
        if local_path(location).is_ok() && !self.cache_local {
            let object = Arc::new(self.origin.head(location).await?);
            let file = Task::blocking(&self.handle, move || LocalFile::open(object)).await?;
            return Ok(Source::Local(Arc::new(file)));
        }
        let Some(session) = &self.session else {
            return Err(Error::config(format!(
                "{location} is no local file, and the others are: open them by themselves"
            )));
        };
        let cache = session.cache().clone();
        let object = cache.object(location).await?;
        Ok(Source::Cached(cache, object))
    }

    /// Slots for reads that go on from there: as many as there is room for, up to `most` and a half of `host_memory_limit`, or of what the cache
    /// leaves of it to loaders; so many more of `beside_bytes`; and the arena that they are in.
    pub(super) fn slots(
        &self,
        most: usize,
        beside: usize,
        beside_bytes: usize,
    ) -> Result<(Slots, Slots, Memory)> {
        let limit = usize::try_from(self.memory_bytes).unwrap_or(usize::MAX);
        let room = |bytes: usize| (bytes / 2 / SLOT_BYTES).clamp(LEAST_SLOTS, most);
        let of = |arena: &Arena, count| {
            Ok::<_, Error>((Slots::new(arena, count, SLOT_BYTES)?, Slots::new(arena, beside, beside_bytes)?))
        };
        let Some(session) = &self.session else {
            let count = room(limit);
            let arena = Arc::new(Arena::new((count * SLOT_BYTES + beside * beside_bytes) as u64)?);
            let (slots, others) = of(&arena, count)?;
            return Ok((slots, others, Memory::Own(arena)));
        };
        let mut count = room(loaders_bytes(limit));
        loop {
            // A loader beside this may have most of it.
            match of(session.arena(), count) {
                Ok((slots, others)) => return Ok((slots, others, Memory::Session(session.clone()))),
                Err(error) if count == LEAST_SLOTS => return Err(error),
                Err(_) => count = (count / 2).max(LEAST_SLOTS),
            }
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.check_process().is_ok() {
            runtime.shutdown_background();
        } else {
            // The threads don't exist here: joining them would wait for ever.
            std::mem::forget(runtime);
        }
    }
}

/// Whose arena slots were carved from.
#[derive(Clone, Debug)]
pub(super) enum Memory {
    Own(Arc<Arena>),
    Session(Arc<Session>),
}

impl Memory {
    pub(super) fn arena(&self) -> &Arena {
        match self {
            Self::Own(arena) => arena,
            Self::Session(session) => session.arena(),
        }
    }
}
