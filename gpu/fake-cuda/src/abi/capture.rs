//! Stream capture and graphs: as much as a user's capture beside our calls needs.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use crate::capture::{Graph, Mode, exchange_mode};
use crate::codes::Code;
use crate::entry::{CONTEXT, Call, INITIALISED, give, offer, take};

/// CU_STREAM_CAPTURE_STATUS_NONE, _ACTIVE and _INVALIDATED.
fn status(call: &Call, stream: u64) -> c_int {
    let capture = call.stream(stream).capture.and_then(|capture| call.captures.get(&capture));
    capture.map_or(0, |capture| if capture.invalidated { 2 } else { 1 })
}

/// The stream, where asking about it doesn't hurt a capture: not the legacy stream while a blocking stream is captured.
fn asked(call: &mut Call, handle: u64) -> Result<u64, Code> {
    let stream = call.stream_of(handle)?;
    let context = call.stream(stream).context;
    let legacy = call.context(context)?.legacy;
    let captured = |other: &crate::engine::Stream| {
        other.context == context && !other.non_blocking && other.capture.is_some()
    };
    if stream == legacy && call.streams.values().any(captured) {
        Err(Code::CAPTURE_IMPLICIT)
    } else {
        Ok(stream)
    }
}

fn information(call: &mut Call, handle: u64, to: *mut c_int, id: *mut u64) -> Result<(), Code> {
    let stream = asked(call, handle)?;
    give(to, status(call, stream))?;
    offer(id, call.stream(stream).capture.unwrap_or(0));
    Ok(())
}

fn graph(call: &mut Call, handle: u64, executable: bool) -> Result<&mut Graph, Code> {
    if call.graphs.get(&handle).is_none_or(|graph| graph.executable != executable) {
        let name = call.name;
        return Err(call.no_such("graph", handle, name));
    }
    call.graphs.get_mut(&handle).ok_or(Code::INVALID_HANDLE)
}

fn instantiate(call: &mut Call, to: *mut u64, handle: u64) -> Result<(), Code> {
    let origin = call.origin();
    let first = graph(call, handle, false)?;
    let executable = Graph { work: first.work.clone(), origin, executable: true, context: first.context };
    let handle = call.handle();
    call.graphs.insert(handle, executable);
    give(to, handle)
}

fn destroy(call: &mut Call, handle: u64, executable: bool) -> Result<(), Code> {
    let (name, origin) = (call.name, call.origin());
    if call.graphs.get(&handle).is_none_or(|graph| graph.executable != executable) {
        return Err(call.destroyed_twice("graph", handle, name));
    }
    call.graphs.remove(&handle);
    call.bury(handle, "graph", &origin);
    Ok(())
}

driver! {
    INITIALISED => fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) |_| {
        let wanted = Mode::from_number(take(mode.cast_const())?)?;
        give(mode, exchange_mode(wanted) as c_int)
    }

    CONTEXT => fn cuStreamBeginCapture_v2(handle: u64, mode: c_int) |call| {
        let mode = Mode::from_number(mode)?;
        let stream = call.stream_of(handle)?;
        let origin = call.origin();
        call.begin_capture(stream, mode, origin)
    }

    CONTEXT => fn cuStreamEndCapture(handle: u64, to: *mut u64) |call| {
        let stream = call.stream_of(handle)?;
        let ended = call.end_capture(stream).inspect_err(|_| offer(to, 0))?;
        let graph = call.handle();
        call.graphs.insert(graph, ended);
        give(to, graph)
    }

    INITIALISED => fn cuStreamIsCapturing(handle: u64, to: *mut c_int) |call| {
        let stream = asked(call, handle)?;
        give(to, status(call, stream))
    }

    INITIALISED => fn cuStreamGetCaptureInfo(handle: u64, to: *mut c_int, id: *mut u64) |call| {
        information(call, handle, to, id)
    }

    INITIALISED => fn cuStreamGetCaptureInfo_v2(
        handle: u64, to: *mut c_int, id: *mut u64, graph: *mut u64, dependencies: *mut u64, count: *mut usize,
    ) |call| {
        information(call, handle, to, id)?;
        offer(graph, 0);
        offer(dependencies, 0);
        offer(count, 0);
        Ok(())
    }

    INITIALISED => fn cuStreamGetCaptureInfo_v3(
        handle: u64, to: *mut c_int, id: *mut u64, graph: *mut u64, dependencies: *mut u64, edges: *mut u64, count: *mut usize,
    ) |call| {
        information(call, handle, to, id)?;
        offer(graph, 0);
        offer(dependencies, 0);
        offer(edges, 0);
        offer(count, 0);
        Ok(())
    }

    CONTEXT => fn cuGraphInstantiateWithFlags(to: *mut u64, handle: u64, _flags: c_ulonglong) |call| {
        instantiate(call, to, handle)
    }

    CONTEXT => fn cuGraphInstantiate_v2(to: *mut u64, handle: u64, node: *mut u64, _log: *mut c_char, _bytes: usize) |call| {
        offer(node, 0);
        instantiate(call, to, handle)
    }

    CONTEXT => fn cuGraphLaunch(handle: u64, stream: u64) |call| {
        let stream = call.stream_of(stream)?;
        let work = graph(call, handle, true)?.work.clone();
        call.counters.graph_launches += 1;
        for (work, _) in work {
            let origin = call.origin();
            call.submit(stream, origin, work)?;
        }
        Ok(())
    }

    INITIALISED.releases() => fn cuGraphDestroy(handle: u64) |call| {
        destroy(call, handle, false)
    }

    INITIALISED.releases() => fn cuGraphExecDestroy(handle: u64) |call| {
        destroy(call, handle, true)
    }

    INITIALISED => fn cuGraphGetNodes(handle: u64, nodes: *mut u64, count: *mut usize) |call| {
        let nodes_in_all = graph(call, handle, false)?.work.len();
        if !nodes.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        give(count, nodes_in_all)
    }

    INITIALISED => fn cuGraphCreate(to: *mut u64, flags: c_uint) |call| {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (handle, context, origin) = (call.handle(), call.context, call.origin());
        call.graphs.insert(handle, Graph { work: Vec::new(), origin, executable: false, context });
        give(to, handle)
    }
}
