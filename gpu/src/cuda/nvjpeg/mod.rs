//! JPEG by nvJPEG, loaded at run time.
//!
//! Groups go through nvjpegDecodeBatched, the only interface of the library's engines, and the one that decodes Huffman codes on the device. It
//! answers for a group as a whole; which image is to blame is for [`Decoder`](crate::jpeg::Decoder) to find. The decoupled interface would answer
//! for each, at the price of the engines and of some ten launches an image.
//!
//! What the documentation leaves open is taken from its strictest side: compressed bytes may be read until the stream is done; a call that
//! failed may have written to targets; the state is used again only when nothing is under way.

mod library;
mod scratch;
mod sys;
#[cfg(test)]
mod sys_tests;

use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::{CudaDevice, stream};
use crate::device::{Device, Event, RawStream};
use crate::error::{Error, Result};
use crate::jpeg::{Backend, Codec, Facts, Frame, Picture, Refusal, Settings};
use crate::memory::DeviceMemory;

use library::Library;
use scratch::{Allocators, Scratch};
use sys::{Functions, Handle, Image, backend, status};

/// Of the CPU, that the library decodes a group on: the calling one. Others would take cores from the loader's own threads.
const THREADS: i32 = 1;

/// One nvjpegHandle_t with its state, for one thread at a time.
#[derive(Debug)]
pub(super) struct NvJpeg {
    functions: Functions,
    facts: Facts,
    handle: Handle,
    state: Handle,
    parsed: Handle,
    /// The group size that the state is prepared for; 0 for none, as after a failure.
    prepared: usize,
    scratch: Arc<Scratch>,
    /// The library may keep the address.
    allocators: NonNull<Allocators>,
    device: Arc<CudaDevice>,
}

// SAFETY: handles, which the library takes from any thread, one at a time; memory of this alone.
unsafe impl Send for NvJpeg {}

impl NvJpeg {
    pub(super) fn open(
        device: Arc<CudaDevice>,
        memory: &DeviceMemory,
        on: RawStream,
        settings: &Settings,
    ) -> Result<Self> {
        // Before the library is looked for: in a forked child it may not even be loaded.
        let inside = device.context.enter()?;
        let none = |what| Error::NoJpeg { device: device.facts.name.clone(), what };
        let Library { functions, name } =
            Library::open(&settings.folders, device.facts.driver).map_err(none)?;
        drop(inside);
        let scratch = Scratch::new(device.clone(), memory, settings.pinned_limit_bytes, on);
        let allocators = Allocators::new(&scratch);
        let facts = Facts { library: name, backend: Backend::Library, passed_over: None };
        let (handle, state, parsed) = (null_mut(), null_mut(), null_mut());
        let mut this =
            Self { functions, facts, handle, state, parsed, prepared: 0, scratch, allocators, device };
        this.create(settings.engines)?;
        Ok(this)
    }

    /// Makes the handle by the best backend that there is, and its state.
    fn create(&mut self, engines: bool) -> Result<()> {
        let _inside = self.device.context.enter()?;
        let backends = [
            (Backend::Engines, backend::HARDWARE),
            (Backend::Device, backend::GPU_HYBRID),
            (Backend::Library, backend::DEFAULT),
        ];
        let mut code = status::SUCCESS;
        for (backend, number) in backends.into_iter().skip(usize::from(!engines)) {
            // SAFETY: two allocators that live as long as the handle; writes one handle.
            code = unsafe {
                let allocators = self.allocators.as_ptr();
                let (device, pinned) = (&raw mut (*allocators).device, &raw mut (*allocators).pinned);
                (self.functions.create)(number, device, pinned, sys::STRICT, &mut self.handle)
            };
            if code == status::SUCCESS {
                self.facts.backend = backend;
                break;
            }
            self.handle = null_mut();
            if code == status::ALLOCATOR_FAILURE {
                break;
            }
            self.facts
                .passed_over
                .get_or_insert_with(|| format!("{}: {}", backend.name(), status::name(code)));
        }
        self.must("nvjpegCreateExV2", code)?;
        // SAFETY: the handle is made; each writes one handle.
        unsafe {
            let code = (self.functions.create_state)(self.handle, &mut self.state);
            self.must("nvjpegJpegStateCreate", code)?;
            let code = (self.functions.create_parsed)(self.handle, &mut self.parsed);
            self.must("nvjpegJpegStreamCreate", code)
        }
    }

    /// An answer that has nothing to do with an image.
    fn must(&self, call: &'static str, code: i32) -> Result<()> {
        match (code, self.scratch.take_failure()) {
            (status::SUCCESS, _) => Ok(()),
            (status::ALLOCATOR_FAILURE, Some(failure)) => Err(failure),
            _ => Err(self.error(call, code)),
        }
    }

    fn error(&self, call: &'static str, code: i32) -> Error {
        Error::Jpeg { call, device: self.device.facts.name.clone(), code, name: status::name(code) }
    }

