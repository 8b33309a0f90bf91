//! Where finished batches wait for the consumer, in order; and the account of what the consumer waits for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::OwnedSemaphorePermit;

use crate::arrivals::Arrivals;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::plan::Progress;
use crate::trace::{Counter, Trace, What};

/// The stages that a consumer can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Index,
    Memory,
    Read,
    Decode,
    Assemble,
    /// Memory of the device that batches go to.
    Device,
}

impl Stage {
    pub(crate) const ALL: [Stage; 6] =
        [Self::Index, Self::Memory, Self::Read, Self::Decode, Self::Assemble, Self::Device];

    /// Memory is waited for, which only who holds batches can give back.
    fn is_memory(self) -> bool {
        matches!(self, Self::Memory | Self::Device)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Memory => "memory",
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Assemble => "assemble",
            Self::Device => "device",
        }
    }
}

/// How many pieces of work each stage holds, and whether anything moves.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    held: [AtomicUsize; Stage::ALL.len()],
    progress: AtomicU64,
    /// Bytes count too: a pass over a shard, or a fetch of a large sample, may take longer than any piece of work.
    arrivals: Vec<Arrivals>,
}

impl Gauges {
    /// Gauges for which these counts are progress, too.
    pub(crate) fn new(arrivals: impl Into<Vec<Arrivals>>) -> Self {
        Self { arrivals: arrivals.into(), ..Self::default() }
    }

    /// Counts one piece of work in `stage` until the guard drops.
    pub(crate) fn enter(&self, stage: Stage) -> Inside<'_> {
        self.held[stage as usize].fetch_add(1, Relaxed);
        Inside { gauges: self, stage }
    }

    fn holds(&self, stage: Stage) -> usize {
        self.held[stage as usize].load(Relaxed)
    }

    /// Counts what moves while the consumer waits for `stage`. Bytes that arrive don't count where memory is waited for: they are for
    /// later batches, and free none.
    fn progress(&self, stage: Stage) -> u64 {
        let arrivals = if stage.is_memory() { &[] } else { &self.arrivals[..] };
        arrivals.iter().map(Arrivals::bytes).fold(self.progress.load(Relaxed), u64::wrapping_add)
    }

    /// What the consumer waits for now: the busiest bottleneck, seen from the end of the pipeline. Decoding holds things up
    /// where it has more work than threads; otherwise what is being read does.
    fn bottleneck(&self, threads: usize) -> Stage {
        if self.holds(Stage::Decode) >= threads {
            return Stage::Decode;
        }
        let order = [Stage::Read, Stage::Decode, Stage::Device, Stage::Memory, Stage::Index];
        order.into_iter().find(|&stage| self.holds(stage) > 0).unwrap_or(Stage::Assemble)
    }
}

/// One piece of work inside a stage.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    gauges: &'a Gauges,
    stage: Stage,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.gauges.held[self.stage as usize].fetch_sub(1, Relaxed);
        self.gauges.progress.fetch_add(1, Relaxed);
    }
}

/// How long a consumer that holds every batch's memory itself is waited for.
const HELD_GRACE: Duration = Duration::from_secs(10);

/// Finished batches in order. Bounded by whoever makes them: one permit each.
#[derive(Debug)]
pub(crate) struct Ready {
    state: Mutex<State>,
    changed: Condvar,
    stalls: [AtomicU64; Stage::ALL.len()],
    trace: Option<Trace>,
}

/// A batch and where the loader stands once it is delivered, or why there is none.
pub(crate) type Made = Result<(Batch, Progress)>;

#[derive(Debug, Default)]
struct State {
    /// With where the loader stands once it is delivered, and the permit that lets another batch be planned then.
    batches: VecDeque<(Made, Option<OwnedSemaphorePermit>)>,
    ended: bool,
    /// The consumer has left the epoch.
    left: bool,
    /// When the consumer last saw something move, and the count of movements then.
    seen: Option<(Instant, u64)>,
    /// When the consumer last got a batch, and on which thread, where that is traced.
    given: Option<(Instant, ThreadId)>,
}

/// What a wait ended with.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A batch, and where the loader stands once it is delivered.
    Batch(Made),
    Ended,
    Pending,
}

