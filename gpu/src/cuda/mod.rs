//! CUDA: the only code that names cudarc.
//!
//! By cudarc's raw functions, whose errors are checked here: its safe layer reports a destructor's error from an unrelated call, binds contexts for
//! good, and synchronises at the first stream. Every call enters the device's primary context and leaves it, with the capture mode of the
//! thread set to relaxed meanwhile: neither a framework's current device nor a capture of the user's is disturbed.
//!
//! Errors come back as numbers: cudarc's enum of them ends with CUDA 12.0, and later drivers know more.
#![allow(unsafe_code)]

mod context;
mod driver;
mod facts;
mod kernels;
mod memory;
mod nvjpeg;
mod pinned;

use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock, Weak};

use cudarc::driver::sys;
use forebay_kernels::Launch;
use parking_lot::Mutex;

use crate::device::{Address, Capture, Device, Facts, RawEvent, RawStream};
use crate::error::{Error, Result};
use crate::jpeg;
use crate::memory::DeviceMemory;
use crate::mutant::{self, Mutant};
use crate::which::Which;

use context::Context;
use kernels::Kernels;
use memory::Source;
use nvjpeg::NvJpeg;

/// cuda.h: CUDA_ERROR_NOT_READY, the answer to a question, not an error.
const NOT_READY: u32 = 600;
/// cuda.h: CUDA_ERROR_NOT_SUPPORTED.
const NOT_SUPPORTED: u32 = 801;

/// For ordering only; and who blocks on one sleeps instead of keeping a core busy.
const EVENT_FLAGS: u32 =
    sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;

/// A CUDA device. One for each device and process, however many ask for it.
#[derive(Debug)]
pub struct CudaDevice {
    facts: Facts,
    memory: Source,
    kernels: OnceLock<Kernels>,
    // Dropped last.
    context: Context,
}

/// What is pinned, for whatever device: address and length.
static PINNED: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// The devices that somebody uses, by index.
static OPEN: Mutex<Vec<Weak<CudaDevice>>> = Mutex::new(Vec::new());

impl CudaDevice {
    /// How many devices this process sees.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoDevice`].
    pub fn count() -> Result<u32> {
        driver::driver()?;
        let mut count = 0;
        // SAFETY: writes one number.
        let code = unsafe { sys::cuDeviceGetCount(&mut count) } as u32;
        let (name, text) = if code == 0 { Default::default() } else { driver::words(code) };
        match code {
            0 => Ok(count.max(0) as u32),
            _ => Err(Error::NoDriver { what: format!("cuDeviceGetCount failed: {name} ({code}), {text}") }),
        }
    }

    /// The file that the driver was loaded from.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn library() -> Result<&'static Path> {
        Ok(&driver::driver()?.library)
    }

    /// The newest CUDA that the driver knows, such as (12, 4).
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn version() -> Result<(i32, i32)> {
        Ok(driver::driver()?.version)
    }

    /// Opens a device, or gives the one that is open.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoDevice`], [`Error::Driver`].
    pub fn open(which: &Which) -> Result<Arc<dyn Device>> {
        let count = Self::count()?;
        let uuids = || {
            (0..count as i32)
                .map(|index| Ok(facts::uuid(facts::device_at(index)?)))
                .collect::<Result<Vec<_>>>()
        };
        let index = which.choose(count, uuids)?;
        let mut open = OPEN.lock();
        open.retain(|device| device.strong_count() > 0);
        if let Some(device) = open.iter().filter_map(Weak::upgrade).find(|device| device.facts.index == index)
        {
            if !device.context.is_forked() {
                return Ok(device);
            }
            return Err(Error::Forked { device: device.facts.name.clone() });
        }
        let device = Arc::new(Self::new(index)?);
        open.push(Arc::downgrade(&device));
        Ok(device)
    }

    fn new(index: i32) -> Result<Self> {
        let driver = driver::driver()?;
        let device = facts::device_at(index)?;
        let model = facts::model(device);
        let name: Arc<str> = format!("cuda:{index} ({model})").into();
        let context = Context::retain(driver, device, name.clone())?;
        let attribute = |attribute| facts::attribute(device, attribute);
        let memory = Source::new(&context, attribute)?;
        let total_bytes = facts::total_bytes(&context)?;
        let facts = Facts {
            name,
            index,
            dlpack_type: 2,
            uuid: facts::uuid(device).map(|uuid| facts::uuid_text(&model, &uuid)),
            pci: facts::pci(device),
            total_bytes,
            capability: facts::capability(device),
            driver: driver.version,
        };
        Ok(Self { facts, memory, kernels: OnceLock::new(), context })
    }

    fn kernels(&self) -> Result<&Kernels> {
        if let Some(kernels) = self.kernels.get() {
            return Ok(kernels);
        }
        let loaded = Kernels::load(&self.context, forebay_kernels::PTX, &forebay_kernels::NAMES)?;
        let mut lost = Some(loaded);
        let kernels = self.kernels.get_or_init(|| lost.take().unwrap_or_else(|| unreachable!("called once")));
        if let Some(second) = lost {
            // Another thread was faster.
            second.unload(&self.context);
        }
        Ok(kernels)
    }

    /// Parts of a host range, none of which crosses the edge of two registrations.
    fn parts(start: usize, bytes: usize) -> Vec<(usize, usize)> {
        let pinned = PINNED.lock();
        let base = pinned.iter().find(|(at, len)| *at <= start && start < at + len).map(|(at, _)| *at);
        match base {
            Some(base) => pinned::parts(start - base, bytes),
            None => vec![(0, bytes)],
        }
    }
}

