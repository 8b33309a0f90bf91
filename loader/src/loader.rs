//! The loader that a training process holds: one dataset, one rank, one position.
//!
//! Nothing is read before an epoch starts. While one runs, a planner and a readahead work on the session's runtime and decoders on
//! workers; leaving the epoch ends them and frees their memory, except what batches in the consumer's hands hold.

mod position;

use std::sync::Arc;
use std::time::Duration;

use forebay_cache::memory::Held;
use forebay_gpu::cuda::CudaDevice;
use parking_lot::Mutex;

use crate::agree::{Agreement, Terms};
use crate::batch::Batch;
use crate::catalog::{Catalog, resolve};
use crate::checkpoint::State;
use crate::decoded::{Decoded, Keeping, Nearest};
use crate::device::DevicePlace;
use crate::epoch::{Epoch, Workplace};
use crate::error::{Error, Result};
use crate::memory::Shares;
use crate::options::LoaderOptions;
use crate::pipeline::account::{Account, TIER_NAMES};
use crate::pipeline::queue::{Gauges, Stage, Taken};
use crate::pipeline::sample::SampleDecoder;
use crate::pipeline::values::Values;
use crate::plan::{Order, OrderMode, Progress, World};
use crate::report::Reporter;
use crate::session::Session;
use crate::stats::LoaderStats;
use crate::threads;
use crate::trace::Counter;
use position::Position;

/// Streams the batches of one rank, epoch after epoch. All methods may be called from any thread.
#[derive(Debug)]
pub struct Loader {
    options: LoaderOptions,
    world: World,
    place: Arc<Workplace>,
    /// What decoders and indexes keep on the heap, until the loader is closed.
    heap: Held,
    position: Mutex<Position>,
}

/// How a wait for a batch ended.
#[derive(Debug)]
pub enum Next {
    /// The next batch, in order.
    Batch(Box<Batch>),
    /// The epoch is over.
    End,
    /// Nothing came within the slice: look for signals and ask again.
    Pending,
}

impl Loader {
    /// Resolves the sources and opens the cache; reads what the order needs only when an epoch starts (or `count` asks for it).
    pub fn open(options: LoaderOptions) -> Result<Self> {
        options.validate()?;
        if options.device.is_some() {
            // Before any thread is started: in a forked child of a process with a device there must be none.
            CudaDevice::count()?;
        }
        let session = Session::open(&options.cache)?;
        Self::open_in(session, options)
    }

