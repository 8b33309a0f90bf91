//! What nvJPEG allocates: device memory out of `gpu_memory_limit`, and pinned memory of the driver's.
//!
//! The library frees memory while the device still works with it, and names the stream on which it does. A piece is therefore used again only
//! behind an event on that stream, and on the decoder's own, where all of its work is.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::panic::AssertUnwindSafe;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUstream;
use parking_lot::Mutex;

use super::sys::Allocator;
use crate::cuda::CudaDevice;
use crate::cuda::pinned::{self, Allocated};
use crate::device::{Device, Event, RawStream};
use crate::error::{Error, Result};
use crate::memory::{DeviceMemory, DeviceSlab, Guard, Waited};

/// How long memory is waited for that others let go of and the device still works with: far longer than any batch takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one look at it takes at most.
const SLICE: Duration = Duration::from_millis(100);

/// The least that is pinned at once.
const LEAST_PINNED: usize = 64 << 10;

/// What the library is told of a failure: cudaErrorMemoryAllocation and cudaErrorInvalidValue.
const NO_MEMORY: c_int = 2;
const NOT_OURS: c_int = 1;

/// What one decoder's library holds. Its functions may be called on any thread.
#[derive(Debug)]
pub(super) struct Scratch {
    device: Arc<CudaDevice>,
    memory: DeviceMemory,
    pinned_limit: usize,
    /// The decoder's.
    stream: RawStream,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    slabs: HashMap<usize, DeviceSlab>,
    pinned: HashMap<usize, Allocated>,
    /// Pinned memory that the library let go of, with what it waits for.
    retired: Vec<(Vec<Guard>, Allocated)>,
    /// Why the last allocation failed.
    failure: Option<Error>,
}

/// What the library is given for device and for pinned memory. It may keep the address of either for as long as its handle lives, and what they
/// stand for may be gone by then: a device that is lost takes no calls any more.
#[repr(C)]
pub(super) struct Allocators {
    pub(super) device: Allocator,
    pub(super) pinned: Allocator,
    scratch: Weak<Scratch>,
}

impl Allocators {
    /// At an address for good, until [`Self::end`].
    pub(super) fn new(scratch: &Arc<Scratch>) -> NonNull<Self> {
        let context = null_mut();
        let this = Box::leak(Box::new(Self {
            device: Allocator { allocate: allocate_device, free: free_device, context },
            pinned: Allocator { allocate: allocate_pinned, free: free_pinned, context },
            scratch: Arc::downgrade(scratch),
        }));
        let context = std::ptr::from_ref(&this.scratch).cast_mut().cast();
        (this.device.context, this.pinned.context) = (context, context);
        NonNull::from(this)
    }

    /// # Safety
    /// [`Self::new`] gave it, and its library is destroyed.
    pub(super) unsafe fn end(this: NonNull<Self>) {
        // SAFETY: as the caller promises.
        drop(unsafe { Box::from_raw(this.as_ptr()) });
    }
}

impl Scratch {
    pub(super) fn new(
        device: Arc<CudaDevice>,
        memory: &DeviceMemory,
        pinned_limit: usize,
        stream: RawStream,
    ) -> Arc<Self> {
        Arc::new(Self { device, memory: memory.clone(), pinned_limit, stream, held: Mutex::default() })
    }

    /// The decoder's stream.
    pub(super) fn stream(&self) -> RawStream {
        self.stream
    }

