//! Batches with rows that the device makes, of samples that stay there.
//!
//! The host's rows arrive in one piece and are pictures to the kernels as any other: one kernel makes a column of them and of what is kept,
//! and finishes each pixel as it writes it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use forebay_gpu::kernels::{Channels, Picture, Sample};
use forebay_gpu::mutant::{self, Mutant};
use forebay_gpu::{Address, DeviceSlab, Event, Guard};

use super::super::OnDevice;
use super::super::convert::{Pixels, plain_output};
use super::super::cut::{Making, cut};
use super::super::resident::Resident;
use super::super::tables::{self, Table, whole};
use super::Mover;
use crate::batch::{Array, Batch, Column, DeviceArray};
use crate::decode::geometry::Stage;
use crate::decode::orientation::Orientation;
use crate::decoded::Pinned;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::SampleRef;

/// A row to be made of a sample that stays on the device.
#[derive(Debug)]
pub(crate) struct NearRow {
    /// Its number in the batch.
    pub(crate) row: usize,
    pub(crate) at: SampleRef,
    pub(crate) kept: Pinned<OnDevice>,
    /// By field, what is cut out of its pictures.
    pub(crate) stages: Box<[Option<Stage>]>,
}

/// Where a row comes from.
#[derive(Clone, Copy)]
enum From<'a> {
    /// The host's row of this number.
    Host(u64),
    Near(&'a NearRow),
}

/// A column to be made.
struct Work {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// The host's rows; none where there are none.
    host: Option<(DeviceSlab, Arc<Event>)>,
    to: DeviceSlab,
    /// What its consumer's own memory is to hold instead.
    pixels: Option<Pixels>,
    table: Table,
}

impl Mover {
    /// A batch of the host's rows and of rows that the device makes.
    pub(super) fn mixed(&mut self, batch: Batch, near: Vec<NearRow>) -> Result<Batch> {
        let Some((tier, makings)) = self.place.tier.clone() else { return Err(internal("nothing is kept")) };
        let rows = in_order(batch.rows, &near);
        let mut host_samples = batch.samples.iter().copied();
        let samples: Option<Vec<_>> = rows
            .iter()
            .map(|from| match from {
                From::Host(_) => host_samples.next(),
                From::Near(row) => Some((row.at.shard, row.at.index)),
            })
            .collect();
        let samples = samples.ok_or_else(|| internal("a row has no sample"))?;
        let mut works = Vec::with_capacity(batch.columns.len());
        for ((field, (name, column)), making) in batch.columns.into_iter().enumerate().zip(&makings) {
            let Column::Dense(array) = column else { return Err(internal("a column has no size")) };
            works.push(self.work(field, name, array, *making, &rows)?);
        }
        let done = self.make(&works, &near);
        let until = done.as_ref().map_or(Guard::Everything, |done| Guard::Event(done.clone()));
        for work in &mut works {
            work.host.iter_mut().for_each(|(slab, _)| slab.guard(until.clone()));
            work.to.guard(until.clone());
        }
        tier.guard(until.clone());
        self.shop.account.near(near.len() as u64, near.iter().map(|row| row.kept.record.bytes()).sum());
        let total = rows.len();
        drop(rows);
        if !mutant::is(Mutant::TierEarly) {
            self.reading.push(until, near);
        }
        let done = done?;
        let ground = &self.place.ground;
        let columns = works.into_iter().map(|work| {
            let Work { name, dtype, shape, strides, to, pixels, .. } = work;
            let memory = Arc::new(Resident::new(to, done.clone(), pixels, ground.clone()));
            (name, Column::Device(DeviceArray { dtype, shape, strides, offset: 0, memory }))
        });
        Ok(Batch { columns: columns.collect(), rows: total, samples, ..batch })
    }

