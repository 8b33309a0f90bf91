//! What tests stand on: an origin, a disk and faults that a test controls. Behind the feature `testing`, never in a release.
//!
//! Faults and latency are decorators: no production code has a branch for them.

pub mod conformance;
pub mod faults;
pub mod gate;
pub mod io;
pub mod mount;
pub mod origin;
pub mod watch;

pub use faults::{Failure, Fault, Faults, FaultyOrigin, Op, Request, Rule};
pub use gate::Gate;
pub use io::{Counts, Effect, Fault as IoFault, FaultyIo, Kind};
pub use mount::Mount;
pub use origin::FakeOrigin;
pub use watch::{Watch, allocated};
