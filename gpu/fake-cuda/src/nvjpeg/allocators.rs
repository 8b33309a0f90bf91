//! Scratch memory, by the allocators that the caller gave.

use std::ffi::{c_int, c_void};
use std::ops::Range;

use super::Status;
use crate::entry::Call;
use crate::findings::Kind;
use crate::host::Cover;
use crate::state::Locked;

type Allocate = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, usize, *mut c_void) -> c_int;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, *mut c_void) -> c_int;

/// nvjpegDevAllocatorV2_t and nvjpegPinnedAllocatorV2_t
#[repr(C)]
#[derive(Clone, Copy)]
struct Allocator {
    allocate: Allocate,
    free: Free,
    context: *mut c_void,
}

/// Memory that an allocator gave.
#[derive(Clone, Debug)]
pub(crate) struct Piece(pub(super) Range<u64>);

/// Of a handle's two allocators.
#[derive(Clone, Copy)]
enum Which {
    Device,
    Pinned,
}

/// Memory for a part of a group.
pub(super) struct Borrowed {
    pub(super) device: Piece,
    pub(super) pinned: Piece,
}

impl Call {
    fn allocator(&self, state: u64, which: Which) -> Allocator {
        let handle = self.jpeg.states[&state].handle;
        let address = self.jpeg.handles[&handle].allocators[which as usize];
        // SAFETY: the program gave it for as long as the handle lives.
        unsafe { std::ptr::with_exposed_provenance::<Allocator>(address).read() }
    }

    fn piece(&mut self, state: u64, which: Which) -> &mut Option<Piece> {
        let state = self.jpeg.states.get_mut(&state).expect("a state in use is not destroyed");
        match which {
            Which::Device => &mut state.device,
            Which::Pinned => &mut state.pinned,
        }
    }

    /// Sees to it that a state has so much scratch memory: what it has is freed, though it may be in use on the stream, and more allocated.
    pub(super) fn grow(&mut self, state: u64, device: u64, pinned: u64, stream: u64) -> Result<(), Status> {
        for (which, bytes) in [(Which::Device, device), (Which::Pinned, pinned)] {
            let has = self.piece(state, which).as_ref().map_or(0, |piece| piece.0.end - piece.0.start);
            if has < bytes {
                if let Some(piece) = self.piece(state, which).take() {
                    self.free(state, which, piece, stream);
                }
                let piece = self.allocate(state, which, bytes, stream)?;
                *self.piece(state, which) = Some(piece);
            }
        }
        Ok(())
    }

    /// Frees all of a state's scratch memory.
    pub(super) fn shrink(&mut self, state: u64) {
        for which in [Which::Device, Which::Pinned] {
            if let Some(piece) = self.piece(state, which).take() {
                self.free(state, which, piece, 0);
            }
        }
    }

    /// Memory for a part of a group: so much of the device's, and so much pinned.
    pub(super) fn borrow(
        &mut self,
        state: u64,
        device: u64,
        pinned: u64,
        stream: u64,
    ) -> Result<Borrowed, Status> {
        let device = self.allocate(state, Which::Device, device, stream)?;
        match self.allocate(state, Which::Pinned, pinned, stream) {
            Ok(pinned) => Ok(Borrowed { device, pinned }),
            Err(status) => {
                self.free(state, Which::Device, device, stream);
                Err(status)
            }
        }
    }

    /// Frees what a part used, on its stream, which may still use it.
    pub(super) fn give_back(&mut self, state: u64, borrowed: Borrowed, stream: u64) {
        self.free(state, Which::Device, borrowed.device, stream);
        self.free(state, Which::Pinned, borrowed.pinned, stream);
    }

    fn allocate(&mut self, state: u64, which: Which, bytes: u64, stream: u64) -> Result<Piece, Status> {
        let allocator = self.allocator(state, which);
        let mut at = std::ptr::null_mut();
        let code = Locked::unlocked(&mut self.state, || {
            // SAFETY: the program's own function, with its context; there is room for the address.
            unsafe { (allocator.allocate)(allocator.context, &mut at, bytes as usize, stream as *mut c_void) }
        });
        if code != 0 {
            return Err(Status::ALLOCATOR_FAILURE);
        }
        let range = at as u64..at as u64 + bytes;
        let is_right = match which {
            Which::Device => self.memory.device_of(range.start) == self.device().ok(),
            Which::Pinned => matches!(self.pinned.cover(&range), Cover::All),
        };
        if !is_right {
            let what = format!("an allocator gave {:#x}, which is no such memory", range.start);
            let origin = self.origin();
            self.found(Kind::Misuse, &what, &origin, None);
            return Err(Status::ALLOCATOR_FAILURE);
        }
        Ok(Piece(range))
    }

    fn free(&mut self, state: u64, which: Which, Piece(range): Piece, stream: u64) {
        let allocator = self.allocator(state, which);
        let code = Locked::unlocked(&mut self.state, || {
            let bytes = (range.end - range.start) as usize;
            // SAFETY: the program's own function, with its context and what it gave.
            unsafe {
                (allocator.free)(allocator.context, range.start as *mut c_void, bytes, stream as *mut c_void)
            }
        });
        if code != 0 {
            let what = format!("an allocator doesn't take back {:#x}", range.start);
            let origin = self.origin();
            self.found(Kind::Misuse, &what, &origin, None);
        }
    }
}
