//! A thread that has the device decode groups of images, and cuts each one's part out into its row.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use forebay_gpu::jpeg::{Decoder, Image, Refusal};
use forebay_gpu::kernels::{Channels, Sample};
use forebay_gpu::mutant::{self, Mutant};
use forebay_gpu::{Device, DeviceMemory, DeviceSlab, Event, Guard, Staging, Stream};

use super::TABLES_BYTES;
use super::choice::Choice;
use super::queue::{Order, Outcome, Queue};
use crate::device::Ground;
use crate::device::bounce::bounced;
use crate::device::convert::plain_output;
use crate::device::tables::{self, Table};
use crate::error::{Error, Result};
use crate::session::Session;
use crate::task::panicked;

/// The thread's state.
pub(super) struct Worker {
    decoder: Decoder,
    device: Arc<dyn Device>,
    places: Places,
    kernels: Stream,
    staging: Staging,
    /// Behind the kernels of the last group.
    last: Option<Arc<Event>>,
    /// Images of a group at most: fewer once the decoder had no memory for as many.
    most: usize,
    ground: Arc<Ground>,
    session: Arc<Session>,
    choice: Arc<Choice>,
}

/// Memory of a group.
pub(super) struct Places {
    /// One slab, for the images as they are decoded.
    frames: [DeviceSlab; 1],
    tables: DeviceSlab,
}

impl Places {
    pub(super) fn new(memory: &DeviceMemory, frames_bytes: u64) -> Result<Self> {
        let take = |bytes, what| {
            let taken = memory.take(bytes, what)?;
            taken.ok_or_else(|| Error::Panic {
                message: "the device's memory is taken before it is used".into(),
            })
        };
        Ok(Self {
            frames: [take(frames_bytes, "decoded images")?],
            tables: take(TABLES_BYTES, "tables of decoded images")?,
        })
    }
}

impl Worker {
    pub(super) fn new(
        decoder: Decoder,
        places: Places,
        ground: &Arc<Ground>,
        session: &Arc<Session>,
        choice: &Arc<Choice>,
    ) -> Result<Self> {
        let device = ground.memory.device().clone();
        Ok(Self {
            decoder,
            places,
            kernels: Stream::new(&device)?,
            staging: Staging::new(&device)?,
            last: None,
            most: usize::MAX,
            device,
            ground: ground.clone(),
            session: session.clone(),
            choice: choice.clone(),
        })
    }

