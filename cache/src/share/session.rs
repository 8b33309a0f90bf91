//! One client, as its owner sees it: answers requests, each in a task of its own, until the connection ends.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use super::lock::ClientWatch;
use super::message::{Answer, Request, Urgency, WireFinding};
use super::owner::{Lent, Loan, Owner, Pinned, SharedMemory};
use super::protocol::{self, Ended, Packet, Unsent};
use super::socket::{Connection, MAX_PACKET_BYTES};
use super::{crcs, memfd};
use crate::disk::Grant;
use crate::error::{Error, Result};
use crate::io::IoFile;
use crate::memory::Lease;
use crate::object::{BlockId, ByteRange, ObjectMeta};

/// Requests of one client that may be unanswered at the same time.
const REQUEST_LIMIT: u32 = 512;

/// A descriptor that travels with an answer.
#[derive(Debug)]
enum Attached {
    Nothing,
    File(Arc<IoFile>),
    Shared(Arc<SharedMemory>),
    Own(OwnedFd),
    /// A file, and the checksums of all of it.
    Checked(Arc<IoFile>, OwnedFd),
}

impl Attached {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::File(file) => vec![file.file().as_fd()],
            Self::Shared(memory) => vec![memory.fd.as_fd()],
            Self::Own(fd) => vec![fd.as_fd()],
            Self::Checked(file, crcs) => vec![file.file().as_fd(), crcs.as_fd()],
        }
    }
}

struct Session {
    owner: Arc<Owner>,
    connection: Arc<Connection>,
    lent: Arc<Lent>,
}

/// Serves one connection to its end, and keeps the client's leases as long as they must be kept.
pub(crate) async fn run(owner: Arc<Owner>, connection: Arc<Connection>) {
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    let hello = match protocol::receive::<Request>(&connection, &mut buffer).await {
        Ok(hello) => hello,
        Err(ended) => return refuse(&connection, ended).await,
    };
    let (client, watch) = match admit(&owner, &hello) {
        Ok(admitted) => admitted,
        Err(error) => return send(&connection, hello.request, &failed(error), &[]).await,
    };
    let lent = owner.begin();
    let welcome = Answer::Welcome {
        pid: std::process::id(),
        lease_limit: owner.sharing.leases_per_client.clamp(1, 512),
        request_limit: REQUEST_LIMIT,
        folder: owner.facts(),
    };
    send(&connection, hello.request, &welcome, &[]).await;
    let session = Arc::new(Session { owner: owner.clone(), connection, lent: lent.clone() });
    session.answer_all(&client, &mut buffer).await;
    owner.outlive(&client, watch, lent).await;
}

fn admit(owner: &Owner, hello: &Packet<Request>) -> Result<(Arc<str>, ClientWatch)> {
    let Request::Hello { client, .. } = &hello.message else {
        return Err(Error::Protocol { message: "the first message must be Hello".into() });
    };
    let unlocked =
        || Error::Protocol { message: format!("the client's lock {client:?} is not held by anybody") };
    let mut watch = ClientWatch::open(&owner.dir, client)?.ok_or_else(unlocked)?;
    if watch.is_gone()? {
        return Err(unlocked());
    }
    Ok((client.as_str().into(), watch))
}

async fn refuse(connection: &Connection, ended: Ended) {
    if let Ended::Unreadable(unreadable) = ended {
        let error = unreadable.explain("a client of the cache folder");
        tracing::warn!(%error, "a connection is ended");
        send(connection, 0, &failed(error), &[]).await;
    }
}

fn failed(error: Error) -> Answer {
    Answer::Failed { error: error.into() }
}

