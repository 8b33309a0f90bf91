//! What nvjpegDecodeBatched does.

use std::ops::Range;
use std::sync::Arc;

use super::allocators::{Borrowed, Which};
use super::image::{self, Pixels};
use super::work::{Jpeg, Rows};
use super::{HARDWARE, Status};
use crate::engine::{self, Work};
use crate::entry::Call;
use crate::findings::Kind;
use crate::state::Locked;

/// Of scratch memory beside what images take: tables.
pub(super) const FIXED_BYTES: u64 = 4096;

/// nvjpegImage_t
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Target {
    channel: [u64; 4],
    pitch: [usize; 4],
}

impl Target {
    /// Interleaved rows from `to` on, each `pitch` bytes behind the one before.
    pub fn new(to: u64, pitch: usize) -> Self {
        Self { channel: [to, 0, 0, 0], pitch: [pitch, 0, 0, 0] }
    }
}

pub(super) fn decode(
    call: &mut Call,
    handle: u64,
    state: u64,
    images: *const *const u8,
    lengths: *const usize,
    targets: *const Target,
    stream: u64,
) -> Result<(), Status> {
    let Some(count) = call.jpeg.states[&state].prepared else {
        let origin = call.origin();
        call.found(
            Kind::Misuse,
            "decodes a group that the state is not prepared for, since it never was or the last one failed",
            &origin,
            None,
        );
        return Err(Status::INVALID_PARAMETER);
    };
    let stream_number = stream;
    let stream = call.stream_of(stream)?;
    if call.stream(stream).context != call.context || call.stream(stream).capture.is_some() {
        let origin = call.origin();
        call.found(
            Kind::Misuse,
            "decodes on a stream of another context, or one that is being captured",
            &origin,
            None,
        );
        return Err(Status::EXECUTION_FAILED);
    }
    if images.is_null() || lengths.is_null() || targets.is_null() {
        return Err(Status::INVALID_PARAMETER);
    }
    // SAFETY: the program gives as many of each as the state is prepared for.
    let (images, lengths, targets) = unsafe {
        (
            std::slice::from_raw_parts(images, count),
            std::slice::from_raw_parts(lengths, count),
            std::slice::from_raw_parts(targets, count),
        )
    };
    // SAFETY: and so many bytes of each image, for as long as it takes.
    let sources: Vec<&[u8]> = images
        .iter()
        .zip(lengths)
        .map(|(at, length)| unsafe { std::slice::from_raw_parts(*at, *length) })
        .collect();
    let planned: Vec<_> = sources.iter().map(|_| call.fault("jpeg").map_err(|code| Status(code.0))).collect();
    let hardware = call.jpeg.handles[&handle].backend == HARDWARE;
    let mut pixels = Vec::with_capacity(count);
    let mut failed = None;
    Locked::unlocked(&mut call.state, || {
        for (source, planned) in sources.iter().zip(planned) {
            match planned.and_then(|()| image::decode(source, hardware)) {
                Ok(decoded) => pixels.push(decoded),
                Err(status) => {
                    failed = Some(status);
                    break;
                }
            }
        }
    });
    let compressed: u64 = lengths.iter().map(|length| *length as u64).sum();
    let scratch: u64 = pixels.iter().map(|pixels| pixels.bytes.len() as u64).sum();
    call.grow(state, FIXED_BYTES + scratch, FIXED_BYTES + compressed, stream_number)?;
    let sizes = [
        (Which::Device, FIXED_BYTES + scratch / 2),
        (Which::Pinned, 2 * FIXED_BYTES),
        (Which::Pinned, FIXED_BYTES),
    ];
    let borrowed = call.borrow(state, sizes, stream_number)?;
    let submitted = submit(call, state, stream, &sources, pixels, targets, &borrowed);
    call.give_back(state, borrowed, stream_number);
    submitted?;
    failed.map_or(Ok(()), Err)
}

impl Call {
    /// nvJPEG is about to write to pinned memory on the host: what an allocator gave must have no other work on it.
    fn may_write(&mut self, pinned: &Range<u64>, own: u64) {
        let (origin, own) = (self.origin(), self.stream(own).timeline);
        for operation in self.history.unknown_to(pinned.clone(), &self.host, false) {
            if operation.point.timeline != own && !operation.ends {
                let other = operation.origin.clone();
                self.found(
                    Kind::HostWrite,
                    "writes to pinned memory that other work may still read",
                    &origin,
                    Some(&other),
                );
            }
        }
    }
}

fn submit(
    call: &mut Call,
    state: u64,
    stream: u64,
    sources: &[&[u8]],
    pixels: Vec<Pixels>,
    targets: &[Target],
    borrowed: &Borrowed,
) -> Result<(), Status> {
    let rows = pixels.into_iter().zip(targets).map(|(Pixels { header, bytes }, target)| {
        let row_bytes = u64::from(header.width) * 3;
        let pitch = target.pitch[0] as u64;
        (pitch >= row_bytes).then_some(Rows { bytes, to: target.channel[0], pitch, row_bytes })
    });
    let rows: Vec<Rows> = rows.collect::<Option<_>>().ok_or(Status::INVALID_PARAMETER)?;
    let held = &call.jpeg.states[&state];
    let (Some(device), Some(pinned)) = (held.device.clone(), held.pinned.clone()) else {
        return Err(Status::ALLOCATOR_FAILURE);
    };
    let (before, engine) = (held.last.0.clone(), held.engine);
    // Its own group of before still reads the pinned memory.
    engine::settle(&mut call.state, None, &before)?;
    let pinned_ranges = borrowed.accesses().filter(|(_, writes)| !writes).map(|(range, _)| range);
    for range in pinned_ranges.chain([pinned.0.clone()]) {
        call.may_write(&range, engine.unwrap_or(stream));
    }
    let mut at = pinned.0.start;
    for source in sources {
        // SAFETY: pinned memory of the state, which has room for all of them; nothing that the state did is under way on it.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), at as *mut u8, source.len()) };
        at += source.len() as u64;
    }
    let range =
        |bytes: &&[u8]| -> Range<u64> { bytes.as_ptr() as u64..bytes.as_ptr() as u64 + bytes.len() as u64 };
    let images = rows.len() as u64;
    let work = Jpeg {
        rows,
        scratch: device.0,
        staged: pinned.0.start..at,
        borrowed: borrowed.accesses().collect(),
        sources: sources.iter().map(range).collect(),
    };
    let (origin, on) = (call.origin(), engine.unwrap_or(stream));
    call.submit(on, origin, Work::Jpeg(Arc::new(work)))?;
    if let Some(engine) = engine {
        let (reached, clock) = call.all_of(engine);
        call.hold_back(stream, &reached, &clock);
    }
    let last = call.all_of(on);
    call.jpeg.states.get_mut(&state).expect("a state in use is not destroyed").last = last;
    call.counters.jpeg_images += images;
    call.counters.jpeg_groups += 1;
    Ok(())
}
