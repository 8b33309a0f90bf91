//! Doubles for tests of this crate and of those above it (feature `testing`): decorators that break what they wrap, so that
//! production code needs no test branches.

mod io;

pub use io::{Counts, Effect, Fault, FaultyIo, Kind};
