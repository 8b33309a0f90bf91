//! Tensors on their way to host memory, in the file's order, as they arrive.
//!
//! A task goes through the groups and starts their reads, so many bytes ahead of the consumer as was asked for; the consumer takes whole groups.
//! Bytes of tensors that lie in memory as in the file are read where they stay; others pass through slots.

use std::sync::Arc;

use forebay_cache::memory::{Pieces, Region, Sheet};
use forebay_cache::{ByteRange, Lease};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::layout::{Group, Member, Span, Want};
use super::slots::Slots;
use super::source::{Came, Source};
use crate::error::{Error, Result};
use crate::task::{Task, ended_early};

/// Reads of blocks at once: twice what a virtual disk takes and completes together, so that it works while those before are checked. Where
/// tensors stay where they are read to, that takes no further memory.
const READS: usize = 64;
/// The unit of what is read ahead, so that its number fits a semaphore's.
const KIB: u64 = 1 << 10;

/// What tensors are read with.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) files: Vec<Source>,
    pub(super) handle: Handle,
    pub(super) came: Arc<Came>,
    reads: Arc<Semaphore>,
}

/// Where tensors' memory is mapped: all of it at once, or, where there is no room, each group by itself.
#[derive(Clone, Debug)]
struct Space(Option<Sheet>);

impl Space {
    /// A system that promises less than it may be asked for refuses a large model here.
    fn of(sheet: forebay_cache::Result<Sheet>) -> Self {
        Self(
            sheet
                .inspect_err(|error| tracing::debug!(%error, "each group of tensors is mapped by itself"))
                .ok(),
        )
    }

    fn pieces(&self, lens: &[usize]) -> Result<Pieces> {
        if let Some(pieces) = self.0.as_ref().and_then(|sheet| Pieces::new(sheet, lens).ok()) {
            return Ok(pieces);
        }
        Ok(Pieces::new(&Sheet::new(Sheet::bytes_of(lens.iter().copied()))?, lens)?)
    }
}

/// Bytes of the granules around a range.
fn whole(range: &ByteRange) -> usize {
    usize::try_from(range.granules().len()).unwrap_or(usize::MAX)
}

/// A group in memory.
#[derive(Debug)]
pub struct Loaded {
    /// Its memory: the consumer's alone.
    pub memory: Lease,
    /// Where each tensor lies in it.
    pub members: Vec<Member>,
}

/// Groups on their way. Dropped, reads that nobody waits for any more are not started.
#[derive(Debug)]
pub struct Loading {
    handle: Handle,
    started: mpsc::Receiver<Started>,
    /// Taken from the line, not finished yet.
    next: Option<Started>,
    /// None once it has ended.
    driver: Option<Task<Result<()>>>,
}

#[derive(Debug)]
struct Started {
    group: Task<Result<Loaded>>,
    /// Given back when the consumer has it.
    _ahead: OwnedSemaphorePermit,
}

impl Reader {
    pub(super) fn new(files: Vec<Source>, handle: Handle) -> Self {
        Self { files, handle, came: Arc::default(), reads: Arc::new(Semaphore::new(READS)) }
    }

    /// The bytes of `range` of a file, which lie in one block; in memory of `region`, or where the cache's host tier has them.
    pub(super) async fn read(&self, file: usize, range: ByteRange, region: &Region) -> Result<Lease> {
        self.files[file].read(&self.handle, range, region, &self.came).await
    }

    /// Starts to read groups: as many bytes ahead of the consumer as `ahead_bytes`, and one group always.
    pub(super) fn start(
        self: &Arc<Self>,
        groups: Vec<Group>,
        wants: Arc<Vec<Want>>,
        slots: Option<Slots>,
        ahead_bytes: u64,
        leases: bool,
    ) -> Loading {
        let (line, started) = mpsc::channel(groups.len().clamp(1, 1024));
        let (reader, handle) = (self.clone(), self.handle.clone());
        let most = u32::try_from(ahead_bytes / KIB).unwrap_or(u32::MAX).max(1);
        let driver =
            Task::spawn(&handle, async move {
                let ahead = Arc::new(Semaphore::new(most as usize));
                let all = groups.iter().map(|group| reader.bytes(group)).sum();
                // One that is read, and one in the consumer's hands.
                let ahead_bytes = usize::try_from(ahead_bytes).unwrap_or(usize::MAX).saturating_mul(2);
                let sheet = if leases { Sheet::lent(ahead_bytes.min(all)) } else { Sheet::new(all) };
                let space = Space::of(sheet);
                for group in groups {
                    let taken = u32::try_from(group.bytes / KIB).unwrap_or(u32::MAX).min(most);
                    let permit = ahead.clone().acquire_many_owned(taken).await.map_err(|_| Error::Closed)?;
                    let (reader, wants, slots, space) =
                        (reader.clone(), wants.clone(), slots.clone(), space.clone());
                    // Its first read is asked for before the next group's.
                    let turn = reader.reads.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
                    let handle = reader.handle.clone();
                    let group = Task::spawn(&handle, async move {
                        reader.group(group, &wants, slots, &space, turn).await
                    });
                    if line.send(Started { group, _ahead: permit }).await.is_err() {
                        break;
                    }
                }
                Ok(())
            });
        Loading { handle, started, next: None, driver: Some(driver) }
    }

    /// Bytes of memory that a group takes, with the granules around it.
    fn bytes(&self, group: &Group) -> usize {
        let bytes = match &group.range {
            Some(range) => return whole(&ByteRange::new(range.start, range.end)),
            None => usize::try_from(group.bytes).unwrap_or(usize::MAX),
        };
        Sheet::bytes_of(std::iter::once(bytes))
    }

