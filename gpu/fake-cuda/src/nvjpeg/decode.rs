//! Groups of images.

use std::ffi::c_int;

use super::Status;
use super::batch::{Target, decode};
use super::library::WORKS;
use crate::entry::CONTEXT;

/// NVJPEG_OUTPUT_RGBI: of the formats the one that is simulated.
const RGB_INTERLEAVED: c_int = 5;

nvjpeg! {
    CONTEXT => fn nvjpegDecodeBatchedInitialize(handle: u64, state: u64, images: c_int, threads: c_int, format: c_int) |call| {
        let state = call.jpeg_state(handle, state)?;
        state.prepared = None;
        if images < 1 || threads < 1 || format != RGB_INTERLEAVED {
            return Err(Status::INVALID_PARAMETER);
        }
        state.prepared = Some(images as usize);
        Ok(())
    }

    WORKS => fn nvjpegDecodeBatched(
        handle: u64, state: u64, images: *const *const u8, lengths: *const usize, targets: *const Target, stream: u64,
    ) |call| {
        call.jpeg_state(handle, state)?.busy = true;
        let decoded = decode(call, handle, state, images, lengths, targets, stream);
        if let Some(state) = call.jpeg.states.get_mut(&state) {
            state.busy = false;
            state.prepared = state.prepared.filter(|_| decoded.is_ok());
        }
        decoded
    }
}
