//! Streams and what runs on them.
//!
//! A stream is a queue with a thread of its own, begun at the first operation. An operation waits for those it depends on, then for a
//! random time given by the seed, and runs. Which operations are ordered is decided when they are submitted, by clocks; that the threads keep
//! the same order is what makes results right, and nothing is concluded from when they run.

mod submit;
mod work;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::clocks::{Clock, Timeline};
use crate::codes::Code;
use crate::findings::Kind;
use crate::history::Operation;
use crate::places::Origin;
use crate::state::{CHANGED, Context, Locked, State};

pub(crate) use work::{HostFunction, Launch, Route, StreamCallback, Work};
pub(crate) use worker::in_host_function;

/// That a stream has run so many operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reached {
    pub(crate) stream: u64,
    pub(crate) count: u64,
}

/// A stream, also after it was destroyed: its work goes on.
pub(crate) struct Stream {
    pub(crate) context: u64,
    pub(crate) timeline: Timeline,
    /// CU_STREAM_NON_BLOCKING: no order with the legacy stream.
    pub(crate) non_blocking: bool,
    pub(crate) priority: i32,
    /// One of the streams that every context has.
    pub(crate) built_in: bool,
    pub(crate) origin: Origin,
    pub(crate) destroyed: bool,
    pub(crate) capture: Option<u64>,
    pub(crate) clock: Clock,
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    queue: VecDeque<Task>,
    /// Waits that the next operation takes over.
    waits: Vec<Reached>,
    running: bool,
}

/// An operation in a queue.
struct Task {
    count: u64,
    waits: Vec<Reached>,
    operation: Arc<Operation>,
    work: Work,
    submitted: Instant,
}

/// An event: the last record of it.
pub(crate) struct Event {
    pub(crate) context: u64,
    pub(crate) flags: u32,
    pub(crate) origin: Origin,
    pub(crate) recorded: Option<Recorded>,
}

/// What an event stands for.
pub(crate) enum Recorded {
    /// All that had been submitted.
    Work { reached: Vec<Reached>, clock: Clock },
    /// A point of a capture.
    Captured { capture: u64, stream: u64 },
}

impl State {
    /// Makes a stream.
    pub(crate) fn add_stream(
        &mut self,
        context: u64,
        non_blocking: bool,
        priority: i32,
        built_in: bool,
        origin: Origin,
    ) -> u64 {
        let (handle, timeline) = (self.handle(), self.timeline());
        let stream = Stream {
            context,
            timeline,
            non_blocking,
            priority,
            built_in,
            origin,
            destroyed: false,
            capture: None,
            clock: Clock::default(),
            submitted: 0,
            completed: 0,
            queue: VecDeque::new(),
            waits: Vec::new(),
            running: false,
        };
        self.streams.insert(handle, stream);
        handle
    }

    /// The stream that a program's handle stands for in a context: 0 and 1 the legacy stream, 2 the calling thread's.
    pub(crate) fn resolve(&mut self, handle: u64, context: u64, call: &'static str) -> Result<u64, Code> {
        match handle {
            0 | 1 => Ok(self.context(context)?.legacy),
            2 => {
                let thread = std::thread::current().id();
                if let Some(stream) = self.context(context)?.per_thread.get(&thread) {
                    return Ok(*stream);
                }
                let stream = self.add_stream(context, false, 0, true, Origin::here(call));
                self.context(context)?.per_thread.insert(thread, stream);
                Ok(stream)
            }
            _ if self.streams.get(&handle).is_some_and(|stream| !stream.destroyed) => Ok(handle),
            _ => Err(self.no_such("stream", handle, call)),
        }
    }

    pub(crate) fn stream(&self, stream: u64) -> &Stream {
        &self.streams[&stream]
    }

    pub(crate) fn stream_mut(&mut self, stream: u64) -> &mut Stream {
        self.streams.get_mut(&stream).expect("a resolved stream stays until the reset")
    }

