//! Reading as a client: a lease from the owner, the bytes by this process's own ring into its own memory, checked.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::client::{CallError, Client, unexpected};
use super::crcs;
use super::leases::HeldLease;
use super::message::{Answer, MAX_LEASE_BYTES, Request, Urgency};
use crate::error::Error;
use crate::io::{self, BlockIo, IoFile};
use crate::memory::{Lease, Region, Slab};
use crate::object::{BLOCK_BYTES, ByteRange, ObjectMeta};
use crate::tiered::{Read, Tiers};

/// How often a range is read from the folder before the owner's memory is asked.
const FILE_ATTEMPTS: u32 = 2;
/// How often in all.
const ATTEMPTS: u32 = 4;

/// What a client reads with.
#[derive(Debug)]
pub(crate) struct Reader {
    /// This process's own engine.
    pub(crate) io: Arc<dyn BlockIo>,
    /// For the parts of ranges that are longer than a lease.
    pub(crate) staging: Region,
    /// Reads go on here when whoever asked has gone: the kernel is not asked to stop.
    pub(crate) runtime: tokio::runtime::Handle,
}

/// The right to read one piece, and where it lies.
struct Source {
    file: Arc<IoFile>,
    offset: u64,
    crcs: Vec<u32>,
    /// None: all from the cache folder.
    tiers: Option<[u64; 3]>,
    lease: HeldLease,
}

impl Reader {
    /// Exactly the bytes of `range`. Memory first, then the lease: whoever holds a lease waits for nothing but the disk.
    pub(crate) async fn read(
        &self,
        client: &Client,
        object: &Arc<ObjectMeta>,
        range: ByteRange,
        region: &Region,
    ) -> Result<Read, CallError> {
        if range.end > object.size_bytes {
            let (location, size_bytes) = (object.location.clone(), object.size_bytes);
            return Err(Error::OutOfRange { location, range, size_bytes }.into());
        }
        if range.is_empty() {
            return Ok(Read { lease: Lease::from_vec(Vec::new()), tiers: Tiers::default() });
        }
        let pieces = pieces(range);
        if let [piece] = pieces[..] {
            let slab = region.allocate(bytes(piece.granules().len())).await?;
            return self.piece(client, object, piece, slab).await;
        }
        let mut whole = region.allocate(bytes(range.len())).await?;
        let mut tiers = Tiers::default();
        for piece in pieces {
            let slab = self.staging.allocate(bytes(piece.granules().len())).await?;
            let part = self.piece(client, object, piece, slab).await?;
            let at = bytes(piece.start - range.start);
            whole[at..at + part.lease.len()].copy_from_slice(&part.lease);
            tiers.ram += part.tiers.ram;
            tiers.disk += part.tiers.disk;
            tiers.origin += part.tiers.origin;
        }
        Ok(Read { lease: whole.freeze(), tiers })
    }

    /// One piece, read again where it is wrong: the owner looks at the block, quarantines it, and fetches it anew.
    async fn piece(
        &self,
        client: &Client,
        object: &Arc<ObjectMeta>,
        piece: ByteRange,
        mut slab: Slab,
    ) -> Result<Read, CallError> {
        let mut wrong = String::new();
        for attempt in 0..ATTEMPTS {
            let urgency = if attempt < FILE_ATTEMPTS { Urgency::Now } else { Urgency::NotFromFile };
            let source = self.source(client, object, piece, urgency).await?;
            let from_file = source.tiers.is_none();
            let (back, read) = self.fill(object, piece, source, slab).await?;
            match read {
                Ok(tiers) => {
                    let skip = bytes(piece.start - piece.granules().start);
                    let lease = back.freeze().slice(skip..skip + bytes(piece.len()));
                    return Ok(Read { lease, tiers });
                }
                Err((at, what)) => {
                    tracing::warn!(object = %object.location, at, %what, "bytes under a lease were wrong: the owner looks");
                    wrong = format!("byte {at}: {what}");
                    slab = back;
                    if from_file {
                        let index = u32::try_from(at / BLOCK_BYTES).unwrap_or(u32::MAX);
                        client.call(&Request::Recheck { object: object.id, index }).await?;
                    }
                }
            }
        }
        let message = format!(
            "{}: bytes {piece} were wrong {ATTEMPTS} times, also from the owner's memory ({wrong}); suspect this machine's memory",
            object.location
        );
        Err(Error::Protocol { message }.into())
    }

    /// Asks for a lease.
    async fn source(
        &self,
        client: &Client,
        object: &Arc<ObjectMeta>,
        range: ByteRange,
        urgency: Urgency,
    ) -> Result<Source, CallError> {
        let request = Request::Lease { object: ObjectMeta::clone(object), range, urgency };
        let reply = client.call(&request).await?;
        let (offset, crcs, tiers) = match reply.message {
            Answer::File { crcs, .. } => (range.granules().start, crcs, None),
            Answer::Memory { offset, crcs, tiers, .. } => (offset, crcs, Some(tiers)),
            other => return Err(unexpected(&other).into()),
        };
        let lease = reply.lease.and_then(|lease| lease.claim(tiers.is_none(), object.clone(), range));
        let lease = lease.ok_or(Error::Closed)?;
        let file = file_of(reply.fds, object)?;
        Ok(Source { file, offset, crcs, tiers, lease })
    }

