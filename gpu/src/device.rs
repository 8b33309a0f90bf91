//! What a device can do, as a trait: memory, streams, events, copies, kernels. Nothing outside this crate names CUDA.
//!
//! The trait is the narrow waist: raw handles, and the rules that come with them as safety contracts. What is used by others is above it and
//! safe: [`Stream`] and [`Event`] free themselves, [`DeviceMemory`] hands out memory, [`staging`](crate::staging)
//! keeps host bytes in place while a copy reads them.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use forebay_kernels::{Kernel, Launch};

use crate::error::Result;
use crate::jpeg;
use crate::memory::DeviceMemory;

/// A place in a device's memory. Never to be dereferenced by the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// The driver's handle of a stream: ours, or a consumer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawStream(pub u64);

impl RawStream {
    /// The legacy default stream, which waits for blocking streams and they for it.
    pub const LEGACY: Self = Self(1);
    /// The default stream of the calling thread.
    pub const PER_THREAD: Self = Self(2);
}

/// The driver's handle of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawEvent(pub u64);

/// What a device is.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As errors and reports name it: "cuda:0 (NVIDIA H100)".
    pub name: Arc<str>,
    /// Its number among the visible ones, as torch counts.
    pub index: i32,
    /// DLPack's device type: 2 for CUDA, 1 for host memory.
    pub dlpack_type: i32,
    /// As nvidia-smi writes it, "GPU-…" or "MIG-…", where the driver tells.
    pub uuid: Option<String>,
    /// Its place on the PCI bus, as nvidia-smi writes it, where the driver tells: "0000:3B:00.0".
    pub pci: Option<String>,
    /// Bytes of its memory.
    pub total_bytes: u64,
    /// Compute capability, such as (9, 0).
    pub capability: (i32, i32),
    /// The driver's version, such as (12, 4).
    pub driver: (i32, i32),
}

/// Whether a stream is being captured into a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// It is not.
    None,
    /// It is, or a capture of it was broken and not ended yet.
    Active,
}

/// A device. No call leaves a trace on the calling thread: context and capture mode are what they were before.
///
/// Handles are the device's own: what one gave is used with no other. In a forked child every call fails, and every `drop_…` does nothing.
pub trait Device: fmt::Debug + Send + Sync + 'static {
    /// What it is.
    fn facts(&self) -> &Facts;

    /// How its memory is had: "virtual memory", "cuMemAlloc", "host memory".
    fn memory_kind(&self) -> &'static str;

    /// Bytes of its memory that nobody has, in this process or another.
    fn free_bytes(&self) -> Result<u64>;

    /// Takes memory, in whole units of the device, at most `bytes` rounded up to one. Gives the address and what was taken.
    fn take(&self, bytes: u64, what: &'static str) -> Result<(Address, u64)>;

    /// Gives memory back.
    ///
    /// # Safety
    /// `at` and `bytes` are what [`Self::take`] gave, and no operation that touches them is under way or will be submitted.
    unsafe fn give_back(&self, at: Address, bytes: u64);

    /// A stream that doesn't wait for the legacy default stream.
    fn create_stream(&self) -> Result<RawStream>;

    /// Ends a stream once its work is done.
    ///
    /// # Safety
    /// [`Self::create_stream`] gave it, and it is not used again.
    unsafe fn drop_stream(&self, stream: RawStream);

    /// An event for ordering, without timing.
    fn create_event(&self) -> Result<RawEvent>;

    /// Ends an event.
    ///
    /// # Safety
    /// [`Self::create_event`] gave it, and it is not used again.
    unsafe fn drop_event(&self, event: RawEvent);

    /// The event stands for everything submitted to `stream` so far.
    fn record(&self, event: RawEvent, stream: RawStream) -> Result<()>;

    /// The event stands for everything submitted to the device's context so far, on whatever stream; false where the driver can't say that.
    fn record_all(&self, event: RawEvent) -> Result<bool>;

    /// What is submitted to `stream` from now on waits for the event; the CPU doesn't.
    fn wait(&self, stream: RawStream, event: RawEvent) -> Result<()>;

    /// True where what the event stands for is done.
    fn is_done(&self, event: RawEvent) -> Result<bool>;

    /// Blocks until what the event stands for is done.
    fn block_on(&self, event: RawEvent) -> Result<()>;

    /// Blocks until everything submitted to the device's context is done.
    fn block_on_all(&self) -> Result<()>;

    /// Whether the stream is being captured; an error where it is not this device's.
    fn capture_of(&self, stream: RawStream) -> Result<Capture>;

    /// Starts to copy host bytes to the device.
    ///
    /// # Safety
    /// `from` stays in place and unwritten, and `to` is the caller's to write, until the stream has done it.
    unsafe fn copy_in(&self, from: *const u8, to: Address, bytes: usize, stream: RawStream) -> Result<()>;

    /// Starts to copy the device's bytes to the host.
    ///
    /// # Safety
    /// `to` is the caller's alone, and `from` stays unwritten, until the stream has done it.
    unsafe fn copy_out(&self, from: Address, to: *mut u8, bytes: usize, stream: RawStream) -> Result<()>;

    /// Starts to copy inside the device.
    ///
    /// # Safety
    /// Both ends are the device's memory, and the caller's to read and to write until the stream has done it.
    unsafe fn copy_within(&self, from: Address, to: Address, bytes: usize, stream: RawStream) -> Result<()>;

    /// Starts a kernel of [`forebay_kernels::PTX`] by its name, with its one argument.
    ///
    /// # Safety
    /// `argument` is the kernel's struct, and the memory that it names is the caller's to touch as the kernel does, until the stream has done
    /// it.
    unsafe fn launch(
        &self,
        kernel: &'static str,
        how: Launch,
        argument: &[u8],
        stream: RawStream,
    ) -> Result<()>;

    /// Opens the device's JPEG decoder, which works on this stream alone and takes what it needs out of this memory.
    ///
    /// # Errors
    /// [`Error::NoJpeg`](crate::Error::NoJpeg).
    fn jpeg_codec(
        self: Arc<Self>,
        memory: &DeviceMemory,
        stream: RawStream,
        settings: &jpeg::Settings,
    ) -> Result<Box<dyn jpeg::Codec>>;

    /// Pins host memory for copies that overlap with other work.
    fn pin(&self, start: NonNull<u8>, bytes: usize) -> io::Result<()>;

    /// Unpins what was pinned.
    fn unpin(&self, start: NonNull<u8>, bytes: usize);
}

