//! The nearest tiers: decoded samples in a device's memory and in host memory, so that an epoch over them touches neither the disk nor a
//! decoder.
//!
//! A sample is kept as it is before its first random step, every field of it, in one piece. The plan knows who is needed when. With one rank
//! every sample is used once in each epoch, so what is kept over an epoch's end is what the next one hits: no choice hits more than the
//! budget's share, and any choice that stays does. So samples that the next epoch needs don't take each other's places: what fits first
//! stays. Those go that this rank doesn't take in the next epoch, since another one does.
//!
//! A row is made from what was kept by the same steps, whether it was kept or has just been decoded, by a device or by the CPU: pixels don't
//! depend on it.

mod future;
mod host;
mod shelf;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use host::{Decoded, Record};
pub(crate) use shelf::{Pinned, Shelf};

use crate::device::{DeviceTier, OnDevice};
use crate::error::Result;
use crate::pipeline::sample::Kept;
use crate::plan::{Order, World};

/// What is kept of images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    /// Most pixels of the longer side.
    pub(crate) max_side: Option<u32>,
}

/// Where a value begins: on a cache line.
const ALIGN: usize = 64;

/// What is set aside of host memory for a sample beside its values: what is noted of it lies on the heap.
pub(crate) const BESIDE: usize = 512;

/// Where values of these lengths lie in one piece, and its length.
pub(crate) fn in_one_piece(lengths: impl Iterator<Item = usize>) -> (Vec<Range<usize>>, usize) {
    let mut end = 0;
    let place = |length: usize| {
        let start = end;
        end = (start + length).next_multiple_of(ALIGN);
        start..start + length
    };
    let places = lengths.map(place).collect();
    (places, end)
}

/// A loader's decoded samples, in either memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nearest {
    pub(crate) device: Option<Arc<DeviceTier>>,
    pub(crate) host: Option<Arc<Decoded>>,
}

/// A sample that is kept.
#[derive(Debug)]
pub(crate) enum Near {
    OnDevice(Pinned<OnDevice>),
    InHost(Pinned<Record>),
}

impl Nearest {
    /// Begins an epoch at this position; in storage order without an order.
    pub(crate) fn begin(&self, order: Option<&Arc<Order>>, world: World, position: u64) {
        if let Some(tier) = &self.device {
            tier.shelf().begin(order.cloned(), world, position);
        }
        if let Some(tier) = &self.host {
            tier.shelf().begin(order.cloned(), world, position);
        }
    }

    /// The samples of a batch that are kept, in their places; `end` is the first position behind the batch.
    pub(crate) fn pin(&self, numbers: &[u64], end: u64) -> Vec<Option<Near>> {
        let mut near: Vec<Option<Near>> = numbers.iter().map(|_| None).collect();
        if let Some(tier) = &self.device {
            let kept = tier.shelf().pin(numbers, Some(end));
            near.iter_mut().zip(kept).for_each(|(place, kept)| *place = kept.map(Near::OnDevice));
        }
        if let Some(tier) = &self.host {
            let (places, missing): (Vec<_>, Vec<_>) = near
                .iter_mut()
                .zip(numbers)
                .filter(|(near, _)| near.is_none())
                .map(|(near, &number)| (near, number))
                .unzip();
            let kept = tier.shelf().pin(&missing, Some(end));
            places.into_iter().zip(kept).for_each(|(place, kept)| *place = kept.map(Near::InHost));
        }
        near
    }

    /// Whether all samples of these numbers are kept.
    pub(crate) fn hold(&self, mut numbers: impl Iterator<Item = u64>) -> bool {
        self.keeps()
            && numbers.all(|number| {
                self.device.as_ref().is_some_and(|tier| tier.shelf().holds(number))
                    || self.host.as_ref().is_some_and(|tier| tier.shelf().holds(number))
            })
    }

    /// Keeps a decoded sample in the nearest memory that has a place for it.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn offer(&self, number: u64, kept: Kept, label: impl FnOnce() -> Arc<str>) -> Result<()> {
        if let Some(tier) = &self.device
            && tier.offer(number, &kept)?
        {
            return Ok(());
        }
        if let Some(tier) = &self.host {
            tier.offer(number, kept, label);
        }
        Ok(())
    }

    /// Whether anything is kept.
    pub(crate) fn keeps(&self) -> bool {
        self.device.is_some() || self.host.is_some()
    }

    /// Gives the memory back; what is in use follows when it is let go.
    pub(crate) fn close(&self) {
        self.device.iter().for_each(|tier| tier.close());
        self.host.iter().for_each(|tier| tier.close());
    }
}
