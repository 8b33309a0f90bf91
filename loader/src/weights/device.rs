//! Tensors on their way to a device: file → pinned slot → bus → memory of the consumer's, or of a budget that hands it out again.
//!
//! Reads go ahead of the copies, in the order of the groups, as far as there are slots; a slot is free when the device has read it. What lies on
//! the device as in the file crosses the bus from where it was read; small tensors whose places differ are put side by side first, so that a
//! group of them is a few copies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_cache::Lease;
use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::{
    Address, Device, DeviceMemory, DeviceSlab, Event, Pinned, RawStream, Staging, Waited, Which,
};
use tokio::sync::mpsc;

use super::ground::{Ground, Memory};
use super::layout::{Group, Member, Placement, SHARED_BYTES, Span, Want, groups};
use super::load::Reader;
use super::model::{Wanted, Weights};
use super::slots::Slots;
use crate::batch::DeviceArray;
use crate::device::{Ground as DeviceGround, Resident};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::task::Task;

/// Slots for reads: a quarter of a gibibyte, what a bus moves in 10 ms and a disk in a hundred.
const MOST_SLOTS: usize = 64;
/// Slots in which small tensors are put side by side: one is filled while the other crosses the bus.
const PACKS: usize = 2;
const PACK_BYTES: usize = SHARED_BYTES as usize;
/// How often a consumer's memory is asked for again.
const LOOK: Duration = Duration::from_millis(100);

/// Which device, and whose memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onto {
    /// Which device.
    pub which: Which,
    /// Memory of ours for tensors, handed out again when they are let go: so many bytes, or what all that is wanted takes. None: they go to
    /// memory that the consumer brings.
    pub memory: Option<Budget>,
}

/// How much of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// What all tensors take.
    All,
    /// So many bytes; whoever holds as much is waited for.
    Bytes(u64),
}

/// Groups on their way to a device.
#[derive(Debug)]
pub struct DeviceLoading {
    staging: Staging,
    groups: VecDeque<Group>,
    wants: Arc<Vec<Want>>,
    reads: mpsc::Receiver<(Span, Task<Result<Lease>>)>,
    /// Taken from the line, not copied yet.
    next: Option<(Span, Task<Result<Lease>>)>,
    driver: Option<Task<Result<()>>>,
    /// The group that is being copied, the bytes of it that are still to come, and where it goes.
    current: Option<(Group, u64, Option<DeviceSlab>)>,
    memory: Option<Arc<DeviceGround>>,
    reader: Arc<Reader>,
    copied_bytes: u64,
    // Dropped last: what the slots were carved from.
    bridge: Arc<Bridge>,
}

/// A group that is ready to be copied.
#[derive(Clone, Debug)]
pub struct Coming {
    /// Bytes of memory that it takes.
    pub bytes: u64,
    /// Where each tensor lies in it.
    pub members: Vec<Member>,
}

/// How far a group has come.
#[derive(Debug)]
pub enum Step<T> {
    /// Something was copied, or waited for.
    More,
    /// All of it has been handed to the device.
    Done(T),
}

