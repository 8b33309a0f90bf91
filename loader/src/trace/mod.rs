//! What a loader does when: spans of its threads and stages, for a timeline in which anybody can see where time goes.
//!
//! Off by default: a loader without a [`Trace`] looks at an `Option`, and does nothing else. With one, every thread keeps what it did in a
//! buffer of its own, and [`Trace::write`] makes a file of it that Perfetto and chrome://tracing open. Memory is bounded: beyond
//! `most_events` nothing is kept, and how much that was is told. What it takes is not part of `host_memory_limit`.
//!
//! Decoding is a span on the thread that did it; so is what the consumer waits for, and what it does between two batches. Planning and
//! assembling are tracks of their own, since they move between threads. Reads, fetches and batches overlap: they are asynchronous events.

mod chrome;
mod flight;

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use forebay_cache::{ByteRange, Location, Tier};
use parking_lot::Mutex;

use crate::catalog::Found;
use crate::pipeline::queue::Stage;

pub use chrome::{Written, check_place};
pub(crate) use flight::{Flight, Listeners};

/// Events of some minutes: 40 MB of memory, and a file of about 100 MB.
pub const DEFAULT_MOST_EVENTS: usize = 500_000;

/// Counters are drawn at most this often: a point per read would be most of the file.
const COUNTER_STEP: Duration = Duration::from_millis(1);

/// A recording; clones are handles of the same one.
#[derive(Clone)]
pub struct Trace {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    most_events: usize,
    /// Events that came, kept or not.
    came: AtomicUsize,
    counters: [Gauge; Counter::ALL.len()],
    lanes: Mutex<Vec<Arc<Lane>>>,
}

#[derive(Default)]
struct Gauge {
    value: AtomicU64,
    /// When it was last drawn, in nanoseconds since the beginning.
    drawn: AtomicU64,
}

/// What one thread did.
struct Lane {
    thread: ThreadId,
    /// Empty where it has none, as a thread of Python's.
    name: String,
    /// Time spent in decoding, and samples decoded; also of events that were not kept.
    busy_nanos: AtomicU64,
    decoded: AtomicU64,
    events: Mutex<Vec<Event>>,
}

/// One event, in nanoseconds since the beginning of the trace.
#[derive(Debug)]
struct Event {
    start: u64,
    took: u64,
    what: What,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum What {
    /// A sample's fields were decoded into their places, on this thread.
    Decode { sample: Sample, outcome: Outcome, tier: Tier, bytes: u64 },
    /// Headers of a sample's members were looked at, for the sizes of its values.
    Measure(Sample),
    /// Bytes of a sample came through the cache.
    Read { location: Location, range: ByteRange, tier: Tier },
    /// Bytes came from the origin.
    Fetch { location: Location, range: ByteRange, arrived: u64 },
    /// A batch was made, from its plan to its place in the queue.
    Batch { epoch: u64, index: u64, rows: usize },
    /// What the planner waited for.
    Plan(Planning),
    /// A batch's rows were joined.
    Assemble { index: u64 },
    /// The consumer waited for a batch that this stage held up.
    Wait(Stage),
    /// The consumer did something else than asking for a batch.
    Consume,
    /// A counter had this value.
    Count(Counter, u64),
}

/// A sample by its place.
#[derive(Debug)]
pub(crate) struct Sample {
    location: Location,
    shard: u32,
    index: u64,
}

impl Sample {
    pub(crate) fn of(found: &Found) -> Self {
        Self { location: found.object.location.clone(), shard: found.at.shard, index: found.at.index }
    }
}

/// How decoding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Decoded,
    Failed,
    /// It needs more memory than a thread has of its own, and begins again when there is as much.
    NeedsMemory,
}

/// What the planner of batches waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Planning {
    /// As many batches are under way as may be.
    Consumer,
    Index,
    Memory,
}

/// Values that change with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    Reading,
    Fetching,
    Ready,
    Memory,
}

impl Counter {
    const ALL: [Self; 4] = [Self::Reading, Self::Fetching, Self::Ready, Self::Memory];
}

/// What one decoding thread did.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadTime {
    /// The thread's name.
    pub name: String,
    /// How long it decoded.
    pub busy: Duration,
    /// Samples that it decoded.
    pub samples: u64,
}

thread_local! {
    /// The lane of this thread, and the trace that it is part of. Neither is kept alive by it.
    static LANE: RefCell<Option<(Weak<Shared>, Weak<Lane>)>> = const { RefCell::new(None) };
}

