//! What the handles of a cache and its tasks share: the tiers, the runtime, and how all of it ends.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use super::CacheOptions;
use super::flight::Flights;
use crate::disk::{Disk, reader};
use crate::error::{Error, Result};
use crate::io::BlockIo;
use crate::object::BLOCK_BYTES;
use crate::origin::Origin;
use crate::ram::{Gate, Ram, S3Fifo};
use crate::running::Running;
use crate::stats::Counters;

#[derive(Debug)]
pub(super) struct Inner {
    disk: Option<Disk>,
    pub(super) ram: Ram,
    pub(super) io: Arc<dyn BlockIo>,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) counters: Arc<Counters>,
    pub(super) flights: Flights,
    pub(super) connections: Gate,
    /// How many runs of blocks one prefetch keeps on their way.
    pub(super) ahead: usize,
    runtime: Handle,
    own: Mutex<Option<Runtime>>,
    tasks: Running,
    closed: watch::Sender<bool>,
    pid: u32,
}

impl Inner {
    pub(super) fn open(options: CacheOptions) -> Result<Self> {
        let slabs = options.memory.capacity_bytes() / BLOCK_BYTES as usize;
        let ram = Ram::new(options.memory, Box::new(S3Fifo::new(slabs)))?;
        let (runtime, own) = match options.runtime {
            Some(handle) => (handle, None),
            None => {
                let own = own_runtime()?;
                (own.handle().clone(), Some(own))
            }
        };
        let counters = Arc::new(Counters::default());
        let opened = Disk::open(crate::disk::DiskOptions {
            dir: options.dir,
            limit_bytes: options.limit_bytes,
            io: options.io.clone(),
            counters: counters.clone(),
            runtime: runtime.clone(),
            lock: options.lock,
            hold_evictions: options.hold_evictions,
            bookkeeping_bytes: options.bookkeeping_bytes,
        });
        let disk = match opened {
            Ok(disk) => disk,
            Err(error) => {
                if let Some(own) = own {
                    own.shutdown_background();
                }
                return Err(error);
            }
        };
        Ok(Self {
            disk: Some(disk),
            ram,
            io: options.io,
            origin: options.origin,
            counters,
            flights: Flights::default(),
            connections: Gate::new(options.connections.max(1)),
            ahead: options.connections.max(1) + 1,
            runtime,
            own: Mutex::new(own),
            tasks: Running::default(),
            closed: watch::Sender::new(false),
            pid: std::process::id(),
        })
    }

    /// Itself, unless it was closed, or this is a forked child: then nothing of it may be touched, since its locks may
    /// be held by threads that don't exist here.
    pub(super) fn alive(self: &Arc<Self>) -> Result<&Arc<Self>> {
        if self.is_forked() {
            return Err(Error::Forked);
        }
        if self.is_closed() { Err(Error::Closed) } else { Ok(self) }
    }

    /// True in a forked child.
    pub(super) fn is_forked(&self) -> bool {
        self.pid != std::process::id()
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Ends once this is closed and `patience` is over.
    pub(super) async fn closed_for(&self, patience: Duration) {
        // The sender is ours: it can't be gone.
        drop(self.closed.subscribe().wait_for(|closed| *closed).await);
        tokio::time::sleep(patience).await;
    }

    pub(super) fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().ok_or(Error::Closed)
    }

    /// Runs a task that `close` waits for.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let underway = self.tasks.begin();
        self.runtime.spawn(async move {
            let _underway = underway;
            task.await;
        });
    }

    /// Runs work that keeps a core busy, away from the threads that move bytes.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.runtime.spawn_blocking(work).await.map_err(|_| Error::Closed)
    }

    pub(super) async fn close(&self) -> Result<()> {
        if self.is_forked() {
            return Err(Error::Forked);
        }
        if self.closed.send_replace(true) {
            return Ok(());
        }
        self.tasks.none().await;
        self.disk()?.close().await
    }
}

fn own_runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("forebay-cache")
        .enable_all()
        .build()
        .map_err(|error| Error::config(format!("the cache's threads could not be started: {error}")))
}

impl Drop for Inner {
    fn drop(&mut self) {
        let own = self.own.get_mut().take();
        if self.is_forked() {
            // A forked child: its threads don't exist, and waiting for them would never end.
            std::mem::forget(own);
            if let Some(disk) = self.disk.take() {
                disk.forget();
            }
            return;
        }
        drop(self.disk.take());
        if let Some(own) = own {
            own.shutdown_background();
        }
    }
}

/// What a read of `range` takes in the reader's region.
pub(super) use reader::slab_bytes;
