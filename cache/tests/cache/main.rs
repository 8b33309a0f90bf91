//! The cache as its users see it, over an origin and a disk that a test controls.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod behaviour;
mod faults;
mod hold;
mod model;
mod quota;
mod removal;
mod sick;
mod whole;
mod world;
