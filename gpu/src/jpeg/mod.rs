//! JPEG images decoded on a device: compressed bytes of the host in, rows of RGB in device memory out.
//!
//! bytes ─ [`header`] ─► the device's library ([`Codec`]) ─► rows in a [`DeviceSlab`], with an event to wait for.
//!
//! A [`Decoder`] takes groups of images, and says of each whether it is decoded, or why not: one bad image spoils no others. It promises that
//! compressed bytes stay until the device has read them, and targets until they are written; and that an image it calls decoded is one that was
//! whole, of a kind that the library gets right. It leaves to others: EXIF orientation, which is not applied; pixels equal to the CPU's, which
//! no device promises (upsampling and rounding differ); and what becomes of images that it refuses.
//!
//! A decoder is used by one thread at a time and has one group under way: more threads with a decoder each keep the device busy.

mod codec;
pub mod header;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use forebay_cache::Lease;

use crate::device::{Device, Event, Stream};
use crate::error::Result;
use crate::memory::{DeviceMemory, DeviceSlab, Guard};

pub use codec::{Backend, Codec, Facts, Frame, Picture, Settings};
pub use refusal::Refusal;

/// A compressed image, and its place in one of the targets of its group.
#[derive(Clone, Debug)]
pub struct Image {
    /// The compressed image, kept until the device has read it.
    pub bytes: Lease,
    /// Its size, as [`Decoder::look`] said it. One of another size is refused.
    pub frame: Frame,
    /// Which of the targets.
    pub target: usize,
    /// Where its first row begins, in bytes from the target's start.
    pub offset: u64,
    /// Bytes from row to row, at least three for each pixel. What is between rows is left as it is.
    pub pitch: u64,
}

/// What became of a group.
#[derive(Debug)]
#[must_use]
pub struct Decoded {
    /// Of each image, in the group's order.
    pub images: Vec<Result<(), Refusal>>,
    /// Behind all of the group. The targets are guarded by it.
    pub done: Arc<Event>,
}

/// See the module.
#[derive(Debug)]
pub struct Decoder {
    device: Arc<dyn Device>,
    codec: Box<dyn Codec>,
    under_way: Option<UnderWay>,
    // After the codec, which frees what it took on it.
    stream: Stream,
}

/// Compressed bytes that the device may still read.
#[derive(Debug)]
struct UnderWay {
    until: Guard,
    bytes: Vec<Lease>,
}

impl Decoder {
    /// Opens a decoder of the memory's device. What it needs beside targets comes out of that memory.
    ///
    /// # Errors
    /// [`Error::NoJpeg`](crate::Error::NoJpeg) where the device or its library can't; [`Error::OverBudget`](crate::Error::OverBudget); the
    /// driver's.
    pub fn open(memory: &DeviceMemory, settings: &Settings) -> Result<Self> {
        let device = memory.device().clone();
        let stream = Stream::new(&device)?;
        let codec = device.clone().jpeg_codec(memory, stream.raw(), settings)?;
        Ok(Self { device, codec, under_way: None, stream })
    }

    /// What it runs on.
    pub fn facts(&self) -> &Facts {
        self.codec.facts()
    }

    /// Bytes taken beside targets: of the device's memory, and of pinned host memory.
    pub fn scratch_bytes(&self) -> (u64, u64) {
        self.codec.scratch_bytes()
    }

