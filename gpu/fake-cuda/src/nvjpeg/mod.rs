//! A simulated nvJPEG beside the driver: `make fake-cuda` links the library to `libnvjpeg.so.12` too, so that both have one state.
//!
//! It decodes by libjpeg-turbo, on the calling thread; the pixels go to their targets as an operation of the stream, with the rules of any
//! other (`engine`). It answers as the real one does: what it doesn't take is an error of the whole group, also one image's; an image cut short
//! in its coded data decodes without a word. It is strict where the documentation leaves something open:
//! - Compressed bytes are read until the stream is done (`host-write` otherwise).
//! - A group that fails has begun with the images before the one to blame, and the state must be prepared anew (`misuse`).
//! - Scratch memory comes from the caller's allocators alone. A part grows with the groups, and is freed on the null stream at a state's end; another is
//!   allocated for each half of a group, and freed on its stream while that runs.
//! - Allocators may be read as long as the library's handle lives.
//! - A state is used by one thread at a time, and again or not at all when the host knows that its work is complete (`in-flight`).
//! - With `jpeg_engines`, the hardware backend writes to targets when it is called, whatever the stream has to do before, as others report of H100.

#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, arguments and contracts are those of nvJPEG's reference"
)]

/// Declares functions of nvJPEG: `RULES fn name(arguments) |call| { body }`.
macro_rules! nvjpeg {
    ($($rules:expr => fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$call:pat_param| $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of nvJPEG.")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> i32 {
                $crate::entry::call::<$crate::nvjpeg::Status>(stringify!($name), $rules, |$call| $body)
            }
        )*
    };
}

mod allocators;
pub mod batch;
pub mod decode;
mod image;
pub mod library;
pub mod parse;
pub(crate) mod work;

use std::collections::HashMap;

use crate::clocks::Clock;
use crate::codes::Code;
use crate::engine::Reached;
use crate::entry::{Answer, Call};
use crate::findings::Kind;
use crate::places::Origin;

use allocators::Piece;
use image::Header;

/// An nvjpegStatus_t that is not success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status(pub(crate) i32);

impl Status {
    const NOT_INITIALIZED: Self = Self(1);
    const INVALID_PARAMETER: Self = Self(2);
    const BAD_JPEG: Self = Self(3);
    const JPEG_NOT_SUPPORTED: Self = Self(4);
    const ALLOCATOR_FAILURE: Self = Self(5);
    const EXECUTION_FAILED: Self = Self(6);
    const ARCH_MISMATCH: Self = Self(7);
    const INCOMPLETE_BITSTREAM: Self = Self(10);
}

impl From<Code> for Status {
    fn from(_: Code) -> Self {
        Self::EXECUTION_FAILED
    }
}

impl Answer for Status {
    fn planned(code: Code) -> Self {
        Self(code.0)
    }

    fn number(self) -> i32 {
        self.0
    }
}

/// NVJPEG_BACKEND_HARDWARE
const HARDWARE: i32 = 3;

/// What there is of nvJPEG.
#[derive(Default)]
pub(crate) struct Jpeg {
    pub(crate) handles: HashMap<u64, Handle>,
    pub(crate) states: HashMap<u64, State>,
    pub(crate) parsed: HashMap<u64, Parsed>,
}

/// nvjpegHandle_t
pub(crate) struct Handle {
    pub(crate) context: u64,
    pub(crate) origin: Origin,
    backend: i32,
    /// The caller's, read again for every use.
    allocators: [usize; 2],
}

/// nvjpegJpegState_t
pub(crate) struct State {
    handle: u64,
    pub(crate) context: u64,
    pub(crate) origin: Origin,
    /// The group size that it is prepared for.
    prepared: Option<usize>,
    device: Option<Piece>,
    pinned: Option<Piece>,
    /// What it did so far.
    last: (Vec<Reached>, Clock),
    /// A thread is in a call with it.
    busy: bool,
    /// The stream that its hardware works on.
    engine: Option<u64>,
}

/// nvjpegJpegStream_t
pub(crate) struct Parsed {
    pub(crate) context: u64,
    pub(crate) origin: Origin,
    handle: u64,
    header: Option<Header>,
}

impl Call {
    /// The handle of a number, with its own context current.
    fn jpeg_handle(&mut self, number: u64) -> Result<(), Status> {
        let Some(handle) = self.jpeg.handles.get(&number) else {
            let name = self.name;
            self.no_such("nvJPEG handle", number, name);
            return Err(Status::INVALID_PARAMETER);
        };
        if handle.context != self.context {
            let (origin, made) = (self.origin(), handle.origin.clone());
            self.found(
                Kind::Misuse,
                "uses a handle with another context current than it was made with",
                &origin,
                Some(&made),
            );
            return Err(Status::EXECUTION_FAILED);
        }
        Ok(())
    }

    /// The state of a number, of this handle, which no other thread is using.
    fn jpeg_state(&mut self, handle: u64, number: u64) -> Result<&mut State, Status> {
        self.jpeg_handle(handle)?;
        let name = self.name;
        match self.jpeg.states.get(&number).map(|state| (state.handle == handle, state.busy)) {
            Some((true, false)) => {
                if !self.host.knows_all(&self.jpeg.states[&number].last.1) {
                    let origin = self.origin();
                    self.found(
                        Kind::InFlight,
                        "the host doesn't know that this state's work is complete",
                        &origin,
                        None,
                    );
                }
                Ok(self.jpeg.states.get_mut(&number).expect("just seen"))
            }
            Some((_, busy)) => {
                let origin = self.origin();
                let what = if busy { "two threads use one state" } else { "uses a state of another handle" };
                self.found(Kind::Misuse, what, &origin, None);
                Err(Status::INVALID_PARAMETER)
            }
            None => {
                self.no_such("nvJPEG state", number, name);
                Err(Status::INVALID_PARAMETER)
            }
        }
    }
}
