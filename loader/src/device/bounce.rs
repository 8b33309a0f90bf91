//! Bytes of the heap on their way to the device, over pinned memory.

use std::sync::Arc;

use forebay_cache::Lease;
use forebay_gpu::{DeviceSlab, Event, Staging};

use super::{BOUNCE_PIECE, Ground};
use crate::error::Result;
use crate::session::Session;

/// Starts to copy bytes of the heap to the start of `to`, piece by piece.
pub(super) fn bounced(
    staging: &mut Staging,
    ground: &Ground,
    session: &Session,
    bytes: Lease,
    to: &mut DeviceSlab,
) -> Result<Arc<Event>> {
    let (mut ready, mut offset) = (None, 0);
    for piece in bytes.chunks(BOUNCE_PIECE) {
        let mut slab = loop {
            staging.collect()?;
            if let Some(slab) = ground.bounce.try_allocate(piece.len()) {
                break slab;
            }
            if !staging.wait_for_one()? {
                // Somebody else copies over it.
                break session.block_on(ground.bounce.allocate(piece.len()))?;
            }
        };
        slab[..piece.len()].copy_from_slice(piece);
        ready = Some(staging.copy(slab.freeze().slice(0..piece.len()), to, offset)?);
        offset += piece.len() as u64;
    }
    match ready {
        Some(ready) => Ok(ready),
        // There are none, and the event is still wanted.
        None => Ok(staging.copy(bytes, to, 0)?),
    }
}
