//! Host bytes on their way to a device.
//!
//! A slot of host memory is free, then filled by decoders, then in flight, then free again. It leaves the last state only when the device says
//! that the copy is done: [`Staging`] owns it until then, whatever becomes of those who wait for the copy.

use std::sync::Arc;

use forebay_cache::Lease;

use crate::device::{Address, Device, Event, RawStream, Stream};
use crate::error::Result;
use crate::in_flight::InFlight;
use crate::memory::{DeviceSlab, Guard};
use crate::mutant::{self, Mutant};

/// Copies to a device on a stream of their own.
#[derive(Debug)]
pub struct Staging {
    device: Arc<dyn Device>,
    stream: Stream,
    /// Host bytes that the device may still read.
    in_flight: InFlight<Lease>,
}

impl Staging {
    /// A stream for copies.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self { stream: Stream::new(device)?, device: device.clone(), in_flight: InFlight::new(device) })
    }

    /// Starts to copy host bytes to `offset` bytes behind the start of a target, and keeps them until that is done. The event stands behind the
    /// copy; the target is guarded by it.
    ///
    /// # Errors
    /// The driver's. What was started is finished, and the bytes kept until it is.
    pub fn copy(&mut self, bytes: Lease, to: &mut DeviceSlab, offset: u64) -> Result<Arc<Event>> {
        assert!(
            offset + bytes.len() as u64 <= to.len(),
            "{} bytes for a target of {}",
            bytes.len(),
            to.len()
        );
        let early = mutant::is(Mutant::EventEarly).then(|| Event::record(&self.device, self.stream.raw()));
        let started = self.start(&bytes, to.address().offset(offset));
        let copied = early.unwrap_or_else(|| Event::record(&self.device, self.stream.raw())).map(Arc::new);
        // Where there is no event, nobody can say when the device has done with them, but that it is when it has done everything.
        let until = copied.as_ref().map_or(Guard::Everything, |copied| Guard::Event(copied.clone()));
        to.guard(until.clone());
        if !mutant::is(Mutant::SlotEarly) {
            self.in_flight.push(until, bytes);
        }
        started.and(copied)
    }

    /// Starts to copy host bytes to memory of somebody else on the same device, on their stream, and keeps the bytes until that is done. The
    /// event stands behind the copy.
    ///
    /// # Safety
    /// `to` has room for the bytes, and is the caller's to write on that stream.
    ///
    /// # Errors
    /// The driver's. What was started is finished, and the bytes kept until it is.
    #[allow(unsafe_code)]
    pub unsafe fn copy_to(&mut self, bytes: Lease, to: Address, stream: RawStream) -> Result<Arc<Event>> {
        // SAFETY: the lease is kept below, and with it the bytes in place and unwritten, until the stream has done this; the target is the
        // caller's to vouch for.
        let started = unsafe { self.device.copy_in(bytes.as_ptr(), to, bytes.len(), stream) };
        let copied = Event::record(&self.device, stream).map(Arc::new);
        let until = copied.as_ref().map_or(Guard::Everything, |copied| Guard::Event(copied.clone()));
        if !mutant::is(Mutant::SlotEarly) {
            self.in_flight.push(until, bytes);
        }
        started.and(copied)
    }

    /// An event behind every copy so far.
    ///
    /// # Errors
    /// The driver's.
    pub fn mark(&self) -> Result<Event> {
        Event::record(&self.device, self.stream.raw())
    }

    /// Copies that are started from now on wait for the event; the CPU doesn't.
    ///
    /// # Errors
    /// The driver's.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        event.wait_on(self.stream.raw())
    }

    #[allow(unsafe_code)]
    fn start(&self, bytes: &Lease, to: Address) -> Result<()> {
        // SAFETY: `copy` keeps the lease, and with it the bytes in place and unwritten, until the stream has done this; the target is the
        // caller's, and guarded by an event behind this.
        unsafe { self.device.copy_in(bytes.as_ptr(), to, bytes.len(), self.stream.raw()) }
    }

    /// Lets go of slots whose copies are done. Never blocks.
    pub fn collect(&mut self) -> Result<()> {
        self.in_flight.collect()
    }

    /// Blocks until the oldest copy is done; false where none is under way.
    pub fn wait_for_one(&mut self) -> Result<bool> {
        self.in_flight.wait_for_one()
    }

    /// Copies under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostDevice;
    use std::time::Duration;

    use crate::memory::{DeviceMemory, Waited};

    #[test]
    fn a_slot_is_kept_until_its_copy_is_done_and_its_targets_are_not_used_again_before() {
        let host = HostDevice::held(1 << 20);
        let device: Arc<dyn Device> = host.clone();
        let memory = DeviceMemory::new(&device, 4096).unwrap();
        let mut staging = Staging::new(&device).unwrap();
        let mut to = memory.take(3500, "a").unwrap().unwrap();
        staging.copy(Lease::from_vec(vec![1; 3000]), &mut to, 0).unwrap();
        let copied = staging.copy(Lease::from_vec(vec![2; 500]), &mut to, 3000).unwrap();
        assert!(!copied.is_done().unwrap());
        staging.collect().unwrap();
        assert_eq!(staging.in_flight(), 2);
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
        assert_eq!(
            memory.wait(memory.freed(), Duration::ZERO).unwrap(),
            Waited::Held,
            "only its holder can make room"
        );
        drop(all);
        assert_eq!(memory.used_bytes(), (0, 2048));
    }
}
