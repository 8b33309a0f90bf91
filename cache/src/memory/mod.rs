//! Host memory under one byte budget: an [`Arena`] mapped once, [`Region`]s of it per stage, [`Slab`]s to write into,
//! [`Lease`]s to read from.
//!
//! The budget is the mapping: `host_memory_limit` bytes of address space are reserved once, every stage carves its region
//! from them, and what doesn't fit waits in line. No stage can take another one's memory, so none can wait for memory that
//! waits for it.

mod arena;
mod lease;
mod region;
mod rows;

pub use arena::{Arena, HostMemory, Unpinned};
pub use lease::Lease;
pub use region::{Region, Slab};
pub use rows::Row;