    /// Reads and checks. The inner result says at which byte of the object something was wrong.
    async fn fill(
        &self,
        object: &Arc<ObjectMeta>,
        piece: ByteRange,
        source: Source,
        slab: Slab,
    ) -> Result<(Slab, Result<Tiers, (u64, String)>), CallError> {
        let granules = piece.granules();
        let real = granules.intersect(ByteRange::new(0, object.size_bytes)).len();
        // A direct file is read in whole granules and ends short; memory holds the bytes alone.
        let len = if source.tiers.is_none() { bytes(granules.len()) } else { bytes(real) };
        let tiers =
            source.tiers.map_or(Tiers { disk: piece.len(), ..Tiers::default() }, |[ram, disk, origin]| {
                share_out([ram, disk, origin], piece.len())
            });
        let io = self.io.clone();
        // A task of its own owns the lease until the kernel is done, also where nobody waits any more.
        let reading = self.runtime.spawn(async move {
            let read = io::read(&*io, &source.file, source.offset, len, slab).await;
            (read, source)
        });
        let ((slab, read), source) = reading.await.map_err(|_| Error::Closed)?;
        let mut slab = slab.ok_or(Error::Closed)?;
        let checked = match read {
            Err(error) => Err((granules.start, format!("it could not be read: {error}"))),
            Ok(came) if (came as u64) < real => Err((
                granules.start + came as u64,
                format!("the file ends there, {} bytes early", real - came as u64),
            )),
            Ok(_) => {
                slab.set_len(bytes(real));
                match crcs::mismatch(&slab, &source.crcs) {
                    None => Ok(tiers),
                    Some(at) => Err((granules.start + at, "it does not match its checksum".into())),
                }
            }
        };
        // A file that the owner removes takes its space until it is closed here.
        drop(source.file);
        drop(source.lease);
        Ok((slab, checked))
    }
}

pub(super) fn file_of(
    fds: impl IntoIterator<Item = OwnedFd>,
    object: &ObjectMeta,
) -> Result<Arc<IoFile>, Error> {
    let missing =
        || Error::Protocol { message: format!("{}: a lease came without its file", object.location) };
    let fd = fds.into_iter().next().ok_or_else(missing)?;
    let file = IoFile::from_file(File::from(fd), PathBuf::from(object.location.file_name()));
    file.map(Arc::new).map_err(|_| missing())
}

/// Cuts a range into pieces that fit under a lease, at the edges of blocks.
fn pieces(range: ByteRange) -> Vec<ByteRange> {
    let mut pieces = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let limit = (start / BLOCK_BYTES * BLOCK_BYTES) + MAX_LEASE_BYTES;
        let piece = ByteRange::new(start, limit.min(range.end));
        start = piece.end;
        pieces.push(piece);
    }
    pieces
}

/// The owner counts whole granules; the reader asked for `len` bytes: the same proportions of them.
fn share_out([ram, disk, origin]: [u64; 3], len: u64) -> Tiers {
    let total = (ram + disk + origin).max(1);
    let part =
        |bytes: u64| u64::try_from(u128::from(bytes) * u128::from(len) / u128::from(total)).unwrap_or(len);
    let (ram, disk) = (part(ram), part(disk));
    if origin > 0 {
        Tiers { ram, disk, origin: len - ram - disk }
    } else if disk > 0 {
        Tiers { ram, disk: len - ram, origin: 0 }
    } else {
        Tiers { ram: len, disk: 0, origin: 0 }
    }
}

fn bytes(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::GRANULE_BYTES;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_range_and_each_fits_under_a_lease(start in 0u64..40_000_000, len in 1u64..60_000_000) {
            let range = ByteRange::new(start, start + len);
            let pieces = pieces(range);
            let mut at = range.start;
            for piece in &pieces {
                prop_assert_eq!(piece.start, at);
                prop_assert!(!piece.is_empty() && piece.granules().len() <= MAX_LEASE_BYTES);
                at = piece.end;
            }
            prop_assert_eq!(at, range.end);
        }

        #[test]
        fn the_tiers_of_a_piece_add_up_to_it(parts in any::<[u16; 3]>(), len in 1u64..10_000_000) {
            let tiers = share_out(parts.map(u64::from), len);
            prop_assert_eq!(tiers.ram + tiers.disk + tiers.origin, len);
        }
    }

    #[test]
    fn a_granule_is_the_unit_of_a_lease() {
        assert_eq!(MAX_LEASE_BYTES % GRANULE_BYTES, 0);
    }
}