    /// Starts the thread; it ends when the line is closed, or the device fails.
    pub(super) fn start(mut self, queue: Arc<Queue>) -> Result<JoinHandle<()>> {
        let run = move || {
            while let Some(group) = queue.take(self.most) {
                // A bug is an error to all who wait, never silence.
                let done = std::panic::catch_unwind(AssertUnwindSafe(|| self.group(&group)));
                let failed = match done.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                    Ok(outcomes) => {
                        group
                            .into_iter()
                            .zip(outcomes)
                            .for_each(|(order, outcome)| order.answer(Ok(outcome)));
                        continue;
                    }
                    Err(error) => error,
                };
                group.into_iter().for_each(|order| order.answer(Err(failed.clone())));
                queue.fail(&failed);
                break;
            }
        };
        std::thread::Builder::new().name("forebay-gpu-jpg".into()).spawn(run).map_err(|error| {
            Error::config(format!("a thread for the device's decoder can't be started: {error}"))
        })
    }

    /// Decodes a group: what became of each image. An error where nothing more can be decoded.
    fn group(&mut self, group: &[Order]) -> Result<Vec<Outcome>> {
        let drawn = self.draw(group);
        // Compressed bytes are somebody's memory for reads, and the pinned piece somebody's bounce: both go as soon as the device has them.
        let finished = self.decoder.finish().map_err(Error::from).and_then(|()| {
            while self.staging.wait_for_one()? {}
            Ok(())
        });
        drawn.and_then(|outcomes| finished.map(|()| outcomes))
    }

    fn draw(&mut self, group: &[Order]) -> Result<Vec<Outcome>> {
        let began = Instant::now();
        let mut end = 0;
        let place = |order: &Order| {
            let offset = end;
            end += order.frame_bytes();
            let (bytes, frame, pitch) = (order.bytes.clone(), order.frame, order.frame.row_bytes());
            Image { bytes, frame, target: 0, offset, pitch }
        };
        let images: Vec<Image> = group.iter().map(place).collect();
        let last: Vec<_> = self.last.iter().filter(|_| !mutant::is(Mutant::FramesEarly)).cloned().collect();
        let decoded = self.decoder.decode(&images, &mut self.places.frames, &last)?;
        let lacks = |outcome: &Outcome| matches!(outcome, Err(Refusal::Memory(_)));
        if group.len() > 1 && decoded.images.iter().any(lacks) {
            self.most = (group.len() / 2).min(self.most);
        }
        let mut rows: Vec<(&Order, Sample)> = Vec::with_capacity(group.len());
        let first = self.places.frames[0].address();
        for ((order, image), outcome) in group.iter().zip(&images).zip(&decoded.images) {
            if outcome.is_ok() {
                rows.push((order, order.sample(first.offset(image.offset).0)));
            }
        }
        if rows.is_empty() {
            return Ok(decoded.images);
        }
        let images = rows.len() as u64;
        let mut columns: Vec<_> = rows.iter().map(|(order, _)| order.column.clone()).collect();
        columns.sort_by_key(|column| column.address(0));
        columns.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let tables = in_runs(rows)?;
        let started = self.cut(&tables, &decoded.done);
        let made = Event::record(&self.device, self.kernels.raw()).map(Arc::new);
        let until = made.as_ref().map_or(Guard::Everything, |made| Guard::Event(made.clone()));
        self.places.frames[0].guard(until.clone());
        self.places.tables.guard(until.clone());
        match &made {
            Ok(made) => columns.iter().for_each(|column| column.draws(made)),
            Err(_) => columns.iter().for_each(|column| column.guard(until.clone())),
        }
        started?;
        let made = made?;
        if self.choice.measures() {
            made.block()?;
            self.choice.on_device(images, began.elapsed().as_secs_f64());
        }
        self.last = Some(made);
        Ok(decoded.images)
    }

    /// Starts the kernels that cut rows out of decoded images.
    #[allow(unsafe_code)]
    fn cut(&mut self, tables: &[Table], decoded: &Event) -> Result<()> {
        let stream = self.kernels.raw();
        if let Some(last) = &self.last {
            // Its kernels read the tables that are written now.
            self.staging.wait_for(last)?;
        }
        let (bytes, _) = tables::written(tables.iter(), self.places.tables.address());
        let arrived =
            bounced(&mut self.staging, &self.ground, &self.session, bytes, &mut self.places.tables)?;
        arrived.wait_on(stream)?;
        if !mutant::is(Mutant::DrawNoWait) {
            decoded.wait_on(stream)?;
        }
        // SAFETY: images are of the sizes that their cuts were made for, and rows have room for what is cut; nobody else reads or writes
        // them before the event behind this, which guards them.
        unsafe { tables::launch(tables.iter(), &self.device, self.places.tables.address(), stream) }
    }
}

/// Rows that lie one after the other in one column, as one table each.
fn in_runs(mut rows: Vec<(&Order, Sample)>) -> Result<Vec<Table>> {
    rows.sort_by_key(|(order, _)| (order.column.address(0), order.row));
    let follows = |a: &(&Order, Sample), b: &(&Order, Sample)| {
        Arc::ptr_eq(&a.0.column, &b.0.column) && a.0.row + 1 == b.0.row
    };
    let table = |run: &[(&Order, Sample)]| {
        let (order, _) = run.first().ok_or_else(|| Error::Panic { message: "a run of no rows".into() })?;
        let to = order.column.address(order.row);
        let out = plain_output(to, order.height as usize, order.width as usize, Channels::Three)?;
        Table::pictures(out, run.iter().map(|(_, sample)| *sample).collect(), order.filter)
    };
    rows.chunk_by(follows).map(table).collect()
}
