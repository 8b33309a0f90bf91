//! What this process's plan wants with blocks, for whoever owns the folder: a new owner is told all of it, then changes as they come.

use std::collections::HashMap;
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
    /// Another one: what it is still to be told. Of objects that changes were dropped of it must forget all, up to the byte beside them,
    /// before it is told all: nothing else says what is no longer wanted.
    There { all: bool, changes: Vec<Request>, dropped: HashMap<ObjectId, u64> },
}

impl Wishes {
    /// The plan changes its mind.
    pub(crate) fn advise(&self, object: &ObjectId, range: ByteRange, advice: Advice) {
        let mut state = self.state.lock();
        state.book.advise(ITSELF, object, advised_blocks(range), advice);
        match &mut state.listener {
            Listener::Nobody => {}
            Listener::Here(folder) => folder.advise(ITSELF, object, range, advice),
            Listener::There { all, changes, dropped } => {
                changes.push(Request::Advise { object: *object, range, advice });
                if changes.len() > MAX_CHANGES {
                    *all = true;
                    drop_changes(changes, dropped);
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
        self.state.lock().listener =
            Listener::There { all: true, changes: Vec::new(), dropped: HashMap::new() };
    }

    /// There is no owner.
    pub(crate) fn tell_nobody(&self) {
        self.state.lock().listener = Listener::Nobody;
    }

    /// What the other process is to be told now.
    pub(crate) fn take(&self) -> Vec<Request> {
        let mut state = self.state.lock();
        let State { book, listener } = &mut *state;
        let Listener::There { all, changes, dropped } = listener else { return Vec::new() };
        if !std::mem::take(all) {
            return std::mem::take(changes);
        }
        drop_changes(changes, dropped);
        let forget = std::mem::take(dropped).into_iter().map(|(object, end)| Request::Advise {
            object,
            range: ByteRange::new(0, end),
            advice: Advice::None,
        });
        let tell = book.runs().map(|(object, range, advice)| Request::Advise { object, range, advice });
        forget.chain(tell).collect()
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

/// Keeps of changes only what they were about.
fn drop_changes(changes: &mut Vec<Request>, dropped: &mut HashMap<ObjectId, u64>) {
    for change in changes.drain(..) {
        let Request::Advise { object, range, .. } = change else { continue };
        let end = dropped.entry(object).or_default();
        *end = (*end).max(range.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Advice::{Done, None as Nothing, WillNeed};
    use crate::object::BLOCK_BYTES;

    const OBJECTS: u8 = 200;
    const BLOCKS: u64 = 100;

    fn id(object: u8) -> ObjectId {
        ObjectId::from_bytes([object; 16])
    }

    fn block(number: u64) -> ByteRange {
        ByteRange::new(number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES)
    }

    /// An owner that is told so knows so much.
    fn told(book: &mut AdviceBook, wishes: &Wishes) {
        for request in wishes.take() {
            let Request::Advise { object, range, advice } = request else { panic!("{request:?}") };
            book.advise(1, &object, advised_blocks(range), advice);
        }
    }

    #[test]
    fn an_owner_that_changes_overflowed_for_knows_what_is_no_longer_wanted() {
        let (wishes, mut owner) = (Wishes::default(), AdviceBook::default());
        wishes.tell_there();
        let all = || (0..OBJECTS).flat_map(|object| (0..BLOCKS).map(move |number| (object, number)));
        for (object, number) in all() {
            wishes.advise(&id(object), block(number), WillNeed);
        }
        told(&mut owner, &wishes);
        assert_eq!(owner.runs().filter(|(.., advice)| *advice == WillNeed).count(), usize::from(OBJECTS));
        // The epoch is left: more changes than wait to be sent.
        for (object, number) in all() {
            wishes.advise(&id(object), block(number), Nothing);
        }
        wishes.advise(&id(7), block(3), Done);
        told(&mut owner, &wishes);
        let wanted: Vec<_> = owner.runs().filter(|(.., advice)| *advice != Nothing).collect();
        assert_eq!(wanted, [(id(7), block(3), Done)]);
    }
}
