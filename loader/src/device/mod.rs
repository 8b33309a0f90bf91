//! `device="cuda"`: batches go on to a device's memory before the consumer gets them.
//!
//! host slot ─ [`mover`] (its own thread, a stream of its own) ─► device memory ─► [`resident`] columns with an event to wait for ─► consumer.
//!
//! Bytes cross the bus once, straight from the slot that the decoders wrote. What lies on the heap (values of variable size) goes over a
//! small pinned part of the arena.

mod convert;
mod mover;
mod resident;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use forebay_cache::memory::{Arena, Region};
use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::{Device, DeviceMemory, Pinned, Which};
use serde::Serialize;

use crate::error::Result;
use crate::field::Field;
use crate::options::LoaderOptions;
use crate::pipeline::sample::SampleDecoder;
use crate::pipeline::slot::Layout;
use crate::report::Reporter;
use crate::session::Session;

pub(crate) use mover::{Mover, Moving};
pub use resident::{Consumer, Export, Resident};

/// Batches in device memory beside those ahead of the consumer: one in its hands, one that it is about to let go, one whose last work still runs.
const HELD_BATCHES: usize = 3;
/// Where batches have no size that is known before: what images and features of some megabytes a batch need.
const DEFAULT_LIMIT_BYTES: u64 = 1 << 30;
/// Pinned memory over which heap values go, in pieces: two, so that one is filled while the other is copied.
const BOUNCE_BYTES: usize = 8 << 20;
const BOUNCE_PIECE: usize = BOUNCE_BYTES / 2;

/// Where batches go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Which device.
    pub which: Which,
    /// `gpu_memory_limit`. `None`: what the batches between the loader and its consumer take.
    pub limit_bytes: Option<u64>,
    /// Whether the consumer takes every column into memory of its own ([`DeviceArray::write_to`](crate::batch::DeviceArray::write_to)):
    /// conversions are then done on the way there.
    pub into_consumers: bool,
}

/// Memory that a loader's batches are in, or go over.
#[derive(Debug)]
pub(crate) struct Ground {
    memory: DeviceMemory,
    bounce: Region,
}

/// A loader's place on a device.
#[derive(Debug)]
pub(crate) struct DevicePlace {
    pub(crate) device: Arc<dyn Device>,
    ground: Arc<Ground>,
    /// Images that the device converts, and whether it waits for the consumer's own memory with that.
    conversions: convert::Conversions,
    into_consumers: bool,
    session: Arc<Session>,
    copied_bytes: AtomicU64,
}

/// What a loader's device did.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceStats {
    /// "cuda:0 (NVIDIA H100)".
    pub name: String,
    /// How host bytes are read: "pinned" or "pageable".
    pub copy_path: &'static str,
    /// How its memory was had: "virtual memory" or "cuMemAlloc".
    pub memory: &'static str,
    /// Bytes copied from host to device.
    pub copied_bytes: u64,
    /// Bytes of its memory that the loader may use.
    pub limit_bytes: u64,
    /// Bytes in use, those that wait for a consumer's last work included.
    pub used_bytes: u64,
    /// The most there ever were.
    pub peak_bytes: u64,
}

impl DevicePlace {
    /// The fields as decoders are to make them for this device.
    pub(crate) fn decoded_fields(options: &LoaderOptions) -> Vec<Field> {
        if options.device.is_some() { convert::split(&options.fields).0 } else { options.fields.clone() }
    }

    /// Host memory for what doesn't lie in the arena already.
    pub(crate) fn bounce(session: &Session) -> Result<Region> {
        Ok(session.arena().region("values on their way to the device", BOUNCE_BYTES)?)
    }

    /// Opens the device, takes its memory, and pins the session's. `layout` is of the fields as they are decoded.
    pub(crate) fn open(
        settings: &DeviceSettings,
        bounce: Region,
        session: &Arc<Session>,
        layout: &Layout,
        options: &LoaderOptions,
        reporter: &Reporter,
    ) -> Result<Self> {
        let device = CudaDevice::open(&settings.which)?;
        let (_, conversions) = convert::split(&options.fields);
        // What decoders make, and what the device makes of it.
        let mut batch = layout.slab_bytes(options.batch_size) as u64;
        if !settings.into_consumers && !conversions.is_empty() {
            batch += SampleDecoder::layout_of(&options.fields).slab_bytes(options.batch_size) as u64;
        }
        let batches = (options.prefetch_factor + HELD_BATCHES) as u64;
        let usual = if layout.is_variable() { DEFAULT_LIMIT_BYTES } else { 0 };
        let limit = settings.limit_bytes;
        let limit = limit.unwrap_or_else(|| batch.saturating_mul(batches).saturating_add(usual));
        if limit < batch {
            return Err(forebay_gpu::Error::OverBudget {
                device: device.facts().name.clone(),
                what: format!("one batch of {}", options.batch_size),
                wanted_bytes: batch,
                limit_bytes: limit,
                used_bytes: 0,
                advice: "raise gpu_memory_limit, or lower batch_size",
            }
            .into());
        }
        let memory = DeviceMemory::new(&device, limit)?;
        if let Err(refused) = session.arena().pin(Arc::new(Pinned(device.clone()))) {
            reporter.announce(format!(
                "host memory could not be pinned for {} ({refused}): copies to it are slower and wait for one another. Lower host_memory_limit, or \
                 raise the memory that this process may lock (ulimit -l, or the container's memlock limit)",
                device.facts().name
            ));
        }
        Ok(Self {
            device,
            ground: Arc::new(Ground { memory, bounce }),
            conversions,
            into_consumers: settings.into_consumers,
            session: session.clone(),
            copied_bytes: AtomicU64::new(0),
        })
    }

    fn arena(&self) -> &Arena {
        self.session.arena()
    }

    pub(crate) fn stats(&self) -> DeviceStats {
        let (used_bytes, peak_bytes) = self.ground.memory.used_bytes();
        let facts = self.device.facts();
        DeviceStats {
            name: facts.name.to_string(),
            copy_path: if self.arena().is_pinned() { "pinned" } else { "pageable" },
            memory: self.device.memory_kind(),
            copied_bytes: self.copied_bytes.load(Relaxed),
            limit_bytes: self.ground.memory.limit_bytes(),
            used_bytes,
            peak_bytes,
        }
    }
}
