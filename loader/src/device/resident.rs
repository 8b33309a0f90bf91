//! A column in a device's memory, in the consumer's hands.
//!
//! The consumer's streams wait for the copy, not the CPU. When the consumer lets go, work that reads the column may still be queued on its
//! streams: the memory is used again behind an event on each stream that the column was exported to, recorded when that export is let go.
//! Where nobody knows the stream, behind everything that the device has to do.

use std::ops::Range;
use std::sync::Arc;

use forebay_gpu::device::Capture;
use forebay_gpu::mutant::{self, Mutant};
use forebay_gpu::{Address, Device, DeviceSlab, Event, Guard, RawStream};
use futures::executor::block_on;
use parking_lot::Mutex;

use super::convert::Pixels;
use super::{BOUNCE_PIECE, Ground};
use crate::error::{Error, Result};

/// Bytes of one column on a device.
#[derive(Debug)]
pub struct Resident {
    slab: DeviceSlab,
    /// Behind the work that fills it.
    ready: Arc<Event>,
    /// What its consumer's own memory is to hold instead of these bytes.
    pixels: Option<Pixels>,
    /// Guards of exports that were let go, and streams that the consumer named besides.
    used: Mutex<Used>,
    // Dropped last.
    kept: Kept,
}

/// What a column may outlive the loader with.
#[derive(Debug)]
struct Kept(Option<Arc<Ground>>);

#[derive(Debug, Default)]
struct Used {
    guards: Vec<Guard>,
    streams: Vec<RawStream>,
    anywhere: bool,
}

/// Where a consumer works with a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// On this stream, which waits for the column.
    Stream(RawStream),
    /// On streams that only it knows; it waits for the column itself, or asked not to.
    Unknown,
}

/// A consumer's use of a column, from the handing over until it is let go.
#[derive(Debug)]
pub struct Export {
    resident: Arc<Resident>,
    consumer: Consumer,
}

/// Guards that are kept before those that are passed are looked for: a column that is kept may be exported for ever.
const MANY_GUARDS: usize = 16;

impl Used {
    fn push(&mut self, guard: Guard) {
        if self.guards.len() >= MANY_GUARDS {
            self.guards.retain(|guard| !guard.is_passed().unwrap_or(false));
        }
        self.guards.push(guard);
    }
}

impl Resident {
    /// Bytes that are what they are.
    pub(crate) fn plain(slab: DeviceSlab, ready: Arc<Event>, ground: Arc<Ground>) -> Self {
        Self::new(slab, ready, None, ground)
    }

    pub(super) fn new(
        slab: DeviceSlab,
        ready: Arc<Event>,
        pixels: Option<Pixels>,
        ground: Arc<Ground>,
    ) -> Self {
        Self { slab, ready, pixels, used: Mutex::default(), kept: Kept(Some(ground)) }
    }

    /// Starts to write a part of what it holds, or all of it converted where that is left to this, on a stream that waits for it.
    ///
    /// # Safety
    /// `to` has room for it, and is the caller's to write on that stream.
    #[allow(unsafe_code)]
    pub(super) unsafe fn write_to(&self, part: Range<u64>, to: Address, stream: RawStream) -> Result<()> {
        match &self.pixels {
            Some(pixels) => pixels.start(self.device(), &self.slab, to, stream),
            None => {
                assert!(
                    part.start <= part.end && part.end <= self.bytes(),
                    "{part:?} of {} bytes",
                    self.bytes()
                );
                let (from, bytes) =
                    (self.slab.address().offset(part.start), (part.end - part.start) as usize);
                // SAFETY: as the caller promises; the column is written to by nobody while it lives.
                unsafe { self.device().copy_within(from, to, bytes, stream)? };
                Ok(())
            }
        }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        self.slab.device()
    }

    /// Its first byte, as the device counts.
    pub fn address(&self) -> u64 {
        self.slab.address().0
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.slab.len()
    }

    /// Hands it to a consumer: the stream waits for the copy.
    ///
    /// # Errors
    /// [`Error::Device`] for a stream of another device, and for one that is being captured: it is not touched.
    pub fn export(self: &Arc<Self>, consumer: Consumer) -> Result<Export> {
        if self.pixels.is_some() {
            return Err(Error::Panic { message: "the column's conversion is left to its consumer".into() });
        }
        self.lend(consumer)
    }

    /// As [`Self::export`], for what the loader does itself on the consumer's stream.
    pub(super) fn lend(self: &Arc<Self>, consumer: Consumer) -> Result<Export> {
        if let Consumer::Stream(stream) = consumer {
            self.check_stream(stream)?;
            if !mutant::is(Mutant::NoWait) {
                self.ready.wait_on(stream)?;
            }
        }
        Ok(Export { resident: self.clone(), consumer })
    }

