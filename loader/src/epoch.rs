//! One epoch at work: its planner and its readahead, from a start to its end or until the consumer leaves.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use forebay_cache::memory::{Budget, Region};
use forebay_cache::object::BLOCK_BYTES;
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::catalog::{Catalog, discover};
use crate::decoded::Nearest;
use crate::device::{DevicePlace, Mover};
use crate::error::Result;
use crate::field::FieldKind;
use crate::memory::{Parts, Split};
use crate::options::LoaderOptions;
use crate::pipeline::account::Account;
use crate::pipeline::queue::{Gauges, Ready};
use crate::pipeline::row::Workshop;
use crate::pipeline::sample::SampleDecoder;
use crate::pipeline::slot::Layout;
use crate::pipeline::sorted::SortedLabels;
use crate::pipeline::values::Values;
use crate::plan::{EpochCut, EpochRng, Order, OrderMode, OrderSpec, Piece, Readers, World};
use crate::prefetch::{Out, Planner, room_units};
use crate::readahead::Approach;
use crate::report::Reporter;
use crate::session::Session;
use crate::task::panicked;
use crate::trace::Trace;
use crate::walk::{Discovered, Ordered, Walk};

/// A page is fetched this part of a window cycle before it is needed: lanes turn their pages one after the other, so that an eighth
/// more than the windows themselves is resident.
const AHEAD: u64 = 8;

/// Samples ahead of the planner whose blocks come to host memory, where there are no windows: a few batches.
const NEAR_SAMPLES: u64 = 1024;

/// Window cycles ahead where nothing has to leave the cache for it; bounds what is kept of open pages.
const FAR: u64 = 4;

/// Bytes read ahead in storage order: 16 blocks, some tens of milliseconds of a fast network.
const MOST_AHEAD_BYTES: u64 = 64 << 20;

/// What a loader's epochs share.
#[derive(Debug)]
pub(crate) struct Workplace {
    pub(crate) session: Arc<Session>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) decoder: Arc<SampleDecoder>,
    /// Decoded samples that are kept.
    pub(crate) nearest: Nearest,
    pub(crate) layout: Arc<Layout>,
    pub(crate) batches: Region,
    pub(crate) reads: Region,
    pub(crate) values: Arc<Values>,
    pub(crate) large: Budget,
    pub(crate) parts: Parts,
    pub(crate) split: Split,
    pub(crate) pool: Arc<rayon::ThreadPool>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) account: Arc<Account>,
    pub(crate) reporter: Reporter,
    pub(crate) sorted: Arc<SortedLabels>,
    pub(crate) device: Option<Arc<DevicePlace>>,
    pub(crate) trace: Option<Trace>,
}

/// How long a closed loader's last reads are waited for: they end by themselves, but on a disk that hangs.
const LAST_READS: Duration = Duration::from_secs(5);

impl Workplace {
    /// Gives the memory back, but what batches in the consumer's hands take; that follows when they are let go. `over` tells when nothing
    /// of the last epoch's work is left.
    pub(crate) fn close(&self, over: Option<Over>) {
        self.batches.close();
        self.reads.close();
        self.nearest.close();
        self.values.budget.close();
        self.large.close();
        if Handle::try_current().is_err() {
            self.device.iter().filter_map(|device| device.jpegs()).for_each(|jpegs| jpegs.close());
            let last = async {
                if let Some(over) = over {
                    over.wait().await;
                }
                self.reads.drained().await;
            };
            let last = async { tokio::time::timeout(LAST_READS, last).await };
            if self.session.block_on(last).is_err() {
                tracing::warn!(
                    "reads of a closed loader are still in flight; their memory comes back when they end"
                );
            }
        }
        self.pool.broadcast(|_| SampleDecoder::forget());
        self.catalog.forget_indexes();
    }

    /// Bytes that batches, values, reads, decoded samples and large images take, and cached blocks.
    pub(crate) fn host_memory_bytes(&self) -> u64 {
        let heap = self.values.budget.used_bytes() + self.large.used_bytes();
        let used = self.batches.used_bytes() + self.reads.used_bytes() + heap;
        let used = used + self.nearest.host.as_ref().map_or(0, |decoded| decoded.used_bytes());
        used as u64 + self.session.cache().stats().ram_bytes
    }

