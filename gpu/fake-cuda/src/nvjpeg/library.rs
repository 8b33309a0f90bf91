//! The library: its version, its handles, and states.

use std::ffi::{c_int, c_uint};

use super::{HARDWARE, Handle, State, Status};
use crate::entry::{ANYWHERE, CONTEXT, Call, Rules, give};
use crate::findings::Kind;
use crate::state::CHANGED;

/// What every call on the device asks for: it may decode on the CPU, and may wait.
pub(super) const WORKS: Rules = CONTEXT.blocks();
/// Of what is made and ended.
const ENDS: Rules = CONTEXT.blocks().releases();

/// The backends of nvjpegCreateExV2 that take bytes of the host.
const BACKENDS: std::ops::RangeInclusive<c_int> = 0..=HARDWARE;

fn part(call: &Call, which: c_int) -> Result<c_int, Status> {
    match (call.settings.nvjpeg, which) {
        (0, _) => Err(Status::NOT_INITIALIZED),
        (version, 0) => Ok(version / 1000),
        (version, 1) => Ok(version % 1000 / 10),
        (version, 2) => Ok(version % 10),
        _ => Err(Status::INVALID_PARAMETER),
    }
}

nvjpeg! {
    ANYWHERE => fn nvjpegGetProperty(which: c_int, to: *mut c_int) |call| {
        let part = part(call, which)?;
        Ok(give(to, part)?)
    }

    WORKS.unsafe_in_capture() => fn nvjpegCreateExV2(
        backend: c_int, device: *mut [usize; 3], pinned: *mut [usize; 3], _flags: c_uint, to: *mut u64,
    ) |call| {
        if device.is_null() || pinned.is_null() {
            let origin = call.origin();
            call.found(Kind::Misuse, "leaves nvJPEG to allocate by itself", &origin, None);
            return Err(Status::INVALID_PARAMETER);
        }
        if !BACKENDS.contains(&backend) || to.is_null() {
            return Err(Status::INVALID_PARAMETER);
        }
        if part(call, 0)? * 1000 > call.settings.version {
            return Err(Status::NOT_INITIALIZED);
        }
        if backend == HARDWARE && call.settings.jpeg_engines == 0 {
            return Err(Status::ARCH_MISMATCH);
        }
        let (number, context, origin) = (call.handle(), call.context, call.origin());
        let allocators = [device as usize, pinned as usize];
        call.jpeg.handles.insert(number, Handle { context, origin, backend, allocators });
        Ok(give(to, number)?)
    }

    ENDS => fn nvjpegDestroy(number: u64) |call| {
        call.jpeg_handle(number)?;
        let origin = call.origin();
        let left = call.jpeg.states.values().filter(|state| state.handle == number).map(|state| state.origin.clone()).next();
        if let Some(made) = left {
            call.found(Kind::Misuse, "destroys a handle before its states", &origin, Some(&made));
        }
        call.jpeg.handles.remove(&number);
        call.bury(number, "nvJPEG handle", &origin);
        Ok(())
    }

    WORKS.unsafe_in_capture() => fn nvjpegJpegStateCreate(handle: u64, to: *mut u64) |call| {
        call.jpeg_handle(handle)?;
        let (number, context, origin) = (call.handle(), call.context, call.origin());
        let engine = (call.jpeg.handles[&handle].backend == HARDWARE)
            .then(|| call.add_stream(context, true, 0, true, origin.clone()));
        let state = State {
            handle, context, origin, prepared: None, device: None, pinned: None, last: Default::default(), busy: false, engine,
        };
        call.jpeg.states.insert(number, state);
        // Tables.
        if let Err(status) = call.grow(number, super::batch::FIXED_BYTES, super::batch::FIXED_BYTES, 0) {
            call.end_state(number);
            return Err(status);
        }
        Ok(give(to, number)?)
    }

    ENDS => fn nvjpegJpegStateDestroy(number: u64) |call| {
        let Some(handle) = call.jpeg.states.get(&number).map(|state| state.handle) else {
            let name = call.name;
            call.destroyed_twice("nvJPEG state", number, name);
            return Err(Status::INVALID_PARAMETER);
        };
        call.jpeg_state(handle, number)?;
        let origin = call.origin();
        let reached = call.jpeg.states[&number].last.0.clone();
        // Without a context: also a lost one runs out, doing nothing.
        let _ = crate::engine::settle(&mut call.state, None, &reached);
        call.end_state(number);
        call.bury(number, "nvJPEG state", &origin);
        Ok(())
    }
}

impl Call {
    /// Frees what a state holds, and forgets it.
    fn end_state(&mut self, number: u64) {
        self.shrink(number);
        let Some(state) = self.jpeg.states.remove(&number) else { return };
        if let Some(engine) = state.engine {
            self.stream_mut(engine).destroyed = true;
            CHANGED.notify_all();
        }
    }
}
