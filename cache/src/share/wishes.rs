//! What this process's plan wants with blocks, for whoever owns the folder: a new owner is told all of it, then changes as they come.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::folder::Folder;
use super::message::Request;
use crate::disk::{Advice, AdviceBook, ITSELF, advised_blocks};
use crate::object::{ByteRange, ObjectId};

/// Changes that wait to be sent one by one; where there are more, all of it is sent instead.
const MAX_CHANGES: usize = 4096;

/// The wishes of one process.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    book: AdviceBook,
    listener: Listener,
}

#[derive(Debug, Default)]
enum Listener {
    /// There is no owner at the moment.
    #[default]
    Nobody,
    /// This process.
    Here(Arc<dyn Folder>),
    /// Another one: what it is still to be told.
    There { all: bool, changes: Vec<Request> },
}

impl Wishes {
    /// The plan changes its mind.
    pub(crate) fn advise(&self, object: &ObjectId, range: ByteRange, advice: Advice) {
        let mut state = self.state.lock();
        state.book.advise(ITSELF, object, advised_blocks(range), advice);
        match &mut state.listener {
            Listener::Nobody => {}
            Listener::Here(folder) => folder.advise(ITSELF, object, range, advice),
            Listener::There { all, changes } => {
                if changes.len() < MAX_CHANGES {
                    changes.push(Request::Advise { object: *object, range, advice });
                } else {
                    (*all, *changes) = (true, Vec::new());
                }
                drop(state);
                self.changed.notify_one();
            }
        }
    }

    /// This process owns the folder from now on.
    pub(crate) fn tell_here(&self, folder: &Arc<dyn Folder>) {
        let mut state = self.state.lock();
        state.book.runs().for_each(|(object, range, advice)| folder.advise(ITSELF, &object, range, advice));
        state.listener = Listener::Here(folder.clone());
    }

    /// Another process does: [`Self::next`] gives what it is to be told, all of it first.
    pub(crate) fn tell_there(&self) {
        self.state.lock().listener = Listener::There { all: true, changes: Vec::new() };
    }

    /// There is no owner.
    pub(crate) fn tell_nobody(&self) {
        self.state.lock().listener = Listener::Nobody;
    }

    /// What the other process is to be told now.
    pub(crate) fn take(&self) -> Vec<Request> {
        let mut state = self.state.lock();
        let State { book, listener } = &mut *state;
        let Listener::There { all, changes } = listener else { return Vec::new() };
        let changes = std::mem::take(changes);
        if !std::mem::take(all) {
            return changes;
        }
        book.runs().map(|(object, range, advice)| Request::Advise { object, range, advice }).collect()
    }

    /// As [`Self::take`], waiting until there is something.
    pub(crate) async fn next(&self) -> Vec<Request> {
        loop {
            let told = self.take();
            if !told.is_empty() {
                return told;
            }
            self.changed.notified().await;
        }
    }
}