    /// The most that each of them ever took.
    pub(crate) fn peak_bytes(&self) -> usize {
        let heap = self.values.budget.peak_bytes() + self.large.peak_bytes();
        let decoded = self.nearest.host.as_ref().map_or(0, |decoded| decoded.peak_bytes());
        self.batches.peak_bytes() + self.reads.peak_bytes() + decoded + heap
    }
}

/// A running epoch; dropping it ends its work.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub(crate) number: u64,
    pub(crate) ready: Arc<Ready>,
    /// Batches that the consumer took.
    pub(crate) delivered: u64,
    tasks: Vec<AbortHandle>,
}

/// The end of an epoch's work, and of what its tasks hold.
#[derive(Debug)]
pub(crate) struct Over {
    planner: JoinHandle<()>,
    running: watch::Receiver<()>,
}

impl Over {
    async fn wait(mut self) {
        // The planner's rows end with it; each holds the epoch's workshop to its end.
        drop(self.planner.await);
        while self.running.changed().await.is_ok() {}
    }
}

impl Epoch {
    /// Starts to make the batches of a cut of an order.
    pub(crate) fn ordered(
        place: &Workplace,
        options: &LoaderOptions,
        world: World,
        order: Arc<Order>,
        cut: EpochCut,
    ) -> Result<(Self, Over)> {
        let position = cut.batch(0).map_or(0, |batch| batch.start);
        let horizon = horizon(place, &order);
        check_window(place, &order, position, horizon, &node_readers(options, world))?;
        let (reached, seen) = watch::channel(position);
        let far = Approach {
            catalog: place.catalog.clone(),
            nearest: place.nearest.clone(),
            horizon,
            order: order.clone(),
            readers: Readers::from(world),
            reached: seen,
        };
        let near = match order.spec().mode {
            OrderMode::Shuffle | OrderMode::Sticky => Some(order.spec().shuffle_window / AHEAD),
            OrderMode::Storage => Some(horizon.min(NEAR_SAMPLES)),
            // Its only page is the whole dataset.
            OrderMode::Global => None,
        };
        let near = near.map(|horizon| Approach { horizon, ..far.clone() });
        place.nearest.begin(Some(&order), world, position);
        let walk = Walk::Ordered(Ordered::new(order.clone(), cut));
        let shop = workshop(place, options, order.spec().clone(), Some(order));
        let (mut epoch, over) = Self::start(place, options, shop, walk, reached)?;
        let (runtime, cache) = (place.session.handle(), place.session.cache());
        epoch.tasks.push(runtime.spawn(far.prefetch(cache.clone())).abort_handle());
        epoch.tasks.extend(near.map(|near| runtime.spawn(near.hold(cache.clone())).abort_handle()));
        Ok((epoch, over))
    }

    /// Starts to make batches in storage order on one rank, as samples are found: no count is known yet.
    pub(crate) fn discovered(
        place: &Workplace,
        options: &LoaderOptions,
        world: World,
        spec: OrderSpec,
    ) -> Result<(Self, Over)> {
        place.nearest.begin(None, world, 0);
        let (samples, looking) = discover(&place.catalog, &place.session.handle());
        let walk = Discovered::new(samples, spec.epoch, options.batch_size, options.drop_last);
        let shop = workshop(place, options, spec, None);
        let (mut epoch, over) =
            Self::start(place, options, shop, Walk::Discovered(walk), watch::channel(0).0)?;
        epoch.tasks.push(looking);
        Ok((epoch, over))
    }

