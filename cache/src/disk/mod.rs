//! The NVMe tier: a sparse file per object, checked on every read, under a quota that is never exceeded.

mod checksum;
mod grant;
mod lock;
mod report;

pub use checksum::CrcPage;
pub use grant::{BlockGrant, Grant};
pub use lock::FolderLock;
pub use report::{CachedObject, Evict, Finding, Progress, Status};

/// What the plan wants with a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Advice {
    /// Nothing is known; goes first, the least recently used object before others.
    #[default]
    None,
    /// Read in this epoch; goes next.
    Done,
    /// Will be read in this epoch: never evicted.
    WillNeed,
}
