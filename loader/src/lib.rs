//! "Which samples, in what order, as what tensors."
//!
//! shards → samples ([`dataset`]) → positions ([`plan`]) → decoded pixels ([`decode`]) → batches ([`batch`]), walked ahead of
//! the consumer by [`loader`].

pub mod batch;
pub mod dataset;
pub mod decode;
pub mod dtype;
pub mod error;
pub mod field;
pub mod loader;
pub mod options;
mod pipeline;
pub mod plan;
pub mod stats;

pub use error::{Error, Result};
