//! Host memory that the device may read and write while the CPU does other things.

use std::io;
use std::ptr::NonNull;

use cudarc::driver::sys;

use super::context::Context;
use crate::error::Result;

/// One registration: some drivers refuse more at once.
const PIECE_BYTES: usize = 64 << 30;

/// Pins in pieces; where one is refused, those before it are let go again.
pub(super) fn pin(context: &Context, start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    let inside = context.enter().map_err(io::Error::other)?;
    for (done, (at, len)) in pieces(start, bytes).enumerate() {
        // SAFETY: the caller owns this memory and keeps it mapped until `unpin`. Portable: of use to every context. Not write-combined, as
        // decoders and checksums read it.
        let code =
            unsafe { sys::cuMemHostRegister_v2(at.as_ptr().cast(), len, sys::CU_MEMHOSTREGISTER_PORTABLE) }
                as u32;
        if let Err(error) = inside.check("cuMemHostRegister", code) {
            for (at, _) in pieces(start, bytes).take(done) {
                // SAFETY: registered above.
                context.note("cuMemHostUnregister", unsafe { sys::cuMemHostUnregister(at.as_ptr().cast()) }
                    as u32);
            }
            return Err(io::Error::other(error));
        }
    }
    Ok(())
}

/// Lets go what [`pin`] pinned.
pub(super) fn unpin(context: &Context, start: NonNull<u8>, bytes: usize) {
    let Ok(_inside) = context.enter() else { return };
    for (at, _) in pieces(start, bytes) {
        // SAFETY: registered by `pin`, and the caller says that no copy is under way.
        context.note("cuMemHostUnregister", unsafe { sys::cuMemHostUnregister(at.as_ptr().cast()) } as u32);
    }
}

/// Pinned memory of the driver's own.
#[derive(Debug)]
pub(super) struct Allocated {
    pub(super) start: NonNull<u8>,
    pub(super) bytes: usize,
}

// SAFETY: memory, which any thread may read, write and give back; who owns this decides which does.
unsafe impl Send for Allocated {}

/// Allocates pinned memory.
pub(super) fn allocate(context: &Context, bytes: usize) -> Result<Allocated> {
    let inside = context.enter()?;
    let mut start = std::ptr::null_mut();
    // SAFETY: writes one address. Portable: of use to every context.
    let code = unsafe { sys::cuMemHostAlloc(&mut start, bytes, sys::CU_MEMHOSTALLOC_PORTABLE) } as u32;
    inside.check("cuMemHostAlloc", code)?;
    // Only for no bytes at all does a driver succeed with null.
    Ok(Allocated { start: NonNull::new(start.cast()).unwrap_or(NonNull::dangling()), bytes })
}

/// Frees what [`allocate`] gave; no copy from or to it is under way.
pub(super) fn free(context: &Context, allocated: Allocated) {
    let Ok(_inside) = context.enter() else { return };
    // SAFETY: allocated once, freed once.
    context.note("cuMemFreeHost", unsafe { sys::cuMemFreeHost(allocated.start.as_ptr().cast()) } as u32);
}

/// A copy of `bytes` from `offset` of the pinned memory, cut at the edges of registrations, which no copy may cross: (offset in the copy, length).
pub(super) fn parts(offset: usize, bytes: usize) -> Vec<(usize, usize)> {
    let (mut parts, mut done) = (Vec::with_capacity(1), 0);
    while done < bytes {
        let len = (bytes - done).min(PIECE_BYTES - (offset + done) % PIECE_BYTES);
        parts.push((done, len));
        done += len;
    }
    parts
}

fn pieces(start: NonNull<u8>, bytes: usize) -> impl Iterator<Item = (NonNull<u8>, usize)> {
    (0..bytes).step_by(PIECE_BYTES).map(move |offset| {
        // SAFETY: inside the memory that the caller gave.
        (unsafe { start.add(offset) }, PIECE_BYTES.min(bytes - offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_cut_where_two_registrations_meet() {
        assert_eq!(parts(5, 10), [(0, 10)]);
        assert_eq!(parts(PIECE_BYTES - 1, 2), [(0, 1), (1, 1)]);
        assert_eq!(parts(PIECE_BYTES, 7), [(0, 7)]);
        assert_eq!(
            parts(1, 2 * PIECE_BYTES),
            [(0, PIECE_BYTES - 1), (PIECE_BYTES - 1, PIECE_BYTES), (2 * PIECE_BYTES - 1, 1)]
        );
        assert!(parts(3, 0).is_empty());
    }
}
