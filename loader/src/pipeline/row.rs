//! One row of a batch: its members are read, decoded on a worker, and written where they belong. A sample that can't be decoded gives
//! its row to the next one of its window, where the user allows that.

use std::sync::Arc;

use forebay_cache::memory::{Region, Row};
use forebay_cache::{ByteRange, Cache, Lease, Tiers};
use futures::future::try_join_all;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, oneshot};

use super::account::Account;
use super::queue::{Gauges, Stage};
use super::sample::SharedDecoder;
use super::slot::{Cell, RowSample, Value};
use super::sorted::{self, SortedLabels};
use crate::catalog::{Catalog, Found};
use crate::dataset::{Malformed, MemberEntry, shown, tar};
use crate::error::{Error, Result};
use crate::options::OnError;
use crate::plan::{EpochRng, Order, OrderSpec};
use crate::report::Reporter;

/// A gap between two members that is read along rather than skipped: less than what another read would cost.
const GAP_BYTES: u64 = 16 << 10;

/// What the rows of one epoch share.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) cache: Cache,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) decoder: SharedDecoder,
    /// Known from the start, or found when a replacement is asked for while samples are still being discovered.
    pub(crate) order: OnceCell<Arc<Order>>,
    pub(crate) spec: OrderSpec,
    pub(crate) reads: Region,
    pub(crate) pool: Arc<rayon::ThreadPool>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) account: Arc<Account>,
    pub(crate) on_error: OnError,
    pub(crate) reporter: Reporter,
    /// Which column holds a label, and whether labels look sorted; none where it doesn't matter.
    pub(crate) sorted: Option<(usize, Arc<SortedLabels>)>,
    pub(crate) draws: EpochRng,
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
    pub(crate) sample: Found,
    pub(crate) cells: Vec<Option<Row>>,
}

/// A row that is done. `room` is its share of the memory for reads, held as long as a cell is a window into it, and let go at once where
/// none is: a batch's pixels may be read through far less memory than the batch's files take together.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) sample: RowSample,
    pub(crate) cells: Vec<Cell>,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

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

    /// Of these, the bytes that stay until the batch is packed: those of members that are handed on as they were read.
    pub(crate) fn held_bytes(&self, sample: &Found) -> u64 {
        if !self.decoder.hands_on() {
            return 0;
        }
        self.room_bytes(sample)
    }

    /// Makes one row. `room` covers what the sample's reads take.
    pub(crate) async fn row(&self, job: Job, room: OwnedSemaphorePermit) -> Result<Done> {
        let Job { position, mut number, mut sample, mut cells } = job;
        let mut attempt = 0;
        loop {
            let (back, made) = self.make(&sample, number, cells).await;
            let error = match made {
                Ok(values) => {
                    let cells = back.into_iter().zip(values).map(into_cell).collect::<Option<Vec<Cell>>>();
                    let cells =
                        cells.ok_or_else(|| Error::Panic { message: "a field was not decoded".into() })?;
                    // A stand-in was read without a room of its own: it must not keep memory that its batch waits for.
                    let cells: Vec<Cell> = match attempt {
                        0 => cells,
                        _ => cells.into_iter().map(Cell::detached).collect(),
                    };
                    let room = cells.iter().any(Cell::is_window).then_some(room);
                    let label = label(&sample);
                    return Ok(Done {
                        sample: RowSample { shard: sample.at.shard, index: sample.at.index, label },
                        cells,
                        room,
                    });
                }
                Err(error) => error,
            };
            if self.on_error == OnError::Raise || !error.is_sample() {
                return Err(error);
            }
            self.account.skip(&error)?;
            cells = back;
            attempt += 1;
            let Some(next) = self.order().await?.replacement(position, attempt) else {
                return Err(Error::Dataset {
                    message: format!(
                        "no sample of the dataset can be decoded, so none can stand in for the others; the last one: {error}"
                    ),
                });
            };
            sample = self.catalog.find(next).await?;
            self.check_stand_in(&sample)?;
            number = self.order().await?.sample_number(next);
        }
    }

    /// Warns once where labels look sorted by shard.
    pub(crate) fn look_at_labels(&self, rows: &[Done]) {
        let Some((column, labels)) = &self.sorted else { return };
        let pairs = rows.iter().filter_map(|row| match row.cells.get(*column) {
            Some(Cell::Row(cell)) => Some((row.sample.shard, sorted::label(cell)?)),
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
        let (needed, free) = (self.room_bytes(sample), self.reads.capacity_bytes() as u64 / 8);
        if needed <= free {
            return Ok(());
        }
        Err(Error::Cache(forebay_cache::Error::MemoryTooSmall {
            limit_bytes: free,
            needed_bytes: needed,
            what: format!(
                "reading {} at byte {} of {} in place of a skipped sample, an eighth of the memory for reads is for that",
                sample.entry.key(),
                sample.entry.header_offset(),
                sample.object.location
            ),
        }))
    }

    /// Reads and decodes a sample. The cells come back whatever happens: another sample may need them.
    async fn make(
        &self,
        sample: &Found,
        number: u64,
        cells: Vec<Option<Row>>,
    ) -> (Vec<Option<Row>>, Result<Vec<Option<Value>>>) {
        match self.read(sample).await {
            Ok(members) => self.decode(sample, number, members, cells).await,
            Err(error) => (cells, Err(error)),
        }
    }

    /// Each field's bytes.
    async fn read(&self, sample: &Found) -> Result<Vec<Lease>> {
        let _inside = self.gauges.enter(Stage::Read);
        let members = self.decoder.members(&sample.object, &sample.entry)?;
        let reads = coalesce(sample, &members);
        let read = async |range: ByteRange| self.cache.read(&sample.object, range, &self.reads).await;
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
        members.iter().map(|member| slice(member.range())).collect()
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

    /// Decodes on a worker; this task waits without a thread.
    async fn decode(
        &self,
        sample: &Found,
        number: u64,
        members: Vec<Lease>,
        mut cells: Vec<Option<Row>>,
    ) -> (Vec<Option<Row>>, Result<Vec<Option<Value>>>) {
        let (done, waiting) = oneshot::channel();
        let (decoder, gauges, account) = (self.decoder.clone(), self.gauges.clone(), self.account.clone());
        let draws = self.draws;
        let found = sample.clone();
        let inside = self.gauges.enter(Stage::Decode);
        self.pool.spawn(move || {
            let began = std::time::Instant::now();
            let decode = || decoder.decode(&found, &members, &mut cells, draws, number);
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
            account.decoded(began.elapsed());
            drop(gauges);
            drop(done.send((cells, made.unwrap_or_else(|panic| Err(panicked(&*panic))))));
        });
        let answer = waiting.await;
        drop(inside);
        answer.unwrap_or_else(|_| (Vec::new(), Err(Error::Closed)))
    }
}

fn into_cell((row, value): (Option<Row>, Option<Value>)) -> Option<Cell> {
    match (row, value) {
        (_, Some(value)) => Some(Cell::Value(value)),
        (Some(row), None) => Some(Cell::Row(row)),
        (None, None) => None,
    }
}

/// The error that a panic is to the user.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Panic { message: text.unwrap_or_else(|| "without a message".into()) }
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
