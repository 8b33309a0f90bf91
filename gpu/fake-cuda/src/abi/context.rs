//! Contexts: the primary one of each device, and which is current.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_ulonglong};

use super::device::device;
use crate::codes::Code;
use crate::engine::{self, Recorded};
use crate::entry::{CONTEXT, Call, INITIALISED, give, offer};
use crate::findings::Kind;
use crate::state::Context;
use crate::threads;

/// The context that a handle names, 0 being the current one.
fn named(call: &mut Call, context: u64) -> Result<u64, Code> {
    let context = if context == 0 { call.context } else { context };
    call.context(context)?;
    Ok(context)
}

fn synchronise(call: &mut Call, context: u64) -> Result<(), Code> {
    let (reached, clock) = call.all_in(context);
    let name = call.name;
    let captured =
        call.streams.iter().find(|(_, stream)| stream.context == context && stream.capture.is_some());
    if let Some((stream, _)) = captured {
        let stream = *stream;
        call.conflicts_with_capture(stream, name)?;
    }
    engine::wait(&mut call.state, Some(context), &reached)?;
    call.host_learns(&clock);
    Ok(())
}

driver! {
    INITIALISED => fn cuDevicePrimaryCtxRetain(to: *mut u64, number: c_int) |call| {
        let number = device(call, number)?;
        let origin = call.origin();
        let context = match call.devices[number].primary {
            Some(context) => context,
            None => {
                let context = call.handle();
                let legacy = call.add_stream(context, false, 0, true, origin.clone());
                let new = Context { device: number, sticky: None, legacy, per_thread: HashMap::new() };
                call.contexts.insert(context, new);
                call.devices[number].primary = Some(context);
                context
            }
        };
        call.devices[number].retained.push(origin);
        give(to, context)
    }

    INITIALISED.releases() => fn cuDevicePrimaryCtxRelease_v2(number: c_int) |call| {
        let number = device(call, number)?;
        if call.devices[number].retained.pop().is_none() {
            let origin = call.origin();
            call.found(Kind::DoubleFree, "the primary context was released more often than retained", &origin, None);
            return Err(Code::INVALID_CONTEXT);
        }
        if call.devices[number].retained.is_empty() {
            destroy(call, number)?;
        }
        Ok(())
    }

    INITIALISED.releases() => fn cuDevicePrimaryCtxReset_v2(number: c_int) |call| {
        let number = device(call, number)?;
        destroy(call, number)
    }

    INITIALISED => fn cuDevicePrimaryCtxGetState(number: c_int, flags: *mut c_uint, active: *mut c_int) |call| {
        let number = device(call, number)?;
        give(flags, call.devices[number].flags)?;
        give(active, call.devices[number].primary.is_some().into())
    }

    INITIALISED => fn cuDevicePrimaryCtxSetFlags_v2(number: c_int, flags: c_uint) |call| {
        let number = device(call, number)?;
        call.devices[number].flags = flags;
        Ok(())
    }

    INITIALISED => fn cuCtxPushCurrent_v2(context: u64) |call| {
        call.context(context)?;
        threads::push(context);
        Ok(())
    }

    INITIALISED => fn cuCtxPopCurrent_v2(to: *mut u64) |_| {
        let context = threads::pop().ok_or(Code::INVALID_CONTEXT)?;
        offer(to, context);
        Ok(())
    }

    INITIALISED => fn cuCtxGetCurrent(to: *mut u64) |_| {
        give(to, threads::current())
    }

    INITIALISED => fn cuCtxSetCurrent(context: u64) |call| {
        if context != 0 {
            call.context(context)?;
        }
        threads::set(context);
        Ok(())
    }

    CONTEXT => fn cuCtxGetDevice(to: *mut c_int) |call| {
        give(to, call.device()? as c_int)
    }

    INITIALISED => fn cuCtxGetApiVersion(context: u64, version: *mut c_uint) |call| {
        named(call, context)?;
        give(version, 3020)
    }

    INITIALISED => fn cuCtxGetId(context: u64, id: *mut c_ulonglong) |call| {
        let context = named(call, context)?;
        give(id, context)
    }

    CONTEXT => fn cuCtxGetFlags(flags: *mut c_uint) |call| {
        let device = call.device()?;
        give(flags, call.devices[device].flags)
    }

    CONTEXT => fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) |_| {
        offer(least, 0);
        offer(greatest, -5);
        Ok(())
    }

    CONTEXT.unsafe_in_capture().blocks() => fn cuCtxSynchronize() |call| {
        let context = call.context;
        synchronise(call, context)
    }

    CONTEXT => fn cuCtxRecordEvent(context: u64, event: u64) |call| {
        let context = named(call, context)?;
        let name = call.name;
        if let Some(handle) = call.streams.values().filter(|stream| stream.context == context).find_map(|stream| stream.capture) {
            let origin = call.origin();
            call.invalidate(handle, &origin, "records all of a context, of which a stream is being captured");
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        call.sticky(context)?;
        if call.events.get(&event).is_some_and(|event| event.context != context) {
            return Err(Code::INVALID_HANDLE);
        }
        let (reached, clock) = call.all_in(context);
        call.record(event, name, Recorded::Work { reached, clock })
    }

    CONTEXT => fn cuCtxWaitEvent(context: u64, event: u64) |call| {
        let context = named(call, context)?;
        let name = call.name;
        if call.streams.values().any(|stream| stream.context == context && stream.capture.is_some()) {
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        let Some((reached, clock)) = call.recorded(event, name)? else { return Ok(()) };
        let streams: Vec<u64> =
            call.streams.iter().filter(|(_, stream)| stream.context == context).map(|(handle, _)| *handle).collect();
        for stream in streams {
            call.hold_back(stream, &reached, &clock);
            let origin = call.origin();
            call.submit(stream, origin, engine::Work::Nothing)?;
        }
        Ok(())
    }
}

/// Ends the primary context of a device: what is still in it is lost, and a finding.
fn destroy(call: &mut Call, number: usize) -> Result<(), Code> {
    let Some(context) = call.devices[number].primary.take() else { return Ok(()) };
    let (reached, clock) = call.all_in(context);
    let lost = engine::settle(&mut call.state, Some(context), &reached);
    call.host_learns(&clock);
    let origin = call.origin();
    call.leaks_of(context, "the context's end");
    call.contexts.remove(&context);
    call.streams
        .values_mut()
        .filter(|stream| stream.context == context)
        .for_each(|stream| stream.destroyed = true);
    call.bury(context, "context", &origin);
    call.devices[number].retained.clear();
    lost
}
