//! Stream capture: work that becomes a graph instead of running, and what other calls may do meanwhile.

use std::cell::Cell;
use std::thread::ThreadId;

use crate::codes::Code;
use crate::engine::Work;
use crate::findings::Kind;
use crate::places::Origin;
use crate::state::State;

/// Which captures forbid a thread calls that are no part of a stream (CUstreamCaptureMode).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Its own, and those of other threads in this mode.
    Global,
    /// Its own.
    ThreadLocal,
    /// None.
    Relaxed,
}

impl Mode {
    pub(crate) fn from_number(number: i32) -> Result<Mode, Code> {
        match number {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// The calling thread's mode.
pub(crate) fn mode() -> Mode {
    MODE.try_with(Cell::get).unwrap_or(Mode::Global)
}

/// Exchanges the calling thread's mode.
pub(crate) fn exchange_mode(mode: Mode) -> Mode {
    MODE.try_with(|current| current.replace(mode)).unwrap_or(Mode::Global)
}

/// A capture that goes on.
pub(crate) struct Capture {
    pub(crate) first: u64,
    pub(crate) mode: Mode,
    pub(crate) thread: ThreadId,
    pub(crate) origin: Origin,
    pub(crate) invalidated: bool,
    /// Streams that joined by an event, and since when they have work that the first one doesn't wait for.
    pub(crate) joined: Vec<u64>,
    pub(crate) unjoined: Vec<u64>,
    pub(crate) work: Vec<(Work, Origin)>,
}

/// What a capture became: its work, one after the other.
pub(crate) struct Graph {
    pub(crate) work: Vec<(Work, Origin)>,
    pub(crate) origin: Origin,
    /// Made by cuGraphInstantiate.
    pub(crate) executable: bool,
    pub(crate) context: u64,
}

impl State {
    /// Begins a capture on a stream.
    pub(crate) fn begin_capture(&mut self, stream: u64, mode: Mode, origin: Origin) -> Result<(), Code> {
        let context = self.stream(stream).context;
        if self.contexts.get(&context).is_some_and(|context| context.legacy == stream) {
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        if self.stream(stream).capture.is_some() {
            return Err(Code::ILLEGAL_STATE);
        }
        let capture = Capture {
            first: stream,
            mode,
            thread: std::thread::current().id(),
            origin,
            invalidated: false,
            joined: vec![stream],
            unjoined: Vec::new(),
            work: Vec::new(),
        };
        let handle = self.handle();
        self.captures.insert(handle, capture);
        self.stream_mut(stream).capture = Some(handle);
        Ok(())
    }

    /// Ends a capture; what it became.
    pub(crate) fn end_capture(&mut self, stream: u64) -> Result<Graph, Code> {
        let handle = self.stream(stream).capture.ok_or(Code::ILLEGAL_STATE)?;
        let Some(capture) = self.captures.get(&handle) else { return Err(Code::ILLEGAL_STATE) };
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            return Err(Code::CAPTURE_WRONG_THREAD);
        }
        if capture.first != stream {
            return Err(Code::CAPTURE_UNMATCHED);
        }
        let context = self.stream(stream).context;
        let Some(capture) = self.captures.remove(&handle) else { return Err(Code::ILLEGAL_STATE) };
        for joined in &capture.joined {
            if let Some(joined) = self.streams.get_mut(joined) {
                joined.capture = None;
            }
        }
        if capture.invalidated {
            return Err(Code::CAPTURE_INVALIDATED);
        }
        if !capture.unjoined.is_empty() {
            return Err(Code::CAPTURE_UNJOINED);
        }
        Ok(Graph { work: capture.work, origin: capture.origin, executable: false, context })
    }

    /// Adds work to the capture that a stream is in, if it is in one.
    pub(crate) fn captured(&mut self, stream: u64, origin: &Origin, work: &Work) -> Result<bool, Code> {
        let Some(handle) = self.stream(stream).capture else {
            self.implicit(stream, origin)?;
            return Ok(false);
        };
        let Some(capture) = self.captures.get_mut(&handle) else { return Ok(false) };
        if capture.invalidated {
            return Err(Code::CAPTURE_INVALIDATED);
        }
        if stream != capture.first && !capture.unjoined.contains(&stream) {
            capture.unjoined.push(stream);
        }
        if !matches!(work, Work::Nothing) {
            capture.work.push((work.clone(), origin.clone()));
        }
        Ok(true)
    }

    /// Work on the legacy stream would wait for blocking streams: not while one of them is captured.
    fn implicit(&mut self, stream: u64, origin: &Origin) -> Result<(), Code> {
        let context = self.stream(stream).context;
        if self.contexts.get(&context).is_none_or(|context| context.legacy != stream) {
            return Ok(());
        }
        let blocking = |other: &&crate::engine::Stream| other.context == context && !other.non_blocking;
        let Some(handle) = self.streams.values().filter(blocking).find_map(|other| other.capture) else {
            return Ok(());
        };
        self.invalidate(
            handle,
            origin,
            "uses the legacy stream, which a captured blocking stream may not wait for",
        );
        Err(Code::CAPTURE_IMPLICIT)
    }

    /// A stream waits for an event of a capture: it joins it.
    pub(crate) fn join_capture(&mut self, stream: u64, handle: u64, from: u64) -> Result<(), Code> {
        let own = self.stream(stream).capture;
        let Some(capture) = self.captures.get_mut(&handle) else { return Err(Code::CAPTURED_EVENT) };
        match own {
            Some(own) if own != handle => return Err(Code::CAPTURE_MERGE),
            Some(_) => {}
            None => capture.joined.push(stream),
        }
        capture.unjoined.retain(|unjoined| *unjoined != from);
        if stream != capture.first && !capture.unjoined.contains(&stream) {
            capture.unjoined.push(stream);
        }
        self.stream_mut(stream).capture = Some(handle);
        Ok(())
    }

    /// A call that is no part of a stream: forbidden where the calling thread's mode and the captures that go on say so.
    pub(crate) fn forbid_during_capture(&mut self, call: &'static str) -> Result<(), Code> {
        if self.captures.is_empty() {
            return Ok(());
        }
        let (mode, thread) = (mode(), std::thread::current().id());
        let forbids = |capture: &&Capture| match mode {
            Mode::Relaxed => false,
            Mode::ThreadLocal => capture.thread == thread && capture.mode != Mode::Relaxed,
            Mode::Global => {
                capture.mode == Mode::Global || capture.thread == thread && capture.mode != Mode::Relaxed
            }
        };
        let found = self
            .captures
            .iter()
            .find(|(_, capture)| !capture.invalidated && forbids(capture))
            .map(|(handle, _)| *handle);
        let Some(handle) = found else { return Ok(()) };
        self.invalidate(handle, &Origin::here(call), "is forbidden while this capture goes on");
        Err(Code::CAPTURE_UNSUPPORTED)
    }

    /// A call that conflicts with a capture by itself, whatever the mode.
    pub(crate) fn conflicts_with_capture(&mut self, stream: u64, call: &'static str) -> Result<(), Code> {
        let Some(handle) = self.stream(stream).capture else { return Ok(()) };
        self.invalidate(handle, &Origin::here(call), "waits for a stream that is being captured");
        Err(Code::CAPTURE_UNSUPPORTED)
    }

    pub(crate) fn invalidate(&mut self, capture: u64, by: &Origin, what: &str) {
        let Some(capture) = self.captures.get_mut(&capture) else { return };
        capture.invalidated = true;
        let began = capture.origin.clone();
        self.found(Kind::Capture, what, by, Some(&began));
    }
}
