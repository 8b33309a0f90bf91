//! Who decompresses where: ranges of one object that follow each other take turns with one decompressor.
//!
//! A range waits where another one that ends before it is on its way, or waits itself, since going on from there is cheaper than
//! starting again. So many ranges asked for at once, as a prefetch does, decompress the object once. The range that lies first never
//! waits for one that waits, so that somebody always goes on. Who was given a turn reads on or drops it.
//!
//! A decompressor without a range is parked with its connection, and a bounded number of them, the oldest going first.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use forebay_cache::{ByteRange, Error, ObjectId, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Inflating;

/// Parked decompressors: two for each shard that is indexed at the same time. Each holds a connection, a chunk and about 50 KiB.
const MOST_PARKED: usize = 8;

/// The decompressors of one origin.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    last_id: u64,
    /// The oldest first.
    parked: VecDeque<(ObjectId, Inflating)>,
    /// Where ranges that have a turn end.
    active: Vec<Place>,
    /// Where ranges that wait begin.
    waiting: Vec<Place>,
}

/// A range's number, object, and place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    id: u64,
    object: ObjectId,
    at: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Wait,
    Parked(usize),
    Fresh,
}

/// What a range that begins at `mine` should do.
fn choose(mine: Place, parked: &[(usize, u64)], active: &[Place], waiting: &[Place]) -> Choice {
    let near = parked.iter().copied().filter(|(_, at)| *at <= mine.at).max_by_key(|(_, at)| *at);
    let same = |place: &&Place| place.object == mine.object && place.id != mine.id;
    let coming = active.iter().filter(same).map(|place| place.at).filter(|at| *at <= mine.at);
    let before = waiting.iter().filter(same).filter(|place| (place.at, place.id) < (mine.at, mine.id));
    match (near, coming.chain(before.map(|place| place.at)).max()) {
        (Some((index, at)), other) if other.is_none_or(|other| other < at) => Choice::Parked(index),
        (_, Some(_)) => Choice::Wait,
        (Some((index, _)), None) => Choice::Parked(index),
        (None, None) => Choice::Fresh,
    }
}

impl Turns {
    /// A turn for `range`, with a decompressor at its start or before it.
    pub(super) async fn take(
        self: &Arc<Self>,
        object: ObjectId,
        range: ByteRange,
        fresh: impl FnOnce() -> Inflating,
    ) -> Turn {
        let mine = {
            let mut state = self.state.lock();
            state.last_id += 1;
            let mine = Place { id: state.last_id, object, at: range.start };
            state.waiting.push(mine);
            mine
        };
        let mut turn = Turn { turns: self.clone(), object, id: mine.id, inflating: None };
        loop {
            // Made before the look, so that nothing that happens after it is missed.
            let changed = self.changed.notified();
            let found = self.state.lock().try_take(mine, range.end);
            if let Some(found) = found {
                turn.inflating = Some(found.unwrap_or_else(fresh));
                return turn;
            }
            changed.await;
        }
    }
}

impl State {
    /// None: wait. Otherwise the range is active, with a parked decompressor or none yet.
    fn try_take(&mut self, mine: Place, end: u64) -> Option<Option<Inflating>> {
        let parked: Vec<(usize, u64)> = (0..self.parked.len())
            .filter(|&index| self.parked[index].0 == mine.object)
            .map(|index| (index, self.parked[index].1.position()))
            .collect();
        let found = match choose(mine, &parked, &self.active, &self.waiting) {
            Choice::Wait => return None,
            Choice::Parked(index) => self.parked.remove(index).map(|(_, inflating)| inflating),
            Choice::Fresh => None,
        };
        self.waiting.retain(|place| place.id != mine.id);
        self.active.push(Place { at: end, ..mine });
        Some(found)
    }
}

/// A range's turn, or its wait for one. Dropping it ends the range and its decompressor.
pub(super) struct Turn {
    turns: Arc<Turns>,
    object: ObjectId,
    id: u64,
    inflating: Option<Inflating>,
}

impl Turn {
    pub(super) fn inflating(&mut self) -> Result<&mut Inflating> {
        self.inflating.as_mut().ok_or(Error::Closed)
    }

    /// Leaves the decompressor to whoever goes on from here.
    pub(super) fn park(mut self) {
        let Some(inflating) = self.inflating.take() else { return };
        let mut state = self.turns.state.lock();
        state.parked.push_back((self.object, inflating));
        let oldest = if state.parked.len() > MOST_PARKED { state.parked.pop_front() } else { None };
        drop(state);
        drop(oldest);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        state.waiting.retain(|place| place.id != self.id);
        state.active.retain(|place| place.id != self.id);
        drop(state);
        self.turns.changed.notify_waiters();
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Turns")
            .field("parked", &state.parked.len())
            .field("active", &state.active)
            .field("waiting", &state.waiting)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_on_from_the_nearest_place_and_waits_for_a_nearer_one() {
        let object = ObjectId::from_bytes([1; 16]);
        let place = |id, at| Place { id, object, at };
        let mine = place(9, 100);
        let elsewhere = Place { object: ObjectId::from_bytes([2; 16]), ..place(1, 50) };
        assert_eq!(choose(mine, &[], &[], &[mine]), Choice::Fresh);
        assert_eq!(choose(mine, &[(0, 101)], &[place(1, 101)], &[mine, place(2, 101)]), Choice::Fresh);
        assert_eq!(choose(mine, &[], &[elsewhere], &[elsewhere, mine]), Choice::Fresh);
        assert_eq!(choose(mine, &[(0, 10), (3, 100), (4, 20)], &[], &[mine]), Choice::Parked(3));
        assert_eq!(choose(mine, &[(0, 10)], &[place(1, 100)], &[mine]), Choice::Wait);
        assert_eq!(choose(mine, &[(0, 60)], &[place(1, 50)], &[mine]), Choice::Parked(0));
        assert_eq!(choose(mine, &[(0, 10)], &[], &[place(1, 50), mine]), Choice::Wait);
        assert_eq!(choose(place(1, 50), &[(0, 10)], &[], &[place(1, 50), mine]), Choice::Parked(0));
    }
}
