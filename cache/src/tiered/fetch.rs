//! Brings blocks from the origin: bounded connections, urgent before prefetch, neighbours in one request.
//!
//! A block that a reader waits for is fetched from the reader's own bytes on, and its front afterwards: the reader goes on as soon as its
//! part is there, and every byte still comes once. Prefetch asks for up to 16 MiB at once.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;

use super::flight::{Flight, Outcome};
use super::inner::Inner;
use super::{Prefetched, within};
use crate::disk::CrcPage;
use crate::error::{Error, Result};
use crate::memory::Slab;
use crate::object::{BLOCK_BYTES, BlockId, ByteRange, GRANULE_BYTES, ObjectMeta};
use crate::stats::count;

/// Blocks of one prefetch request: 16 MiB, where object stores reach their best rate per connection.
const RUN_BLOCKS: u32 = 4;

/// An urgent fetch begins at the reader's bytes where they lie farther in than this; before that, the bytes in front cost less than a
/// second request (20 ms of latency at 25 MB/s).
const SPLIT_BYTES: u64 = 512 << 10;

/// How long the end of a cache waits for an origin that sends nothing.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// And in all, for one that sends a little now and then: what a request of 16 MiB takes at 2 MB/s.
const LAST_CHUNKS: Duration = Duration::from_secs(8);

/// A block that is being filled.
struct Filling {
    id: BlockId,
    flight: Arc<Flight>,
    slab: Slab,
    range: ByteRange,
    /// What has come so far: one part, or two where it was begun in the middle.
    arrived: [ByteRange; 2],
}

impl Filling {
    fn serve(&self) {
        self.flight.serve_early(&self.slab, self.range.start, &self.arrived);
    }
}

impl Inner {
    /// Starts fetching a block that a reader waits for, where nobody does yet.
    pub(super) fn start_urgent(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        index: u32,
        flight: &Flight,
        from: u64,
    ) {
        if flight.hurry() {
            let (inner, object) = (self.clone(), object.clone());
            self.spawn(async move { inner.fetch_blocks(&object, index..index + 1, true, from).await });
        }
    }

