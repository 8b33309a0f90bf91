//! What a loader is asked for: every argument once, with its default and its bounds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::device::DeviceSettings;
use crate::error::{Error, Result};
use crate::field::{Field, FieldKind};
use crate::plan::OrderMode;
use crate::trace::Trace;

/// Everything that makes a loader.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// URLs, globs, folders, brace and `::` lists, in the order given.
    pub sources: Vec<String>,
    /// The entries of a batch.
    pub fields: Vec<Field>,
    /// Samples per batch and rank.
    pub batch_size: usize,
    /// How the epoch is ordered.
    pub mode: OrderMode,
    /// Key of the order and of random augmentation.
    pub seed: u64,
    /// Whether the samples behind the last full global batch are left out.
    pub drop_last: bool,
    /// Samples over which order is random inside lanes; part of the order. `None`: 131,072, or the state's.
    pub shuffle_window: Option<u64>,
    /// Ranks that the order is laid out for; part of the order. `None`: the world size of the first start, or the state's.
    pub canonical_ranks: Option<u32>,
    /// This process's number among `world_size`.
    pub rank: u32,
    /// Number of processes that share the epoch.
    pub world_size: u32,
    /// Processes of this job on this node, which share a cache folder (LOCAL_WORLD_SIZE).
    pub local_world_size: u32,
    /// Decoding threads. `None`: the cores given to this process, divided by LOCAL_WORLD_SIZE.
    pub num_threads: Option<usize>,
    /// Batches made ahead of the consumer.
    pub prefetch_factor: usize,
    /// Bytes of host memory for decoded samples that are kept from epoch to epoch, within the cache settings' limit. `None`: none are.
    pub decoded_limit_bytes: Option<u64>,
    /// Most pixels of the longer side of an image that is kept. `None`: as large as it is.
    pub decoded_max_side: Option<u32>,
    /// Longest time without any progress before `next_batch` is an error. `None`: no limit.
    pub timeout: Option<Duration>,
    /// What becomes of a sample that can't be decoded.
    pub on_error: OnError,
    /// Most samples that may be skipped per loader before it is an error after all.
    pub max_errors: u64,
    /// The device that batches go to. `None`: host memory.
    pub device: Option<DeviceSettings>,
    /// Where bytes are kept.
    pub cache: CacheSettings,
    /// Records what the loader does when. `None`: nothing does.
    pub trace: Option<Trace>,
}

/// What becomes of a sample that can't be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The batch is an error.
    #[default]
    Raise,
    /// The next sample of its window stands in; counted and listed.
    Skip,
}

/// The cache folder and the limits.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// The folder; shared by every process that names it.
    pub dir: PathBuf,
    /// Most bytes of disk that the folder may take, in allocated blocks, everything included.
    pub limit_bytes: u64,
    /// Most bytes of memory that this process's data may take.
    pub host_memory_limit_bytes: u64,
    /// Options of the object store: endpoint, region, keys.
    pub storage_options: BTreeMap<String, String>,
    /// How long another process that has the folder may say nothing before that is an error; usually [`DEFAULT_PATIENCE`].
    pub patience: Duration,
}

/// Long enough for a process that is only slow.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);

impl LoaderOptions {
    /// Those of one process that takes all samples, shuffled, without a limit on waiting; an error ends the epoch.
    pub fn new(sources: Vec<String>, fields: Vec<Field>, batch_size: usize, cache: CacheSettings) -> Self {
        Self {
            sources,
            fields,
            batch_size,
            mode: OrderMode::Shuffle,
            seed: 0,
            drop_last: false,
            shuffle_window: None,
            canonical_ranks: None,
            rank: 0,
            world_size: 1,
            local_world_size: 1,
            num_threads: None,
            prefetch_factor: 2,
            decoded_limit_bytes: None,
            decoded_max_side: None,
            timeout: None,
            on_error: OnError::Raise,
            max_errors: 0,
            device: None,
            cache,
            trace: None,
        }
    }

    /// Checks what can be checked before anything is opened.
    pub fn validate(&self) -> Result<()> {
        let check = |right: bool, message: &str| if right { Ok(()) } else { Err(Error::config(message)) };
        check(!self.sources.is_empty(), "no source was given: name at least one shard, glob or folder")?;
        check(
            !self.fields.is_empty(),
            "fields is empty: name what a batch holds, for example {\"image\": forebay.Image(\"jpg\")}",
        )?;
        check(self.batch_size > 0, "batch_size must be 1 or more")?;
        check(self.world_size > 0, "world_size must be 1 or more")?;
        check(self.prefetch_factor > 0, "prefetch_factor must be 1 or more")?;
        check(
            self.decoded_limit_bytes != Some(0) && self.decoded_max_side != Some(0),
            "decoded_limit and decoded_max_side must be 1 or more; leave them out to keep no decoded samples",
        )?;
        let on_device = self.device.as_ref().and_then(|device| device.decoded_limit_bytes);
        check(
            on_device != Some(0),
            "gpu_decoded_limit must be 1 or more; leave it out to keep no decoded samples on the device",
        )?;
        check(
            self.decoded_max_side.is_none() || self.decoded_limit_bytes.is_some() || on_device.is_some(),
            "decoded_max_side says how large images are kept: give decoded_limit too, or gpu_decoded_limit: the memory to keep them in",
        )?;
        check(self.num_threads != Some(0), "num_threads must be 1 or more")?;
        check(self.shuffle_window != Some(0), "shuffle_window must be 1 or more")?;
        check(self.canonical_ranks != Some(0), "canonical_ranks must be 1 or more")?;
        if self.rank >= self.world_size {
            return Err(Error::config(format!(
                "rank {} is not below world_size {}; rank counts from 0",
                self.rank, self.world_size
            )));
        }
        self.fields.iter().try_for_each(|field| self.validate_field(field))
    }

    fn validate_field(&self, field: &Field) -> Result<()> {
        let name = &field.name;
        if self.fields.iter().filter(|other| other.name == *name).count() > 1 {
            return Err(Error::config(format!("field {name:?} is given twice")));
        }
        if field.suffixes.is_empty() {
            return Err(Error::config(format!("field {name:?} names no member suffix, such as \"jpg\"")));
        }
        if let FieldKind::Image { convert, .. } = &field.kind {
            convert.check().map_err(|why| Error::config(format!("field {name:?}: {why}")))?;
        }
        let FieldKind::Mask { like } = &field.kind else { return Ok(()) };
        let image = self.fields.iter().find(|other| other.name == *like);
        match image.map(|image| &image.kind) {
            Some(FieldKind::Image { .. }) => Ok(()),
            Some(_) => Err(Error::config(format!("field {name:?}: like={like:?} is not an Image"))),
            None => Err(Error::config(format!("field {name:?}: like={like:?} is no field of this loader"))),
        }
    }
}
