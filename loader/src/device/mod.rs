//! `device="cuda"`: batches go on to a device's memory before the consumer gets them.
//!
//! host slot ─ [`mover`] (its own thread, a stream of its own) ─► device memory ─► [`resident`] columns with an event to wait for ─► consumer.
//!
//! Bytes cross the bus once, straight from the slot that the decoders wrote. What lies on the heap (values of variable size) goes over a
//! small pinned part of the arena. Rows of samples that stay on the device ([`kept`]) don't cross it at all: kernels make them.

mod bounce;
mod convert;
mod cut;
mod jpeg;
mod kept;
mod mover;
mod resident;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use forebay_cache::memory::{Arena, Held, Region};
use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::{Device, DeviceMemory, Pinned, Which};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::field::{Convert, Field, FieldKind};
use crate::options::LoaderOptions;
use crate::pipeline::sample::SampleDecoder;
use crate::pipeline::slot::Layout;
use crate::report::Reporter;
use crate::session::Session;

pub use cut::cut;
pub(crate) use cut::{Making, only_stage};
pub(crate) use jpeg::{Columns, Draft, Jpegs};
pub use jpeg::{DecodeOn, JpegStats};
pub(crate) use kept::{DeviceTier, OnDevice};
pub(crate) use mover::{Apart, Mover, Moving, NearRow};
pub use resident::{Consumer, Export, Resident};

/// Batches in device memory beside those ahead of the consumer: one in its hands, one that it is about to let go, one whose last work still runs.
const HELD_BATCHES: usize = 3;
/// Where batches have no size that is known before: what images and features of some megabytes a batch need.
const DEFAULT_LIMIT_BYTES: u64 = 1 << 30;
/// Pinned memory over which heap values go, in pieces: two, so that one is filled while the other is copied.
const BOUNCE_BYTES: usize = 8 << 20;
const BOUNCE_PIECE: usize = BOUNCE_BYTES / 2;
/// For each row and picture beside its values, where decoded samples are kept on the device: where they lie, and the weights of a resize of some 2,000
/// rows and columns.
const BESIDE_ROW_BYTES: usize = 32 << 10;

/// Where batches go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Which device.
    pub which: Which,
    /// `gpu_memory_limit`. `None`: what the batches between the loader and its consumer take, and decoded samples.
    pub limit_bytes: Option<u64>,
    /// `gpu_decoded_limit`: of these, for decoded samples that are kept from epoch to epoch. `None`: none are.
    pub decoded_limit_bytes: Option<u64>,
    /// `decode_on`: where JPEG images are decoded.
    pub decode_on: DecodeOn,
    /// Folders with the device's JPEG library, looked through before the system's own.
    pub jpeg_folders: Vec<PathBuf>,
    /// Whether the consumer takes every column into memory of its own ([`DeviceArray::write_to`](crate::batch::DeviceArray::write_to)):
    /// conversions are then done on the way there.
    pub into_consumers: bool,
}

/// Memory that a loader's batches are in, or go over.
#[derive(Debug)]
pub(crate) struct Ground {
    memory: DeviceMemory,
    /// Of it, what is taken for as long as the loader is there.
    standing_bytes: u64,
    bounce: Region,
}

impl Ground {
    /// Memory for model weights, and a little of the host's own over which they come back: tensors outlive what they came over.
    pub(crate) fn of_weights(memory: DeviceMemory, device: &Arc<dyn Device>) -> Result<Arc<Self>> {
        let arena = Arena::new(BOUNCE_PIECE as u64)?;
        if let Err(refused) = arena.pin(Arc::new(Pinned(device.clone()))) {
            tracing::debug!(%refused, "tensors come back from the device over pageable memory");
        }
        let bounce = arena.region("tensors on their way from the device", BOUNCE_PIECE)?;
        Ok(Arc::new(Self { memory, standing_bytes: 0, bounce }))
    }

    pub(crate) fn memory(&self) -> &DeviceMemory {
        &self.memory
    }
}

/// A loader's place on a device.
#[derive(Debug)]
pub(crate) struct DevicePlace {
    pub(crate) device: Arc<dyn Device>,
    ground: Arc<Ground>,
    /// Images that the device converts, and whether it waits for the consumer's own memory with that.
    conversions: convert::Conversions,
    into_consumers: bool,
    /// Decoded samples, and how each field is made of them; none where nobody asked for that.
    tier: Option<(Arc<DeviceTier>, Vec<Making>)>,
    /// What decodes JPEG images on the device, or why nothing does.
    jpegs: std::result::Result<Arc<Jpegs>, String>,
    session: Arc<Session>,
    copied_bytes: AtomicU64,
}

