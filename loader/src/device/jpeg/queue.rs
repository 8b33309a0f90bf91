//! Images on their way to the device's decoder, first come, first served.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_cache::Lease;
use forebay_gpu::Error as DeviceError;
use forebay_gpu::jpeg::{Frame, Refusal};
use forebay_gpu::kernels::{Channels, Cut, Filter, Picture, Sample};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::column::PixelColumn;
use super::{PINNED_BYTES, TABLES_BYTES};
use crate::error::{Error, Result};

/// Images of a group at most: as many as a decoder that works on coded data on the device needs to be at its best.
const MOST: usize = 64;
/// Bytes of a group's files: the decoder pins them, rounded up.
const FILES_BYTES: usize = PINNED_BYTES / 4;
/// Images begin at multiples of this.
const ALIGNMENT: u64 = 256;

/// Whether an image was decoded, or why not.
pub(super) type Outcome = std::result::Result<(), Refusal>;

/// An image to be decoded, and the row of a column that a part of it becomes.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) bytes: Lease,
    pub(super) frame: Frame,
    pub(super) cut: Cut,
    pub(super) filter: Option<Filter>,
    /// Of the row.
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) column: Arc<PixelColumn>,
    pub(super) row: usize,
    pub(super) reply: oneshot::Sender<Result<Outcome>>,
}

impl Order {
    /// Bytes of the image, decoded, in whole units.
    pub(super) fn frame_bytes(&self) -> u64 {
        self.frame.bytes(self.frame.row_bytes()).next_multiple_of(ALIGNMENT)
    }

    /// What the kernel is told, for an image at `address`; weights have no place yet.
    pub(super) fn sample(&self, address: u64) -> Sample {
        let picture = Picture { address, stride: self.frame.row_bytes(), channels: Channels::Three };
        Sample::new(picture, &self.cut)
    }

    /// Tells who waits, if anybody still does.
    pub(super) fn answer(self, answer: Result<Outcome>) {
        let Self { bytes, column, reply, .. } = self;
        // First, so that who waits finds nothing of it in use.
        drop((bytes, column));
        let _ = reply.send(answer);
    }

    fn table_bytes(&self) -> u64 {
        let weights = self.filter.map_or(0, |filter| self.sample(0).resized(filter, 0).weight_bytes());
        Sample::BYTES as u64 + weights
    }
}

/// The line.
#[derive(Debug)]
pub(super) struct Queue {
    device: Arc<str>,
    /// Of the device's memory, for the images of a group.
    frames_bytes: u64,
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    orders: VecDeque<Order>,
    closed: bool,
    /// Why nothing is decoded any more.
    failed: Option<Error>,
}

impl Queue {
    /// Images of a group take at most so much of the device's memory, decoded.
    pub(super) fn new(device: Arc<str>, frames_bytes: u64) -> Self {
        Self { device, frames_bytes, state: Mutex::default(), filled: Condvar::new() }
    }

    pub(super) fn put(&self, order: Order) {
        let refusal =
            (order.frame_bytes() > self.frames_bytes || order.table_bytes() > TABLES_BYTES).then(|| {
                Refusal::Memory(DeviceError::OverBudget {
                    device: self.device.clone(),
                    what: format!("one decoded image of {} by {}", order.frame.width, order.frame.height),
                    wanted_bytes: order.frame_bytes(),
                    limit_bytes: self.frames_bytes,
                    used_bytes: 0,
                    advice: "the CPU decodes it",
                })
            });
        if let Some(refusal) = refusal {
            return order.answer(Ok(Err(refusal)));
        }
        let mut state = self.state.lock();
        if let Some(error) = &state.failed {
            return order.answer(Err(error.clone()));
        }
        // Where it is closed, dropping the order says so.
        if !state.closed {
            state.orders.push_back(order);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// The next group, of at most so many images; none once the line is closed.
    pub(super) fn take(&self, most: usize) -> Option<Vec<Order>> {
        let mut state = self.state.lock();
        loop {
            let (mut group, mut frames, mut tables, mut files) = (Vec::new(), 0, 0, 0);
            while let Some(order) = state.orders.front() {
                // Nobody waits for it any more.
                if order.reply.is_closed() {
                    state.orders.pop_front();
                    continue;
                }
                frames += order.frame_bytes();
                tables += order.table_bytes();
                files += order.bytes.len();
                let fits = frames <= self.frames_bytes && tables <= TABLES_BYTES && files <= FILES_BYTES;
                // One file alone may be larger.
                if !group.is_empty() && (group.len() >= most.min(MOST) || !fits) {
                    break;
                }
                group.extend(state.orders.pop_front());
            }
            if !group.is_empty() {
                return Some(group);
            }
            if state.closed {
                return None;
            }
            self.filled.wait(&mut state);
        }
    }

    /// Nothing is decoded any more: all who wait hear why.
    pub(super) fn fail(&self, error: &Error) {
        let orders = {
            let mut state = self.state.lock();
            state.failed = Some(error.clone());
            std::mem::take(&mut state.orders)
        };
        orders.into_iter().for_each(|order| order.answer(Err(error.clone())));
    }

    pub(super) fn close(&self) {
        let orders = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.orders)
        };
        self.filled.notify_all();
        drop(orders);
    }
}