impl Ready {
    pub(crate) fn new(trace: Option<Trace>) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), stalls: Default::default(), trace }
    }

    pub(crate) fn put(&self, batch: Made, permit: Option<OwnedSemaphorePermit>) {
        let ready = {
            let mut state = self.state.lock();
            if state.left {
                return;
            }
            state.batches.push_back((batch, permit));
            state.batches.len()
        };
        self.changed.notify_all();
        if let Some(trace) = &self.trace {
            trace.count(Counter::Ready, ready as u64);
        }
    }

    /// No batch comes any more, behind those that wait.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// The consumer has left: what waits for it is let go, and what still comes.
    pub(crate) fn leave(&self) {
        let batches = {
            let mut state = self.state.lock();
            state.left = true;
            std::mem::take(&mut state.batches)
        };
        drop(batches);
    }

    /// Whether the consumer has left.
    pub(crate) fn is_left(&self) -> bool {
        self.state.lock().left
    }

    /// Waits at most `slice`. `timeout` is on lack of progress in `gauges`, over any number of calls.
    pub(crate) fn take(
        &self,
        slice: Duration,
        timeout: Option<Duration>,
        gauges: &Gauges,
        threads: usize,
    ) -> Taken {
        let until = Instant::now() + slice;
        let mut state = self.state.lock();
        if let Some(trace) = &self.trace {
            state.asked(trace);
        }
        loop {
            if let Some((batch, _permit)) = state.batches.pop_front() {
                state.seen = None;
                if let Some(trace) = &self.trace {
                    trace.count(Counter::Ready, state.batches.len() as u64);
                    state.given = Some((Instant::now(), std::thread::current().id()));
                }
                return Taken::Batch(batch);
            }
            if state.ended {
                return Taken::Ended;
            }
            let stage = gauges.bottleneck(threads);
            let began = Instant::now();
            if let Some(error) = state.stuck(began, timeout, gauges, stage) {
                return Taken::Batch(Err(error));
            }
            if began >= until {
                return Taken::Pending;
            }
            self.changed.wait_until(&mut state, until);
            let waited = began.elapsed();
            self.stalls[stage as usize]
                .fetch_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Relaxed);
            if let Some(trace) = &self.trace {
                trace.add_of(began, waited, What::Wait(stage));
            }
        }
    }

    /// How long the consumer waited for `stage`.
    pub(crate) fn stall(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.stalls[stage as usize].load(Relaxed))
    }
}

impl State {
    /// The consumer is back with what it did since its last batch. One on another thread did something else.
    fn asked(&mut self, trace: &Trace) {
        if let Some((since, thread)) = self.given
            && thread == std::thread::current().id()
        {
            self.given = None;
            trace.add(since, What::Consume);
        }
    }

    fn stuck(
        &mut self,
        now: Instant,
        timeout: Option<Duration>,
        gauges: &Gauges,
        stage: Stage,
    ) -> Option<Error> {
        let progress = gauges.progress(stage);
        let since = match self.seen {
            Some((since, count)) if count == progress => since,
            _ => {
                self.seen = Some((now, progress));
                return None;
            }
        };
        let waited = now - since;
        // Memory alone is waited for, by the planner or by a batch's values: nothing is being read or decoded whose end would free any.
        if stage.is_memory() && waited > HELD_GRACE {
            let limit = if stage == Stage::Device { "gpu_memory_limit" } else { "host_memory_limit" };
            return Some(Error::config(format!(
                "every batch's memory is held by the consumer, so no further batch can be made: let go of batches (or copy them) before \
                 asking for more, or raise {limit}"
            )));
        }
        let after = timeout.filter(|&timeout| waited > timeout)?;
        Some(Error::Timeout { after, what: format!("the stage {:?}", stage.name()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(index: u64) -> (Batch, Progress) {
        let batch = Batch { epoch: 0, index, valid: 0, rows: 0, columns: vec![], samples: vec![] };
        (batch, Progress { epoch: 0, consumed: index })
    }

    #[test]
    fn batches_come_in_order_and_then_the_end() {
        let (ready, gauges) = (Ready::new(None), Gauges::default());
        ready.put(Ok(batch(0)), None);
        ready.put(Ok(batch(1)), None);
        ready.end();
        for index in 0..2 {
            let Taken::Batch(Ok((batch, _))) = ready.take(Duration::ZERO, None, &gauges, 1) else {
                panic!("no batch")
            };
            assert_eq!(batch.index, index);
        }
        assert!(matches!(ready.take(Duration::ZERO, None, &gauges, 1), Taken::Ended));
    }

    #[test]
    fn a_timeout_counts_from_the_last_progress_and_names_the_stage() {
        let (ready, gauges) = (Ready::new(None), Gauges::default());
        let _reading = gauges.enter(Stage::Read);
        assert!(matches!(ready.take(Duration::ZERO, Some(Duration::ZERO), &gauges, 1), Taken::Pending));
        drop(gauges.enter(Stage::Decode));
        assert!(matches!(ready.take(Duration::ZERO, Some(Duration::ZERO), &gauges, 1), Taken::Pending));
        let Taken::Batch(Err(error)) = ready.take(Duration::from_secs(60), Some(Duration::ZERO), &gauges, 1)
        else {
            panic!("no timeout")
        };
        assert!(error.to_string().contains("read"), "{error}");
    }
}