    /// Brings the blocks of `range` to disk and waits for them, a bounded number of requests at a time.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        range: ByteRange,
        urgent: bool,
    ) -> Result<Prefetched> {
        let disk = self.disk()?;
        let blocks = within(object, range)?.blocks();
        let (mut done, mut waiting) = (Prefetched::default(), VecDeque::new());
        for first in blocks.clone().step_by(RUN_BLOCKS as usize) {
            let mut wanted = Vec::new();
            for index in first..blocks.end.min(first + RUN_BLOCKS) {
                let id = BlockId { object: object.id, index };
                if self.flights.get(id).is_none() && disk.has(id).await? {
                    done.present += 1;
                } else if disk.admits() {
                    wanted.push(index);
                } else {
                    done.declined += 1;
                }
            }
            waiting.extend(self.start_fetches(object, &wanted, urgent));
            while waiting.len() > self.ahead * RUN_BLOCKS as usize {
                settle(waiting.pop_front(), &mut done).await?;
            }
        }
        while !waiting.is_empty() {
            settle(waiting.pop_front(), &mut done).await?;
        }
        Ok(done)
    }

    /// Starts fetches of blocks that nobody fetches yet, neighbours together; gives what will become of all of them. Waits for nothing:
    /// a flight that was made always gets its fetch.
    fn start_fetches(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        wanted: &[u32],
        urgent: bool,
    ) -> Vec<watch::Receiver<Outcome>> {
        let (mut outcomes, mut run): (_, Option<std::ops::Range<u32>>) = (Vec::new(), None);
        for &index in wanted {
            let (flight, new) = self.flights.join(BlockId { object: object.id, index }, None);
            outcomes.push(flight.outcome.subscribe());
            if !(if urgent { flight.hurry() } else { new }) {
                continue;
            }
            run = match run {
                Some(run) if run.end == index => Some(run.start..index + 1),
                other => {
                    self.start_run(object, other, urgent);
                    Some(index..index + 1)
                }
            };
        }
        self.start_run(object, run, urgent);
        outcomes
    }

    fn start_run(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        run: Option<std::ops::Range<u32>>,
        urgent: bool,
    ) {
        let Some(run) = run else { return };
        let (inner, object) = (self.clone(), object.clone());
        self.spawn(async move { inner.fetch_blocks(&object, run, urgent, 0).await });
    }

    /// Fetches what nobody else has claimed of `blocks`, on one connection.
    async fn fetch_blocks(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        blocks: std::ops::Range<u32>,
        urgent: bool,
        from: u64,
    ) {
        let _connection = self.connections.acquire(urgent).await;
        let mut at = blocks.start;
        while at < blocks.end {
            if self.unclaimed(object, at).is_none_or(|flight| self.came_meanwhile(object, at, &flight)) {
                at += 1;
                continue;
            }
            let run = self.claim_run(object, at..blocks.end, self.ram.slab(urgent).await);
            at = run.back().map_or(at, |last| last.id.index + 1);
            self.fill(object, run, from).await;
        }
    }

    /// Ends a flight that nobody needs: whoever made it had looked for the block before another flight brought it to disk. Such a
    /// flight is stored before it leaves the list, so that one look after joining is enough.
    fn came_meanwhile(&self, object: &ObjectMeta, index: u32, flight: &Flight) -> bool {
        let id = BlockId { object: object.id, index };
        let unneeded = self.disk().is_ok_and(|disk| disk.is_present(id)) && flight.claim();
        if unneeded {
            self.flights.end(id, flight, Outcome::Stored);
        }
        unneeded
    }

    fn unclaimed(&self, object: &ObjectMeta, index: u32) -> Option<Arc<Flight>> {
        let flight = self.flights.get(BlockId { object: object.id, index });
        flight.filter(|flight| !flight.is_claimed())
    }

    /// Claims neighbours from the front of `blocks`, as many as there are slabs for.
    fn claim_run(&self, object: &ObjectMeta, blocks: std::ops::Range<u32>, first: Slab) -> VecDeque<Filling> {
        let (mut run, mut spare) = (VecDeque::new(), Some(first));
        for index in blocks {
            let Some(flight) = self.unclaimed(object, index) else { break };
            if self.came_meanwhile(object, index, &flight) {
                break;
            }
            let Some(slab) = spare.take().or_else(|| self.ram.try_slab()) else { break };
            if !flight.claim() {
                break;
            }
            let id = BlockId { object: object.id, index };
            let range = object.block_range(index);
            let arrived = [ByteRange::new(range.start, range.start); 2];
            run.push_back(Filling { id, flight, slab, range, arrived });
        }
        run
    }

    /// Streams a run into its slabs. Whole blocks go their way at once; where the origin fails, the rest fails.
    async fn fill(self: &Arc<Self>, object: &Arc<ObjectMeta>, mut run: VecDeque<Filling>, from: u64) {
        let (Some(start), Some(end)) = (run.front().map(|f| f.range.start), run.back().map(|f| f.range.end))
        else {
            // Somebody else was faster; the slab that was meant for it is free again.
            return self.ram.let_go();
        };
        let split = if run.len() == 1 && from < end && from.saturating_sub(start) >= SPLIT_BYTES {
            from
        } else {
            start
        };
        let mut result = if self.is_closed() {
            Err(Error::Closed)
        } else {
            self.stream(object, ByteRange::new(split, end), &mut run, 0).await
        };
        if result.is_ok() && split > start {
            result = self.stream(object, ByteRange::new(start, split), &mut run, 1).await;
        }
        let error = result.err().unwrap_or(Error::Closed);
        for left in run {
            drop(left.slab);
            self.flights.end(left.id, &left.flight, Outcome::Failed(error.clone()));
        }
        self.ram.let_go();
    }

    /// One request, the `part`th of a block that is fetched in two.
    async fn stream(
        self: &Arc<Self>,
        object: &Arc<ObjectMeta>,
        range: ByteRange,
        run: &mut VecDeque<Filling>,
        part: usize,
    ) -> Result<()> {
        count(&self.counters.origin_requests);
        let mut stream = self.origin.get(object, range);
        let mut position = range.start;
        let mut over = pin!(self.closed_for(LAST_CHUNKS));
        loop {
            let chunk = tokio::select! {
                biased;
                // What comes is still taken, as it was asked for once; nobody waits for a stalled origin, nor long for a slow one.
                () = &mut over => return Err(Error::Closed),
                chunk = next_chunk(&mut stream, run) => chunk,
                () = self.closed_for(LAST_BYTES) => return Err(Error::Closed),
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.inspect_err(|_| count(&self.counters.origin_errors))?;
            self.counters.origin_bytes.fetch_add(chunk.len() as u64, Relaxed);
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let Some(block) = run.front_mut().filter(|_| position < range.end) else {
                    return Err(wrong_length(object, range, "more bytes came than were asked for"));
                };
                let len = rest.len().min((block.range.end.min(range.end) - position) as usize);
                let at = (position - block.range.start) as usize;
                block.slab[at..at + len].copy_from_slice(&rest[..len]);
                (rest, position) = (&rest[len..], position + len as u64);
                block.arrived[part] = ByteRange::new(range.start.max(block.range.start), position);
                block.serve();
                let whole = block.arrived.iter().map(ByteRange::len).sum::<u64>() == block.range.len();
                if whole && let Some(block) = run.pop_front() {
                    self.land(object, block);
                }
            }
        }
        if position < range.end {
            count(&self.counters.origin_errors);
            return Err(wrong_length(object, range, "the answer ended early"));
        }
        Ok(())
    }

    /// A whole block: checksums, host tier, readers, disk. In a task of its own, so that the connection goes on.
    fn land(self: &Arc<Self>, object: &Arc<ObjectMeta>, block: Filling) {
        let (inner, object) = (self.clone(), object.clone());
        self.spawn(async move {
            let Filling { id, flight, slab, range, arrived: _ } = block;
            let outcome = match inner.keep(&object, id, &flight, slab, range).await {
                Ok(true) => Outcome::Stored,
                Ok(false) => Outcome::Declined,
                Err(error) => Outcome::Failed(error),
            };
            inner.flights.end(id, &flight, outcome);
            inner.ram.let_go();
        });
    }

    async fn keep(
        &self,
        object: &Arc<ObjectMeta>,
        id: BlockId,
        flight: &Flight,
        mut slab: Slab,
        range: ByteRange,
    ) -> Result<bool> {
        let len = range.len() as usize;
        let padded = len.next_multiple_of(GRANULE_BYTES as usize);
        slab.set_len(padded);
        slab[len..].fill(0);
        let compute = move || {
            let page = CrcPage::of(&slab);
            (slab, page)
        };
        let (slab, page) = self.compute(compute).await?;
        let lease = slab.freeze();
        self.ram.insert(id, lease.slice(0..len));
        flight.land(lease.slice(0..len), range.start);
        self.disk()?.store(object, id.index, lease, Arc::new(page)).await
    }
}

