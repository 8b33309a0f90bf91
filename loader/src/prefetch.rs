//! Walks the plan ahead of the consumer and makes batches: for each it finds the samples, takes memory in line, and starts their rows; `ahead`
//! bounds how many there are. Farther ahead, and without waiting for each other, go the walks of [`crate::readahead`].

use std::sync::Arc;

use forebay_cache::memory::Region;
use futures::future::{BoxFuture, FutureExt, join, join_all};
use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::decoded::Near;
use crate::device::{Apart, Moving, NearRow};
use crate::error::{Error, Result};
use crate::pipeline::queue::{Made, Ready, Stage};
use crate::pipeline::row::{Done, Job, Source, Workshop};
use crate::pipeline::slot::{Layout, Slot};
use crate::pipeline::values::{Reservation, Values};
use crate::plan::Progress;
use crate::task::Task;
use crate::trace::{Planning, Timed, What, timed};
use crate::walk::{Placed, Planned, Walk};

/// The unit in which room for reads is counted.
pub(crate) const ROOM_UNIT: u64 = 4096;

/// Makes the batches of one epoch, in order.
pub(crate) struct Planner {
    pub(crate) shop: Arc<Workshop>,
    pub(crate) walk: Walk,
    pub(crate) layout: Arc<Layout>,
    pub(crate) batches: Region,
    /// For values whose sizes the layout doesn't know; none where it knows all.
    pub(crate) values: Option<Arc<Values>>,
    /// One permit for each batch between here and the consumer.
    pub(crate) ahead: Arc<Semaphore>,
    /// The region for reads, in units of a granule.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) room_units: u32,
    pub(crate) reached: watch::Sender<u64>,
}

/// A batch on its way, or why there is none.
enum Coming {
    Batch {
        slot: Slot,
        apart: Apart,
        rows: Task<Result<Vec<Done>>>,
        values: Option<Arc<Reservation>>,
        permit: OwnedSemaphorePermit,
        after: Progress,
        /// Since when it is on its way.
        planned: Timed,
    },
    Failed(Error),
}

/// Where finished batches go.
pub(crate) enum Out {
    /// To the consumer.
    Ready(Arc<Ready>),
    /// To a device first.
    Device(mpsc::Sender<Moving>),
}

impl Out {
    /// False where nobody takes them any more.
    async fn put(&self, made: Made, apart: Apart, permit: Option<OwnedSemaphorePermit>) -> bool {
        match self {
            Self::Ready(ready) => {
                ready.put(made, permit);
                true
            }
            Self::Device(moving) => moving.send(Moving { made, apart, permit }).await.is_ok(),
        }
    }

    fn end(self) {
        if let Self::Ready(ready) = self {
            ready.end();
        }
    }
}

/// A row's room for reads.
enum Turn {
    Come(OwnedSemaphorePermit),
    /// A place in line.
    Waits(BoxFuture<'static, std::result::Result<OwnedSemaphorePermit, AcquireError>>),
}

impl Turn {
    /// Takes a place in line.
    fn in_line(
        waiting: impl Future<Output = std::result::Result<OwnedSemaphorePermit, AcquireError>> + Send + 'static,
    ) -> Self {
        let mut waiting = waiting.boxed();
        // The first poll takes the place; the permit, where it comes after all, is kept.
        match (&mut waiting).now_or_never() {
            Some(Ok(permit)) => Self::Come(permit),
            Some(Err(closed)) => Self::Waits(std::future::ready(Err(closed)).boxed()),
            None => Self::Waits(waiting),
        }
    }
}

impl Planner {
    /// Runs to the end of the epoch or to the first error, which comes behind the batches before it.
    pub(crate) async fn run(mut self, out: Out) {
        let (coming, arrivals) = mpsc::channel(self.ahead.available_permits().max(1));
        let finish = finish(arrivals, self.shop.clone(), out);
        let walk = async {
            if let Err(error) = self.walk(&coming).await {
                drop(coming.send(Coming::Failed(error)).await);
            }
            drop(coming);
        };
        tokio::join!(walk, finish);
    }

