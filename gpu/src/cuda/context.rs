//! The device's primary context, entered around every call and left without a trace.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use cudarc::driver::sys;
use parking_lot::{RwLock, RwLockReadGuard};

use super::driver::{self, Driver, words};
use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};

/// Errors after which no call on the context works any more, by cuda.h: uncorrectable memory and link errors (214, 220), illegal address (700),
/// launch timeout (702), context destroyed (709), an assertion in a kernel (710), hardware stack error, illegal instruction, misaligned address,
/// invalid address space and program counter, launch failure (714 to 719), contained and unknown errors (721, 999).
const STICKY: &[u32] = &[214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999];

/// How long the end of the process waits for calls under way: one may wait for work that never ends.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// True once the process is ending: the driver shuts down then, and no call may begin. Held for reading during every call.
static ENDING: RwLock<bool> = RwLock::new(false);

/// Ends all use of the driver, for a process that is about to exit: waits for calls under way, and refuses later ones. What is still held on devices
/// goes with the process.
pub(super) fn end() {
    // In a forked child, which has no driver, a thread that is not there may have held the lock.
    if driver::is_used()
        && let Some(mut ending) = ENDING.try_write_for(LAST_CALLS)
    {
        *ending = true;
    }
}

/// Whether no call works any more after this error.
pub(super) fn is_sticky(code: u32) -> bool {
    STICKY.contains(&code)
}

/// Retained for as long as this lives: pointers are then valid in torch, JAX and CuPy, which use the same one.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) raw: sys::CUcontext,
    pub(super) device: sys::CUdevice,
    pub(super) name: Arc<str>,
    pub(super) driver: &'static Driver,
    /// The first error after which nothing works.
    lost: OnceLock<Error>,
    pid: u32,
}

// SAFETY: a context is a handle; the driver's functions may be called with it from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The primary context of a device.
    pub(super) fn retain(driver: &'static Driver, device: sys::CUdevice, name: Arc<str>) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) } as u32;
        let context = Self { raw, device, name, driver, lost: OnceLock::new(), pid: std::process::id() };
        match context.check("cuDevicePrimaryCtxRetain", code) {
            Ok(()) => Ok(context),
            Err(error) => {
                // Nothing was retained, so nothing is to be released.
                std::mem::forget(context);
                Err(error)
            }
        }
    }

    /// Makes the context the calling thread's until the guard goes; a capture that the thread may be under is not disturbed.
    pub(super) fn enter(&self) -> Result<Inside<'_>> {
        if self.is_forked() {
            return Err(Error::Forked { device: self.name.clone() });
        }
        let ending = ENDING.read_recursive();
        if *ending {
            return Err(Error::Ending { device: self.name.clone() });
        }
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone());
        }
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: exchanges the calling thread's mode with the one given.
        self.check("cuThreadExchangeStreamCaptureMode", unsafe {
            sys::cuThreadExchangeStreamCaptureMode(&mut mode)
        } as u32)?;
        // SAFETY: the context is retained.
        let pushed = self.check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(self.raw) } as u32);
        if let Err(error) = pushed {
            // SAFETY: gives the thread its own mode back.
            unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
            return Err(error);
        }
        Ok(Inside { context: self, mode, _ending: ending, on_this_thread: PhantomData })
    }

    pub(super) fn is_forked(&self) -> bool {
        self.pid != std::process::id()
    }

    /// An answer of the driver as a result. The first sticky one is what every later call gets.
    pub(super) fn check(&self, call: &'static str, code: u32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let ((name, text), device) = (words(code), self.name.clone());
        if is_sticky(code) {
            let lost = Error::Lost { call, device, code, name, text };
            return Err(self.lost.get_or_init(|| lost).clone());
        }
        Err(Error::Driver { call, device, code, name, text })
    }

    /// As [`Self::check`], for destructors: there is nobody to tell but the log.
    pub(super) fn note(&self, call: &'static str, code: u32) {
        if let Err(error) = self.check(call, code) {
            tracing::error!(%error, "a device's resource could not be given back");
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let ending = (!self.is_forked()).then(|| ENDING.read_recursive());
        if ending.is_some_and(|ending| !*ending) {
            // SAFETY: retained once, released once; everything that was made in it holds it, and is gone.
            self.note("cuDevicePrimaryCtxRelease", unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) }
                as u32);
        }
    }
}

/// The calling thread is inside the context; dropped, it is where it was.
#[derive(Debug)]
#[must_use]
pub(super) struct Inside<'a> {
    context: &'a Context,
    mode: sys::CUstreamCaptureMode,
    _ending: RwLockReadGuard<'static, bool>,
    /// What it changed is the thread's: it can't go to another one.
    on_this_thread: PhantomData<*mut ()>,
}

impl Inside<'_> {
    /// See [`Context::check`].
    pub(super) fn check(&self, call: &'static str, code: u32) -> Result<()> {
        self.context.check(call, code)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if mutant::is(Mutant::ContextLeft) {
            return;
        }
        let mut popped = std::ptr::null_mut();
        // SAFETY: pops what `enter` pushed on this thread.
        let code = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) } as u32;
        self.context.note("cuCtxPopCurrent", code);
        if mutant::is(Mutant::ModeLeft) {
            return;
        }
        // SAFETY: gives the thread its own mode back.
        let code = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut self.mode) } as u32;
        self.context.note("cuThreadExchangeStreamCaptureMode", code);
    }
}