impl Trace {
    /// A recording that begins now and keeps at most `most_events` events, of about 80 bytes each.
    pub fn new(most_events: usize) -> Self {
        let shared = Shared {
            began: Instant::now(),
            most_events,
            came: AtomicUsize::new(0),
            counters: Default::default(),
            lanes: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Events for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.shared.came.load(Relaxed).saturating_sub(self.shared.most_events) as u64
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.shared.came.load(Relaxed) == 0
    }

    /// What each thread that decoded did, by name; also what there was no room to keep.
    pub fn threads(&self) -> Vec<ThreadTime> {
        let lanes = self.shared.lanes.lock();
        let time = |lane: &Arc<Lane>| ThreadTime {
            name: lane.name.clone(),
            busy: Duration::from_nanos(lane.busy_nanos.load(Relaxed)),
            samples: lane.decoded.load(Relaxed),
        };
        let mut threads: Vec<ThreadTime> = lanes.iter().map(time).filter(|one| one.samples > 0).collect();
        threads.sort_by(|one, other| (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name)));
        threads
    }

    /// A sample was decoded on this thread, or was not.
    pub(crate) fn decode(&self, began: Instant, took: Duration, what: What) {
        let lane = self.lane();
        lane.busy_nanos.fetch_add(nanos(took), Relaxed);
        if matches!(what, What::Decode { outcome: Outcome::Decoded, .. }) {
            lane.decoded.fetch_add(1, Relaxed);
        }
        self.keep(&lane, began, took, what);
    }

    /// Something took from `began` until now.
    pub(crate) fn add(&self, began: Instant, what: What) {
        self.add_of(began, began.elapsed(), what);
    }

    /// Something took so long from `began` on.
    pub(crate) fn add_of(&self, began: Instant, took: Duration, what: What) {
        self.keep(&self.lane(), began, took, what);
    }

    /// A counter has another value.
    pub(crate) fn count(&self, counter: Counter, value: u64) {
        self.gauge(counter).value.store(value, Relaxed);
        self.draw(counter, value);
    }

    fn change(&self, counter: Counter, by: i64) {
        let before = self.gauge(counter).value.fetch_add(by as u64, Relaxed);
        self.draw(counter, before.wrapping_add_signed(by));
    }

    fn gauge(&self, counter: Counter) -> &Gauge {
        &self.shared.counters[counter as usize]
    }

    /// Keeps a counter's value, unless its last one is of just before. Zero is always drawn: what follows may be long.
    fn draw(&self, counter: Counter, value: u64) {
        let now = Instant::now();
        let at = nanos(now - self.shared.began);
        let drawn = &self.gauge(counter).drawn;
        let last = drawn.load(Relaxed);
        let due = at.saturating_sub(last) >= nanos(COUNTER_STEP);
        if value == 0 || (due && drawn.compare_exchange(last, at, Relaxed, Relaxed).is_ok()) {
            self.keep(&self.lane(), now, Duration::ZERO, What::Count(counter, value));
        }
    }

    fn keep(&self, lane: &Lane, began: Instant, took: Duration, what: What) {
        if self.shared.came.fetch_add(1, Relaxed) < self.shared.most_events {
            let start = nanos(began.saturating_duration_since(self.shared.began));
            lane.events.lock().push(Event { start, took: nanos(took), what });
        }
    }

    /// The calling thread's lane.
    fn lane(&self) -> Arc<Lane> {
        LANE.with_borrow_mut(|known| {
            // A weak handle keeps its allocation, so that no other trace can have the address.
            if let Some((of, lane)) = known
                && of.as_ptr() == Arc::as_ptr(&self.shared)
                && let Some(lane) = lane.upgrade()
            {
                return lane;
            }
            let lane = self.shared.lane();
            *known = Some((Arc::downgrade(&self.shared), Arc::downgrade(&lane)));
            lane
        })
    }
}

impl Shared {
    fn lane(&self) -> Arc<Lane> {
        let current = std::thread::current();
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.iter().find(|lane| lane.thread == current.id()) {
            return lane.clone();
        }
        let lane = Arc::new(Lane {
            thread: current.id(),
            name: current.name().unwrap_or_default().to_owned(),
            busy_nanos: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            events: Mutex::default(),
        });
        lanes.push(lane.clone());
        lane
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("events", &self.shared.came).finish_non_exhaustive()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Times something, where there is a trace to keep it.
pub(crate) fn timed(trace: &Option<Trace>) -> Timed {
    Timed(trace.as_ref().map(|trace| (trace.clone(), Instant::now())))
}

/// Something that is timed until [`Timed::end`]; dropped before, nothing is kept.
#[must_use]
pub(crate) struct Timed(Option<(Trace, Instant)>);

impl Timed {
    pub(crate) fn end(self, what: impl FnOnce() -> What) {
        if let Some((trace, began)) = self.0 {
            trace.add(began, what());
        }
    }
}

#[cfg(test)]
mod tests;
