//! "Which samples, in what order, as what tensors."
//!
//! shards → samples ([`dataset`]) → positions ([`plan`]) → decoded pixels ([`decode`]) → batches.

pub mod dataset;
pub mod decode;
pub mod dtype;
pub mod error;
pub mod field;
pub mod plan;

pub use error::{Error, Result};
