//! Host memory under one byte budget: an [`Arena`] mapped once, [`Region`]s of it per stage, [`Slab`]s to write into,
//! [`Lease`]s to read from.
//!
//! The budget is the mapping: `host_memory_limit` bytes of address space are reserved once, every stage carves its region
//! from them, and what doesn't fit waits in line. No stage can take another one's memory, so none can wait for memory that
//! waits for it.
//!
//! What a consumer keeps for ever is no arena's: [`Pieces`] of a [`Sheet`].
//!
//! Values whose size no layout knows lie on the heap, which has no holes to wait for; a [`Budget`] counts them against a part of the
//! mapping that nobody touches.

mod arena;
mod budget;
mod lease;
mod pieces;
mod region;
mod rows;
mod slab;

pub use arena::{Arena, Held, HostMemory};
pub use budget::{Budget, Share};
pub use lease::Lease;
pub use pieces::{Pieces, Sheet};
pub use region::Region;
pub use rows::Row;
pub use slab::Slab;
