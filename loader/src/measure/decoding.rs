//! Decode and resize alone: the loader's own decoder on the loader's own boxes, with the members already in memory, on as many
//! threads. What a training pipeline could reach if everything else cost nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use forebay_cache::memory::{Arena, Slab};
use forebay_cache::object::GRANULE_BYTES;

use crate::decode::{Decoder, ImageOut, Limits, fixed_output};
use crate::error::{Error, Result};
use crate::field::{DecodeMode, Interpolation, Transform};
use crate::plan::EpochRng;

/// A random crop, resized to a square, and a flip: torchvision's defaults.
pub fn training(side: u32) -> [Transform; 2] {
    [
        Transform::RandomResizedCrop {
            size: (side, side),
            scale: (0.08, 1.0),
            ratio: (3.0 / 4.0, 4.0 / 3.0),
            interpolation: Interpolation::Bilinear,
            antialias: true,
        },
        Transform::RandomHorizontalFlip { p: 0.5 },
    ]
}

/// Decoders and the slots that they write to, kept from pass to pass, as in a pipeline.
#[derive(Debug)]
pub struct Decoding {
    transforms: Vec<Transform>,
    mode: DecodeMode,
    image_bytes: usize,
    /// Each thread's decoder and its share of two batches, in memory as batches have it.
    workers: Vec<(Decoder, Slab)>,
}

impl Decoding {
    /// Decoders of so many threads, for batches of so many images.
    ///
    /// # Errors
    /// Transforms without a fixed output size.
    pub fn new(
        transforms: impl Into<Vec<Transform>>,
        mode: DecodeMode,
        threads: usize,
        batch: usize,
    ) -> Result<Self> {
        let transforms = transforms.into();
        let (height, width) = fixed_output(&transforms)
            .ok_or_else(|| Error::config("the transforms don't fix the output's size"))?;
        let image_bytes = (height * width * 3) as usize;
        let slots = (2 * batch).div_ceil(threads) * image_bytes;
        let aligned = slots.next_multiple_of(GRANULE_BYTES as usize);
        let arena = Arena::new((aligned * threads) as u64)?;
        let region = arena.region("slots", aligned * threads)?;
        let worker = |_| {
            let mut slab = region
                .try_allocate(aligned)
                .ok_or_else(|| Error::Panic { message: "an arena of its own is full".into() })?;
            // Every page is touched now.
            slab.fill(0);
            Ok((Decoder::new(Limits::default()), slab))
        };
        let workers = (0..threads).map(worker).collect::<Result<_>>()?;
        Ok(Self { transforms, mode, image_bytes, workers })
    }

    /// Decodes every image once, with the boxes that `random` draws for its number; threads take them one by one, until all are done or
    /// `stop` says so. Gives how many were decoded.
    ///
    /// # Errors
    /// An image that can't be decoded, with its number.
    pub fn pass<I: AsRef<[u8]> + Sync>(
        &mut self,
        images: &[I],
        random: EpochRng,
        stop: impl Fn() -> bool + Sync,
    ) -> Result<usize> {
        let (transforms, mode, image_bytes) = (&self.transforms, self.mode, self.image_bytes);
        let next = AtomicUsize::new(0);
        let work = |(decoder, slots): &mut (Decoder, Slab)| {
            let mut decoded = 0;
            while !stop() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(image) = images.get(number) else { break };
                let at = decoded % (slots.len() / image_bytes) * image_bytes;
                let slot = ImageOut::Slot(&mut slots[at..at + image_bytes]);
                let draws = random.draws(number as u64);
                let done = decoder.image(image.as_ref(), transforms, mode, &draws, slot);
                done.map_err(|error| Error::Dataset { message: format!("image {number}: {error}") })?;
                decoded += 1;
            }
            Ok(decoded)
        };
        let work = &work;
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.workers.iter_mut().map(|worker| scope.spawn(move || work(worker))).collect();
            let panicked = || Error::Panic { message: "a decoding thread".into() };
            threads.into_iter().map(|thread| thread.join().map_err(|_| panicked())?).sum()
        })
    }
}
