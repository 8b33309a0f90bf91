//! Decoding on the simulated device: pixels, refusals, and what becomes of memory whatever goes wrong.

#![allow(unsafe_code, reason = "the simulator's own interface is C's")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod machine;
mod pictures;

mod engines;
mod groups;
mod libraries;
mod lifetimes;
mod scratch;
