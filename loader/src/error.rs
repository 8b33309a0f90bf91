//! What can go wrong between a URL and a batch: one tree for the crate.
//!
//! `Display` says what, where (object, member, byte offset) and what to do, and never repeats its source. `Clone`, since a batch
//! that failed is reported to everyone who asks for it.

use std::sync::Arc;
use std::time::Duration;

use forebay_cache::Location;

use crate::dataset::Malformed;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An underlying cause.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why there is no batch.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes could not be had.
    #[error(transparent)]
    Cache(forebay_cache::Error),
    /// The device, or its driver, can't do what is asked for.
    #[error(transparent)]
    Device(#[from] forebay_gpu::Error),
    /// A shard that can't be read as what it claims to be.
    #[error("{location}: byte {offset}: {what}")]
    Shard {
        /// The shard.
        location: Location,
        /// Where in it, in bytes; of the decompressed stream where the location begins with `gunzip+`.
        offset: u64,
        /// What is wrong and what to do.
        what: String,
    },
    /// One sample that can't be decoded.
    #[error("{location}: member {member:?} at byte {offset}: {what}")]
    Sample {
        /// The shard.
        location: Location,
        /// The member's name, lossy where it is not UTF-8.
        member: String,
        /// Where its data starts in the shard.
        offset: u64,
        /// What is wrong and what to do.
        what: String,
    },
    /// A sample without a member for a field that was asked for.
    #[error(
        "{location}: sample {key:?} at byte {offset} has no member for field {field:?}: none of {wanted:?}, it has {found:?}"
    )]
    MissingField {
        /// The shard.
        location: Location,
        /// The sample's key.
        key: String,
        /// Where its first member's header starts.
        offset: u64,
        /// The field.
        field: String,
        /// The suffixes that would do.
        wanted: Vec<String>,
        /// The suffixes that it has.
        found: Vec<String>,
    },
    /// Samples of one batch whose shapes or dtypes differ.
    #[error(
        "field {field:?}: sample {first:?} is {first_shape}, sample {second:?} is {second_shape}; give the field pad= or ragged=True, or a transform with a fixed output size"
    )]
    Shapes {
        /// The field.
        field: String,
        /// One sample.
        first: String,
        /// Its dtype and shape.
        first_shape: String,
        /// Another.
        second: String,
        /// Its dtype and shape.
        second_shape: String,
    },
    /// A file of model weights, or an index of such files, that can't be read as what it claims to be.
    #[error("{location}: {what}")]
    Weights {
        /// The file.
        location: Location,
        /// Where in it, in bytes, where that is known.
        offset: Option<u64>,
        /// What is wrong and what to do.
        what: String,
    },
    /// A dataset that can't be used as a whole: nothing matches, it is empty, its shards contradict each other.
    #[error("{message}")]
    Dataset {
        /// What is wrong and what to do.
        message: String,
    },
    /// An argument that can't be used.
    #[error("{message}")]
    Config {
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A state that does not belong here, or ranks that disagree.
    #[error("{message}")]
    State {
        /// What is wrong and what to do.
        message: String,
    },
    /// More samples were skipped than `max_errors` allows.
    #[error("{skipped} samples were skipped, max_errors={max} allows no more; the last one: {last}")]
    TooManyErrors {
        /// How many.
        skipped: u64,
        /// The limit.
        max: u64,
        /// The error of the last one.
        last: Box<Error>,
    },
    /// Nothing moved for `timeout`.
    #[error("no progress for {:.1} s while waiting for {what}; timeout= sets this limit", .after.as_secs_f64())]
    Timeout {
        /// How long.
        after: Duration,
        /// What the pipeline waited for.
        what: String,
    },
    /// The loader was closed.
    #[error("the loader is closed")]
    Closed,
    /// A bug in Forebay: a worker panicked.
    #[error("a worker panicked: {message}; this is a bug in Forebay, please report it")]
    Panic {
        /// The panic's message.
        message: String,
    },
}

impl From<forebay_cache::Error> for Error {
    fn from(error: forebay_cache::Error) -> Self {
        // What a shard's decompressor found below the cache is the shard's error, not the store's.
        if let forebay_cache::Error::Origin { location, source, .. } = &error
            && let Some(malformed) = source.downcast_ref::<Malformed>()
        {
            return malformed.clone().at(location);
        }
        Self::Cache(error)
    }
}

impl Error {
    /// A configuration error.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config { message: message.into() }
    }

    /// True for an error of one sample, which `on_error="skip"` may replace by another.
    pub fn is_sample(&self) -> bool {
        matches!(self, Self::Sample { .. } | Self::MissingField { .. })
    }
}
