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
pub mod plan;
pub mod stats;
pub mod threads;

pub use error::{Error, Result};