/// Ends all use of CUDA by this crate, for a process that is about to exit: waits for calls under way; later ones are [`Error::Ending`], and what is
/// still held goes with the process.
pub fn end() {
    context::end();
}

fn stream(raw: RawStream) -> sys::CUstream {
    std::ptr::with_exposed_provenance_mut(raw.0 as usize)
}

fn event(raw: RawEvent) -> sys::CUevent {
    std::ptr::with_exposed_provenance_mut(raw.0 as usize)
}

impl Device for CudaDevice {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn memory_kind(&self) -> &'static str {
        self.memory.name()
    }

    fn free_bytes(&self) -> Result<u64> {
        let _inside = self.context.enter()?;
        Ok(memory::free_and_total(&self.context)?.0)
    }

    fn take(&self, bytes: u64, what: &'static str) -> Result<(Address, u64)> {
        self.memory.take(&self.context, bytes, what)
    }

    unsafe fn give_back(&self, at: Address, bytes: u64) {
        // SAFETY: as the caller promises.
        unsafe { self.memory.give_back(&self.context, at, bytes) };
    }

    fn create_stream(&self) -> Result<RawStream> {
        let inside = self.context.enter()?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code =
            unsafe { sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) }
                as u32;
        inside.check("cuStreamCreate", code)?;
        Ok(RawStream(stream.expose_provenance() as u64))
    }

    unsafe fn drop_stream(&self, raw: RawStream) {
        let Ok(_inside) = self.context.enter() else { return };
        // SAFETY: the caller's, and its last use.
        self.context.note("cuStreamDestroy", unsafe { sys::cuStreamDestroy_v2(stream(raw)) } as u32);
    }

    fn create_event(&self) -> Result<RawEvent> {
        let inside = self.context.enter()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { sys::cuEventCreate(&mut event, EVENT_FLAGS) } as u32;
        inside.check("cuEventCreate", code)?;
        Ok(RawEvent(event.expose_provenance() as u64))
    }

    unsafe fn drop_event(&self, raw: RawEvent) {
        let Ok(_inside) = self.context.enter() else { return };
        // SAFETY: the caller's, and its last use.
        self.context.note("cuEventDestroy", unsafe { sys::cuEventDestroy_v2(event(raw)) } as u32);
    }

    fn record(&self, raw: RawEvent, on: RawStream) -> Result<()> {
        let inside = self.context.enter()?;
        // SAFETY: both exist: the event is ours, and a foreign stream is named by its owner.
        inside.check("cuEventRecord", unsafe { sys::cuEventRecord(event(raw), stream(on)) } as u32)
    }

    fn record_all(&self, raw: RawEvent) -> Result<bool> {
        let Some(record_all) = self.context.driver.record_all else { return Ok(false) };
        let inside = self.context.enter()?;
        // SAFETY: the context is retained, the event ours.
        match unsafe { record_all(self.context.raw, event(raw)) } {
            NOT_SUPPORTED => Ok(false),
            code => inside.check("cuCtxRecordEvent", code).map(|()| true),
        }
    }

    fn wait(&self, on: RawStream, raw: RawEvent) -> Result<()> {
        let inside = self.context.enter()?;
        // SAFETY: as in `record`.
        inside.check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(stream(on), event(raw), 0) } as u32)
    }

    fn is_done(&self, raw: RawEvent) -> Result<bool> {
        let inside = self.context.enter()?;
        // SAFETY: the event is ours.
        match unsafe { sys::cuEventQuery(event(raw)) } as u32 {
            NOT_READY => Ok(false),
            code => inside.check("cuEventQuery", code).map(|()| true),
        }
    }

    fn block_on(&self, raw: RawEvent) -> Result<()> {
        let inside = self.context.enter()?;
        // SAFETY: the event is ours.
        inside.check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(event(raw)) } as u32)
    }

    fn block_on_all(&self) -> Result<()> {
        let inside = self.context.enter()?;
        // SAFETY: waits for the current context, which is ours.
        inside.check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() } as u32)
    }

    fn capture_of(&self, raw: RawStream) -> Result<Capture> {
        let inside = self.context.enter()?;
        if raw != RawStream::LEGACY && raw != RawStream::PER_THREAD {
            let mut owner = std::ptr::null_mut();
            // SAFETY: the stream's owner names it; writes one handle.
            inside.check("cuStreamGetCtx", unsafe { sys::cuStreamGetCtx(stream(raw), &mut owner) } as u32)?;
            if owner != self.context.raw {
                return Err(Error::Stream {
                    stream: raw.0,
                    what: "it belongs to another device than the batch",
                });
            }
        }
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: as above; writes one number.
        inside.check("cuStreamIsCapturing", unsafe { sys::cuStreamIsCapturing(stream(raw), &mut status) }
            as u32)?;
        Ok(match status {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Capture::None,
            _ => Capture::Active,
        })
    }

    unsafe fn copy_in(&self, from: *const u8, to: Address, bytes: usize, on: RawStream) -> Result<()> {
        let inside = self.context.enter()?;
        for (offset, len) in Self::parts(from.addr(), bytes) {
            // SAFETY: both ranges are the caller's until the stream has done the copy.
            let code = unsafe {
                sys::cuMemcpyHtoDAsync_v2(to.0 + offset as u64, from.add(offset).cast(), len, stream(on))
            } as u32;
            inside.check("cuMemcpyHtoDAsync", code)?;
        }
        if mutant::is(Mutant::UnpinEarly) {
            let pinned = std::mem::take(&mut *PINNED.lock());
            let starts = pinned.into_iter().filter_map(|(at, len)| {
                Some((NonNull::new(std::ptr::with_exposed_provenance_mut(at))?, len))
            });
            starts.for_each(|(start, len)| pinned::unpin(&self.context, start, len));
        }
        Ok(())
    }

    unsafe fn copy_out(&self, from: Address, to: *mut u8, bytes: usize, on: RawStream) -> Result<()> {
        let inside = self.context.enter()?;
        for (offset, len) in Self::parts(to.addr(), bytes) {
            // SAFETY: as in `copy_in`.
            let code = unsafe {
                sys::cuMemcpyDtoHAsync_v2(to.add(offset).cast(), from.0 + offset as u64, len, stream(on))
            } as u32;
            inside.check("cuMemcpyDtoHAsync", code)?;
        }
        Ok(())
    }

    unsafe fn copy_within(&self, from: Address, to: Address, bytes: usize, on: RawStream) -> Result<()> {
        let inside = self.context.enter()?;
        // SAFETY: as in `copy_in`.
        inside
            .check("cuMemcpyDtoDAsync", unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, stream(on)) }
                as u32)
    }

    unsafe fn launch(&self, kernel: &'static str, how: Launch, argument: &[u8], on: RawStream) -> Result<()> {
        let kernels = self.kernels()?;
        let inside = self.context.enter()?;
        let function = kernels.get(&self.context, kernel)?;
        let ([x, y, z], [i, j, k]) = (how.grid, how.block);
        let mut parameters = [argument.as_ptr().cast_mut().cast()];
        // SAFETY: the driver copies the one argument before it returns; the memory that it names is the caller's until the stream is done.
        let code = unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                i,
                j,
                k,
                0,
                stream(on),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        } as u32;
        inside.check("cuLaunchKernel", code)
    }

    fn jpeg_codec(
        self: Arc<Self>,
        memory: &DeviceMemory,
        on: RawStream,
        settings: &jpeg::Settings,
    ) -> Result<Box<dyn jpeg::Codec>> {
        Ok(Box::new(NvJpeg::open(self, memory, on, settings)?))
    }

    fn pin(&self, start: NonNull<u8>, bytes: usize) -> io::Result<()> {
        pinned::pin(&self.context, start, bytes)?;
        PINNED.lock().push((start.addr().get(), bytes));
        Ok(())
    }

    fn unpin(&self, start: NonNull<u8>, bytes: usize) {
        if self.context.is_forked() {
            return;
        }
        PINNED.lock().retain(|&(at, _)| at != start.addr().get());
        pinned::unpin(&self.context, start, bytes);
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if let Some(kernels) = self.kernels.get() {
            kernels.unload(&self.context);
        }
    }
}