/// Sends an answer; where the client is gone nobody misses it.
async fn send(connection: &Connection, request: u64, answer: &Answer, fds: &[BorrowedFd<'_>]) {
    match protocol::send(connection, request, answer, fds).await {
        Ok(()) => {}
        Err(Unsent::Gone(error)) => tracing::debug!(%error, "an answer found no client"),
        Err(Unsent::TooLarge(error)) => {
            if let Err(unsent) = protocol::send(connection, request, &failed(error), &[]).await {
                tracing::debug!(?unsent, "an answer found no client");
            }
        }
    }
}

impl Session {
    async fn answer_all(self: &Arc<Self>, client: &Arc<str>, buffer: &mut [u8]) {
        let mut tasks = JoinSet::new();
        let mut verifies: HashMap<u64, AbortHandle> = HashMap::new();
        loop {
            let packet = tokio::select! {
                packet = protocol::receive::<Request>(&self.connection, buffer) => packet,
                Some(_) = tasks.join_next() => continue,
            };
            let packet = match packet {
                Ok(packet) => packet,
                Err(ended) => return refuse(&self.connection, ended).await,
            };
            if let Err(message) = packet.message.check() {
                send(&self.connection, packet.request, &failed(Error::Protocol { message }), &[]).await;
                continue;
            }
            match packet.message {
                Request::Release { leases } => self.lent.end(&leases),
                Request::Advise { object, range, advice } => {
                    self.owner.folder.advise(self.lent.advisor, &object, range, advice);
                }
                Request::Settled => self.owner.settled(client, &self.lent),
                Request::Stop { request } => {
                    if let Some(verify) = verifies.remove(&request) {
                        verify.abort();
                    }
                }
                _ if tasks.len() >= REQUEST_LIMIT as usize => {
                    tracing::warn!(%client, "more than {REQUEST_LIMIT} requests at once: the connection is ended");
                    return;
                }
                Request::Verify => {
                    verifies.retain(|_, verify| !verify.is_finished());
                    verifies.insert(packet.request, tasks.spawn(self.clone().verify(packet.request)));
                }
                message => {
                    let session = self.clone();
                    tasks.spawn(async move { session.answer(packet.request, message, packet.fds).await });
                }
            }
        }
    }

    async fn answer(self: Arc<Self>, request: u64, message: Request, fds: Vec<OwnedFd>) {
        let (answer, attached) =
            self.find(message, fds).await.unwrap_or_else(|error| (failed(error), Attached::Nothing));
        send(&self.connection, request, &answer, &attached.fds()).await;
    }

    async fn find(&self, message: Request, fds: Vec<OwnedFd>) -> Result<(Answer, Attached)> {
        let folder = &self.owner.folder;
        let answer = match message {
            Request::Lease { object, range, urgency } => {
                return self.lend(Arc::new(object), range, urgency).await;
            }
            Request::Keep { object, range } => return self.keep(Arc::new(object), range).await,
            Request::Whole { object } => return self.lend_whole(Arc::new(object)).await,
            Request::Object { location } => {
                Answer::Object { object: ObjectMeta::clone(&*folder.object(&location).await?) }
            }
            Request::Recheck { object, index } => {
                Answer::Rechecked { bad: folder.recheck(BlockId { object, index }).await? }
            }
            Request::Prefetch { object, range } => {
                let done = folder.prefetch(&Arc::new(object), range).await?;
                let (present, stored, declined) = (done.present, done.stored, done.declined);
                Answer::Prefetched { present, stored, declined, folder: self.owner.facts() }
            }
            Request::AuxGet { kind, object } => match folder.aux_get(&kind, &object).await? {
                Some(bytes) => return Ok((Answer::Aux { found: true }, Attached::Own(seal(bytes).await?))),
                None => Answer::Aux { found: false },
            },
            Request::AuxPut { kind, object } => {
                let bytes = unseal(fds.into_iter().next()).await?;
                Answer::AuxKept { kept: folder.aux_put(&kind, &object, bytes).await? }
            }
            Request::Evict { what } => Answer::Evicted { bytes: folder.evict(what).await? },
            Request::Status => {
                let status = serde_json::to_vec(&folder.status().await?).map_err(|error| {
                    Error::Protocol { message: format!("the status can't be encoded: {error}") }
                })?;
                return Ok((Answer::Status, Attached::Own(seal(status).await?)));
            }
            Request::Ping => Answer::Done { folder: self.owner.facts() },
            Request::Hello { .. } => return Err(Error::Protocol { message: "a second Hello".into() }),
            // Answered where they are received.
            Request::Settled
            | Request::Release { .. }
            | Request::Advise { .. }
            | Request::Stop { .. }
            | Request::Verify => Answer::Done { folder: self.owner.facts() },
        };
        Ok((answer, Attached::Nothing))
    }

    /// The cache file where all is there; the owner's memory where it has to be fetched, or can't be kept.
    async fn lend(
        &self,
        object: Arc<ObjectMeta>,
        range: ByteRange,
        urgency: Urgency,
    ) -> Result<(Answer, Attached)> {
        let room = self.lent.room.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let folder = &self.owner.folder;
        if urgency == Urgency::Now
            && let Some(grant) = folder.grant(&object, range).await?
            && let Some(crcs) = crcs::of_grant(&grant, range)
        {
            let file = grant.file.clone();
            let lease = self.lent.lend(Loan { what: Pinned::File(grant), room: Some(room) });
            return Ok((Answer::File { lease, crcs }, Attached::File(file)));
        }
        let memory = self.owner.memory()?;
        let whole = range.granules().intersect(ByteRange::new(0, object.size_bytes));
        let read = folder.read(&object, whole, &memory.region).await?;
        let tiers = [read.tiers.ram, read.tiers.disk, read.tiers.origin];
        let (bytes, offset) = into_shared(&memory, read.lease).await?;
        let crcs = crcs::of_bytes(&bytes);
        let lease = self.lent.lend(Loan { what: Pinned::Memory(bytes), room: Some(room) });
        Ok((Answer::Memory { lease, offset, crcs, tiers }, Attached::Shared(memory)))
    }

    /// All of an object's file, where all of it is there. Such a lease is held for long: it takes no room from those that come and go.
    async fn lend_whole(&self, object: Arc<ObjectMeta>) -> Result<(Answer, Attached)> {
        let range = ByteRange::new(0, object.size_bytes);
        let grant = self.owner.folder.grant(&object, range).await?;
        let Some((grant, crcs)) =
            grant.and_then(|grant| crcs::of_grant(&grant, range).map(|crcs| (grant, crcs)))
        else {
            return Ok((Answer::Incomplete, Attached::Nothing));
        };
        let crcs = seal(crcs::to_bytes(&crcs)).await?;
        let file = grant.file.clone();
        let lease = self.lent.lend(Loan { what: Pinned::File(grant), room: None });
        Ok((Answer::File { lease, crcs: Vec::new() }, Attached::Checked(file, crcs)))
    }

    /// A lease of the former owner. Where the block is not in the folder any more there is nothing to keep: what the client
    /// reads is checked.
    async fn keep(&self, object: Arc<ObjectMeta>, range: ByteRange) -> Result<(Answer, Attached)> {
        let grant: Option<Grant> = self.owner.folder.grant(&object, range).await?;
        let Some(grant) = grant else {
            let message = format!("{}: bytes {range} are not in the cache folder any more", object.location);
            return Err(Error::Protocol { message });
        };
        let lease = self.lent.lend(Loan { what: Pinned::File(grant), room: None });
        Ok((Answer::File { lease, crcs: Vec::new() }, Attached::Nothing))
    }

    async fn verify(self: Arc<Self>, request: u64) {
        let mut progress = match self.owner.folder.verify() {
            Ok(progress) => progress,
            Err(error) => return send(&self.connection, request, &failed(error), &[]).await,
        };
        while let Some(step) = progress.recv().await {
            let answer = Answer::Progress {
                checked_blocks: step.checked_blocks,
                total_blocks: step.total_blocks,
                checked_bytes: step.checked_bytes,
                finding: step.finding.map(WireFinding::from),
            };
            send(&self.connection, request, &answer, &[]).await;
        }
        send(&self.connection, request, &Answer::Done { folder: self.owner.facts() }, &[]).await;
    }
}

/// Bytes that clients can reach: as they are where they lie in shared memory, copied there from the host tier.
async fn into_shared(memory: &SharedMemory, bytes: Lease) -> Result<(Lease, u64)> {
    if let Some(offset) = memory.region.offset_of(&bytes) {
        return Ok((bytes, offset));
    }
    let mut slab = memory.region.allocate(bytes.len()).await?;
    slab.copy_from_slice(&bytes);
    let bytes = slab.freeze();
    let offset = memory.region.offset_of(&bytes).ok_or(Error::Closed)?;
    Ok((bytes, offset))
}

async fn seal(bytes: Vec<u8>) -> Result<OwnedFd> {
    let sealed =
        tokio::task::spawn_blocking(move || memfd::sealed(&bytes)).await.map_err(|_| Error::Closed)?;
    sealed.map_err(|error| Error::Protocol { message: format!("memory for an answer can't be had: {error}") })
}

async fn unseal(fd: Option<OwnedFd>) -> Result<Vec<u8>> {
    let fd = fd.ok_or_else(|| Error::Protocol { message: "AuxPut came without its file".into() })?;
    let bytes = tokio::task::spawn_blocking(move || memfd::read(fd)).await.map_err(|_| Error::Closed)?;
    bytes.map_err(|error| Error::Protocol { message: format!("AuxPut's file can't be read: {error}") })
}