    fn start(
        place: &Workplace,
        options: &LoaderOptions,
        shop: Workshop,
        walk: Walk,
        reached: watch::Sender<u64>,
    ) -> Result<(Self, Over)> {
        let ready = Arc::new(Ready::new(place.trace.clone()));
        let room_units = room_units(place.reads.capacity_bytes());
        let number = shop.spec.epoch;
        let running = shop.running.subscribe();
        let shop = Arc::new(shop);
        let out = match &place.device {
            None => Out::Ready(ready.clone()),
            Some(device) => {
                let (moving, arriving) = mpsc::channel(options.prefetch_factor);
                Mover::start(device, shop.clone(), ready.clone(), arriving)?;
                Out::Device(moving)
            }
        };
        let planner = Planner {
            shop,
            walk,
            layout: place.layout.clone(),
            batches: place.batches.clone(),
            values: place.layout.is_variable().then(|| place.values.clone()),
            ahead: Arc::new(Semaphore::new(options.prefetch_factor)),
            room: Arc::new(Semaphore::new(room_units)),
            room_units: room_units as u32,
            reached,
        };
        let (work, open) = (planner.run(out), ready.clone());
        let guarded = async move {
            // A bug in the planner ends the epoch with an error, never in silence.
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                open.put(Err(panicked(&*panic)), None);
                open.end();
            }
        };
        let planner = place.session.handle().spawn(guarded);
        let tasks = vec![planner.abort_handle()];
        Ok((Self { number, ready, delivered: 0, tasks }, Over { planner, running }))
    }
}

/// The first Int field's labels are looked at, where shuffling within windows is what mixes them.
fn sorted(place: &Workplace, options: &LoaderOptions) -> Option<(usize, Arc<SortedLabels>)> {
    let column = options.fields.iter().position(|field| field.kind == FieldKind::Int)?;
    options.mode.has_lanes().then(|| (column, place.sorted.clone()))
}

fn workshop(
    place: &Workplace,
    options: &LoaderOptions,
    spec: OrderSpec,
    order: Option<Arc<Order>>,
) -> Workshop {
    Workshop {
        cache: place.session.cache().clone(),
        catalog: place.catalog.clone(),
        decoder: place.decoder.clone(),
        nearest: place.nearest.clone(),
        jpegs: place.device.as_ref().and_then(|device| device.jpegs().cloned()),
        order: OnceCell::new_with(order),
        draws: EpochRng::new(spec.seed, spec.epoch),
        spec,
        reads: place.reads.clone(),
        large: place.large.clone(),
        parts: place.parts,
        split: place.split,
        pool: place.pool.clone(),
        gauges: place.gauges.clone(),
        account: place.account.clone(),
        on_error: options.on_error,
        reporter: place.reporter.clone(),
        sorted: sorted(place, options),
        running: watch::Sender::new(()),
        trace: place.trace.clone(),
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.ready.leave();
    }
}

/// The ranks of this node, which share a cache folder.
fn node_readers(options: &LoaderOptions, world: World) -> Readers {
    let local = options.local_world_size.clamp(1, world.size());
    let first = world.rank() / local * local;
    Readers::new(first..(first + local).min(world.size()), world.size())
        .unwrap_or_else(|| Readers::from(world))
}

/// Positions ahead of the planner at which pages are fetched: far where the dataset fits, so that a first epoch's network never idles.
fn horizon(place: &Workplace, order: &Order) -> u64 {
    let fits = place.catalog.fits();
    if order.spec().mode.has_lanes() {
        let window = order.spec().shuffle_window;
        return if fits { window.saturating_mul(FAR) } else { window / AHEAD };
    }
    // Other orders have no windows: what hides the origin's latency, in bytes.
    let limit = place.session.cache().stats().limit_bytes;
    let bytes = if fits { limit } else { (limit / AHEAD).min(MOST_AHEAD_BYTES) };
    bytes / (place.catalog.served_bytes() / order.total().max(1)).max(1)
}

/// An error where the cache folder can't hold the windows that are open at the same time: every sample would be fetched again for
/// each of its block's neighbours.
fn check_window(
    place: &Workplace,
    order: &Order,
    position: u64,
    ahead: u64,
    readers: &Readers,
) -> Result<()> {
    let limit = place.session.cache().stats().limit_bytes;
    let whole = place.catalog.fitting_limit_bytes();
    if whole <= limit {
        return Ok(());
    }
    let counts = &order.spec().counts;
    let bytes = |piece: &Piece| {
        let size = place.catalog.served(piece.shard).map_or(0, |object| object.size_bytes);
        let samples = counts[piece.shard as usize].max(1);
        let part = (u128::from(size) * u128::from(piece.len()) / u128::from(samples)) as u64;
        // A piece's edges share blocks with others; 5 % are the index, checksums, and what stays free for writes.
        let blocks = part.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;
        blocks + blocks / 20
    };
    order.check_cache_limit(limit, whole, position, ahead, readers, bytes)
}