    async fn group(
        self: Arc<Self>,
        group: Group,
        wants: &[Want],
        slots: Option<Slots>,
        space: &Space,
        turn: OwnedSemaphorePermit,
    ) -> Result<Loaded> {
        let memory = match (&group.range, slots) {
            _ if group.bytes == 0 => Lease::from_vec(Vec::new()),
            (Some(range), _) => {
                self.in_place(group.file, ByteRange::new(range.start, range.end), space, turn).await?
            }
            (None, Some(slots)) => {
                drop(turn);
                self.gathered(&group, wants, &slots, space).await?
            }
            (None, None) => return Err(Error::Closed),
        };
        let asked = |member: &Member| Member { want: wants[member.want].number, ..*member };
        Ok(Loaded { memory, members: group.members.iter().map(asked).collect() })
    }

    /// The bytes of `range` in memory of their own, read where they stay.
    async fn in_place(
        self: &Arc<Self>,
        file: usize,
        range: ByteRange,
        space: &Space,
        turn: OwnedSemaphorePermit,
    ) -> Result<Lease> {
        let object = self.files[file].object();
        let parts: Vec<ByteRange> =
            range.blocks().map(|index| range.intersect(object.block_range(index))).collect();
        let pieces = Arc::new(space.pieces(&parts.iter().map(whole).collect::<Vec<_>>())?);
        let (mut reading, mut turn) = (JoinSet::new(), Some(turn));
        for (number, part) in parts.iter().copied().enumerate() {
            let turn = match turn.take() {
                Some(first) => first,
                None => self.reads.clone().acquire_owned().await.map_err(|_| Error::Closed)?,
            };
            let (reader, pieces) = (self.clone(), pieces.clone());
            reading.spawn_on(
                async move {
                    let read = reader.read(file, part, pieces.region(number)).await?;
                    let head = (part.start - part.granules().start) as usize;
                    let owned = pieces.own(number, head, read)?;
                    drop(turn);
                    Ok::<_, Error>((number, owned))
                },
                &self.handle,
            );
        }
        let mut read: Vec<Option<Lease>> = vec![None; parts.len()];
        while let Some(ended) = reading.join_next().await {
            let (number, piece) = ended.map_err(ended_early)??;
            read[number] = Some(piece);
        }
        drop(reading);
        let pieces = Arc::into_inner(pieces).ok_or(Error::Closed)?;
        Ok(pieces.join(read.into_iter().flatten().collect())?)
    }

    /// A group's members, each copied to its place.
    async fn gathered(
        self: &Arc<Self>,
        group: &Group,
        wants: &[Want],
        slots: &Slots,
        space: &Space,
    ) -> Result<Lease> {
        let bytes = usize::try_from(group.bytes).unwrap_or(usize::MAX);
        let pieces = space.pieces(&[bytes])?;
        let mut memory = pieces.region(0).allocate(bytes).await?;
        let mut reading = JoinSet::new();
        let place = |ended: Result<Result<(Span, Lease)>, _>, memory: &mut [u8]| {
            let (span, read) = ended.map_err(ended_early)??;
            span.scatter(&read, memory, 0);
            Ok::<_, Error>(())
        };
        for span in group.spans(wants) {
            while let Some(ended) = reading.try_join_next() {
                place(ended, &mut memory)?;
            }
            // Bytes that have come hold slots: they are placed while one is waited for.
            let mut waiting = std::pin::pin!(slots.take());
            let slot = loop {
                tokio::select! {
                    slot = &mut waiting => break slot?,
                    Some(ended) = reading.join_next() => place(ended, &mut memory)?,
                }
            };
            let (reader, file) = (self.clone(), group.file);
            let read = async move { reader.through(file, &span, slot).await.map(|read| (span, read)) };
            reading.spawn_on(read, &self.handle);
        }
        while let Some(ended) = reading.join_next().await {
            place(ended, &mut memory)?;
        }
        Ok(pieces.join(vec![memory.freeze()])?)
    }

    /// A span's bytes, in a slot.
    pub(super) async fn through(&self, file: usize, span: &Span, slot: super::slots::Slot) -> Result<Lease> {
        let range = ByteRange::new(span.range.start, span.range.end);
        let read = self.read(file, range, slot.region()?).await?;
        Ok(slot.with(read))
    }
}

impl Loading {
    /// The next group, waited for on the calling thread, which must be none of the runtime's, for at most so long: none where it takes longer.
    /// No group is behind the last one, and after an error there is nothing more.
    ///
    /// # Errors
    /// Whatever reading it gave.
    pub fn next_within(&mut self, time: std::time::Duration) -> Option<Result<Option<Loaded>>> {
        let handle = self.handle.clone();
        handle.block_on(async { tokio::time::timeout(time, self.take()).await.ok() })
    }

    /// Cancelled, it loses nothing.
    async fn take(&mut self) -> Result<Option<Loaded>> {
        if self.next.is_none() {
            self.next = self.started.recv().await;
        }
        let Some(next) = &mut self.next else {
            // The driver has ended: well, or with the error that kept the line short.
            let ended = match &mut self.driver {
                Some(driver) => driver.await,
                None => Ok(()),
            };
            self.driver = None;
            return ended.map(|()| None);
        };
        let loaded = (&mut next.group).await;
        self.next = None;
        if loaded.is_err() {
            self.driver = None;
            self.started.close();
            while self.started.try_recv().is_ok() {}
        }
        loaded.map(Some)
    }
}