    /// The size of an image before EXIF orientation, where it is one that this decodes. Reads the header only.
    ///
    /// # Errors
    /// The driver's.
    pub fn look(&mut self, bytes: &[u8]) -> Result<Result<Frame, Refusal>> {
        match header::read(bytes) {
            Ok(header) if !header.single_scan && self.facts().backend == Backend::Engines => {
                Ok(Err(Refusal::unsupported("several scans, which its JPEG engines don't take")))
            }
            Ok(header) => self.codec.look(bytes).map(|looked| {
                // The library decides how much is written; where the two differ, neither is to be believed.
                looked.and_then(|frame| match (header.width, header.height) == (frame.width, frame.height) {
                    true => Ok(frame),
                    false => Err(Refusal::corrupt("its size can be read in two ways")),
                })
            }),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Starts to decode a group, once the one before it is done. `after` must have happened before targets are written to: what else was
    /// done with them, on other streams.
    ///
    /// What is between and behind rows is left as it is. Where an image is refused, its place in its target may hold anything.
    ///
    /// # Errors
    /// Those after which nothing more can be decoded: [`Error::Lost`](crate::Error::Lost), [`Error::Ending`](crate::Error::Ending),
    /// [`Error::Forked`](crate::Error::Forked), or a driver's. What was started is finished, and bytes and targets kept until it is.
    ///
    /// # Panics
    /// Where images lie outside of their targets or over one another.
    pub fn decode(
        &mut self,
        images: &[Image],
        targets: &mut [DeviceSlab],
        after: &[Arc<Event>],
    ) -> Result<Decoded> {
        check_places(images, targets);
        self.finish()?;
        let mut outcomes = Vec::with_capacity(images.len());
        let mut pictures = Vec::with_capacity(images.len());
        for (index, image) in images.iter().enumerate() {
            let looked = self.look(&image.bytes)?.and_then(|frame| fits(frame, image.frame));
            if looked.is_ok() {
                let to = targets[image.target].address().offset(image.offset);
                pictures.push((index, Picture { bytes: &image.bytes, to, pitch: image.pitch }));
            }
            outcomes.push(looked);
        }
        for event in after {
            match self.facts().backend.overtakes_streams() {
                true => event.block()?,
                false => event.wait_on(self.stream.raw())?,
            }
        }
        let started = self.start(&pictures, &mut outcomes);
        let done = Event::record(&self.device, self.stream.raw()).map(Arc::new);
        // Where there is no event, nobody can say when the device has done with them, but that it is when it has done everything.
        let until = done.as_ref().map_or(Guard::Everything, |done| Guard::Event(done.clone()));
        targets.iter_mut().for_each(|target| target.guard(until.clone()));
        let bytes = images.iter().map(|image| image.bytes.clone()).collect();
        self.under_way = Some(UnderWay { until, bytes });
        started?;
        Ok(Decoded { images: outcomes, done: done? })
    }

    /// Starts to decode images: all at once, and where that is refused, by halves, down to those that are to blame.
    fn start(
        &mut self,
        pictures: &[(usize, Picture<'_>)],
        outcomes: &mut [Result<(), Refusal>],
    ) -> Result<()> {
        let Some(((first, _), others)) = pictures.split_first() else { return Ok(()) };
        let group: Vec<_> = pictures.iter().map(|(_, picture)| *picture).collect();
        // SAFETY: `decode` has looked at all of them and kept nothing under way; it keeps bytes and targets until the stream is done.
        #[allow(unsafe_code)]
        let started = unsafe { self.codec.start(&group, self.stream.raw())? };
        let Err(refusal) = started else { return Ok(()) };
        // The library may have begun with some of them.
        self.drain()?;
        if others.is_empty() {
            outcomes[*first] = Err(refusal);
            return Ok(());
        }
        let (front, back) = pictures.split_at(pictures.len() / 2);
        self.start(front, outcomes)?;
        self.drain()?;
        self.start(back, outcomes)
    }

    /// Blocks until nothing is under way, as the next part of a group asks for.
    fn drain(&self) -> Result<()> {
        Event::record(&self.device, self.stream.raw())?.block()
    }

    /// Lets go of the compressed bytes of a group that is done; true where none is under way. Never blocks.
    ///
    /// # Errors
    /// The driver's.
    pub fn collect(&mut self) -> Result<bool> {
        if let Some(under_way) = &self.under_way
            && !under_way.until.is_passed()?
        {
            return Ok(false);
        }
        self.under_way = None;
        Ok(true)
    }

    /// Blocks until no group is under way.
    ///
    /// # Errors
    /// The driver's.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(under_way) = &self.under_way {
            under_way.until.block(&*self.device)?;
        }
        self.under_way = None;
        Ok(())
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::debug!(%error, "compressed images may still be read by the device: they stay the process's until its end");
            self.under_way.take().into_iter().for_each(|under_way| std::mem::forget(under_way.bytes));
        }
    }
}

fn fits(frame: Frame, expected: Frame) -> Result<(), Refusal> {
    let (Frame { width, height }, Frame { width: expected_width, height: expected_height }) =
        (frame, expected);
    if frame == expected {
        Ok(())
    } else {
        Err(Refusal::Size { width, height, expected_width, expected_height })
    }
}

fn check_places(images: &[Image], targets: &[DeviceSlab]) {
    let mut places: Vec<_> = images
        .iter()
        .map(|image| {
            let (end, room) =
                (image.offset.saturating_add(image.frame.bytes(image.pitch)), targets[image.target].len());
            assert!(
                image.pitch >= image.frame.row_bytes(),
                "rows of {} bytes every {}",
                image.frame.row_bytes(),
                image.pitch
            );
            assert!(end <= room, "an image up to byte {end} of a target of {room}");
            (image.target, image.offset, end)
        })
        .collect();
    places.sort_unstable();
    let apart = |pair: &[_]| matches!(pair, [(a, _, end), (b, start, _)] if a != b || end <= start);
    assert!(places.windows(2).all(apart), "two images of a group in one place");
}