    /// The column is used on this stream too: it is not used again before what is queued there when the column is let go.
    pub fn record_stream(&self, stream: RawStream) -> Result<()> {
        self.check_stream(stream)?;
        let mut used = self.used.lock();
        if !used.streams.contains(&stream) {
            used.streams.push(stream);
        }
        Ok(())
    }

    /// The column's address goes to somebody whose streams are unknown; the legacy default stream waits for the copy.
    pub fn expose(&self) -> Result<()> {
        self.used.lock().anywhere = true;
        self.check_stream(RawStream::LEGACY)?;
        Ok(self.ready.wait_on(RawStream::LEGACY)?)
    }

    fn check_stream(&self, stream: RawStream) -> Result<()> {
        if mutant::is(Mutant::CaptureIgnored) {
            return Ok(());
        }
        match self.device().capture_of(stream)? {
            Capture::None => Ok(()),
            Capture::Active => Err(Error::Device(forebay_gpu::Error::Stream {
                stream: stream.0,
                what: "it is being captured into a graph, which would keep the batch's address; copy the batch into a tensor of the graph's own \
                       before the capture is replayed",
            })),
        }
    }

    /// A copy of a part of its bytes in host memory. Blocks until it is there.
    #[allow(unsafe_code)]
    pub fn to_host(&self, part: Range<u64>) -> Result<Vec<u8>> {
        if self.pixels.is_some() {
            return Err(Error::Panic { message: "the column's conversion is left to its consumer".into() });
        }
        let device = self.device();
        let Some(ground) = &self.kept.0 else { return Err(Error::Closed) };
        let stream = forebay_gpu::Stream::new(device)?;
        self.ready.wait_on(stream.raw())?;
        assert!(part.start <= part.end && part.end <= self.bytes(), "{part:?} of {} bytes", self.bytes());
        let mut host = vec![0; (part.end - part.start) as usize];
        let mut at = self.slab.address().offset(part.start);
        for part in host.chunks_mut(BOUNCE_PIECE) {
            let mut slab = block_on(ground.bounce.allocate(BOUNCE_PIECE))?;
            // SAFETY: the slab is ours alone, and kept until the event says that the copy is done (or for ever); the column is not written
            // to while it lives.
            let started = unsafe { device.copy_out(at, slab.as_mut_ptr(), part.len(), stream.raw()) };
            let done = Event::record(device, stream.raw()).and_then(|event| event.block());
            if let Err(error) = done {
                // Nobody can say whether the device still writes to it.
                std::mem::forget(slab);
                return Err(error.into());
            }
            started?;
            part.copy_from_slice(&slab[..part.len()]);
            at = at.offset(part.len() as u64);
        }
        Ok(host)
    }

    /// What stands for the work that a stream has queued now. Never anything that all of the device hears of: this runs wherever a consumer
    /// lets go, perhaps while it captures a graph.
    fn guard_on(&self, stream: RawStream) -> Guard {
        // The default stream of a thread is another one wherever this runs.
        if stream == RawStream::PER_THREAD {
            return Guard::Everything;
        }
        match self.device().capture_of(stream) {
            Ok(Capture::Active) => Guard::Stream(stream),
            Ok(Capture::None) => match Event::record(self.device(), stream) {
                Ok(event) => Guard::Event(Arc::new(event)),
                // Its capture began just now, perhaps.
                Err(_) => Guard::Stream(stream),
            },
            // It is gone.
            Err(_) => Guard::Everything,
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let Used { guards, streams, anywhere } = std::mem::take(self.used.get_mut());
        let named: Vec<Guard> = streams.into_iter().map(|stream| self.guard_on(stream)).collect();
        let everywhere = anywhere.then_some(Guard::Everything);
        guards.into_iter().chain(named).chain(everywhere).for_each(|guard| self.slab.guard(guard));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(last) = self.0.take().and_then(Arc::into_inner) {
            // The loader is gone, and this was its last batch: giving device memory back waits for the device, which must not happen on a
            // thread of the consumer's, perhaps with Python's lock.
            let end = std::thread::Builder::new().name("forebay-gpu-end".into()).spawn(move || drop(last));
            if let Err(error) = end {
                tracing::debug!(%error, "the last batch's device was let go on the thread that dropped it");
            }
        }
    }
}

impl Export {
    /// What was exported.
    pub fn resident(&self) -> &Arc<Resident> {
        &self.resident
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let guard = match self.consumer {
            _ if mutant::is(Mutant::NoGuard) => return,
            _ if mutant::is(Mutant::OneGuard) && !self.resident.used.lock().guards.is_empty() => return,
            _ if mutant::is(Mutant::GuardOnOurs) => Guard::Event(self.resident.ready.clone()),
            Consumer::Stream(stream) => self.resident.guard_on(stream),
            Consumer::Unknown => Guard::Everything,
        };
        self.resident.used.lock().push(guard);
    }
}
