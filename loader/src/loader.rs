//! The loader that a training process holds: one dataset, one rank, one position.

use std::time::Duration;

use crate::batch::Batch;
use crate::error::Result;
use crate::options::LoaderOptions;
use crate::stats::LoaderStats;

/// Streams the batches of one rank, epoch after epoch. All methods may be called from any thread.
#[derive(Debug)]
pub struct Loader {}

/// How a wait for a batch ended.
#[derive(Debug)]
pub enum Next {
    /// The next batch, in order.
    Batch(Box<Batch>),
    /// The epoch is over.
    End,
    /// Nothing came within the slice: look for signals and ask again.
    Pending,
}

impl Loader {
    /// Resolves the sources and opens the cache; reads what the order needs only when an epoch starts (or `len` is asked for).
    pub fn open(options: LoaderOptions) -> Result<Self> {
        let _ = options;
        unimplemented!()
    }

    /// Batches per rank of a whole epoch. `None` without every shard's count; `count()` gets them.
    pub fn len(&self) -> Option<u64> {
        unimplemented!()
    }

    /// Gets every shard's count, by an announced pass over the data where nothing else knows them.
    pub fn count(&self) -> Result<()> {
        unimplemented!()
    }

    /// Starts the next epoch, or goes on where a state was loaded. An epoch that was left early is over: the next one starts.
    pub fn start(&self) -> Result<()> {
        unimplemented!()
    }

    /// Waits at most `slice` for the next batch. The state counts it as delivered when this returns it.
    pub fn next(&self, slice: Duration) -> Result<Next> {
        let _ = slice;
        unimplemented!()
    }

    /// Leaves the running epoch: stops its work and frees its memory, except what batches in the consumer's hands hold.
    pub fn stop(&self) {}

    /// Keeps the position in epoch `epoch`; starts any other at 0.
    pub fn set_epoch(&self, epoch: u64) {
        let _ = epoch;
    }

    /// Where the loader stands, as JSON: delivered batches only, equal on every rank.
    pub fn state(&self) -> Result<String> {
        unimplemented!()
    }

    /// Goes on from a state, also one of another world size. O(1): nothing is read.
    pub fn load_state(&self, state: &str) -> Result<()> {
        let _ = state;
        unimplemented!()
    }

    /// The order's hash, equal on ranks that agree.
    pub fn order_hash(&self) -> Result<String> {
        unimplemented!()
    }

    /// What ran so far.
    pub fn stats(&self) -> LoaderStats {
        unimplemented!()
    }

    /// Ends everything. Batches in the consumer's hands stay valid.
    pub fn close(&self) {}
}