    async fn walk(&mut self, coming: &mpsc::Sender<Coming>) -> Result<()> {
        // The first batch has none before it.
        let mut before = watch::channel(true).1;
        for index in 0.. {
            let waited = timed(&self.shop.trace);
            let Ok(permit) = self.ahead.clone().acquire_owned().await else { return Ok(()) };
            waited.end(|| What::Plan(Planning::Consumer));
            let next = {
                let _inside = self.shop.gauges.enter(Stage::Index);
                let timed = timed(&self.shop.trace);
                let next = match self.walk.next().await? {
                    Some(Planned { samples, valid, start, after }) => {
                        self.reached.send_replace(start);
                        Some((self.sources(samples).await?, valid, after))
                    }
                    None => None,
                };
                timed.end(|| What::Plan(Planning::Index));
                next
            };
            let Some(((samples, near), valid, after)) = next else { return Ok(()) };
            let planned = timed(&self.shop.trace);
            let units = self.units(&samples)?;
            let (slot, cells) = {
                let _inside = self.shop.gauges.enter(Stage::Memory);
                let at = (self.shop.spec.epoch, index);
                let timed = timed(&self.shop.trace);
                let slot = Slot::allocate(&self.layout, &self.batches, at, samples.len(), valid).await?;
                timed.end(|| What::Plan(Planning::Memory));
                slot
            };
            let drawn = match &self.shop.jpegs {
                Some(jpegs) if jpegs.takes_next() => {
                    Some(jpegs.columns(samples.len(), &self.shop.gauges).await?)
                }
                _ => None,
            };
            let values = self.values.as_ref().map(|values| {
                let reservation = Reservation::new(values, samples.len(), before.clone());
                before = reservation.behind();
                Arc::new(reservation)
            });
            let rows = samples.into_iter().zip(cells).zip(units).enumerate();
            let jobs = rows.map(|(row, ((placed, cells), units))| {
                let (Placed { position, number, at, .. }, source) = placed;
                let (values, drawn) = (values.clone(), drawn.clone());
                (Job { position, number, at, source, cells, row, values, drawn }, units)
            });
            let rows = Task::spawn(&Handle::current(), self.fill(jobs.collect()));
            let apart = Apart { near, drawn };
            if coming.send(Coming::Batch { slot, apart, rows, values, permit, after, planned }).await.is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What every row of the host's is made of: what is kept of its sample, or its members, which are looked for only then. And those that a
    /// device makes.
    async fn sources(&self, samples: Vec<Placed>) -> Result<(Vec<(Placed, Source)>, Vec<NearRow>)> {
        let numbers: Vec<u64> = samples.iter().map(|placed| placed.number).collect();
        let end = samples.iter().map(|placed| placed.position + 1).max().unwrap_or(0);
        let kept = self.shop.nearest.pin(&numbers, end);
        let (mut sources, mut near) = (Vec::with_capacity(samples.len()), Vec::new());
        for (row, (mut placed, kept)) in samples.into_iter().zip(kept).enumerate() {
            let kept = match kept {
                Some(Near::OnDevice(kept)) => {
                    let size = |field: usize| kept.record.size(field);
                    if let Some(stages) = self.shop.decoder.stages(size, self.shop.draws, placed.number) {
                        near.push(NearRow { row, at: placed.at, kept, stages });
                        continue;
                    }
                    // What the CPU can't make either: it says why.
                    None
                }
                Some(Near::InHost(kept)) => Some(kept),
                None => None,
            };
            let source = match (kept, placed.found.take()) {
                (Some(kept), _) => Source::Kept(kept),
                (None, Some(found)) => Source::Found(found),
                (None, None) => Source::Found(self.shop.catalog.find(placed.at).await?),
            };
            sources.push((placed, source));
        }
        Ok((sources, near))
    }

    /// What every row's reads take of the room; an error where one row doesn't fit at all.
    fn units(&self, samples: &[(Placed, Source)]) -> Result<Vec<u32>> {
        let room = |source: &Source| match source {
            Source::Found(sample) => self.shop.room_bytes(sample),
            Source::Kept(_) => 0,
        };
        let bytes: Vec<u64> = samples.iter().map(|(_, source)| room(source)).collect();
        let most = u64::from(self.room_units) * ROOM_UNIT;
        if let Some((&needed, (_, Source::Found(sample)))) =
            bytes.iter().zip(samples).max_by_key(|(bytes, _)| **bytes)
            && needed > most
        {
            let least = |parts: &crate::memory::Parts| room_units(parts.reads) as u64 * ROOM_UNIT >= needed;
            return Err(Error::Cache(forebay_cache::Error::MemoryTooSmall {
                limit_bytes: self.shop.split.limit_bytes(),
                needed_bytes: self.shop.split.least(least),
                what: format!(
                    "reading {} at byte {} of {} takes {needed} bytes, and {most} are for reads",
                    sample.entry.key(),
                    sample.entry.header_offset(),
                    sample.object.location
                ),
            }));
        }
        Ok(bytes.into_iter().map(|bytes| bytes.div_ceil(ROOM_UNIT) as u32).collect())
    }

    /// A future of all rows of a batch. Their places in the line for room are taken here, in order: rows of an earlier
    /// batch never wait for memory that a later one holds.
    fn fill(&self, rows: Vec<(Job, u32)>) -> impl Future<Output = Result<Vec<Done>>> + Send + use<> {
        let room = self.room.clone();
        let shop = self.shop.clone();
        let (copied, read): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(job, _)| job.is_copy());
        let copied: Vec<Job> = copied.into_iter().map(|(job, _)| job).collect();
        let queued: Vec<_> = read
            .into_iter()
            .map(|(job, units)| {
                let turn = match room.clone().try_acquire_many_owned(units) {
                    Ok(permit) => Turn::Come(permit),
                    Err(_) => Turn::in_line(room.clone().acquire_many_owned(units)),
                };
                (job, turn)
            })
            .collect();
        // Dropped in this order, also before it ran: with the workshop goes the last that the rows hold.
        let work = (copied, queued, shop);
        async move {
            let (copied, queued, shop) = work;
            let shop = &shop;
            // In a box of its own from the start: a row's future takes kilobytes, and would be copied from hand to hand.
            let row = |(job, turn): (Job, Turn)| {
                Box::pin(async move {
                    let number = job.row;
                    let permit = match turn {
                        Turn::Come(permit) => Ok(permit),
                        Turn::Waits(waiting) => waiting.await,
                    };
                    let made = match permit {
                        Ok(permit) => shop.row(job, Some(permit)).await,
                        Err(_) => Err(Error::Closed),
                    };
                    (number, made)
                })
            };
            let (mut rows, copied) = join(join_all(queued.into_iter().map(row)), shop.copy(copied)).await;
            rows.extend(copied);
            rows.sort_unstable_by_key(|(number, _)| *number);
            // The first row's error is the batch's, so that it is the same one on every run.
            rows.into_iter().map(|(_, made)| made).collect()
        }
    }
}

/// Rooms for rows in flight in memory for reads of `bytes`: a quarter stays free, so that first fit finds place.
pub(crate) fn room_units(bytes: usize) -> usize {
    (bytes as u64 / 4 * 3 / ROOM_UNIT).min(u64::from(u32::MAX)) as usize
}

/// Takes the batches as they were planned, packs each when its rows are done, and hands it over.
async fn finish(mut arrivals: mpsc::Receiver<Coming>, shop: Arc<Workshop>, out: Out) {
    while let Some(coming) = arrivals.recv().await {
        let (batch, apart, permit) = match coming {
            Coming::Failed(error) => (Err(error), Apart::default(), None),
            Coming::Batch { slot, apart, rows, values, permit, after, planned } => {
                let rows = rows.await;
                let _inside = shop.gauges.enter(Stage::Assemble);
                let (epoch, index, valid) = (slot.epoch, slot.index, slot.valid);
                let timed = timed(&shop.trace);
                let made = assemble(slot, rows, values, &shop).map(|batch| (batch, after));
                timed.end(|| What::Assemble { index });
                planned.end(|| What::Batch { epoch, index, rows: valid });
                (made, apart, Some(permit))
            }
        };
        let failed = batch.is_err();
        if !out.put(batch, apart, permit).await || failed {
            break;
        }
    }
    out.end();
}

fn assemble(
    slot: Slot,
    rows: Result<Vec<Done>>,
    values: Option<Arc<Reservation>>,
    shop: &Workshop,
) -> Result<crate::batch::Batch> {
    let rows = rows?;
    shop.look_at_labels(&rows);
    slot.assemble(rows.into_iter().map(|row| (row.sample, row.cells)).collect(), values.as_deref())
}