    /// Takes a column's memory, has the host's rows come, and says where its rows are.
    fn work(
        &mut self,
        field: usize,
        name: String,
        array: Array,
        making: Making,
        rows: &[From<'_>],
    ) -> Result<Work> {
        let Array { dtype, mut shape, mut strides, data } = array;
        let host_rows = std::mem::replace(
            shape.first_mut().ok_or_else(|| internal("a column without rows"))?,
            rows.len(),
        );
        let row_elements: usize = shape[1..].iter().product();
        let row_bytes = (row_elements * dtype.size()) as u64;
        let host = if host_rows > 0 { Some(self.arriving(&name, data)?) } else { None };
        let first = host.as_ref().map_or(Address(0), |(slab, _)| slab.address());
        let host_row = |number: u64| first.offset(number * row_bytes);
        let (mut dtype, mut pixels) = (dtype, None);
        let to;
        let table = match making {
            Making::Gather => {
                to = self.room(row_bytes * rows.len() as u64, &name)?;
                let address = |from: &From<'_>| match from {
                    From::Host(number) => host_row(*number),
                    From::Near(row) => row.kept.record.address(field),
                };
                Table::Rows { rows: rows.iter().map(address).collect(), bytes: row_bytes, to: to.address() }
            }
            Making::Image(_) | Making::Mask => {
                // Rows of the host are pictures of the output's size, as they are.
                let (&[_, height, width, ..], channels) = (&shape[..], channels(making)) else {
                    return Err(internal("a column of pictures has no height and width"));
                };
                let convert = self.place.conversion(&name);
                let converted = convert.map(|convert| Pixels::new(&shape, &convert)).transpose()?;
                let now = converted.as_ref().filter(|_| !self.place.into_consumers);
                let bytes = now.map_or(row_bytes * rows.len() as u64, Pixels::bytes);
                to = self.room(bytes, &name)?;
                let out = match now {
                    Some(pixels) => pixels.output(to.address())?,
                    None => plain_output(to.address(), height, width, channels)?,
                };
                if let Some(pixels) = &converted {
                    dtype = pixels.convert.dtype.dtype();
                    (shape, strides) = pixels.form();
                }
                pixels = converted.filter(|_| self.place.into_consumers);
                let whole = whole(out.height, out.width);
                let sample = |from: &From<'_>| {
                    let (address, stride, cut) = match from {
                        From::Host(number) => (host_row(*number), out.width, whole),
                        From::Near(row) => {
                            let stage = row.stages[field].as_ref();
                            let stage = stage.ok_or_else(|| internal("nothing is cut of a picture"))?;
                            let record = &row.kept.record;
                            (
                                record.address(field),
                                record.size(field).width,
                                cut(stage, Orientation::default()),
                            )
                        }
                    };
                    let stride = u64::from(stride) * channels as u64;
                    Ok(Sample::new(Picture { address: address.0, stride, channels }, &cut))
                };
                let samples = rows.iter().map(sample).collect::<Result<Vec<_>>>()?;
                let filter = if let Making::Image(filter) = making { filter } else { None };
                Table::pictures(out, samples, filter)?
            }
        };
        Ok(Work { name, dtype, shape, strides, host, to, pixels, table })
    }

    /// Starts the kernels that make all columns; the event stands behind them.
    #[allow(unsafe_code)]
    fn make(&mut self, works: &[Work], near: &[NearRow]) -> Result<Arc<Event>> {
        let stream = self.kernels.raw();
        let tables = works.iter().map(|work| &work.table);
        let mut slab = self.room(tables::bytes(tables.clone()), "where the batch's rows are")?;
        for (_, ready) in works.iter().filter_map(|work| work.host.as_ref()) {
            ready.wait_on(stream)?;
        }
        near.iter().try_for_each(|row| row.kept.record.wait_on(stream))?;
        let (bytes, table_bytes) = tables::written(tables.clone(), slab.address());
        let arrived = self.bounced(bytes, &mut slab)?;
        self.place.copied_bytes.fetch_add(table_bytes, Relaxed);
        arrived.wait_on(stream)?;
        // SAFETY: rows of the host are of exactly this size, and what is kept is a picture of the size that its cut was made for, or a row of
        // this size; columns have room for all rows. All of it is ours to read and to write on this stream, which waits for what fills it, and is
        // guarded by an event behind this.
        let started = unsafe { tables::launch(tables, &self.place.device, slab.address(), stream) };
        let done = Event::record(&self.place.device, stream).map(Arc::new);
        slab.guard(done.as_ref().map_or(Guard::Everything, |done| Guard::Event(done.clone())));
        started?;
        Ok(done?)
    }
}

/// All rows of a batch, in order: those that the device makes in their places, the host's between them.
fn in_order(host_rows: usize, near: &[NearRow]) -> Vec<From<'_>> {
    let mut rows = Vec::with_capacity(host_rows + near.len());
    let mut host = 0..host_rows as u64;
    for row in near {
        rows.extend(host.by_ref().take(row.row - rows.len()).map(From::Host));
        rows.push(From::Near(row));
    }
    rows.extend(host.map(From::Host));
    rows
}

fn channels(making: Making) -> Channels {
    if making == Making::Mask { Channels::One } else { Channels::Three }
}

fn internal(message: &str) -> Error {
    Error::Panic { message: message.into() }
}
