//! Where things lie in the cache folder, and how much the file system says they take.

use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use crate::object::ObjectId;

/// Names of files in the folder. Made of ids and checked words only, so that no name from outside escapes.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn index(&self) -> PathBuf {
        self.dir.join("index.redb")
    }

    /// Exists where the index was found to be broken while in use: the next start makes a new one.
    pub(super) fn index_is_broken(&self) -> PathBuf {
        self.dir.join("index.broken")
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(super) fn aux_dir(&self) -> PathBuf {
        self.dir.join("aux")
    }

    /// Makes the folders that are always there.
    pub(super) fn make_dirs(&self) -> io::Result<()> {
        std::fs::create_dir_all(self.objects())?;
        std::fs::create_dir_all(self.aux_dir())
    }

    /// The folder of an object's files: 256 of them, by the first byte of the id.
    pub(super) fn bucket(&self, id: &ObjectId) -> PathBuf {
        self.objects().join(format!("{:02x}", id.as_bytes()[0]))
    }

    pub(super) fn data(&self, id: &ObjectId) -> PathBuf {
        self.bucket(id).join(format!("{id}.data"))
    }

    pub(super) fn crc(&self, id: &ObjectId) -> PathBuf {
        self.bucket(id).join(format!("{id}.crc"))
    }

    pub(super) fn aux(&self, kind: &str, id: &ObjectId) -> PathBuf {
        self.aux_dir().join(format!("{id}.{kind}"))
    }
}

/// The object that a file of the folder belongs to, by its name.
pub(super) fn owner_of(name: &str) -> Option<(ObjectId, &str)> {
    let (id, kind) = name.split_once('.')?;
    Some((id.parse().ok()?, kind))
}

/// Bytes that a file takes on disk: what a quota counts, holes excluded and preallocated blocks included.
pub(super) fn allocated(meta: &Metadata) -> u64 {
    meta.blocks() * 512
}

/// As [`allocated`], by path; a file that isn't there takes nothing.
pub(super) fn allocated_at(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |meta| allocated(&meta))
}

/// Allocates `len` bytes at `offset` without changing the file's size, so that a full disk says so before data is on its way.
pub(super) fn reserve(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, offset, len) {
        // A file system without preallocation (some network and FUSE ones) still takes the write.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

/// Removes a file; one that isn't there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