    /// Everything submitted to a stream; for the legacy stream, also to those it waits for.
    pub(crate) fn all_of(&self, stream: u64) -> (Vec<Reached>, Clock) {
        let context = self.stream(stream).context;
        let legacy = self.contexts.get(&context).is_some_and(|context| context.legacy == stream);
        self.all_where(|handle, other| {
            handle == stream || legacy && other.context == context && !other.non_blocking
        })
    }

    /// Everything submitted in a context.
    pub(crate) fn all_in(&self, context: u64) -> (Vec<Reached>, Clock) {
        self.all_where(|_, stream| stream.context == context)
    }

    /// Everything submitted.
    pub(crate) fn all(&self) -> (Vec<Reached>, Clock) {
        self.all_where(|_, _| true)
    }

    fn all_where(&self, belongs: impl Fn(u64, &Stream) -> bool) -> (Vec<Reached>, Clock) {
        let mut clock = Clock::default();
        let mut reached = Vec::new();
        for (handle, stream) in &self.streams {
            if belongs(*handle, stream) {
                clock.join(&stream.clock);
                reached.push(Reached { stream: *handle, count: stream.submitted });
            }
        }
        (reached, clock)
    }

    pub(crate) fn is_reached(&self, reached: &[Reached]) -> bool {
        reached
            .iter()
            .all(|one| self.streams.get(&one.stream).is_none_or(|stream| stream.completed >= one.count))
    }

    /// The error that a context can't recover from.
    pub(crate) fn sticky(&self, context: u64) -> Result<(), Code> {
        self.contexts.get(&context).and_then(|context: &Context| context.sticky).map_or(Ok(()), Err)
    }

    /// Loses a context: nothing more runs on it.
    pub(crate) fn lose(&mut self, context: u64, code: Code) {
        if let Some(context) = self.contexts.get_mut(&context) {
            context.sticky.get_or_insert(code);
        }
    }

    /// Records an event after what `reached` says.
    pub(crate) fn record(&mut self, event: u64, call: &'static str, recorded: Recorded) -> Result<(), Code> {
        if !self.events.contains_key(&event) {
            return Err(self.no_such("event", event, call));
        }
        if let Some(event) = self.events.get_mut(&event) {
            event.recorded = Some(recorded);
        }
        Ok(())
    }

    /// What an event stands for, outside of captures. Nothing if it was never recorded, which is a finding: such a wait waits for nothing.
    pub(crate) fn recorded(
        &mut self,
        event: u64,
        call: &'static str,
    ) -> Result<Option<(Vec<Reached>, Clock)>, Code> {
        match self.events.get(&event).map(|event| &event.recorded) {
            None => Err(self.no_such("event", event, call)),
            Some(None) => {
                let created = self.events[&event].origin.clone();
                let what = "waits for an event that was never recorded, which is no wait at all";
                self.found(Kind::NeverRecorded, what, &Origin::here(call), Some(&created));
                Ok(None)
            }
            Some(Some(Recorded::Work { reached, clock })) => Ok(Some((reached.clone(), clock.clone()))),
            Some(Some(Recorded::Captured { .. })) => Err(Code::CAPTURED_EVENT),
        }
    }
}

/// Waits until streams have come so far, or a context is lost.
pub(crate) fn wait(state: &mut Locked, context: Option<u64>, reached: &[Reached]) -> Result<(), Code> {
    state.counters.synchronisations += 1;
    settle(state, context, reached)
}

/// As [`wait`], by the driver itself.
pub(crate) fn settle(state: &mut Locked, context: Option<u64>, reached: &[Reached]) -> Result<(), Code> {
    if state.hold && !state.is_reached(reached) {
        state.hold = false;
        CHANGED.notify_all();
    }
    loop {
        if let Some(context) = context {
            state.sticky(context)?;
        }
        if state.is_reached(reached) {
            return Ok(());
        }
        CHANGED.wait(state);
    }
}
