//! The cache as its users see it, over an origin and a disk that a test controls.

mod behaviour;
mod faults;
mod model;
mod quota;
mod world;
