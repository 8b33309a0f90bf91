//! The cache folder: what reads it, found by reading; how it is aligned; how much is free.

use std::path::{Path, PathBuf};

use forebay_cache::io::Report;
use serde::Serialize;

use super::super::place::{allocated, holds_cache};
use crate::size;

/// Reads in flight at once, as a loader has them.
const DEPTH: usize = 64;

/// File systems by the magic numbers of linux/magic.h; true for those on another machine.
const FILE_SYSTEMS: [(u64, &str, bool); 13] = [
    (0xef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0x0102_1994, "tmpfs", false),
    (0x8584_58f6, "ramfs", false),
    (0x794c_7630, "overlayfs", false),
    (0xf2f5_2010, "f2fs", false),
    (0x6969, "NFS", true),
    (0xff53_4d42, "CIFS", true),
    (0x00c3_6400, "Ceph", true),
    (0x0bd0_0bd0, "Lustre", true),
    (0x6573_5546, "FUSE", true),
];

#[derive(Debug, Default, Serialize)]
pub(super) struct Storage {
    /// The cache folder.
    pub(super) dir: PathBuf,
    pub(super) exists: bool,
    /// Where it was tried: the folder, or the nearest one above it that exists.
    pub(super) tried: PathBuf,
    pub(super) file_system: String,
    pub(super) network: bool,
    pub(super) total_bytes: Option<u64>,
    pub(super) free_bytes: Option<u64>,
    /// What a cache in it takes now.
    pub(super) used_bytes: Option<u64>,
    /// What reads and writes there, found by doing.
    pub(super) io: Option<Report>,
    /// Why it can't be used.
    pub(super) error: Option<String>,
}

impl Storage {
    pub(super) fn find(dir: PathBuf) -> Self {
        let whole = std::path::absolute(&dir).unwrap_or_else(|_| dir.clone());
        let tried = whole.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned();
        let (io, error) = match forebay_cache::io::open(&tried, DEPTH) {
            Ok((_, report)) => (Some(report), None),
            Err(error) => (None, Some(with_source(&error))),
        };
        let kind = rustix::fs::statfs(&tried).map_or(0, |found| found.f_type as u64 & 0xffff_ffff);
        let known = FILE_SYSTEMS.iter().find(|(magic, ..)| *magic == kind);
        let space = rustix::fs::statvfs(&tried).ok();
        Self {
            exists: whole.is_dir(),
            used_bytes: holds_cache(&whole).then(|| allocated(&whole)),
            file_system: known.map_or_else(|| format!("{kind:#x}"), |(_, name, _)| (*name).into()),
            network: known.is_some_and(|(_, _, network)| *network),
            total_bytes: space.as_ref().map(|space| space.f_blocks * space.f_frsize),
            free_bytes: space.map(|space| space.f_bavail * space.f_frsize),
            dir,
            tried,
            io,
            error,
        }
    }

    pub(super) fn rows(&self, row: &mut impl FnMut(&str, String)) {
        let mut folder = self.dir.display().to_string();
        if !self.exists {
            folder = format!("{folder} (not made yet; tried in {})", self.tried.display());
        }
        row("cache folder", folder);
        let show = |bytes: Option<u64>| bytes.map_or("?".into(), size::show);
        let used =
            self.used_bytes.map_or(String::new(), |used| format!(", the cache takes {}", size::show(used)));
        row(
            "",
            format!(
                "{}, {} free of {}{used}",
                self.file_system,
                show(self.free_bytes),
                show(self.total_bytes)
            ),
        );
        let Some(io) = &self.io else { return };
        let how = match &io.reason {
            None => format!("io_uring ({})", io.ring_flags),
            Some(_) => format!("{} with {} threads", io.engine, io.depth),
        };
        row("reads", format!("{how}, {} in flight at most", io.depth));
        let direct = match (io.direct, io.alignment) {
            (false, _) => "no: through the page cache".into(),
            (true, None) => "O_DIRECT; the kernel names no alignment, 4 KiB is used".into(),
            (true, Some(needs)) => format!(
                "O_DIRECT; offsets need {} bytes, memory {}; 4 KiB is used",
                needs.offset_bytes, needs.memory_bytes
            ),
        };
        row("direct", direct);
    }
}

fn with_source(error: &forebay_cache::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