impl Weights {
    /// Starts to bring tensors to a device; members of what comes name places in `wanted`.
    ///
    /// # Errors
    /// As [`Self::load`]; [`Error::Device`] where there is no such device, or no room on it.
    pub fn load_onto(&self, wanted: &[Wanted], onto: &Onto) -> Result<DeviceLoading> {
        let wants = Arc::new(self.wants(wanted)?);
        let groups = groups(&wants, Placement::Device);
        let bridge = self.bridge(&onto.which)?;
        let device = &bridge.device;
        let memory = match onto.memory {
            None => None,
            Some(budget) => {
                let all = groups
                    .iter()
                    .map(|group| group.bytes.next_multiple_of(DeviceMemory::ALIGNMENT))
                    .sum::<u64>();
                let bytes = match budget {
                    Budget::All => all,
                    Budget::Bytes(bytes) => bytes.min(all),
                };
                let memory = DeviceMemory::new(device, bytes.max(1))?;
                Some(DeviceGround::of_weights(memory, device)?)
            }
        };
        let (line, reads) = mpsc::channel(MOST_SLOTS);
        let (reader, planned) = (self.reader.clone(), (groups.clone(), wants.clone()));
        let slots = bridge.slots.clone();
        let driver = Task::spawn(&self.ground.handle, async move {
            let (groups, wants) = planned;
            for group in &groups {
                for span in group.spans(&wants) {
                    let slot = slots.take().await?;
                    let (reading, range, file) = (reader.clone(), span.clone(), group.file);
                    let read = async move { reading.through(file, &range, slot).await };
                    if line.send((span, Task::spawn(&reader.handle, read))).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        Ok(DeviceLoading {
            staging: Staging::new(device)?,
            groups: groups.into(),
            wants,
            reads,
            next: None,
            driver: Some(driver),
            current: None,
            memory,
            reader: self.reader.clone(),
            copied_bytes: 0,
            bridge,
        })
    }

    /// The way to a device: the one that is there, where no load is on it.
    fn bridge(&self, which: &Which) -> Result<Arc<Bridge>> {
        let mut kept = self.bridge.lock();
        // Two loads on one way would wait for each other: the consumer of one holds the slots that the other's reads need.
        if let Some(bridge) =
            kept.as_ref().filter(|bridge| bridge.which == *which && Arc::strong_count(bridge) == 1)
        {
            return Ok(bridge.clone());
        }
        let bridge = Arc::new(Bridge::new(which, &self.ground)?);
        *kept = Some(bridge.clone());
        Ok(bridge)
    }
}

/// A device, and pinned memory over which tensors go there: kept from load to load, since pinning takes longer than most tensors do.
#[derive(Debug)]
pub(super) struct Bridge {
    which: Which,
    device: Arc<dyn Device>,
    slots: Slots,
    packs: Slots,
    // Dropped last: what the slots were carved from.
    _arena: Memory,
}

impl Bridge {
    fn new(which: &Which, ground: &Ground) -> Result<Self> {
        let device = CudaDevice::open(which)?;
        let (slots, packs, arena) = ground.slots(MOST_SLOTS, PACKS, PACK_BYTES)?;
        if let Err(refused) = arena.arena().pin(Arc::new(Pinned(device.clone()))) {
            tracing::warn!(
                "host memory could not be pinned for {} ({refused}): copies to it are slower. Lower host_memory_limit, or raise the memory that \
                 this process may lock (ulimit -l, or the container's memlock limit)",
                device.facts().name
            );
        }
        Ok(Self { which: which.clone(), device, slots, packs, _arena: arena })
    }
}

impl DeviceLoading {
    /// The next group, whose memory is to be brought; none behind the last one.
    ///
    /// # Errors
    /// [`Error::State`] where the one before was not copied to its end: what comes is its bytes.
    pub fn next_group(&mut self) -> Result<Option<Coming>> {
        if self.current.as_ref().is_some_and(|(_, left, _)| *left > 0) {
            let message = "tensors were left on their way to the device: begin anew".into();
            return Err(Error::State { message });
        }
        let Some(group) = self.groups.pop_front() else { return Ok(None) };
        let asked = |member: &Member| Member { want: self.wants[member.want].number, ..*member };
        let coming = Coming { bytes: group.bytes, members: group.members.iter().map(asked).collect() };
        let left = group.members.iter().map(|member| member.bytes).sum();
        self.current = Some((group, left, None));
        Ok(Some(coming))
    }

    /// Goes on with copying the group to memory of the consumer's, on its stream, for about `time`.
    ///
    /// # Safety
    /// `to` has room for the group's bytes, and is the consumer's to write on that stream from the first call for the group to the last.
    ///
    /// # Errors
    /// Whatever reading gave; the driver's.
    #[allow(unsafe_code)]
    pub unsafe fn copy_to(&mut self, to: Address, stream: RawStream, time: Duration) -> Result<Step<()>> {
        self.go_on(time, |staging, bytes, offset| {
            // SAFETY: as the caller promises.
            unsafe { staging.copy_to(bytes, to.offset(offset), stream) }
        })
    }

    /// Goes on with copying the group to memory of ours, for about `time`; its array with the last of it.
    ///
    /// # Errors
    /// As [`Self::copy_to`]; [`forebay_gpu::Error::OverBudget`] where those who hold tensors must let some go first.
    pub fn copy(&mut self, time: Duration) -> Result<Step<DeviceArray>> {
        let Some(ground) = self.memory.clone() else { return Err(Error::Closed) };
        let Some((group, _, slab)) = &mut self.current else { return Err(Error::Closed) };
        let (bytes, mut slab) = (group.bytes, slab.take());
        if slab.is_none() {
            let memory = ground.memory();
            let freed = memory.freed();
            slab = memory.take(bytes, "a tensor, or small neighbours that share memory")?;
            if slab.is_none() {
                self.staging.collect()?;
                if memory.wait(freed, time.min(LOOK))? == Waited::Held {
                    let (used_bytes, _) = memory.used_bytes();
                    return Err(forebay_gpu::Error::OverBudget {
                        device: self.bridge.device.facts().name.clone(),
                        what: "the next tensors".into(),
                        wanted_bytes: bytes,
                        limit_bytes: memory.limit_bytes(),
                        used_bytes,
                        advice: "let tensors go before you take further ones, or raise gpu_memory_limit",
                    }
                    .into());
                }
            }
        }
        let Some(mut slab) = slab else { return Ok(Step::More) };
        match self.go_on(time, |staging, bytes, offset| staging.copy(bytes, &mut slab, offset))? {
            Step::Done(()) => {
                self.current = None;
                Ok(Step::Done(self.array(slab, ground)?))
            }
            Step::More => {
                if let Some((_, _, place)) = &mut self.current {
                    *place = Some(slab);
                }
                Ok(Step::More)
            }
        }
    }

    fn array(&self, slab: DeviceSlab, ground: Arc<DeviceGround>) -> Result<DeviceArray> {
        let ready = Arc::new(self.staging.mark()?);
        let bytes = slab.len() as usize;
        let memory = Arc::new(Resident::plain(slab, ready, ground));
        Ok(DeviceArray { dtype: DType::U8, shape: vec![bytes], strides: vec![1], offset: 0, memory })
    }

    /// Copies spans of the present group as they arrive.
    fn go_on(
        &mut self,
        time: Duration,
        mut copy: impl FnMut(&mut Staging, Lease, u64) -> forebay_gpu::Result<Arc<Event>>,
    ) -> Result<Step<()>> {
        let until = Instant::now() + time;
        while self.current.as_ref().is_some_and(|(_, left, _)| *left > 0) {
            let Some((span, read)) = self.read(until)? else { return Ok(Step::More) };
            let (target, bytes) =
                (span.target(), span.stripes.iter().map(|stripe| stripe.bytes()).sum::<u64>());
            let read = if span.is_one() { read } else { self.packed(&span, &read)? };
            self.copied_bytes += read.len() as u64;
            copy(&mut self.staging, read, target.start)?;
            if let Some((_, left, _)) = &mut self.current {
                *left = left.saturating_sub(bytes);
            }
        }
        Ok(Step::Done(()))
    }

    /// The next span and its bytes; none where they take longer. Slots that the device is done with are given back meanwhile: reads wait for
    /// them.
    fn read(&mut self, until: Instant) -> Result<Option<(Span, Lease)>> {
        let handle = self.reader.handle.clone();
        loop {
            self.staging.collect()?;
            let left = until.saturating_duration_since(Instant::now());
            // A moment, where a copy may end first.
            let wait = if self.staging.in_flight() > 0 { Duration::ZERO } else { left };
            if let Some(read) =
                handle.block_on(async { tokio::time::timeout(wait, self.arrived()).await.ok() })
            {
                return read.map(Some);
            }
            if !self.staging.wait_for_one()? && left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Cancelled, it loses nothing.
    async fn arrived(&mut self) -> Result<(Span, Lease)> {
        if self.next.is_none() {
            self.next = self.reads.recv().await;
        }
        let Some((_, reading)) = &mut self.next else {
            return Err(match self.driver.take() {
                Some(driver) => driver.await.err().unwrap_or(Error::Closed),
                None => Error::Closed,
            });
        };
        let read = reading.await;
        match self.next.take() {
            Some((span, _)) => Ok((span, read?)),
            None => Err(Error::Closed),
        }
    }

    /// A span's bytes as they are to lie on the device.
    fn packed(&mut self, span: &Span, read: &Lease) -> Result<Lease> {
        let target = span.target();
        let bytes = (target.end - target.start) as usize;
        let handle = self.reader.handle.clone();
        let slot = loop {
            if let Some(slot) = self.bridge.packs.try_take() {
                break slot;
            }
            if !self.staging.wait_for_one()? {
                break handle.block_on(self.bridge.packs.take())?;
            }
        };
        let mut slab = handle.block_on(slot.region()?.allocate(bytes))?;
        span.scatter(read, &mut slab, target.start);
        Ok(slot.with(slab.freeze().slice(0..bytes)))
    }

    /// Blocks until the device has everything that was handed to it.
    ///
    /// # Errors
    /// The driver's.
    pub fn finish(&mut self) -> Result<()> {
        while self.staging.wait_for_one()? {}
        Ok(())
    }

    /// Bytes that were handed to the bus.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// The device, as it names itself.
    pub fn device(&self) -> &str {
        &self.bridge.device.facts().name
    }
}