    /// Why the last allocation failed, if one did.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.held.lock().failure.take()
    }

    /// Bytes held: of the device's memory, and pinned.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let held = self.held.lock();
        let pinned = held.pinned.values().chain(held.retired.iter().map(|(_, pinned)| pinned));
        (
            held.slabs.values().map(DeviceSlab::taken_bytes).sum(),
            pinned.map(|pinned| pinned.bytes as u64).sum(),
        )
    }

    fn take_slab(&self, bytes: usize) -> Result<usize> {
        const WHAT: &str = "what the JPEG decoder needs beside its pixels";
        let until = Instant::now() + PATIENCE;
        let slab = loop {
            let since = self.memory.freed();
            if let Some(slab) = self.memory.take(bytes as u64, WHAT)? {
                break slab;
            }
            if self.memory.wait(since, SLICE)? == Waited::Held || Instant::now() >= until {
                let (used_bytes, _) = self.memory.used_bytes();
                return Err(Error::OverBudget {
                    device: self.device.facts().name.clone(),
                    what: WHAT.into(),
                    wanted_bytes: bytes as u64,
                    limit_bytes: self.memory.limit_bytes(),
                    used_bytes,
                    advice: "raise gpu_memory_limit, or lower batch_size",
                });
            }
        };
        let at = slab.address().0 as usize;
        self.held.lock().slabs.insert(at, slab);
        Ok(at)
    }

    fn take_pinned(&self, bytes: usize) -> Result<usize> {
        // Of powers of two, so that what sizes in between left behind is no more than what is in use.
        let whole = bytes.max(LEAST_PINNED).checked_next_power_of_two().unwrap_or(bytes);
        let again = {
            let mut held = self.held.lock();
            let is_fit =
                |(guards, pinned): &(Vec<Guard>, Allocated)| pinned.bytes == whole && are_passed(guards);
            let at = held.retired.iter().position(is_fit);
            at.map(|at| held.retired.swap_remove(at).1)
        };
        let pinned = match again {
            Some(pinned) => pinned,
            None => {
                self.make_room(whole)?;
                pinned::allocate(&self.device.context, whole)?
            }
        };
        let at = pinned.start.addr().get();
        self.held.lock().pinned.insert(at, pinned);
        Ok(at)
    }

    /// Gives back pinned memory of other sizes until there is room for so much more.
    fn make_room(&self, bytes: usize) -> Result<()> {
        let mut held = self.held.lock();
        loop {
            let used: usize = held
                .pinned
                .values()
                .chain(held.retired.iter().map(|(_, pinned)| pinned))
                .map(|pinned| pinned.bytes)
                .sum();
            if used.saturating_add(bytes) <= self.pinned_limit {
                return Ok(());
            }
            let Some(at) = held.retired.iter().position(|(guards, _)| are_passed(guards)) else {
                return Err(Error::OverBudget {
                    device: self.device.facts().name.clone(),
                    what: "pinned host memory of the JPEG decoder".into(),
                    wanted_bytes: bytes as u64,
                    limit_bytes: self.pinned_limit as u64,
                    used_bytes: used as u64,
                    advice: "use decode_on=\"cpu\", or split the images into smaller ones",
                });
            };
            let (_, pinned) = held.retired.swap_remove(at);
            pinned::free(&self.device.context, pinned);
        }
    }

    /// What stands for all work that the library may have done with memory that it frees on this stream.
    fn guards(&self, stream: RawStream) -> Vec<Guard> {
        let device: Arc<dyn Device> = self.device.clone();
        // The null stream is named where no work is: at an end.
        let streams = [self.stream, stream];
        let named = if stream.0 == 0 || stream == self.stream { &streams[..1] } else { &streams };
        let guard = |stream: &RawStream| {
            Event::record(&device, *stream).map_or(Guard::Everything, |event| Guard::Event(Arc::new(event)))
        };
        named.iter().map(guard).collect()
    }

    fn free_slab(&self, at: usize, stream: RawStream) -> c_int {
        let Some(mut slab) = self.held.lock().slabs.remove(&at) else { return NOT_OURS };
        self.guards(stream).into_iter().for_each(|guard| slab.guard(guard));
        0
    }

    fn free_pinned(&self, at: usize, stream: RawStream) -> c_int {
        let guards = self.guards(stream);
        let mut held = self.held.lock();
        let Some(pinned) = held.pinned.remove(&at) else { return NOT_OURS };
        // It is kept: to give it back would wait for all that the device does.
        held.retired.push((guards, pinned));
        0
    }

    /// A result as the library is told it.
    fn tell(&self, to: *mut *mut c_void, taken: Result<usize>) -> c_int {
        match taken {
            Ok(at) => {
                // SAFETY: the library gives a place for the address.
                unsafe { to.write(std::ptr::with_exposed_provenance_mut(at)) };
                0
            }
            Err(error) => {
                self.held.lock().failure = Some(error);
                NO_MEMORY
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let held = self.held.get_mut();
        for (guards, pinned) in held.retired.drain(..) {
            // Where that fails the device may still read it: it stays the process's until its end.
            if guards.iter().all(|guard| guard.block(&*self.device).is_ok()) {
                pinned::free(&self.device.context, pinned);
            }
        }
    }
}

fn are_passed(guards: &[Guard]) -> bool {
    guards.iter().all(|guard| guard.is_passed().unwrap_or(false))
}

/// The scratch that an allocator's context is; `call` does something with it, and what goes wrong there is an error, never a panic in C.
///
/// # Safety
/// The context is that of [`Allocators`] that were not ended.
unsafe fn with(context: *mut c_void, call: impl FnOnce(&Scratch) -> c_int) -> c_int {
    // SAFETY: as the caller promises.
    let scratch = unsafe { &*context.cast::<Weak<Scratch>>() };
    let call = || scratch.upgrade().map_or(NOT_OURS, |scratch| call(&scratch));
    std::panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or(NO_MEMORY)
}

fn raw(stream: CUstream) -> RawStream {
    RawStream(stream.expose_provenance() as u64)
}

unsafe extern "C" fn allocate_device(
    context: *mut c_void,
    to: *mut *mut c_void,
    bytes: usize,
    _: CUstream,
) -> c_int {
    // SAFETY: the library passes the context that it was given, while the decoder lives.
    unsafe { with(context, |scratch| scratch.tell(to, scratch.take_slab(bytes))) }
}

unsafe extern "C" fn free_device(context: *mut c_void, at: *mut c_void, _: usize, stream: CUstream) -> c_int {
    if at.is_null() {
        return 0;
    }
    // SAFETY: as above.
    unsafe { with(context, |scratch| scratch.free_slab(at.addr(), raw(stream))) }
}

unsafe extern "C" fn allocate_pinned(
    context: *mut c_void,
    to: *mut *mut c_void,
    bytes: usize,
    _: CUstream,
) -> c_int {
    // SAFETY: as above.
    unsafe { with(context, |scratch| scratch.tell(to, scratch.take_pinned(bytes))) }
}

unsafe extern "C" fn free_pinned(context: *mut c_void, at: *mut c_void, _: usize, stream: CUstream) -> c_int {
    if at.is_null() {
        return 0;
    }
    // SAFETY: as above.
    unsafe { with(context, |scratch| scratch.free_pinned(at.addr(), raw(stream))) }
}
