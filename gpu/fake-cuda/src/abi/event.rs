//! Events.

use std::ffi::c_uint;

use crate::codes::Code;
use crate::engine::{self, Event, Recorded};
use crate::entry::{CONTEXT, Call, INITIALISED, give};

/// CU_EVENT_BLOCKING_SYNC, _DISABLE_TIMING and _INTERPROCESS.
const FLAGS: c_uint = 1 | 2 | 4;
const DISABLE_TIMING: c_uint = 2;

fn record(call: &mut Call, event: u64, handle: u64) -> Result<(), Code> {
    let stream = call.stream_of(handle)?;
    let (name, origin) = (call.name, call.origin());
    match call.events.get(&event) {
        Some(event) if event.context != call.stream(stream).context => return Err(Code::INVALID_HANDLE),
        Some(_) => {}
        None => return Err(call.no_such("event", event, name)),
    }
    let recorded = call.mark(stream, origin)?;
    call.record(event, name, recorded)
}

/// The work that an event stands for, for a thread that asks whether it is complete. Nothing for one never recorded, which counts as complete.
fn asked(call: &mut Call, event: u64) -> Result<Option<(Vec<engine::Reached>, crate::clocks::Clock)>, Code> {
    let name = call.name;
    let asked = call.recorded(event, name);
    if asked == Err(Code::CAPTURED_EVENT)
        && let Some(Recorded::Captured { capture, .. }) =
            call.events.get(&event).and_then(|event| event.recorded.as_ref())
    {
        let (capture, origin) = (*capture, call.origin());
        call.invalidate(capture, &origin, "asks for an event that was recorded in a capture");
    }
    asked
}

driver! {
    CONTEXT => fn cuEventCreate(to: *mut u64, flags: c_uint) |call| {
        if flags & !FLAGS != 0 || flags & 4 != 0 && flags & DISABLE_TIMING == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (handle, context, origin) = (call.handle(), call.context, call.origin());
        call.events.insert(handle, Event { context, flags, origin, recorded: None });
        call.counters.events += 1;
        give(to, handle)
    }

    INITIALISED.releases() => fn cuEventDestroy_v2(event: u64) |call| {
        let (name, origin) = (call.name, call.origin());
        if call.events.remove(&event).is_none() {
            return Err(call.destroyed_twice("event", event, name));
        }
        call.bury(event, "event", &origin);
        Ok(())
    }

    INITIALISED => fn cuEventRecord(event: u64, stream: u64) |call| {
        record(call, event, stream)
    }

    INITIALISED => fn cuEventRecordWithFlags(event: u64, stream: u64, flags: c_uint) |call| {
        if flags != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        record(call, event, stream)
    }

    INITIALISED.unsafe_in_capture() => fn cuEventQuery(event: u64) |call| {
        let Some((reached, clock)) = asked(call, event)? else { return Ok(()) };
        let context = call.events[&event].context;
        call.sticky(context)?;
        if !call.is_reached(&reached) {
            return Err(Code::NOT_READY);
        }
        call.host_learns(&clock);
        Ok(())
    }

    INITIALISED.unsafe_in_capture().blocks() => fn cuEventSynchronize(event: u64) |call| {
        let Some((reached, clock)) = asked(call, event)? else { return Ok(()) };
        let context = call.events[&event].context;
        engine::wait(&mut call.state, Some(context), &reached)?;
        call.host_learns(&clock);
        Ok(())
    }

    INITIALISED => fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) |call| {
        let (Some((first, _)), Some((last, _))) = (asked(call, start)?, asked(call, end)?) else {
            return Err(Code::INVALID_HANDLE);
        };
        if [start, end].iter().any(|event| call.events[event].flags & DISABLE_TIMING != 0) {
            return Err(Code::INVALID_HANDLE);
        }
        if !call.is_reached(&first) || !call.is_reached(&last) {
            return Err(Code::NOT_READY);
        }
        // Simulated work has no duration that would mean anything; 0.5 µs is the resolution that the API promises.
        give(milliseconds, 0.0005)
    }
}
