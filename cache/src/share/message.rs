//! What clients ask of the owner of a cache folder, and what they are told.
//!
//! Expected flow: `Hello` names the client's lock and is answered with `Welcome`; after a take-over the client sends `Keep` for every lease
//! that it holds; `Advise` tells what its plan wants; `Settled` ends the registration. Then requests in any order. A `Lease` is answered with `File` or `Memory`, which stay valid until
//! `Release`, or until the client's lock can be taken.

use serde::{Deserialize, Serialize};

use super::wire_error::WireError;
use crate::disk::{Advice, Evict, Finding};
use crate::object::{BlockId, ByteRange, Location, ObjectId, ObjectMeta};
use crate::stats::{CacheStats, DiskState};

/// The most bytes under one lease, so that its checksums fit into a packet: two blocks, granules included.
pub(crate) const MAX_LEASE_BYTES: u64 = 8 << 20;

/// How a lease is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Urgency {
    /// Somebody waits for the bytes.
    Now,
    /// The file was read twice and was wrong twice: through the owner's memory instead.
    NotFromFile,
}

/// From client to owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// First of all.
    Hello {
        /// The name of the client's lock.
        client: String,
        /// The client's process, as it numbers itself; for messages.
        pid: u32,
    },
    /// A lease of the former owner that the client still holds.
    Keep {
        /// Which object.
        object: ObjectMeta,
        /// Which bytes.
        range: ByteRange,
    },
    /// Every lease that the client holds is registered. Not answered.
    Settled,
    /// Size and version of an object.
    Object {
        /// Its name.
        location: Location,
    },
    /// The right to read bytes.
    Lease {
        /// Which object.
        object: ObjectMeta,
        /// Which bytes, [`MAX_LEASE_BYTES`] at most.
        range: ByteRange,
        /// How.
        urgency: Urgency,
    },
    /// The end of leases. Not answered.
    Release {
        /// Their numbers.
        leases: Vec<u64>,
    },
    /// A block failed its checksum.
    Recheck {
        /// Which object.
        object: ObjectId,
        /// Which block.
        index: u32,
    },
    /// Bring blocks into the folder.
    Prefetch {
        /// Which object.
        object: ObjectMeta,
        /// Which bytes.
        range: ByteRange,
    },
    /// What the client's plan wants with blocks; holds until the client ends. Not answered.
    Advise {
        /// Which object.
        object: ObjectId,
        /// Which bytes.
        range: ByteRange,
        /// What.
        advice: Advice,
    },
    /// A small file kept with an object.
    AuxGet {
        /// Which kind.
        kind: String,
        /// Of which object.
        object: ObjectId,
    },
    /// Keep a small file with an object; it travels as a memfd.
    AuxPut {
        /// Which kind.
        kind: String,
        /// With which object.
        object: ObjectId,
    },
    /// Remove cached bytes.
    Evict {
        /// Which.
        what: Evict,
    },
    /// Reread and check every block: many answers, ended by `Done`.
    Verify,
    /// Nobody listens to the answers of a `Verify` any more. Not answered.
    Stop {
        /// The request's number.
        request: u64,
    },
    /// What is cached.
    Status,
    /// Are you there?
    Ping,
    /// A lease of all bytes of an object, for as long as somebody has them mapped. It takes no room from other leases.
    Whole {
        /// Which object.
        object: ObjectMeta,
    },
}