/// A stream of ours, ended on drop.
#[derive(Debug)]
pub struct Stream {
    device: Arc<dyn Device>,
    raw: RawStream,
}

impl Stream {
    /// A new stream.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self { raw: device.create_stream()?, device: device.clone() })
    }

    /// Its handle.
    pub fn raw(&self) -> RawStream {
        self.raw
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: `new` created it, and nobody else has the right to use it after this.
        unsafe { self.device.drop_stream(self.raw) };
    }
}

/// An event of ours, ended on drop. Recorded once: what it stands for never changes under who waits for it.
#[derive(Debug)]
pub struct Event {
    device: Arc<dyn Device>,
    raw: RawEvent,
}

impl Event {
    /// An event that stands for everything submitted to `stream` so far.
    pub fn record(device: &Arc<dyn Device>, stream: RawStream) -> Result<Self> {
        let event = Self { raw: device.create_event()?, device: device.clone() };
        device.record(event.raw, stream)?;
        Ok(event)
    }

    /// An event that stands for everything submitted to the device so far; none where the driver can't say that.
    pub fn record_all(device: &Arc<dyn Device>) -> Result<Option<Self>> {
        let event = Self { raw: device.create_event()?, device: device.clone() };
        Ok(device.record_all(event.raw)?.then_some(event))
    }

    /// What is submitted to `stream` from now on waits for it.
    pub fn wait_on(&self, stream: RawStream) -> Result<()> {
        self.device.wait(stream, self.raw)
    }

    /// True where what it stands for is done.
    pub fn is_done(&self) -> Result<bool> {
        self.device.is_done(self.raw)
    }

    /// Blocks until what it stands for is done.
    pub fn block(&self) -> Result<()> {
        self.device.block_on(self.raw)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the constructors created it, and nobody else has its handle.
        unsafe { self.device.drop_event(self.raw) };
    }
}

/// Starts a kernel with its arguments.
///
/// # Safety
/// The memory that they name is the caller's to touch as the kernel does, until the stream has done it.
pub unsafe fn launch<K: Kernel>(device: &Arc<dyn Device>, arguments: &K, stream: RawStream) -> Result<()> {
    let start = std::ptr::from_ref(arguments).cast::<u8>();
    // SAFETY: a struct of the C layout, read as bytes by the driver, which knows its size from the kernel; padding is not looked at.
    let bytes = unsafe { std::slice::from_raw_parts(start, size_of::<K>()) };
    // SAFETY: as the caller promises.
    unsafe { device.launch(K::NAME, arguments.launch(), bytes, stream) }
}
