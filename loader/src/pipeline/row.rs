//! One row of a batch: its members are read, decoded on a worker, and written where they belong. A sample that can't be decoded gives
//! its row to the next one of its window, where the user allows that.

mod copies;
mod source;

use std::borrow::Cow;
use std::sync::Arc;

use forebay_cache::memory::{Budget, Region, Row};
use forebay_cache::{ByteRange, Cache, Lease, Tier, Tiers};
use futures::future::try_join_all;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, oneshot, watch};

use source::Bytes;
pub(crate) use source::Source;

use super::account::Account;
use super::queue::{Gauges, Stage};
use super::sample::SharedDecoder;
use super::slot::{Cell, Form, RowSample};
use super::sorted::{self, SortedLabels};
use super::values::{Refused, Reservation};
use crate::catalog::{Catalog, Found};
use crate::dataset::{Malformed, MemberEntry, shown, tar};
use crate::decoded::Nearest;
use crate::device::{Columns, Jpegs};
use crate::error::{Error, Result};
use crate::memory::{Parts, Split};
use crate::options::OnError;
use crate::plan::{EpochRng, Order, OrderSpec, SampleRef};
use crate::report::Reporter;
use crate::task::panicked;
use crate::trace::{Flight, Outcome, Sample, Trace, What, timed};

/// A gap between two members that is read along rather than skipped: less than what another read would cost.
const GAP_BYTES: u64 = 16 << 10;

/// What the rows of one epoch share.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) cache: Cache,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) decoder: SharedDecoder,
    pub(crate) nearest: Nearest,
    /// What decodes JPEG images on a device; none where nothing does.
    pub(crate) jpegs: Option<Arc<Jpegs>>,
    /// Known from the start, or found when a replacement is asked for while samples are still being discovered.
    pub(crate) order: OnceCell<Arc<Order>>,
    pub(crate) spec: OrderSpec,
    pub(crate) reads: Region,
    /// For images that need more than a thread's own scratch.
    pub(crate) large: Budget,
    pub(crate) parts: Parts,
    pub(crate) split: Split,
    pub(crate) pool: Arc<rayon::ThreadPool>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) account: Arc<Account>,
    pub(crate) on_error: OnError,
    pub(crate) reporter: Reporter,
    /// Which column holds a label, and whether labels look sorted; none where it doesn't matter.
    pub(crate) sorted: Option<(usize, Arc<SortedLabels>)>,
    pub(crate) draws: EpochRng,
    /// Dropped with the last task of the epoch, and the last work of its decoding threads.
    pub(crate) running: watch::Sender<()>,
    pub(crate) trace: Option<Trace>,
}

/// A sample's name in errors.
fn label(sample: &Found) -> Arc<str> {
    format!("{}: {}", sample.object.location.file_name(), sample.entry.key()).into()
}

/// A row to be made.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) position: u64,
    /// The sample's number in storage order, which random augmentation is keyed by.
    pub(crate) number: u64,
    pub(crate) at: SampleRef,
    pub(crate) source: Source,
    pub(crate) cells: Vec<Option<Row>>,
    /// Its number in the batch.
    pub(crate) row: usize,
    /// What its batch takes for values of sizes that the layout doesn't know; none where there are none.
    pub(crate) values: Option<Arc<Reservation>>,
    /// Columns that a device draws the row in, where it can.
    pub(crate) drawn: Option<Columns>,
}

/// A row's place in what its batch shares.
struct Spot<'a> {
    row: usize,
    values: Option<&'a Reservation>,
    drawn: Option<&'a Columns>,
}

impl Job {
    /// Whether it is made of what is kept of its sample, into memory that is there.
    pub(crate) fn is_copy(&self) -> bool {
        matches!(self.source, Source::Kept(_)) && self.values.is_none()
    }
}

/// A row that is done. Nothing of it is in the memory for reads any more.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) sample: RowSample,
    pub(crate) cells: Vec<Cell>,
}

/// Places to decode to, and the forms of those that the layout doesn't know.
type Places = (Vec<Option<Row>>, Vec<Option<Form>>);

