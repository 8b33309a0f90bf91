//! Blocks on their way from the origin: one flight per block however many wait for it.
//!
//! A waiter brings its own memory and leaves it with the flight; the flight copies what is wanted into it as soon as that part has
//! arrived, and gives it back. A waiter that goes away leaves the flight as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::error::Error;
use crate::memory::{Lease, Slab};
use crate::object::{BLOCK_BYTES, BlockId, ByteRange};

/// How a flight ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Pending,
    /// On disk.
    Stored,
    /// Arrived, but not kept on disk.
    Declined,
    Failed(Error),
}

/// A reader's memory, and which bytes of the block it wants where.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) slab: Slab,
    /// Where in the slab.
    pub(super) at: usize,
    /// Which bytes of the object.
    pub(super) part: ByteRange,
    pub(super) reply: oneshot::Sender<(Slab, Served)>,
}

/// What a waiter gets with its memory.
#[derive(Debug)]
pub(super) enum Served {
    /// Its bytes.
    Here,
    /// Nothing: the block is on disk. To be looked up again.
    OnDisk,
    Failed(Error),
}

impl Waiter {
    fn serve(mut self, block: &[u8], block_start: u64) {
        let from = (self.part.start - block_start) as usize;
        let len = self.part.len() as usize;
        self.slab[self.at..self.at + len].copy_from_slice(&block[from..from + len]);
        drop(self.reply.send((self.slab, Served::Here)));
    }
}

#[derive(Debug)]
pub(super) struct Flight {
    /// Some task fetches it; others leave it alone.
    claimed: AtomicBool,
    /// Somebody in a hurry has started a fetch of its own.
    hurried: AtomicBool,
    state: Mutex<State>,
    /// A waiter came: what it wants may have arrived already.
    pub(super) joined: Notify,
    pub(super) outcome: watch::Sender<Outcome>,
}

#[derive(Debug, Default)]
struct State {
    landed: Option<Lease>,
    waiters: Vec<Waiter>,
}

impl Flight {
    fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            joined: Notify::new(),
            outcome: watch::Sender::new(Outcome::Pending),
        }
    }

    /// True for the one task that is to fetch it.
    pub(super) fn claim(&self) -> bool {
        !self.claimed.swap(true, AcqRel)
    }

    /// True where a fetch on its way fills it, or has filled it.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Acquire)
    }

    /// True for the first one in a hurry, as long as nobody fetches it.
    pub(super) fn hurry(&self) -> bool {
        !self.is_claimed() && !self.hurried.swap(true, AcqRel)
    }

    /// Serves those whose bytes have arrived: the ranges `arrived` of the block that begins at `block_start`.
    pub(super) fn serve_early(&self, block: &[u8], block_start: u64, arrived: &[ByteRange]) {
        let ready: Vec<Waiter> = {
            let mut state = self.state.lock();
            let has = |part: ByteRange| arrived.iter().any(|range| range.intersect(part) == part);
            state.waiters.retain(|waiter| !waiter.reply.is_closed());
            state.waiters.extract_if(.., |waiter| has(waiter.part)).collect()
        };
        ready.into_iter().for_each(|waiter| waiter.serve(block, block_start));
    }

    /// The block is whole: serves everybody, now and until the flight has left the list.
    pub(super) fn land(&self, lease: Lease, block_start: u64) {
        let waiters = {
            let mut state = self.state.lock();
            state.landed = Some(lease.clone());
            std::mem::take(&mut state.waiters)
        };
        waiters.into_iter().for_each(|waiter| waiter.serve(&lease, block_start));
    }
}

/// All flights.
#[derive(Debug, Default)]
pub(super) struct Flights {
    list: Mutex<HashMap<BlockId, Arc<Flight>>>,
}

