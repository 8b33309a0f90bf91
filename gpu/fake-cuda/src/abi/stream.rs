//! Streams.

use std::ffi::{c_int, c_uint, c_ulonglong};

use crate::codes::Code;
use crate::engine::{self, Recorded};
use crate::entry::{CONTEXT, Call, INITIALISED, give};
use crate::state::CHANGED;

/// CU_STREAM_NON_BLOCKING
const NON_BLOCKING: c_uint = 1;

fn create(call: &mut Call, to: *mut u64, flags: c_uint, priority: c_int) -> Result<(), Code> {
    if flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let (context, origin) = (call.context, call.origin());
    let stream = call.add_stream(context, flags & NON_BLOCKING != 0, priority.clamp(-5, 0), false, origin);
    call.counters.streams += 1;
    give(to, stream)
}

driver! {
    CONTEXT.unsafe_in_capture() => fn cuStreamCreate(to: *mut u64, flags: c_uint) |call| {
        create(call, to, flags, 0)
    }

    CONTEXT.unsafe_in_capture() => fn cuStreamCreateWithPriority(to: *mut u64, flags: c_uint, priority: c_int) |call| {
        create(call, to, flags, priority)
    }

    INITIALISED.releases() => fn cuStreamDestroy_v2(handle: u64) |call| {
        let name = call.name;
        if handle <= 2 || call.streams.get(&handle).is_none_or(|stream| stream.destroyed || stream.built_in) {
            return Err(call.destroyed_twice("stream", handle, name));
        }
        let origin = call.origin();
        if let Some(capture) = call.stream(handle).capture {
            call.invalidate(capture, &origin, "destroys a stream that is being captured");
        }
        call.stream_mut(handle).destroyed = true;
        call.bury(handle, "stream", &origin);
        CHANGED.notify_all();
        Ok(())
    }

    INITIALISED.blocks() => fn cuStreamSynchronize(handle: u64) |call| {
        let stream = call.stream_of(handle)?;
        let (context, name) = (call.stream(stream).context, call.name);
        call.conflicts_with_capture(stream, name)?;
        call.forbid_during_capture(name)?;
        let (reached, clock) = call.all_of(stream);
        engine::wait(&mut call.state, Some(context), &reached)?;
        call.host_learns(&clock);
        Ok(())
    }

    INITIALISED => fn cuStreamQuery(handle: u64) |call| {
        let stream = call.stream_of(handle)?;
        let (context, name) = (call.stream(stream).context, call.name);
        call.conflicts_with_capture(stream, name)?;
        call.forbid_during_capture(name)?;
        call.sticky(context)?;
        let (reached, clock) = call.all_of(stream);
        if !call.is_reached(&reached) {
            return Err(Code::NOT_READY);
        }
        call.host_learns(&clock);
        Ok(())
    }

    INITIALISED => fn cuStreamWaitEvent(handle: u64, event: u64, flags: c_uint) |call| {
        if flags & !1 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let stream = call.stream_of(handle)?;
        let name = call.name;
        if let Some(Recorded::Captured { capture, stream: from }) = call.events.get(&event).and_then(|event| event.recorded.as_ref()) {
            let (capture, from) = (*capture, *from);
            return call.join_capture(stream, capture, from);
        }
        if call.stream(stream).capture.is_some() {
            // cudaEventRecordExternal and cudaEventWaitExternal are for this; they aren't simulated.
            let origin = call.origin();
            let capture = call.stream(stream).capture.unwrap_or_default();
            call.invalidate(capture, &origin, "makes a captured stream wait for work outside of the capture");
            return Err(Code::CAPTURE_ISOLATION);
        }
        let context = call.stream(stream).context;
        call.sticky(context)?;
        let Some((reached, clock)) = call.recorded(event, name)? else { return Ok(()) };
        call.hold_back(stream, &reached, &clock);
        let origin = call.origin();
        call.submit(stream, origin, engine::Work::Nothing)
    }

    INITIALISED => fn cuStreamGetCtx(handle: u64, to: *mut u64) |call| {
        let stream = call.stream_of(handle)?;
        give(to, call.stream(stream).context)
    }

    INITIALISED => fn cuStreamGetId(handle: u64, to: *mut c_ulonglong) |call| {
        let stream = call.stream_of(handle)?;
        give(to, call.stream(stream).timeline as c_ulonglong)
    }

    INITIALISED => fn cuStreamGetFlags(handle: u64, to: *mut c_uint) |call| {
        let stream = call.stream_of(handle)?;
        give(to, if call.stream(stream).non_blocking { NON_BLOCKING } else { 0 })
    }

    INITIALISED => fn cuStreamGetPriority(handle: u64, to: *mut c_int) |call| {
        let stream = call.stream_of(handle)?;
        give(to, call.stream(stream).priority)
    }
}