/// The next piece of an answer. Readers who come meanwhile for what has arrived don't wait for it.
async fn next_chunk(
    stream: &mut BoxStream<'static, Result<Bytes>>,
    run: &VecDeque<Filling>,
) -> Option<Result<Bytes>> {
    while let Some(block) = run.front() {
        tokio::select! {
            chunk = stream.next() => return chunk,
            () = block.flight.joined.notified() => block.serve(),
        }
    }
    stream.next().await
}

/// Waits for one flight and counts how it ended.
async fn settle(outcome: Option<watch::Receiver<Outcome>>, done: &mut Prefetched) -> Result<()> {
    let Some(mut outcome) = outcome else { return Ok(()) };
    let ended = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await;
    match ended.map(|outcome| outcome.clone()) {
        Ok(Outcome::Stored) => done.stored += 1,
        Ok(Outcome::Failed(error)) => return Err(error),
        Ok(Outcome::Declined | Outcome::Pending) => done.declined += 1,
        Err(_) => return Err(Error::Closed),
    }
    Ok(())
}

/// The origin's trait promises complete answers; one that breaks it must not become a wrong block.
fn wrong_length(object: &ObjectMeta, range: ByteRange, what: &str) -> Error {
    let source = Arc::new(io::Error::new(io::ErrorKind::UnexpectedEof, what.to_owned()));
    Error::Origin { location: object.location.clone(), range, attempts: 1, source }
}

/// The index of the block that holds `offset`.
pub(super) fn block_of(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[cfg(feature = "testing")]
#[path = "fetch_tests.rs"]
mod tests;
