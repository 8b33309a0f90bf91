//! "Which samples, in what order, as what tensors."
//!
//! shards → samples ([`dataset`], [`catalog`]) → positions ([`plan`]) → decoded pixels ([`decode`]) → batches ([`batch`]), walked ahead of
//! the consumer by a [`loader`].

pub mod agree;
mod arrivals;
pub mod batch;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod dataset;
pub mod decode;
mod decoded;
pub mod device;
pub mod dtype;
mod epoch;
pub mod error;
pub mod field;
pub mod loader;
pub mod measure;
mod memory;
pub mod numbers;
pub mod objects;
pub mod options;
mod pages;
mod pipeline;
pub mod plan;
mod prefetch;
mod readahead;
pub mod report;
pub mod session;
pub mod size;
pub mod stats;
pub mod stop;
mod task;
pub mod threads;
pub mod trace;
mod walk;
pub mod weights;
mod whole;

pub use error::{Error, Result};
pub use loader::{Loader, Next};
pub use options::{CacheSettings, DEFAULT_PATIENCE, LoaderOptions, OnError};