impl Workshop {
    /// Most bytes of the region for reads that a sample's reads take: whole granules.
    pub(crate) fn room_bytes(&self, sample: &Found) -> u64 {
        let members = self.decoder.members(&sample.object, &sample.entry).unwrap_or_default();
        coalesce(sample, &members).iter().map(|range| range.granules().len()).sum()
    }

    async fn order(&self) -> Result<&Arc<Order>> {
        let find = async || {
            let spec = OrderSpec { counts: self.catalog.counts().await?, ..self.spec.clone() };
            Ok(Arc::new(Order::new(&spec)?))
        };
        self.order.get_or_try_init(find).await
    }

    /// Makes one row. `room` covers what the sample's reads take, and ends with it.
    pub(crate) async fn row(&self, job: Job, room: Option<OwnedSemaphorePermit>) -> Result<Done> {
        let _room = room;
        let Job { position, mut number, mut at, mut source, cells, row, values, drawn } = job;
        let fixed: Vec<bool> = cells.iter().map(Option::is_some).collect();
        let mut places: Places = (cells, vec![None; fixed.len()]);
        if let Some(values) = &values {
            values.turn().await;
        }
        let mut attempt = 0;
        loop {
            // A stand-in is the host's: what was drawn for the sample before it may still be on its way.
            let spot =
                Spot { row, values: values.as_deref(), drawn: drawn.as_ref().filter(|_| attempt == 0) };
            let made = self.make(&source, at, number, &mut places, &spot).await;
            let error = match made {
                Ok(()) => {
                    if let Some(values) = values.filter(|values| !values.settles_early()) {
                        let _inside = self.gauges.enter(Stage::Memory);
                        values.settle(&places.1).await?;
                    }
                    let (rows, forms) = places;
                    return Ok(Done {
                        sample: RowSample { shard: at.shard, index: at.index, label: source.label() },
                        cells: rows.into_iter().zip(forms).map(|(row, form)| Cell { row, form }).collect(),
                    });
                }
                Err(error) => error,
            };
            if self.on_error == OnError::Raise || !error.is_sample() {
                return Err(error);
            }
            self.account.skip(&error)?;
            if let Some(values) = &values {
                values.let_go(&places.1);
            }
            let (rows, forms) = &mut places;
            rows.iter_mut().zip(&fixed).filter(|(_, fixed)| !**fixed).for_each(|(row, _)| *row = None);
            forms.fill(None);
            attempt += 1;
            drawn
                .iter()
                .flat_map(|columns| columns.iter().flatten())
                .for_each(|column| column.mark(row, false));
            let _inside = self.gauges.enter(Stage::Index);
            let Some(next) = self.order().await?.replacement(position, attempt) else {
                return Err(Error::Dataset {
                    message: format!(
                        "no sample of the dataset can be decoded, so none can stand in for the others; the last one: {error}"
                    ),
                });
            };
            (at, number) = (next, self.order().await?.sample_number(next));
            let kept = self.nearest.host.as_ref();
            let kept = kept.and_then(|tier| tier.shelf().pin(&[number], None).pop().flatten());
            source = match kept {
                Some(kept) => Source::Kept(kept),
                None => {
                    let found = self.catalog.find(next).await?;
                    self.check_stand_in(&found)?;
                    Source::Found(found)
                }
            };
        }
    }

    /// Warns once where labels look sorted by shard.
    pub(crate) fn look_at_labels(&self, rows: &[Done]) {
        let Some((column, labels)) = &self.sorted else { return };
        let pairs = rows.iter().filter_map(|row| match row.cells.get(*column) {
            Some(Cell { row: Some(cell), .. }) => Some((row.sample.shard, sorted::label(cell)?)),
            _ => None,
        });
        if labels.look(pairs) {
            self.reporter.announce(
                "labels are nearly constant within shards: a shuffle window mixes the shards that are open together, so that batches hold \
                 few classes; write the shards anew in random order (`forebay pack --shuffle` does), or use shuffle=\"global\" or a larger \
                 shuffle_window",
            );
        }
    }

