//! What each commit of the block index says of the folder's health, and of its quota.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::health::is_full;
use super::index::Index;
use super::state::State;
use crate::stats::{Counters, count};

/// What the index's thread reports: that the file may have grown, or takes no entries at present.
pub(super) fn note_commits(
    state: Arc<Mutex<State>>,
    index: Arc<Index>,
    counters: Arc<Counters>,
) -> impl Fn(Result<(), &io::Error>) + Send + 'static {
    move |result| {
        keep_room(&state, &index);
        let mut state = state.lock();
        match result {
            Ok(()) if state.health.index_accepted() => tracing::info!("the block index takes entries again"),
            Ok(()) => {}
            Err(error) => {
                state.health.index_refused(error, Instant::now());
                if !is_full(error) {
                    count(&counters.io_errors);
                }
                tracing::error!(%error, "the block index can't be written: nothing is admitted to the cache or evicted until it can; it is tried again");
            }
        }
    }
}

/// Counts the index, and allocates its room where the quota has it.
pub(super) fn keep_room(state: &Mutex<State>, index: &Index) {
    let Some(bytes) = index.footprint() else { return };
    let fits = {
        let mut state = state.lock();
        state.quota.set_index(bytes);
        state.quota.holds()
    };
    if !fits {
        return;
    }
    let began = Instant::now();
    match index.reserve() {
        Err(error) if is_full(&error) => {
            // What is left of the disk is the index's.
            state.lock().health.write_failed(&error, began, Instant::now());
        }
        // Room is set aside for a disk that fills up later. One that is sick shows it in the next commit, which is counted.
        Err(error) => tracing::debug!(%error, "the block index could not reserve room for its growth"),
        Ok(()) => {}
    }
}