/// What a loader's device did.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceStats {
    /// "cuda:0 (NVIDIA H100)".
    pub name: String,
    /// "GPU-…" or "MIG-…", where the driver tells.
    pub uuid: Option<String>,
    /// Its place on the PCI bus, where the driver tells: "0000:3B:00.0".
    pub pci: Option<String>,
    /// Compute capability: "9.0".
    pub capability: String,
    /// The newest CUDA that the driver knows: "12.4".
    pub driver: String,
    /// Bytes of its memory.
    pub total_bytes: u64,
    /// Bytes of it that nobody has now, other programs counted; none where the driver doesn't say.
    pub free_bytes: Option<u64>,
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
    /// Decoded samples that stay on the device.
    pub decoded_samples: u64,
    /// Bytes that they take of `decoded_limit_bytes`.
    pub decoded_bytes: u64,
    /// Bytes of its memory for them; 0 where nobody asked for that.
    pub decoded_limit_bytes: u64,
    /// Bytes that were copied to the device to stay there, beside `copied_bytes`.
    pub decoded_copied_bytes: u64,
    /// Where JPEG images are decoded.
    pub jpeg: JpegStats,
}

/// Pinned host memory for what doesn't lie in a batch's slot.
pub(crate) struct Bounces {
    values: Region,
    decoded: Option<Region>,
    /// For the device's own JPEG decoders, where they may be used.
    jpegs: Option<Held>,
}

impl DevicePlace {
    /// The fields as decoders are to make them for this device.
    pub(crate) fn decoded_fields(options: &LoaderOptions) -> Vec<Field> {
        if options.device.is_some() { convert::split(&options.fields).0 } else { options.fields.clone() }
    }

    /// Host memory for what doesn't lie in the arena already.
    pub(crate) fn bounces(settings: &DeviceSettings, session: &Session) -> Result<Bounces> {
        let arena = session.arena();
        let decoded = settings
            .decoded_limit_bytes
            .map(|_| arena.region("decoded samples on their way to the device", BOUNCE_BYTES));
        Ok(Bounces {
            values: arena.region("values on their way to the device", BOUNCE_BYTES)?,
            decoded: decoded.transpose()?,
            jpegs: match settings.decode_on {
                DecodeOn::Cpu => None,
                DecodeOn::Gpu | DecodeOn::Auto => Some(Jpegs::pinned(session)?),
            },
        })
    }

    /// What decodes JPEG images on the device.
    pub(crate) fn jpegs(&self) -> Option<&Arc<Jpegs>> {
        self.jpegs.as_ref().ok()
    }

    /// The decoded samples that it keeps.
    pub(crate) fn tier(&self) -> Option<&Arc<DeviceTier>> {
        self.tier.as_ref().map(|(tier, _)| tier)
    }