    /// An error where a stand-in's reads don't fit into the part of the region that rooms leave free.
    fn check_stand_in(&self, sample: &Found) -> Result<()> {
        let free = |reads: usize| reads as u64 / 8;
        let (needed, free_bytes) = (self.room_bytes(sample), free(self.reads.capacity_bytes()));
        if needed <= free_bytes {
            return Ok(());
        }
        Err(Error::Cache(forebay_cache::Error::MemoryTooSmall {
            limit_bytes: self.split.limit_bytes(),
            needed_bytes: self.split.least(|parts| free(parts.reads) >= needed),
            what: format!(
                "reading {} at byte {} of {} in place of a skipped sample takes {needed} bytes, an eighth of the memory for reads is for that",
                sample.entry.key(),
                sample.entry.header_offset(),
                sample.object.location
            ),
        }))
    }

    /// Reads and decodes a sample into its places, those of a fixed size and those that it takes; or makes it of what is kept. They stay as
    /// they are where the sample's batch can't be made.
    async fn make(
        &self,
        source: &Source,
        at: SampleRef,
        number: u64,
        places: &mut Places,
        spot: &Spot<'_>,
    ) -> Result<()> {
        let &Spot { row, values, .. } = spot;
        let bytes = match source {
            Source::Found(sample) => {
                let (members, tier) = self.read(sample).await?;
                Bytes::Members(sample.clone(), members.into(), tier)
            }
            Source::Kept(kept) => Bytes::Kept(kept.clone()),
        };
        if let Some(values) = values {
            let (decoder, draws) = (self.decoder.clone(), self.draws);
            let (measured, trace) = (bytes.clone(), self.trace.clone());
            let measure = move || {
                let timed = timed(&trace);
                let forms = decoder.measure(measured.as_from(), draws, number);
                if let Bytes::Members(found, ..) = &measured {
                    timed.end(|| What::Measure(Sample::of(found)));
                }
                forms
            };
            let opens = matches!(bytes, Bytes::Members(..)) && self.decoder.measures_pictures();
            let forms = match if opens { self.on_worker(measure).await? } else { measure() } {
                Ok(forms) => forms,
                Err(failed) => return Err(self.decoder.failed(&*self.found(source, at).await?, &failed)),
            };
            let taken = {
                let _inside = self.gauges.enter(Stage::Memory);
                let taken = values.take(row, &forms, &source.label()).await;
                if values.settles_early() && taken.is_ok() {
                    values.settle(&forms).await?;
                }
                taken
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::Sample(what)) => {
                    let found = self.found(source, at).await?;
                    return Err(self.decoder.values_too_large(&found, &forms, what));
                }
            };
            places.1 = forms;
            let Some(taken) = taken else { return Ok(()) };
            let missing = places.0.iter_mut().zip(taken).filter(|(place, _)| place.is_none());
            missing.for_each(|(place, taken)| *place = taken);
        }
        let drawn = self.draw(number, &bytes, spot).await?;
        self.decode(source, at, number, (bytes, drawn), &mut places.0).await
    }

    /// Where a sample's members lie: for errors, which name them.
    async fn found<'a>(&self, source: &'a Source, at: SampleRef) -> Result<Cow<'a, Found>> {
        Ok(match source {
            Source::Found(found) => Cow::Borrowed(found),
            Source::Kept(_) => Cow::Owned(self.catalog.find(at).await?),
        })
    }

    /// Each field's bytes, and the farthest tier that any of them came from.
    async fn read(&self, sample: &Found) -> Result<(Vec<Lease>, Tier)> {
        let _inside = self.gauges.enter(Stage::Read);
        let members = self.decoder.members(&sample.object, &sample.entry)?;
        let reads = coalesce(sample, &members);
        let read = async |range: ByteRange| {
            let flight = Flight::of(&self.trace, range);
            let read = self.cache.read(&sample.object, range, &self.reads).await?;
            flight.landed(&sample.object.location, range, read.tiers.farthest());
            Ok::<_, Error>(read)
        };
        let done = try_join_all(reads.iter().map(|&range| read(range))).await?;
        let mut tiers = Tiers::default();
        for read in &done {
            tiers.ram += read.tiers.ram;
            tiers.disk += read.tiers.disk;
            tiers.origin += read.tiers.origin;
        }
        self.account.read(tiers);
        let slice = |range: ByteRange| {
            let at = reads.iter().position(|read| read.intersect(range) == range);
            let at = at.ok_or_else(|| Error::Panic { message: "a member was not read".into() })?;
            let start = (range.start - reads[at].start) as usize;
            Ok(done[at].lease.slice(start..start + range.len() as usize))
        };
        if sample.claimed {
            for member in &members {
                let header = slice(ByteRange::new(member.header_offset(), member.data_offset))?;
                self.check_claim(sample, member, &header).await?;
            }
        }
        let data = members.iter().map(|member| slice(member.range())).collect::<Result<_>>()?;
        Ok((data, tiers.farthest()))
    }

    /// Checks that a member lies where a sidecar says.
    async fn check_claim(&self, sample: &Found, member: &MemberEntry, header: &[u8]) -> Result<()> {
        let name = sample.entry.name_bytes(member);
        let checked = match header.try_into() {
            Ok(header) => tar::check_member(header, &name, member.size),
            Err(_) => Err("there is no room for its header".into()),
        };
        let Err(why) = checked else { return Ok(()) };
        self.catalog.distrust(sample.at.shard).await?;
        let what = format!(
            "the sidecar of this shard says that member {} is here, but {why}: the sidecar is of another version of the shard (or the \
             shard is gzip, which sidecars don't describe); write it again with `forebay index --write-sidecars`, or remove it",
            shown(&name)
        );
        Err(Malformed::new(member.header_offset(), what).at(&sample.object.location))
    }

    /// Has a device decode those of a sample's images that it takes; which fields it drew.
    async fn draw(&self, number: u64, bytes: &Bytes, spot: &Spot<'_>) -> Result<Arc<[bool]>> {
        let (Some(jpegs), Some(columns), Bytes::Members(_, members, _)) = (&self.jpegs, spot.drawn, bytes)
        else {
            return Ok(Arc::default());
        };
        let (decoder, draws) = (self.decoder.clone(), self.draws);
        let (read, takes) = (members.clone(), columns.clone());
        let draft = move || decoder.drafts(&read, draws, number, |field| takes[field].is_some());
        let drafts = self.on_worker(draft).await?;
        jpegs.pass_by((columns.iter().flatten().count() - drafts.len()) as u64);
        let _inside = self.gauges.enter(Stage::Decode);
        let draw = async |(field, draft)| {
            let Some(column) = &columns[field] else { return Ok(None) };
            let refused = match draft {
                Ok(draft) => {
                    jpegs.draw(field, members[field].clone(), draft, column, spot.row).await?.is_err()
                }
                Err(refusal) => {
                    jpegs.refuse(&refusal);
                    true
                }
            };
            column.mark(spot.row, !refused);
            Ok::<_, Error>((!refused).then_some(field))
        };
        let mut drawn = vec![false; columns.len()];
        for field in try_join_all(drafts.into_iter().map(draw)).await?.into_iter().flatten() {
            drawn[field] = true;
        }
        Ok(drawn.into())
    }

    /// Decodes into `cells`, but for what is drawn already; an image that needs more than a thread's own scratch waits for it first. What may be kept is offered.
    async fn decode(
        &self,
        source: &Source,
        at: SampleRef,
        number: u64,
        (bytes, drawn): (Bytes, Arc<[bool]>),
        cells: &mut Vec<Option<Row>>,
    ) -> Result<()> {
        let own = self.parts.scratch as u64;
        let (mut allowed, mut taken) = (own, None);
        loop {
            let (decoder, draws, account) = (self.decoder.clone(), self.draws, self.account.clone());
            let (bytes, mut rows) = (bytes.clone(), std::mem::take(cells));
            // The share goes with the work, and lives as long where nobody waits for it any more.
            let share = taken.take();
            let (trace, nearest) = (self.trace.clone(), self.nearest.clone());
            let (drawn, jpegs) = (drawn.clone(), self.jpegs.clone());
            let decode = move || {
                let began = std::time::Instant::now();
                let made = decoder.decode(bytes.as_from(), &mut rows, &drawn, allowed, draws, number);
                let took = began.elapsed();
                match &bytes {
                    Bytes::Members(found, members, tier) => {
                        account.decoded(took);
                        if let Some(jpegs) = jpegs.filter(|_| made.is_ok() && !drawn.contains(&true)) {
                            jpegs.on_cpu(took);
                        }
                        if let Some(trace) = trace {
                            let outcome = match &made {
                                Ok(_) => Outcome::Decoded,
                                Err(failed) if failed.error.needs_bytes.is_none() => Outcome::Failed,
                                Err(_) => Outcome::NeedsMemory,
                            };
                            let (sample, bytes) =
                                (Sample::of(found), members.iter().map(|member| member.len() as u64).sum());
                            trace.decode(began, took, What::Decode { sample, outcome, tier: *tier, bytes });
                        }
                    }
                    Bytes::Kept(kept) if made.is_ok() => account.kept(1, kept.record.len() as u64),
                    Bytes::Kept(_) => {}
                }
                let made = match (made, &bytes) {
                    (Ok(Some(kept)), Bytes::Members(found, ..)) => {
                        Ok(nearest.offer(number, kept, || label(found)))
                    }
                    (made, _) => made.map(|_| Ok(())),
                };
                (rows, made, share)
            };
            let (back, made, share) = self.on_worker(decode).await?;
            *cells = back;
            let failed = match made {
                Ok(kept) => return kept,
                Err(failed) => failed,
            };
            let Some(bytes) = failed.error.needs_bytes.filter(|&bytes| bytes > allowed) else {
                return Err(self.decoder.failed(&*self.found(source, at).await?, &failed));
            };
            // What was taken is let go before more is waited for: nobody waits holding some.
            drop(share);
            if bytes - own > self.large.capacity_bytes() as u64 {
                let least = self.split.least(|parts| (parts.scratch + parts.large) as u64 >= bytes);
                let what = format!(
                    "decoding it holds {bytes} bytes at once, {} is the most for one image; the least host_memory_limit that works is {least}",
                    own + self.large.capacity_bytes() as u64
                );
                return Err(self.decoder.too_large(&*self.found(source, at).await?, failed.field, what));
            }
            let _inside = self.gauges.enter(Stage::Memory);
            taken = Some(self.large.take((bytes - own) as usize).await?);
            allowed = bytes;
        }
    }

    /// Runs on a decoding thread; this task waits without one. A panic there is an error here.
    async fn on_worker<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, waiting) = oneshot::channel();
        let _inside = self.gauges.enter(Stage::Decode);
        let running = self.running.clone();
        self.pool.spawn(move || {
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            drop(done.send(made));
            // What the work held is gone, also where nobody waits for it any more.
            drop(running);
        });
        waiting.await.map_err(|_| Error::Closed)?.map_err(|panic| panicked(&*panic))
    }
}

/// The ranges to read for these members: neighbours in one, and their headers where those are to be checked.
fn coalesce(sample: &Found, members: &[&MemberEntry]) -> Vec<ByteRange> {
    let range = |member: &&MemberEntry| {
        let data = member.range();
        if sample.claimed { ByteRange::new(member.header_offset(), data.end) } else { data }
    };
    let mut wanted: Vec<ByteRange> = members.iter().map(range).collect();
    wanted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut reads: Vec<ByteRange> = Vec::with_capacity(wanted.len());
    for range in wanted {
        match reads.last_mut() {
            Some(last) if range.start <= last.end + GAP_BYTES => last.end = last.end.max(range.end),
            _ => reads.push(range),
        }
    }
    reads
}
