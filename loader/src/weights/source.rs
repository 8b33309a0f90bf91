//! Where a file's bytes come from: the cache, or a local file where it lies.
//!
//! The memory that is read into is the caller's region, and what comes back lies there, or (zero-copy) in the cache's host tier.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use forebay_cache::io::{Children, IoFile, map};
use forebay_cache::memory::{Region, Slab};
use forebay_cache::object::GRANULE_BYTES;
use forebay_cache::origin::local_path;
use forebay_cache::{ByteRange, Cache, Lease, ObjectMeta, Version};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::runtime::Handle;

use crate::error::{Error, Result};

/// Bytes by where they came from.
#[derive(Debug, Default)]
pub struct Came {
    /// From the cache's host tier.
    pub host: AtomicU64,
    /// From the cache folder.
    pub disk: AtomicU64,
    /// From the origin.
    pub origin: AtomicU64,
    /// From a local file that the kernel had in memory.
    pub page_cache: AtomicU64,
    /// From a local file, by the disk.
    pub file: AtomicU64,
}

/// One version of one file.
#[derive(Debug)]
pub(super) enum Source {
    /// Through a session's cache. Not with the session itself: reads may be the last to hold this, on threads that can't wait for a session's end.
    Cached(Cache, Arc<ObjectMeta>),
    /// Where it lies.
    Local(Arc<LocalFile>),
}

/// A local file, open: the version that was found, or an error.
#[derive(Debug)]
pub(super) struct LocalFile {
    object: Arc<ObjectMeta>,
    buffered: File,
    /// None where its file system has no direct reads.
    direct: Option<File>,
    refused: AtomicBool,
    changed: (i64, i64, u64),
}

impl Source {
    /// The version.
    pub(super) fn object(&self) -> &Arc<ObjectMeta> {
        match self {
            Self::Cached(_, object) => object,
            Self::Local(file) => &file.object,
        }
    }

    /// The bytes of `range`, which lie in one block.
    pub(super) async fn read(
        &self,
        handle: &Handle,
        range: ByteRange,
        region: &Region,
        came: &Came,
    ) -> Result<Lease> {
        match self {
            Self::Cached(cache, object) => {
                let read = cache.read(object, range, region).await?;
                came.host.fetch_add(read.tiers.ram, Relaxed);
                came.disk.fetch_add(read.tiers.disk, Relaxed);
                came.origin.fetch_add(read.tiers.origin, Relaxed);
                Ok(read.lease)
            }
            Self::Local(file) => {
                let whole = range.granules();
                let slab = region.allocate(usize::try_from(whole.len()).unwrap_or(usize::MAX)).await?;
                let file = file.clone();
                let filled = handle.spawn_blocking(move || file.fill(range, slab)).await;
                let (slab, from_memory) =
                    filled.map_err(|error| Error::Panic { message: error.to_string() })??;
                came.page_cache.fetch_add(from_memory, Relaxed);
                came.file.fetch_add(range.len() - from_memory, Relaxed);
                let head = (range.start - whole.start) as usize;
                Ok(slab.freeze().slice(head..head + range.len() as usize))
            }
        }
    }
}

impl LocalFile {
    /// Opens the version that `object` is.
    pub(super) fn open(object: Arc<ObjectMeta>) -> Result<Self> {
        let path = local_path(&object.location)?;
        let failed = |error: io::Error| Error::Cache(disk(&path, &error));
        let buffered = File::open(&path).map_err(failed)?;
        let direct = IoFile::open_readable(&path).map_err(failed)?;
        let direct = direct.is_direct().then(|| direct.into_file());
        let changed = state(&buffered).map_err(failed)?;
        let opened = Self { object, buffered, direct, refused: AtomicBool::new(false), changed };
        if opened.is(&opened.buffered.metadata().map_err(failed)?) {
            Ok(opened)
        } else {
            Err(opened.replaced(ByteRange::new(0, 0)))
        }
    }

