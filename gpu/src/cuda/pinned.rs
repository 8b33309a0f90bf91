//! Host memory that the device may read and write while the CPU does other things.

use std::io;
use std::ptr::NonNull;

use cudarc::driver::sys;

use super::context::Context;

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
