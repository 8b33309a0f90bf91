//! Pure: (counts, seed, epoch, rank, world size) → positions → samples; no I/O.
//!
//! [`Order`] says which sample stands at a position of an epoch, and which pieces of shards a stretch of positions needs;
//! [`EpochCut`] says which positions a rank takes in which batch; [`SampleRng`] draws the numbers of an augmentation.
//! All of it is a function of numbers that every rank knows, so ranks agree without talking. Reading, caching and decoding
//! are left to others.

pub mod cursor;
mod lanes;
pub mod line;
pub mod order;
pub mod perm;
pub mod random;
pub mod ranks;
pub mod residency;

pub use cursor::{Cursor, Stop};
pub use line::{Piece, SampleRef, merge_pieces};
pub use order::{
    ALGORITHM_VERSION, DEFAULT_SHUFFLE_WINDOW, MAX_CANONICAL_RANKS, Order, OrderMode, OrderSpec,
};
pub use perm::Perm;
pub use random::{EpochRng, SampleRng};
pub use ranks::{EpochCut, Progress, RankBatch, World};
pub use residency::{Page, PageId, PagesFrom, Readers};