    /// Its bytes where they lie, as private memory.
    pub(super) fn map(self: &Arc<Self>) -> Result<Lease> {
        let failed = |error: io::Error| -> Error {
            let path = local_path(&self.object.location).unwrap_or_default();
            disk(&path, &error).into()
        };
        if state(&self.buffered).map_err(failed)? != self.changed {
            return Err(self.replaced(ByteRange::new(0, self.object.size_bytes)));
        }
        map(&self.buffered, self.object.size_bytes, Children::Share, self.clone()).map_err(failed)
    }

    /// Whether the open file is the version that was found.
    fn is(&self, found: &std::fs::Metadata) -> bool {
        let now = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        let same = match &self.object.version {
            Version::File { modified_ns, inode } => (*modified_ns, *inode) == (now, found.ino()),
            Version::Modified(modified_ns) => *modified_ns == now,
            _ => true,
        };
        same && found.len() == self.object.size_bytes
    }

    fn replaced(&self, range: ByteRange) -> Error {
        forebay_cache::Error::Changed { location: self.object.location.clone(), range }.into()
    }

    /// Fills a slab with the granules around `range`: what the kernel has in memory is copied, the rest is read by the disk past it, so that
    /// a model doesn't push out of memory what others need. Tells how much was in memory.
    fn fill(&self, range: ByteRange, mut slab: Slab) -> Result<(Slab, u64)> {
        let whole = range.granules();
        let end = whole.end.min(self.object.size_bytes);
        let bytes = &mut slab[..(end - whole.start) as usize];
        let failed = |error: io::Error| -> Error {
            let path = local_path(&self.object.location).unwrap_or_default();
            disk(&path, &error).into()
        };
        let cached = self.copy_resident(whole.start, bytes);
        let rest = if cached < bytes.len() { self.read_rest(whole.start, cached, &mut slab) } else { Ok(()) };
        // Also where it has got shorter than what is read.
        if state(&self.buffered).map_err(failed)? != self.changed {
            return Err(self.replaced(range));
        }
        rest.map_err(failed)?;
        let head = range.start - whole.start;
        Ok((slab, (cached as u64).saturating_sub(head).min(range.len())))
    }

    /// Copies what the kernel has in memory, from the front; never waits for the disk.
    fn copy_resident(&self, start: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &mut [IoSliceMut::new(&mut bytes[done..])];
            match preadv2(&self.buffered, rest, start + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(Errno::INTR) => {}
                // Not in memory, or a file system that can't tell.
                Err(_) => break,
            }
        }
        done
    }

    /// Reads what is behind the first `done` bytes.
    fn read_rest(&self, start: u64, done: usize, slab: &mut Slab) -> io::Result<()> {
        let end = (self.object.size_bytes - start).min(slab.len() as u64) as usize;
        let mut done = done / GRANULE_BYTES as usize * GRANULE_BYTES as usize;
        while done < end {
            let direct = self
                .direct
                .as_ref()
                .filter(|_| !self.refused.load(Relaxed) && done.is_multiple_of(GRANULE_BYTES as usize));
            let read = match direct {
                // Whole granules: the slab has room for the one that the file ends in.
                Some(direct) => direct.read_at(&mut slab[done..], start + done as u64),
                None => self.buffered.read_at(&mut slab[done..end], start + done as u64),
            };
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if direct.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
                    tracing::debug!(location = %self.object.location, "its file system refuses direct reads");
                    self.refused.store(true, Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn state(file: &File) -> io::Result<(i64, i64, u64)> {
    let found = file.metadata()?;
    Ok((found.mtime(), found.mtime_nsec(), found.len()))
}

fn disk(path: &std::path::Path, error: &io::Error) -> forebay_cache::Error {
    forebay_cache::Error::Disk {
        path: PathBuf::from(path),
        what: "reading it".into(),
        source: Arc::new(io::Error::new(error.kind(), error.to_string())),
    }
}