    /// Opens the device, takes its memory, and pins the session's. `layout` is of the fields as they are decoded.
    pub(crate) fn open(
        settings: &DeviceSettings,
        bounces: Bounces,
        session: &Arc<Session>,
        layout: &Layout,
        options: &LoaderOptions,
        threads: usize,
        reporter: &Reporter,
    ) -> Result<Self> {
        let (decoded_fields, conversions) = convert::split(&options.fields);
        let makings = settings.decoded_limit_bytes.map(|_| cut::makings(&decoded_fields)).transpose()?;
        let device = CudaDevice::open(&settings.which)?;
        // What decoders make, and what the device makes of it.
        let mut batch = layout.slab_bytes(options.batch_size) as u64;
        if !settings.into_consumers && !conversions.is_empty() {
            batch += SampleDecoder::layout_of(&options.fields).slab_bytes(options.batch_size) as u64;
        }
        if makings.is_some() {
            // The part of its rows that comes from the host, and what tells kernels where the others are.
            let pictures = |field: &&Field| matches!(field.kind, FieldKind::Image { .. });
            let pictures = options.fields.iter().filter(pictures).count().max(1);
            let beside =
                layout.slab_bytes(options.batch_size) + options.batch_size * pictures * BESIDE_ROW_BYTES;
            batch = batch.saturating_add(beside as u64);
        }
        let batches = (options.prefetch_factor + HELD_BATCHES) as u64;
        let usual = if layout.is_variable() { DEFAULT_LIMIT_BYTES } else { 0 };
        let decoded = settings.decoded_limit_bytes.unwrap_or(0);
        let keeps = decoded > 0 || options.decoded_limit_bytes.is_some();
        let drawn = jpeg::drawn_fields(settings.decode_on, &decoded_fields, keeps, reporter)?;
        let jpegs = if drawn.is_ok() { jpeg::usual_bytes() } else { 0 };
        let limit = settings.limit_bytes.unwrap_or_else(|| {
            let parts = [usual, decoded, jpegs];
            parts.into_iter().fold(batch.saturating_mul(batches), u64::saturating_add)
        });
        let least = batch.saturating_add(decoded);
        if limit < least {
            let kept = if decoded > 0 {
                format!(", beside {decoded} bytes of decoded samples (gpu_decoded_limit)")
            } else {
                String::new()
            };
            return Err(forebay_gpu::Error::OverBudget {
                device: device.facts().name.clone(),
                what: format!("one batch of {}{kept}", options.batch_size),
                wanted_bytes: least,
                limit_bytes: limit,
                used_bytes: 0,
                advice: if decoded > 0 {
                    "raise gpu_memory_limit, or lower gpu_decoded_limit or batch_size"
                } else {
                    "raise gpu_memory_limit, or lower batch_size"
                },
            }
            .into());
        }
        // Decoders have a part of their own: what their library takes comes and goes in any size.
        let own_bytes = (limit.saturating_sub(least + batch) / 2).min(jpegs);
        let memory = DeviceMemory::new(&device, limit - own_bytes)?;
        let tier = |((limit, makings), bounce)| {
            let tier = DeviceTier::new(&memory, limit, bounce, session, reporter)?;
            Ok::<_, Error>((Arc::new(tier), makings))
        };
        let tier = settings.decoded_limit_bytes.zip(makings).zip(bounces.decoded).map(tier).transpose()?;
        let (standing_bytes, _) = memory.used_bytes();
        let ground = Arc::new(Ground { memory, standing_bytes, bounce: bounces.values });
        if let Err(refused) = session.arena().pin(Arc::new(Pinned(device.clone()))) {
            reporter.announce(format!(
                "host memory could not be pinned for {} ({refused}): copies to it are slower and wait for one another. Lower host_memory_limit, or \
                 raise the memory that this process may lock (ulimit -l, or the container's memlock limit)",
                device.facts().name
            ));
        }
        let jpegs = match (drawn, bounces.jpegs) {
            (Err(why), _) => Err(why),
            (Ok(_), None) => return Err(Error::Panic { message: "no pinned memory was set aside".into() }),
            (Ok(drawn), Some(pinned)) => {
                let setup = jpeg::Setup {
                    decode_on: settings.decode_on,
                    folders: &settings.jpeg_folders,
                    drawn,
                    limit_bytes: limit,
                    own_bytes,
                    // Columns of sizes of their own are taken besides.
                    batch_bytes: if layout.is_variable() {
                        batch.max((limit - own_bytes) / 2)
                    } else {
                        batch
                    },
                    batch_size: options.batch_size,
                    threads,
                    reporter,
                };
                Jpegs::open(setup, pinned, &ground, session)?.map(Arc::new)
            }
        };
        Ok(Self {
            device,
            ground,
            jpegs,
            conversions,
            into_consumers: settings.into_consumers,
            tier,
            session: session.clone(),
            copied_bytes: AtomicU64::new(0),
        })
    }

    /// What the device does to a column.
    fn conversion(&self, name: &str) -> Option<Convert> {
        self.conversions.iter().find(|(field, _)| field == name).map(|(_, convert)| convert.clone())
    }

    fn arena(&self) -> &Arena {
        self.session.arena()
    }

    pub(crate) fn stats(&self) -> DeviceStats {
        let (used_bytes, peak_bytes) = self.ground.memory.used_bytes();
        let (own, own_used, own_peak) = self.jpegs().map_or((0, 0, 0), |jpegs| jpegs.own_bytes());
        let facts = self.device.facts();
        let tier = self.tier();
        let (decoded_samples, decoded_bytes) = tier.map_or((0, 0), |tier| tier.held());
        DeviceStats {
            name: facts.name.to_string(),
            uuid: facts.uuid.clone(),
            pci: facts.pci.clone(),
            capability: dotted(facts.capability),
            driver: dotted(facts.driver),
            total_bytes: facts.total_bytes,
            free_bytes: self.device.free_bytes().ok(),
            copy_path: if self.arena().is_pinned() { "pinned" } else { "pageable" },
            memory: self.device.memory_kind(),
            copied_bytes: self.copied_bytes.load(Relaxed),
            limit_bytes: self.ground.memory.limit_bytes() + own,
            used_bytes: used_bytes + own_used,
            peak_bytes: peak_bytes + own_peak,
            decoded_samples: decoded_samples as u64,
            decoded_bytes,
            decoded_limit_bytes: tier.map_or(0, |tier| tier.limit_bytes()),
            jpeg: match &self.jpegs {
                Ok(jpegs) => jpegs.stats(),
                Err(why) => JpegStats::on_cpu(why),
            },
            decoded_copied_bytes: tier.map_or(0, |tier| tier.filled_bytes()),
        }
    }
}

/// A version as people write it: "9.0".
pub(crate) fn dotted((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}
