//! A device in plain memory: for machines without a GPU, and for tests of what is built on [`Device`].
//!
//! Work is done in the order of its submission, at once, or, where a test holds it back, when the test says so.
#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use forebay_kernels::Launch;
use parking_lot::Mutex;

use crate::device::{Address, Capture, Device, Facts, RawEvent, RawStream};
use crate::error::{Error, Result};
use crate::jpeg;
use crate::memory::DeviceMemory;

/// See the module.
#[derive(Debug)]
pub struct HostDevice {
    facts: Facts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    memory: HashMap<u64, Box<[u64]>>,
    used_bytes: u64,
    handles: u64,
    /// What was submitted and not done.
    work: VecDeque<Copy>,
    is_held: bool,
    submitted: u64,
    done: u64,
    /// What each event stands for: so many submissions.
    events: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Copy {
    from: usize,
    to: usize,
    bytes: usize,
}

impl HostDevice {
    /// A device of so many bytes.
    pub fn new(total_bytes: u64) -> Arc<Self> {
        Self::with(total_bytes, false)
    }

    /// A device that works only in [`Self::proceed`], and when somebody blocks on it.
    pub fn held(total_bytes: u64) -> Arc<Self> {
        Self::with(total_bytes, true)
    }

    fn with(total_bytes: u64, is_held: bool) -> Arc<Self> {
        let facts = Facts {
            name: "host memory".into(),
            index: 0,
            dlpack_type: 1,
            uuid: None,
            pci: None,
            total_bytes,
            capability: (0, 0),
            driver: (0, 0),
        };
        Arc::new(Self { facts, state: Mutex::new(State { is_held, ..State::default() }) })
    }

    /// Does all that was submitted.
    pub fn proceed(&self) {
        self.state.lock().proceed();
    }

    fn submit(&self, copy: Copy) {
        let mut state = self.state.lock();
        state.submitted += 1;
        state.work.push_back(copy);
        if !state.is_held {
            state.proceed();
        }
    }

    fn handle(&self) -> u64 {
        let mut state = self.state.lock();
        state.handles += 1;
        // Above the handles of default streams.
        state.handles + 16
    }
}

impl State {
    fn proceed(&mut self) {
        for Copy { from, to, bytes } in self.work.drain(..) {
            let from = std::ptr::with_exposed_provenance::<u8>(from);
            let to = std::ptr::with_exposed_provenance_mut::<u8>(to);
            // SAFETY: whoever submitted it promised that both ranges are theirs until it is done.
            unsafe { std::ptr::copy(from, to, bytes) };
            self.done += 1;
        }
    }
}

impl Device for HostDevice {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn memory_kind(&self) -> &'static str {
        "host memory"
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(self.facts.total_bytes - self.state.lock().used_bytes)
    }

    fn take(&self, bytes: u64, what: &'static str) -> Result<(Address, u64)> {
        let mut state = self.state.lock();
        let words = bytes.max(1).div_ceil(8);
        let free_bytes = self.facts.total_bytes - state.used_bytes;
        if words.saturating_mul(8) > free_bytes {
            return Err(Error::DeviceFull {
                device: self.facts.name.clone(),
                what,
                wanted_bytes: bytes,
                free_bytes,
                total_bytes: self.facts.total_bytes,
            });
        }
        let mut memory = vec![0u64; words as usize].into_boxed_slice();
        let at = memory.as_mut_ptr().expose_provenance() as u64;
        state.memory.insert(at, memory);
        state.used_bytes += words * 8;
        Ok((Address(at), words * 8))
    }

    unsafe fn give_back(&self, at: Address, bytes: u64) {
        let mut state = self.state.lock();
        if state.memory.remove(&at.0).is_some() {
            state.used_bytes -= bytes;
        }
    }

    fn create_stream(&self) -> Result<RawStream> {
        Ok(RawStream(self.handle()))
    }

    unsafe fn drop_stream(&self, _: RawStream) {}

    fn create_event(&self) -> Result<RawEvent> {
        Ok(RawEvent(self.handle()))
    }

    unsafe fn drop_event(&self, event: RawEvent) {
        self.state.lock().events.remove(&event.0);
    }

    fn record(&self, event: RawEvent, _: RawStream) -> Result<()> {
        let mut state = self.state.lock();
        let submitted = state.submitted;
        state.events.insert(event.0, submitted);
        Ok(())
    }

    fn record_all(&self, event: RawEvent) -> Result<bool> {
        self.record(event, RawStream::LEGACY).map(|()| true)
    }

    fn wait(&self, _: RawStream, _: RawEvent) -> Result<()> {
        // Everything is done in the order of its submission.
        Ok(())
    }

    fn is_done(&self, event: RawEvent) -> Result<bool> {
        let state = self.state.lock();
        Ok(state.events.get(&event.0).is_none_or(|&submitted| submitted <= state.done))
    }

    fn block_on(&self, _: RawEvent) -> Result<()> {
        self.block_on_all()
    }

    fn block_on_all(&self) -> Result<()> {
        self.proceed();
        Ok(())
    }

    fn capture_of(&self, _: RawStream) -> Result<Capture> {
        Ok(Capture::None)
    }

    unsafe fn copy_in(&self, from: *const u8, to: Address, bytes: usize, _: RawStream) -> Result<()> {
        self.submit(Copy { from: from.expose_provenance(), to: to.0 as usize, bytes });
        Ok(())
    }

    unsafe fn copy_out(&self, from: Address, to: *mut u8, bytes: usize, _: RawStream) -> Result<()> {
        self.submit(Copy { from: from.0 as usize, to: to.expose_provenance(), bytes });
        Ok(())
    }

    unsafe fn copy_within(&self, from: Address, to: Address, bytes: usize, _: RawStream) -> Result<()> {
        self.submit(Copy { from: from.0 as usize, to: to.0 as usize, bytes });
        Ok(())
    }

    unsafe fn launch(&self, kernel: &'static str, _: Launch, _: &[u8], _: RawStream) -> Result<()> {
        Err(Error::Kernels {
            device: self.facts.name.clone(),
            name: kernel.into(),
            log: "host memory runs no kernels: the CPU's own code does what they do".into(),
        })
    }

    fn jpeg_codec(
        self: Arc<Self>,
        _: &DeviceMemory,
        _: RawStream,
        _: &jpeg::Settings,
    ) -> Result<Box<dyn jpeg::Codec>> {
        Err(Error::NoJpeg {
            device: self.facts.name.clone(),
            what: "host memory has no decoder: the CPU's own code does what one does".into(),
        })
    }

    fn pin(&self, _: NonNull<u8>, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn unpin(&self, _: NonNull<u8>, _: usize) {}
}