impl Flights {
    /// Joins the flight of a block, with a waiter or without. True where it is new: whoever made it starts a fetch, before it waits for
    /// anything, since others rely on it.
    pub(super) fn join(&self, id: BlockId, waiter: Option<Waiter>) -> (Arc<Flight>, bool) {
        let mut list = self.list.lock();
        let mut new = false;
        let flight = list.entry(id).or_insert_with(|| {
            new = true;
            Arc::new(Flight::new())
        });
        let flight = flight.clone();
        let Some(waiter) = waiter else { return (flight, new) };
        // Under the list's lock: a flight that ends leaves the list before it looks at its waiters for the last time.
        let mut state = flight.state.lock();
        match state.landed.clone() {
            Some(lease) => {
                drop(state);
                drop(list);
                waiter.serve(&lease, u64::from(id.index) * BLOCK_BYTES);
            }
            None => {
                state.waiters.push(waiter);
                drop(state);
                flight.joined.notify_one();
            }
        }
        (flight, new)
    }

    /// The flight of a block, if there is one.
    pub(super) fn get(&self, id: BlockId) -> Option<Arc<Flight>> {
        self.list.lock().get(&id).cloned()
    }

    /// Ends a flight. Its lease is let go. Whoever still waits is told why: it failed, or was not needed.
    pub(super) fn end(&self, id: BlockId, flight: &Flight, outcome: Outcome) {
        self.list.lock().remove(&id);
        let (landed, waiters) = {
            let mut state = flight.state.lock();
            (state.landed.take(), std::mem::take(&mut state.waiters))
        };
        drop(landed);
        for waiter in waiters {
            let served = match &outcome {
                Outcome::Stored => Served::OnDisk,
                Outcome::Failed(error) => Served::Failed(error.clone()),
                Outcome::Declined | Outcome::Pending => Served::Failed(Error::Closed),
            };
            drop(waiter.reply.send((waiter.slab, served)));
        }
        flight.outcome.send_replace(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Arena;
    use crate::object::ObjectId;

    const ID: BlockId = BlockId { object: ObjectId::from_bytes([0; 16]), index: 0 };

    fn ask(part: ByteRange) -> (Waiter, oneshot::Receiver<(Slab, Served)>) {
        let arena = Arena::new(4096).unwrap();
        let slab = arena.region("test", 4096).unwrap().try_allocate(100).unwrap();
        let (reply, answer) = oneshot::channel();
        (Waiter { slab, at: 10, part, reply }, answer)
    }

    #[test]
    fn a_waiter_is_served_as_soon_as_its_part_has_arrived_and_later_ones_until_the_end() {
        let flights = Flights::default();
        let bytes: Vec<u8> = (0..200).collect();
        let (early, mut early_answer) = ask(ByteRange::new(50, 60));
        let (flight, new) = flights.join(ID, Some(early));
        assert!(new && flight.hurry() && !flight.hurry() && flight.claim() && !flight.claim());
        flight.serve_early(&bytes, 0, &[ByteRange::new(40, 59)]);
        assert!(early_answer.try_recv().is_err());
        flight.serve_early(&bytes, 0, &[ByteRange::new(40, 60)]);
        assert_eq!(early_answer.try_recv().unwrap().0[10..20], bytes[50..60]);
        flight.land(Lease::from_vec(bytes.clone()), 0);
        let (late, mut late_answer) = ask(ByteRange::new(0, 5));
        assert!(!flights.join(ID, Some(late)).1);
        assert_eq!(late_answer.try_recv().unwrap().0[10..15], bytes[..5]);
        flights.end(ID, &flight, Outcome::Stored);
        assert!(flights.get(ID).is_none());
    }

    #[test]
    fn a_failure_tells_everybody_and_gives_their_memory_back() {
        let flights = Flights::default();
        let (first, mut one) = ask(ByteRange::new(0, 1));
        let (second, mut two) = ask(ByteRange::new(1, 2));
        let (flight, _) = flights.join(ID, Some(first));
        flights.join(ID, Some(second));
        flights.end(ID, &flight, Outcome::Failed(Error::Closed));
        for answer in [&mut one, &mut two] {
            assert!(matches!(answer.try_recv().unwrap().1, Served::Failed(Error::Closed)));
        }
    }
}
