//! Host bytes on their way to a device.
//!
//! A slot of host memory is free, then filled by decoders, then in flight, then free again. It leaves the last state only when the device says
//! that the copy is done: [`Staging`] owns it until then, whatever becomes of those who wait for the copy.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::device::{Device, Event, Stream};
use crate::error::Result;
use crate::memory::{DeviceSlab, Guard};
use crate::mutant::{self, Mutant};

/// Copies to a device on a stream of their own.
#[derive(Debug)]
pub struct Staging {
    device: Arc<dyn Device>,
    stream: Stream,
    in_flight: VecDeque<InFlight>,
    copied_bytes: u64,
}

/// Host memory that was filled and is to be copied.
///
/// # Safety
/// The bytes lie where they are, unwritten, for as long as the slot lives, also when the slot itself is moved.
#[allow(unsafe_code)]
pub unsafe trait Slot: Send + 'static {
    /// Its parts, in the order of their targets.
    fn parts(&self) -> Vec<&[u8]>;
}

/// A slot that the device may still read.
struct InFlight {
    until: Guard,
    slot: Box<dyn Slot>,
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Staging {
    /// A stream for copies.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self {
            stream: Stream::new(device)?,
            device: device.clone(),
            in_flight: VecDeque::new(),
            copied_bytes: 0,
        })
    }

    /// Starts to copy a slot's parts, each to the start of its target, and keeps the slot until that is done. The event stands behind the
    /// copies; every target is guarded by it.
    ///
    /// # Errors
    /// The driver's. What was started before is finished, and the slot kept until it is.
    pub fn copy(&mut self, slot: Box<dyn Slot>, to: &mut [DeviceSlab]) -> Result<Arc<Event>> {
        self.copy_at(slot, to, 0)
    }

    /// As [`Self::copy`], to `offset` bytes behind the start of each target.
    pub fn copy_at(&mut self, slot: Box<dyn Slot>, to: &mut [DeviceSlab], offset: u64) -> Result<Arc<Event>> {
        let early = mutant::is(Mutant::EventEarly).then(|| Event::record(&self.device, self.stream.raw()));
        let mut started = Ok(());
        for (part, to) in slot.parts().into_iter().zip(to.iter()) {
            assert!(
                offset + part.len() as u64 <= to.len(),
                "{} bytes for a target of {}",
                part.len(),
                to.len()
            );
            started = self.start(part, to, offset);
            if started.is_err() {
                break;
            }
            self.copied_bytes += part.len() as u64;
        }
        let copied = early.unwrap_or_else(|| Event::record(&self.device, self.stream.raw())).map(Arc::new);
        // Where there is no event, nobody can say when the device has done with them, but that it is when it has done everything.
        let until = || copied.as_ref().map_or(Guard::Everything, |copied| Guard::Event(copied.clone()));
        to.iter_mut().for_each(|slab| slab.guard(until()));
        if !mutant::is(Mutant::SlotEarly) {
            self.in_flight.push_back(InFlight { until: until(), slot });
        }
        started.and(copied)
    }

    #[allow(unsafe_code)]
    fn start(&self, part: &[u8], to: &DeviceSlab, offset: u64) -> Result<()> {
        // SAFETY: the slot keeps the bytes in place, and `in_flight` the slot, until the stream has done this; the target is the caller's, and
        // guarded by an event behind this.
        unsafe {
            self.device.copy_in(part.as_ptr(), to.address().offset(offset), part.len(), self.stream.raw())
        }
    }

    /// Lets go of slots whose copies are done. Never blocks.
    pub fn collect(&mut self) -> Result<()> {
        while let Some(first) = self.in_flight.front() {
            if !first.until.is_passed()? {
                break;
            }
            self.in_flight.pop_front();
        }
        Ok(())
    }

    /// Blocks until the oldest copy is done; false where none is under way.
    pub fn wait_for_one(&mut self) -> Result<bool> {
        let Some(first) = self.in_flight.front() else { return Ok(false) };
        first.until.block(&*self.device)?;
        self.in_flight.pop_front();
        Ok(true)
    }

    /// Bytes copied so far.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Slots in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for InFlight { until, slot } in self.in_flight.drain(..) {
            if let Err(error) = until.block(&*self.device) {
                tracing::debug!(%error, "a slot may still be read by the device: it stays the process's until its end");
                std::mem::forget(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostDevice;
    use crate::memory::DeviceMemory;

    struct Bytes(Vec<Vec<u8>>);

    // SAFETY: vectors keep their bytes on the heap, and nobody writes to them.
    #[allow(unsafe_code)]
    unsafe impl Slot for Bytes {
        fn parts(&self) -> Vec<&[u8]> {
            self.0.iter().map(Vec::as_slice).collect()
        }
    }

    #[test]
    fn a_slot_is_kept_until_its_copy_is_done_and_its_targets_are_not_used_again_before() {
        let host = HostDevice::held(1 << 20);
        let device: Arc<dyn Device> = host.clone();
        let memory = DeviceMemory::new(&device, 4096).unwrap();
        let mut staging = Staging::new(&device).unwrap();
        let mut to = [memory.take(3000, "a").unwrap().unwrap(), memory.take(500, "b").unwrap().unwrap()];
        let copied = staging.copy(Box::new(Bytes(vec![vec![1; 3000], vec![2; 500]])), &mut to).unwrap();
        assert!(!copied.is_done().unwrap());
        staging.collect().unwrap();
        assert_eq!((staging.in_flight(), staging.copied_bytes()), (1, 3500));
        drop(to);
        assert!(memory.take(4096, "all").unwrap().is_none(), "the copies still write to it");
        host.proceed();
        assert!(copied.is_done().unwrap());
        staging.collect().unwrap();
        assert_eq!(staging.in_flight(), 0);
        assert!(memory.take(4096, "all").unwrap().is_some());
    }

    #[test]
    fn what_cannot_be_copied_is_an_error_and_nothing_is_used_again_early() {
        let device: Arc<dyn Device> = HostDevice::new(1 << 20);
        let memory = DeviceMemory::new(&device, 2048).unwrap();
        let error = memory.take(5000, "a batch").unwrap_err().to_string();
        assert!(error.contains("5000 bytes") && error.contains("lower batch_size"), "{error}");
        let all = memory.take(2048, "all").unwrap().unwrap();
        assert!(memory.take(1, "more").unwrap().is_none());
        assert!(!memory.wait_for_retired().unwrap(), "only its holder can make room");
        drop(all);
        assert_eq!(memory.used_bytes(), (0, 2048));
    }
}