    /// An answer about images: theirs is the fault, unless the device says that it is lost.
    fn about(&self, call: &'static str, code: i32) -> Result<Result<(), Refusal>> {
        let failure = self.scratch.take_failure();
        let refusal = match (code, failure) {
            (status::SUCCESS, _) => return Ok(Ok(())),
            (_, Some(error @ (Error::Lost { .. } | Error::Ending { .. } | Error::Forked { .. }))) => {
                return Err(error);
            }
            (status::ALLOCATOR_FAILURE, Some(error)) => Refusal::Memory(error),
            (status::BAD_JPEG, _) => Refusal::corrupt("the device's decoder says so"),
            (status::INCOMPLETE_BITSTREAM, _) => Refusal::corrupt("it ends early"),
            // Of some images that it doesn't support, the library says that a parameter is invalid.
            (
                status::JPEG_NOT_SUPPORTED | status::IMPLEMENTATION_NOT_SUPPORTED | status::INVALID_PARAMETER,
                _,
            ) => Refusal::unsupported(status::name(code)),
            _ => {
                let device: Arc<dyn Device> = self.device.clone();
                Event::record(&device, self.scratch.stream())?;
                Refusal::Failed(self.error(call, code))
            }
        };
        Ok(Err(refusal))
    }
}

impl Codec for NvJpeg {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn look(&mut self, bytes: &[u8]) -> Result<Result<Frame, Refusal>> {
        let _inside = self.device.context.enter()?;
        let (functions, parsed) = (self.functions, self.parsed);
        // SAFETY: the handles are made, and the bytes are read during the call only: of a header nothing is kept.
        let code = unsafe { (functions.parse_header)(self.handle, bytes.as_ptr(), bytes.len(), parsed) };
        if let Err(refusal) = self.about("nvjpegJpegStreamParseHeader", code)? {
            return Ok(Err(refusal));
        }
        let (mut width, mut height, mut subsampling, mut unsupported) = (0, 0, sys::UNKNOWN_SUBSAMPLING, 1);
        // SAFETY: the header is parsed; each writes numbers.
        let codes = unsafe {
            [
                ("nvjpegJpegStreamGetFrameDimensions", (functions.frame_of)(parsed, &mut width, &mut height)),
                (
                    "nvjpegJpegStreamGetChromaSubsampling",
                    (functions.subsampling_of)(parsed, &mut subsampling),
                ),
                ("nvjpegDecodeBatchedSupported", (functions.supports)(self.handle, parsed, &mut unsupported)),
            ]
        };
        for (call, code) in codes {
            if let Err(refusal) = self.about(call, code)? {
                return Ok(Err(refusal));
            }
        }
        Ok(if subsampling == sys::UNKNOWN_SUBSAMPLING {
            Err(Refusal::unsupported("an unusual subsampling of its colours"))
        } else if unsupported != 0 {
            Err(Refusal::unsupported(format!("not one for its {} backend", self.facts.backend.name())))
        } else {
            Ok(Frame { width, height })
        })
    }

    unsafe fn start(&mut self, pictures: &[Picture<'_>], on: RawStream) -> Result<Result<(), Refusal>> {
        let _inside = self.device.context.enter()?;
        if self.prepared != pictures.len() {
            let count = i32::try_from(pictures.len()).unwrap_or(i32::MAX);
            // SAFETY: the handles are made, and nothing is under way.
            let code = unsafe {
                (self.functions.prepare)(self.handle, self.state, count, THREADS, sys::RGB_INTERLEAVED)
            };
            if let Err(refusal) = self.about("nvjpegDecodeBatchedInitialize", code)? {
                return Ok(Err(refusal));
            }
        }
        self.prepared = 0;
        let bytes: Vec<_> = pictures.iter().map(|picture| picture.bytes.as_ptr()).collect();
        let lengths: Vec<_> = pictures.iter().map(|picture| picture.bytes.len()).collect();
        let mut targets: Vec<_> = pictures
            .iter()
            .map(|picture| Image {
                channel: [
                    std::ptr::with_exposed_provenance_mut(picture.to.0 as usize),
                    null_mut(),
                    null_mut(),
                    null_mut(),
                ],
                pitch: [picture.pitch as usize, 0, 0, 0],
            })
            .collect();
        // SAFETY: the state is prepared for as many; bytes and targets are the caller's promise.
        let code = unsafe {
            (self.functions.decode)(
                self.handle,
                self.state,
                bytes.as_ptr(),
                lengths.as_ptr(),
                targets.as_mut_ptr(),
                stream(on),
            )
        };
        let started = self.about("nvjpegDecodeBatched", code)?;
        if started.is_ok() {
            self.prepared = pictures.len();
        }
        Ok(started)
    }

    fn scratch_bytes(&self) -> (u64, u64) {
        self.scratch.bytes()
    }
}

impl Drop for NvJpeg {
    fn drop(&mut self) {
        let device = self.device.clone();
        let Ok(_inside) = device.context.enter() else {
            // Nothing can be called any more, and what is not destroyed may keep the allocators.
            return;
        };
        let Functions { destroy_parsed, destroy_state, destroy, .. } = self.functions;
        let ends = [
            ("nvjpegJpegStreamDestroy", destroy_parsed, self.parsed),
            ("nvjpegJpegStateDestroy", destroy_state, self.state),
            ("nvjpegDestroy", destroy, self.handle),
        ];
        for (call, end, handle) in ends.into_iter().filter(|(_, _, handle)| !handle.is_null()) {
            // SAFETY: made once, destroyed once, the library's handle last; nothing is under way.
            let code = unsafe { end(handle) };
            if code != status::SUCCESS {
                tracing::error!(error = %self.error(call, code), "a JPEG decoder could not be given back");
            }
        }
        // SAFETY: made by `open`; the library, which may have kept it, is done.
        unsafe { Allocators::end(self.allocators) };
    }
}