    fn open_in(session: Arc<Session>, options: LoaderOptions) -> Result<Self> {
        let world = World::new(options.rank, options.world_size)?;
        let reporter = Reporter::default();
        let threads = options.num_threads.unwrap_or_else(threads::default_threads);
        let fields = DevicePlace::decoded_fields(&options);
        let layout = Arc::new(SampleDecoder::layout_of(&fields));
        // Before the rest is shared out: it has one size.
        let bounces = options.device.as_ref().map(|settings| DevicePlace::bounces(settings, &session));
        let bounces = bounces.transpose()?;
        let shares = Shares::carve(session.arena(), &layout, &options, threads)?;
        let on_device = options.device.as_ref().and_then(|settings| settings.decoded_limit_bytes);
        let keeping = (shares.decoded.is_some() || on_device.is_some())
            .then_some(Keeping { max_side: options.decoded_max_side });
        let decoder = SampleDecoder::new(fields, shares.parts.limits(), keeping);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("forebay-decode-{index}"))
            .build()
            .map_err(|error| Error::config(format!("num_threads={threads}: {error}")))?;
        let device = options.device.as_ref().zip(bounces).map(|(settings, bounces)| {
            DevicePlace::open(settings, bounces, &session, &layout, &options, threads, &reporter)
        });
        let device = device.transpose()?.map(Arc::new);
        let shards =
            session.block_on(resolve(&options.sources, session.cache(), session.origin(), &reporter))?;
        let catalog = Catalog::new(
            session.cache().clone(),
            session.origins(),
            shares.reads.clone(),
            reporter.clone(),
            shards,
            shares.parts.index,
        );
        session.block_on(catalog.try_counts())?;
        let gauges = Gauges::new([session.arrivals().clone(), catalog.passed().clone()]);
        let place = Workplace {
            session,
            catalog: Arc::new(catalog),
            decoder: Arc::new(decoder),
            nearest: Nearest {
                device: device.as_ref().and_then(|device| device.tier().cloned()),
                host: shares.decoded.map(|region| Arc::new(Decoded::new(region))),
            },
            values: Arc::new(Values {
                budget: shares.values,
                split: shares.split,
                layout: layout.clone(),
                on_error: options.on_error,
            }),
            layout,
            batches: shares.batches,
            reads: shares.reads,
            large: shares.large,
            parts: shares.parts,
            split: shares.split,
            pool: Arc::new(pool),
            gauges: Arc::new(gauges),
            account: Arc::new(Account::new(options.max_errors)),
            reporter,
            sorted: Arc::default(),
            device,
            trace: options.trace.clone(),
        };
        if let Some(trace) = &place.trace {
            place.session.listeners().add(trace);
        }
        let position = Position::new(Agreement::new(world, &place.reporter));
        Ok(Self { options, world, place: Arc::new(place), heap: shares.heap, position: Mutex::new(position) })
    }

    /// Batches per rank of a whole epoch. `None` without every shard's count; `count()` gets them.
    pub fn len(&self) -> Option<u64> {
        let counts = self.place.catalog.known_counts()?;
        let total = counts.iter().sum();
        let start = Progress { epoch: 0, consumed: 0 };
        self.cut(total, start).ok().map(|cut| cut.batches())
    }

    /// True where an epoch has no batch.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Gets every shard's count, by an announced pass over the data where nothing else knows them.
    pub fn count(&self) -> Result<()> {
        self.place.session.check_process()?;
        self.place.session.block_on(self.place.catalog.counts()).map(drop)
    }

    /// Starts the next epoch, or goes on where a state was loaded. An epoch that was left early is over: the next one starts.
    pub fn start(&self) -> Result<()> {
        self.place.session.check_process()?;
        self.stop();
        if !self.discovers(&self.position.lock()) {
            // Before the position is locked: a pass takes its time, and others may ask for the state or close meanwhile.
            self.count()?;
        }
        let mut position = self.position.lock();
        if position.closed {
            return Err(Error::Closed);
        }
        position.progress = position.upcoming();
        position.left = false;
        if self.discovers(&position) {
            let spec = self.options_order(Arc::new([]), position.progress.epoch);
            position.run(Epoch::discovered(&self.place, &self.options, self.world, spec)?);
            return Ok(());
        }
        let (spec, _) = self.order(&mut position)?;
        let order = Arc::new(Order::new(&spec.in_epoch(position.progress.epoch))?);
        let cut = self.cut(order.total(), position.progress)?;
        if cut.batches() == 0 && position.progress.consumed == 0 {
            return Err(Error::Dataset {
                message: format!(
                    "the dataset's {} samples are fewer than one global batch of {} (batch_size {} on {} ranks), and drop_last \
                     leaves them out; use drop_last=False or a smaller batch_size",
                    order.total(),
                    cut.global_batch(),
                    self.options.batch_size,
                    self.options.world_size
                ),
            });
        }
        let terms = self.terms_at(&position, spec.hash());
        if let Some(agreement) = &mut position.agreement {
            agreement.check(self.place.session.cache(), &self.place.reporter, terms)?;
        }
        position.run(Epoch::ordered(&self.place, &self.options, self.world, order, cut)?);
        Ok(())
    }

    /// Whether the epoch can begin before any count is known: in storage order, on one rank, from the beginning.
    fn discovers(&self, position: &Position) -> bool {
        self.options.mode == OrderMode::Storage
            && self.options.world_size == 1
            && position.progress.consumed == 0
            && position.pending.is_none()
            && self.place.catalog.known_counts().is_none()
    }

    /// Waits at most `slice` for the next batch. The state counts it as delivered when this returns it.
    pub fn next(&self, slice: Duration) -> Result<Next> {
        self.place.session.check_process()?;
        let ready = {
            let position = self.position.lock();
            if position.closed {
                return Err(Error::Closed);
            }
            let Some(epoch) = &position.epoch else { return Ok(Next::End) };
            epoch.ready.clone()
        };
        let threads = self.place.pool.current_num_threads();
        let taken = ready.take(slice, self.options.timeout, &self.place.gauges, threads);
        let mut position = self.position.lock();
        if !position.epoch.as_ref().is_some_and(|epoch| Arc::ptr_eq(&epoch.ready, &ready)) {
            // Another thread has left this epoch meanwhile: its batches count no more.
            return Ok(Next::End);
        }
        match taken {
            Taken::Pending => Ok(Next::Pending),
            Taken::Ended => {
                if let Some(epoch) = position.epoch.take() {
                    position.progress = Progress { epoch: epoch.number.saturating_add(1), consumed: 0 };
                    position.settle(&epoch);
                }
                Ok(Next::End)
            }
            Taken::Batch(Err(error)) => {
                // The position stays where the last delivered batch left it: whoever mends the cause can go on there.
                if let Some(epoch) = position.epoch.take() {
                    position.settle(&epoch);
                }
                Err(error)
            }
            Taken::Batch(Ok((batch, after))) => {
                if let Some(epoch) = &mut position.epoch {
                    epoch.delivered += 1;
                    position.progress = after;
                }
                position.batches += 1;
                position.samples += batch.valid as u64;
                if let Some(trace) = &self.place.trace {
                    trace.count(Counter::Memory, self.place.host_memory_bytes());
                }
                Ok(Next::Batch(Box::new(batch)))
            }
        }
    }

    /// Leaves the running epoch: stops its work and frees its memory, except what batches in the consumer's hands hold.
    pub fn stop(&self) {
        let mut position = self.position.lock();
        if let Some(epoch) = position.epoch.take() {
            let in_the_middle = epoch.delivered > 0 && position.progress.epoch == epoch.number;
            position.left |= in_the_middle;
            position.settle(&epoch);
        }
    }

    /// Keeps the position in epoch `epoch`; starts any other at 0.
    pub fn set_epoch(&self, epoch: u64) {
        self.stop();
        let mut position = self.position.lock();
        position.left = false;
        if let Some(pending) = &mut position.pending
            && pending.progress().epoch != epoch
        {
            *pending = pending.at(Progress { epoch, consumed: 0 });
        }
        if position.progress.epoch != epoch {
            position.progress = Progress { epoch, consumed: 0 };
        }
    }

    /// Where the loader stands, as JSON: delivered batches only, equal on every rank. Needs every shard's count.
    pub fn state(&self) -> Result<String> {
        self.place.session.check_process()?;
        if let Some(pending) = &self.position.lock().pending {
            return Ok(pending.to_json());
        }
        // Before the position is locked, as in `start`.
        self.count()?;
        let mut position = self.position.lock();
        let (spec, dataset) = self.order(&mut position)?;
        Ok(State::new(&spec, dataset).at(position.progress).to_json())
    }

    /// Goes on from a state, also one of another world size. O(1): nothing is read.
    pub fn load_state(&self, state: &str) -> Result<()> {
        let state = State::from_json(state)?;
        self.stop();
        let mut position = self.position.lock();
        if let Some(counts) = self.place.catalog.known_counts() {
            // Where that can be told already, a state of another dataset is refused here, not at the next start.
            let dataset = self.fingerprint(&counts);
            state.resume(counts, &dataset, &self.given())?;
        }
        position.left = false;
        position.progress = state.progress();
        position.order = None;
        if let Some(agreement) = &mut position.agreement {
            agreement.renew();
        }
        position.pending = Some(state);
        Ok(())
    }

    /// The order's hash, equal on ranks that agree. Needs every shard's count.
    pub fn order_hash(&self) -> Result<String> {
        self.count()?;
        let mut position = self.position.lock();
        Ok(self.order(&mut position)?.0.hash())
    }

    /// What the next start begins with, for ranks that compare it by means of their own ([`check_ranks_agree`](crate::agree::check_ranks_agree)).
    /// Needs every shard's count.
    pub fn terms(&self) -> Result<Terms> {
        self.count()?;
        let mut position = self.position.lock();
        let order = self.order(&mut position)?.0.hash();
        Ok(self.terms_at(&position, order))
    }

    /// How far a pass over the shards is, while a call waits for it.
    pub fn progress(&self) -> Option<crate::report::Progress> {
        self.place.reporter.progress()
    }

    /// What ran so far.
    pub fn stats(&self) -> LoaderStats {
        let position = self.position.lock();
        let place = &self.place;
        let cache = place.session.cache().stats();
        let bytes = place.account.bytes_by_tier();
        let all: u64 = bytes.iter().sum();
        let (skipped, errors) = place.account.skipped();
        let running =
            |stage: Stage| position.epoch.as_ref().map_or(Duration::ZERO, |epoch| epoch.ready.stall(stage));
        LoaderStats {
            batches: position.batches,
            samples: position.samples,
            samples_by_tier: TIER_NAMES.into_iter().zip(place.account.samples_by_tier()).collect(),
            bytes_by_tier: TIER_NAMES.into_iter().zip(bytes).collect(),
            decoded_samples: place.nearest.host.as_ref().map_or(0, |decoded| decoded.samples() as u64),
            decoded_bytes: place.nearest.host.as_ref().map_or(0, |decoded| decoded.used_bytes() as u64),
            hit_rate: if all == 0 { 0.0 } else { (all - bytes[2]) as f64 / all as f64 },
            stall: Stage::ALL
                .map(|stage| (stage.name(), position.stalls[stage as usize] + running(stage)))
                .into_iter()
                .collect(),
            decode_time: place.account.decode_time(),
            skipped,
            errors,
            io_engine: cache.engine,
            io_mode: match cache.direct {
                Some(true) => "direct",
                Some(false) => "buffered",
                None => "none yet",
            },
            simd: threads::simd(),
            threads: place.pool.current_num_threads(),
            role: cache.role,
            host_memory_bytes: place.host_memory_bytes(),
            host_memory_peak_bytes: place.peak_bytes() as u64 + cache.ram_limit_bytes,
            offline: cache.offline,
            notes: place.reporter.said(),
            device: place.device.as_ref().map(|device| device.stats()),
            cache,
        }
    }

    /// Ends everything, and gives all memory back but that of batches in the consumer's hands: they stay valid.
    pub fn close(&self) {
        let over = {
            let mut position = self.position.lock();
            // First, so that nobody starts an epoch behind the one that is stopped.
            if std::mem::replace(&mut position.closed, true) {
                return;
            }
            position.over.take()
        };
        self.stop();
        self.place.close(over);
        self.heap.shrink_to(0);
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if self.place.session.check_process().is_ok() {
            self.close();
        }
    }
}

#[cfg(test)]
mod tests;