/// From owner to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To `Hello`.
    Welcome {
        /// The owner's process, as it numbers itself; for messages.
        pid: u32,
        /// Leases that one client may hold at the same time; more wait.
        lease_limit: u32,
        /// Requests that may be unanswered at the same time; more end the connection.
        request_limit: u32,
        /// The folder.
        folder: FolderFacts,
    },
    /// To `Object`.
    Object {
        /// As the origin, or the cache where the origin is down, describes it.
        object: ObjectMeta,
    },
    /// To `Lease`: read it from the object's file, which travels along, at the object's own offsets. To `Whole`: with a second file, of
    /// memory, that holds the checksums.
    File {
        /// The lease's number.
        lease: u64,
        /// One crc32c per granule of the range, in order; none to `Keep` and `Whole`.
        crcs: Vec<u32>,
    },
    /// To `Lease`: read it from memory of the owner, which travels along.
    Memory {
        /// The lease's number.
        lease: u64,
        /// Where the first granule of the range lies in it.
        offset: u64,
        /// One crc32c per granule of the range, in order.
        crcs: Vec<u32>,
        /// Bytes that came from host memory, disk and origin.
        tiers: [u64; 3],
    },
    /// To `Recheck`.
    Rechecked {
        /// The block was indeed bad, and is quarantined.
        bad: bool,
    },
    /// To `Prefetch`: blocks by what became of them, and the folder after it.
    Prefetched {
        /// On disk already.
        present: u32,
        /// Fetched and written.
        stored: u32,
        /// Found no room.
        declined: u32,
        /// The folder.
        folder: FolderFacts,
    },
    /// To `AuxGet`; where found, the file travels along as a memfd.
    Aux {
        /// Whether there is one.
        found: bool,
    },
    /// To `AuxPut`.
    AuxKept {
        /// False where there was no room.
        kept: bool,
    },
    /// To `Evict`.
    Evicted {
        /// Bytes that were freed.
        bytes: u64,
    },
    /// To `Verify`, many times.
    Progress {
        /// Blocks checked so far.
        checked_blocks: u64,
        /// Blocks to check in all.
        total_blocks: u64,
        /// Bytes checked so far.
        checked_bytes: u64,
        /// What was found.
        finding: Option<WireFinding>,
    },
    /// To `Status`: it travels along as JSON in a memfd.
    Status,
    /// To `Ping`, and the end of a series.
    Done {
        /// The folder.
        folder: FolderFacts,
    },
    /// To anything that failed.
    Failed {
        /// Why.
        error: WireError,
    },
    /// To `Whole`: not all of it is in the folder.
    Incomplete,
}

/// What clients show of the folder in their own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FolderFacts {
    /// Bytes allocated in the folder.
    pub(crate) used_bytes: u64,
    /// The owner's `cache_limit`.
    pub(crate) limit_bytes: u64,
    /// Nothing is admitted at the moment.
    pub(crate) admission_stopped: bool,
    /// The origin doesn't answer.
    pub(crate) offline: bool,
    /// How well the disk is.
    pub(crate) disk_state: DiskState,
}

impl FolderFacts {
    /// What an owner's counters say.
    pub(crate) fn of(stats: &CacheStats) -> Self {
        Self {
            used_bytes: stats.used_bytes,
            limit_bytes: stats.limit_bytes,
            admission_stopped: stats.admission_stopped,
            offline: stats.offline,
            disk_state: stats.disk_state,
        }
    }

    /// The counters of a client, with what its owner says of the folder.
    pub(crate) fn onto(self, stats: CacheStats) -> CacheStats {
        CacheStats {
            used_bytes: self.used_bytes,
            limit_bytes: self.limit_bytes,
            admission_stopped: self.admission_stopped,
            offline: self.offline,
            disk_state: self.disk_state,
            ..stats
        }
    }
}

/// A finding of `verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireFinding {
    object: ObjectId,
    index: u32,
    location: String,
    what: String,
}

impl From<Finding> for WireFinding {
    fn from(finding: Finding) -> Self {
        let BlockId { object, index } = finding.block;
        Self { object, index, location: finding.location, what: finding.what }
    }
}

impl From<WireFinding> for Finding {
    fn from(finding: WireFinding) -> Self {
        let block = BlockId { object: finding.object, index: finding.index };
        Self { block, location: finding.location, what: finding.what }
    }
}

impl Request {
    /// Checks what a decoder can't: that an object's id is that of its name and version, and that a range lies inside it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (object, range) = match self {
            Self::Keep { object, range }
            | Self::Lease { object, range, .. }
            | Self::Prefetch { object, range } => (object, *range),
            Self::Whole { object } => (object, ByteRange::new(0, object.size_bytes)),
            _ => return Ok(()),
        };
        let again = ObjectMeta::new(object.location.clone(), object.size_bytes, object.version.clone());
        if again.id != object.id {
            return Err(format!("{}: its id is not that of its name, size and version", object.location));
        }
        if range.start > range.end || range.end > object.size_bytes {
            return Err(format!("{}: {range} reaches behind its end", object.location));
        }
        let too_long = matches!(self, Self::Lease { .. }) && range.granules().len() > MAX_LEASE_BYTES;
        let lease = matches!(self, Self::Lease { .. } | Self::Keep { .. } | Self::Whole { .. });
        if too_long || (lease && range.is_empty()) {
            return Err(format!("{}: a lease of {range}", object.location));
        }
        Ok(())
    }
}
