//! Moves finished batches to the device, on a thread of its own: it may wait for the driver.

mod mixed;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forebay_cache::Lease;
use forebay_gpu::mutant::{self, Mutant};
use forebay_gpu::{DeviceSlab, Event, Guard, InFlight, Staging, Stream, Waited};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::DevicePlace;
use super::bounce::bounced;
use super::convert::Pixels;
use super::jpeg::{Columns, Finished, PixelColumn};
use super::resident::Resident;
use crate::batch::{Array, Batch, Column, DeviceArray};
use crate::error::{Error, Result};
use crate::pipeline::queue::{Made, Ready, Stage};
use crate::pipeline::row::Workshop;

/// How often a wait for the consumer looks whether the epoch still runs.
const SLICE: Duration = Duration::from_millis(100);
/// How often copies under way are looked at while no batch comes: a batch takes many times as long.
const LOOK: Duration = Duration::from_millis(1);

pub(crate) use mixed::NearRow;

/// What of a batch the host has not made.
#[derive(Default)]
pub(crate) struct Apart {
    /// Rows that the device is to make.
    pub(crate) near: Vec<NearRow>,
    /// Columns that the device has drawn rows of; none where it drew none.
    pub(crate) drawn: Option<Columns>,
}

/// A batch on its way to the device.
pub(crate) struct Moving {
    /// Its rows that the host has made.
    pub(crate) made: Made,
    pub(crate) apart: Apart,
    /// Its place among those ahead of the consumer.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// The thread's state.
pub(crate) struct Mover {
    place: Arc<DevicePlace>,
    staging: Staging,
    /// Kernels run beside copies.
    kernels: Stream,
    /// Samples that kernels may still read.
    reading: InFlight<Vec<NearRow>>,
    arriving: mpsc::Receiver<Moving>,
    ready: Arc<Ready>,
    /// Bytes that the batch at hand has of the device's memory.
    taken: u64,
    shop: Arc<Workshop>,
}

impl Mover {
    /// Starts the thread; it ends with the last batch, or when nobody makes any.
    pub(crate) fn start(
        place: &Arc<DevicePlace>,
        shop: Arc<Workshop>,
        ready: Arc<Ready>,
        arriving: mpsc::Receiver<Moving>,
    ) -> Result<()> {
        let (staging, kernels) = (Staging::new(&place.device)?, Stream::new(&place.device)?);
        let mover = Self {
            place: place.clone(),
            staging,
            kernels,
            reading: InFlight::new(&place.device),
            arriving,
            ready: ready.clone(),
            taken: 0,
            shop,
        };
        let run = move || {
            // A bug ends the epoch with an error, never in silence.
            let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || mover.run()));
            if let Err(panic) = moved {
                ready.put(Err(crate::task::panicked(&*panic)), None);
            }
            ready.end();
        };
        std::thread::Builder::new()
            .name("forebay-gpu".into())
            .spawn(run)
            .map(drop)
            .map_err(|error| Error::config(format!("a thread for the device can't be started: {error}")))
    }

    fn run(mut self) {
        while let Some(Moving { made, apart, permit }) = self.next() {
            if self.ready.is_left() {
                break;
            }
            let moved = made.and_then(|(batch, after)| Ok((self.batch(batch, apart)?, after)));
            let failed = moved.is_err();
            self.ready.put(moved, permit);
            if failed {
                break;
            }
        }
        // The epoch is over for its consumer; the last copies end behind it.
        self.ready.end();
    }

    /// The next batch. Until it comes, the host's slots are given back as their copies end: who makes it may wait for one. It is never kept
    /// waiting for a copy: the next one is to be in line when the bus is free.
    fn next(&mut self) -> Option<Moving> {
        loop {
            if let Err(error) = self.staging.collect() {
                return Some(Moving { made: Err(error.into()), apart: Apart::default(), permit: None });
            }
            if self.staging.in_flight() == 0 {
                return self.arriving.blocking_recv();
            }
            let arriving = async { tokio::time::timeout(LOOK, self.arriving.recv()).await };
            if let Ok(arrived) = self.place.session.block_on(arriving) {
                return arrived;
            }
        }
    }

    /// A batch whose arrays are on the device, or on their way there.
    fn batch(&mut self, batch: Batch, Apart { near, drawn }: Apart) -> Result<Batch> {
        self.staging.collect()?;
        self.reading.collect()?;
        self.taken = 0;
        if !near.is_empty() {
            return self.mixed(batch, near);
        }
        let columns = batch.columns.into_iter().enumerate().map(|(field, (name, column))| {
            Ok(match column {
                Column::Dense(array) => {
                    let drawn = drawn.as_ref().and_then(|columns| columns[field].as_deref());
                    let array = self.array(&name, array, drawn)?;
                    (name, Column::Device(array))
                }
                other => (name, other),
            })
        });
        let columns = columns.collect::<Result<_>>()?;
        Ok(Batch { columns, ..batch })
    }

    fn array(&mut self, name: &str, array: Array, column: Option<&PixelColumn>) -> Result<DeviceArray> {
        let (to, ready) = match column {
            Some(column) => self.drawn(&array.data, column)?,
            None => self.arriving(name, array.data)?,
        };
        let Some(convert) = self.place.conversion(name) else {
            let memory = Arc::new(Resident::new(to, ready, None, self.place.ground.clone()));
            return Ok(DeviceArray {
                offset: 0,
                dtype: array.dtype,
                shape: array.shape,
                strides: array.strides,
                memory,
            });
        };
        let pixels = Pixels::new(&array.shape, &convert)?;
        let (dtype, (shape, strides)) = (convert.dtype.dtype(), pixels.form());
        let memory = if self.place.into_consumers {
            Resident::new(to, ready, Some(pixels), self.place.ground.clone())
        } else if pixels.convert.is_plain() {
            // Only the names of the dimensions change.
            Resident::new(to, ready, None, self.place.ground.clone())
        } else {
            let (to, ready) = self.converted(&pixels, to, &ready, name)?;
            Resident::new(to, ready, None, self.place.ground.clone())
        };
        Ok(DeviceArray { dtype, shape, strides, offset: 0, memory: Arc::new(memory) })
    }

    /// Starts to copy bytes to memory of the device.
    fn arriving(&mut self, name: &str, data: Lease) -> Result<(DeviceSlab, Arc<Event>)> {
        let bytes = data.len() as u64;
        let mut to = self.room(bytes, name)?;
        let ready = if self.place.arena().contains(&data) {
            self.staging.copy(data, &mut to, 0)?
        } else {
            self.bounced(data, &mut to)?
        };
        self.place.copied_bytes.fetch_add(bytes, Relaxed);
        Ok((to, ready))
    }

    /// Converts pixels that have arrived, or are on their way, on the stream for kernels.
    fn converted(
        &mut self,
        pixels: &Pixels,
        mut from: DeviceSlab,
        arrived: &Event,
        name: &str,
    ) -> Result<(DeviceSlab, Arc<Event>)> {
        let mut to = self.room(pixels.bytes(), name)?;
        let stream = self.kernels.raw();
        arrived.wait_on(stream)?;
        let started = pixels.start(&self.place.device, &from, to.address(), stream);
        let done = Event::record(&self.place.device, stream).map(Arc::new);
        for slab in [&mut from, &mut to] {
            slab.guard(done.as_ref().map_or(Guard::Everything, |done| Guard::Event(done.clone())));
        }
        self.taken -= from.taken_bytes();
        started?;
        Ok((to, done?))
    }

    /// Copies bytes of the heap over pinned memory.
    fn bounced(&mut self, bytes: Lease, to: &mut DeviceSlab) -> Result<Arc<Event>> {
        bounced(&mut self.staging, &self.place.ground, &self.place.session, bytes, to)
    }

    /// A column that the device has drawn rows of: the host's rows follow.
    fn drawn(&mut self, data: &Lease, column: &PixelColumn) -> Result<(DeviceSlab, Arc<Event>)> {
        let finished = column.finish();
        let finished = finished.ok_or_else(|| Error::Panic { message: "a batch has no column".into() })?;
        let Finished { slab: mut to, row_bytes, drawing, drawn } = finished;
        let stream = self.kernels.raw();
        if !mutant::is(Mutant::ColumnNoWait) {
            drawing.iter().try_for_each(|event| event.wait_on(stream))?;
        }
        // A row may have been drawn before its sample was replaced by one of the host's.
        if drawn.iter().any(|drawn| !drawn) {
            drawing.iter().try_for_each(|event| self.staging.wait_for(event))?;
        }
        let mut row = 0;
        for run in drawn.chunk_by(|a, b| a == b) {
            let (first, bytes) = (row as u64 * row_bytes, run.len() as u64 * row_bytes);
            row += run.len();
            if !run[0] {
                let rows = data.slice(first as usize..(first + bytes) as usize);
                let copied = self.staging.copy(rows, &mut to, first)?;
                self.place.copied_bytes.fetch_add(bytes, Relaxed);
                copied.wait_on(stream)?;
            }
        }
        let ready = Arc::new(Event::record(&self.place.device, stream)?);
        to.guard(Guard::Event(ready.clone()));
        self.taken += to.taken_bytes();
        Ok((to, ready))
    }

    /// Memory of the device: what is free, else what consumers are done with, else what they let go.
    fn room(&mut self, bytes: u64, name: &str) -> Result<DeviceSlab> {
        let (memory, gauges) = (self.place.ground.memory.clone(), self.shop.gauges.clone());
        // Kept over several looks: leaving the stage counts as progress, and there is none while the consumer holds everything.
        let mut held = None;
        loop {
            let since = memory.freed();
            if let Some(slab) = memory.take(bytes, &format!("field {name:?}"))? {
                self.taken += slab.taken_bytes();
                return Ok(slab);
            }
            self.staging.collect()?;
            let waited = memory.wait(since, SLICE)?;
            match waited {
                Waited::Freed => continue,
                Waited::Busy => held = None,
                Waited::Held => held = held.or_else(|| Some(gauges.enter(Stage::Device))),
            }
            if self.ready.is_left() {
                return Err(Error::Closed);
            }
            let (used_bytes, _) = memory.used_bytes();
            if waited == Waited::Held && used_bytes == self.taken + self.place.ground.standing_bytes {
                return Err(forebay_gpu::Error::OverBudget {
                    device: self.place.device.facts().name.clone(),
                    what: format!("field {name:?}, behind the batch's other columns,"),
                    wanted_bytes: bytes,
                    limit_bytes: memory.limit_bytes(),
                    used_bytes,
                    advice: "raise gpu_memory_limit, or lower batch_size",
                }
                .into());
            }
        }
    }
}
