//! What nvjpegDecodeBatched does.

use std::sync::Arc;

use super::allocators::{Borrowed, Piece};
use super::image::{self, Pixels};
use super::work::{Jpeg, Rows};
use super::{HARDWARE, Status};
use crate::engine::Work;
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
    let scratch: u64 = pixels.iter().map(|pixels| pixels.bytes.len() as u64).sum();
    call.grow(state, FIXED_BYTES + scratch, FIXED_BYTES, stream_number)?;
    // In two parts: what the first one borrowed is free for the allocators when the second one borrows.
    let second = pixels.split_off(pixels.len().div_ceil(2));
    let (begin, end) = (pixels.len(), pixels.len() + second.len());
    for (part, pixels) in [(0..begin, pixels), (begin..end, second)] {
        if part.is_empty() {
            continue;
        }
        let (sources, targets) = (&sources[part.clone()], &targets[part]);
        let compressed: u64 = sources.iter().map(|source| source.len() as u64).sum();
        let bytes: u64 = pixels.iter().map(|pixels| pixels.bytes.len() as u64).sum();
        let borrowed = call.borrow(state, FIXED_BYTES + bytes / 2, compressed, stream_number)?;
        call.stage(&borrowed.pinned, sources);
        let submitted =
            rows(pixels, targets).and_then(|rows| call.submit_part(state, stream, sources, rows, &borrowed));
        call.give_back(state, borrowed, stream_number);
        submitted?;
    }
    call.counters.jpeg_groups += 1;
    failed.map_or(Ok(()), Err)
}

/// Where pixels go, row by row.
fn rows(pixels: Vec<Pixels>, targets: &[Target]) -> Result<Vec<Rows>, Status> {
    let rows = pixels.into_iter().zip(targets).map(|(Pixels { header, bytes }, target)| {
        let row_bytes = u64::from(header.width) * 3;
        let pitch = target.pitch[0] as u64;
        (pitch >= row_bytes).then_some(Rows { bytes, to: target.channel[0], pitch, row_bytes })
    });
    rows.collect::<Option<_>>().ok_or(Status::INVALID_PARAMETER)
}

impl Call {
    /// Copies compressed images to pinned memory: what an allocator gave must have no other work on it.
    fn stage(&mut self, pinned: &Piece, sources: &[&[u8]]) {
        let origin = self.origin();
        for operation in self.history.unknown_to(pinned.0.clone(), &self.host, false) {
            let other = operation.origin.clone();
            let what = "writes to pinned memory that other work may still read";
            self.found(Kind::HostWrite, what, &origin, Some(&other));
        }
        let mut at = pinned.0.start;
        for source in sources {
            // SAFETY: pinned memory of this part alone, which has room for all of them.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), at as *mut u8, source.len()) };
            at += source.len() as u64;
        }
    }

    /// Submits a part of a group to the stream, or to the state's engine, which the stream waits for but which doesn't wait for the stream.
    fn submit_part(
        &mut self,
        state: u64,
        stream: u64,
        sources: &[&[u8]],
        rows: Vec<Rows>,
        borrowed: &Borrowed,
    ) -> Result<(), Status> {
        let held = &self.jpeg.states[&state];
        let (Some(device), Some(tables), engine) = (held.device.clone(), held.pinned.clone(), held.engine)
        else {
            return Err(Status::ALLOCATOR_FAILURE);
        };
        let range = |bytes: &&[u8]| bytes.as_ptr() as u64..bytes.as_ptr() as u64 + bytes.len() as u64;
        let images = rows.len() as u64;
        let work = Jpeg {
            rows,
            writes: vec![device.0, borrowed.device.0.clone()],
            reads: vec![tables.0, borrowed.pinned.0.clone()],
            sources: sources.iter().map(range).collect(),
        };
        let (origin, on) = (self.origin(), engine.unwrap_or(stream));
        self.submit(on, origin, Work::Jpeg(Arc::new(work)))?;
        if let Some(engine) = engine {
            let (reached, clock) = self.all_of(engine);
            self.hold_back(stream, &reached, &clock);
        }
        let last = self.all_of(on);
        self.jpeg.states.get_mut(&state).expect("a state in use is not destroyed").last = last;
        self.counters.jpeg_images += images;
        Ok(())
    }
}
