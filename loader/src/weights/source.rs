//! Where a file's bytes come from: the cache, or a local file where it lies.
//!
//! The memory that is read into is the caller's region, and what comes back lies there, or (zero-copy) in the cache's host tier.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use forebay_cache::io::{Children, IoFile, map, resident_bytes};
use forebay_cache::memory::{Region, Slab};
use forebay_cache::object::GRANULE_BYTES;
use forebay_cache::origin::{is_version, local_path};
use forebay_cache::{ByteRange, Cache, Lease, ObjectMeta};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::task::Task;

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
                // The thread that submits reads would make pages resident otherwise.
                let read = cache.read(object, range, &region.populating()).await?;
                came.host.fetch_add(read.tiers.ram, Relaxed);
                came.disk.fetch_add(read.tiers.disk, Relaxed);
                came.origin.fetch_add(read.tiers.origin, Relaxed);
                Ok(read.lease)
            }
            Self::Local(file) => {
                let whole = range.granules();
                let slab = region.allocate(usize::try_from(whole.len()).unwrap_or(usize::MAX)).await?;
                let resident = resident_bytes(&file.buffered, range);
                let (slab, from_memory) = file.fill(handle, range, slab, resident).await?;
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
        let failed = |error| disk(&object, error);
        let buffered = File::open(&path).map_err(failed)?;
        let direct = IoFile::open_readable(&path).map_err(failed)?;
        let direct = direct.is_direct().then(|| direct.into_file());
        // Two names of one version: the file may be replaced between them.
        let same = |file: &File| is_version(file, &object).map_err(failed);
        if !same(&buffered)? || !direct.as_ref().map_or(Ok(true), same)? {
            return Err(replaced(&object, ByteRange::new(0, 0)));
        }
        Ok(Self { object, buffered, direct, refused: AtomicBool::new(false) })
    }

    /// Its bytes where they lie, as private memory.
    pub(super) fn map(self: &Arc<Self>) -> Result<Lease> {
        let failed = |error| disk(&self.object, error);
        if !is_version(&self.buffered, &self.object).map_err(failed)? {
            return Err(replaced(&self.object, ByteRange::new(0, self.object.size_bytes)));
        }
        map(&self.buffered, self.object.size_bytes, Children::Share, self.clone()).map_err(failed)
    }

    /// Fills a slab with the granules around `range`. Where the kernel has most of it in memory it is read through that, what is there copied on
    /// this thread since that waits for nothing; otherwise all is read by the disk past it, so that a model doesn't push out of it what others
    /// need. `resident` is how much that is, where it is known. Tells how much came from there.
    async fn fill(
        self: &Arc<Self>,
        handle: &Handle,
        range: ByteRange,
        mut slab: Slab,
        resident: Option<u64>,
    ) -> Result<(Slab, u64)> {
        let whole = range.granules();
        let bytes = (whole.end.min(self.object.size_bytes) - whole.start) as usize;
        let mostly = resident.is_some_and(|resident| resident >= range.len().div_ceil(2));
        let tried = match resident {
            Some(_) if !mostly => 0,
            Some(_) => bytes,
            // The first granule tells: what is missing there is read ahead, and no more than that.
            None => bytes.min(GRANULE_BYTES as usize),
        };
        let mut copied = self.copy_resident(whole.start, &mut slab[..tried]);
        if tried > 0 && copied == tried {
            copied += self.copy_resident(whole.start + tried as u64, &mut slab[tried..bytes]);
        }
        let (mut rest, mut same) = (Ok(()), None);
        if copied < bytes {
            let file = self.clone();
            let reading = Task::blocking(handle, move || {
                let read = file.read_rest(whole.start, copied, &mut slab, mostly);
                Ok((slab, read, is_version(&file.buffered, &file.object)))
            });
            let found;
            (slab, rest, found) = reading.await?;
            same = Some(found);
        }
        let failed = |error| disk(&self.object, error);
        // Also where it has got shorter than what is read.
        if !same.unwrap_or_else(|| is_version(&self.buffered, &self.object)).map_err(failed)? {
            return Err(replaced(&self.object, range));
        }
        rest.map_err(failed)?;
        let copied = (copied as u64).saturating_sub(range.start - whole.start).min(range.len());
        Ok((slab, resident.filter(|_| mostly).map_or(copied, |resident| resident.max(copied))))
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

    /// Reads what is behind the first `done` bytes: past the kernel's memory, or what is missing in it.
    fn read_rest(&self, start: u64, done: usize, slab: &mut Slab, buffered: bool) -> io::Result<()> {
        let end = (self.object.size_bytes - start).min(slab.len() as u64) as usize;
        let mut done = if buffered { done } else { done / GRANULE_BYTES as usize * GRANULE_BYTES as usize };
        while done < end {
            let may = !buffered && !self.refused.load(Relaxed) && done.is_multiple_of(GRANULE_BYTES as usize);
            let direct = self.direct.as_ref().filter(|_| may);
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

fn replaced(object: &ObjectMeta, range: ByteRange) -> Error {
    forebay_cache::Error::Changed { location: object.location.clone(), range }.into()
}

fn disk(object: &ObjectMeta, error: io::Error) -> Error {
    let path = local_path(&object.location).unwrap_or_default();
    Error::Cache(forebay_cache::Error::Disk { path, what: "reading it".into(), source: Arc::new(error) })
}

#[cfg(test)]
mod tests {
    use forebay_cache::memory::Arena;
    use forebay_cache::object::BLOCK_BYTES;
    use forebay_cache::origin::{Origin, Origins, resolve};
    use rustix::fs::{Advice, fadvise};

    use super::*;

    const RANGE: ByteRange = ByteRange { start: 5, end: 3_000_001 };

    /// A local file, open as the test's own and as a source.
    fn local(path: &std::path::Path) -> (Vec<u8>, File, Arc<LocalFile>) {
        let bytes: Vec<u8> = (0..RANGE.end).map(|at| (at % 251) as u8).collect();
        std::fs::write(path, &bytes).unwrap();
        let opened = File::open(path).unwrap();
        opened.sync_all().unwrap();
        let location = resolve(path.to_str().unwrap()).unwrap();
        let head = Origins::new([].into()).unwrap();
        let object = Arc::new(futures::executor::block_on(head.head(&location)).unwrap());
        (bytes, opened, Arc::new(LocalFile::open(object).unwrap()))
    }

    async fn filled(file: &Arc<LocalFile>, resident: Option<u64>) -> Result<(Slab, u64)> {
        let arena = Arena::new(BLOCK_BYTES).unwrap();
        let region = arena.region("a block", BLOCK_BYTES as usize).unwrap();
        let slab = region.allocate(RANGE.granules().len() as usize).await.unwrap();
        file.fill(&Handle::current(), RANGE, slab, resident).await
    }

    #[tokio::test]
    async fn the_bytes_are_the_same_whatever_of_them_is_in_memory() {
        // No temporary file system, which has everything in memory.
        let folder = tempfile::tempdir_in(".").unwrap();
        let (bytes, opened, file) = local(&folder.path().join("model"));
        for dropped in [0, 1_000_000, 2_000_000, RANGE.end] {
            for told in [true, false] {
                let mut all = Vec::new();
                io::Read::read_to_end(&mut File::open(folder.path().join("model")).unwrap(), &mut all)
                    .unwrap();
                if let Some(len) = std::num::NonZero::new(dropped) {
                    fadvise(&opened, 0, Some(len), Advice::DontNeed).unwrap();
                }
                let resident = resident_bytes(&opened, RANGE);
                let first = resident_bytes(&opened, ByteRange::new(0, GRANULE_BYTES));
                let (slab, counted) = filled(&file, resident.filter(|_| told)).await.unwrap();
                assert!(slab[5..bytes.len()] == bytes[5..], "{dropped} dropped, told: {told}");
                assert!(counted <= RANGE.len());
                match (told, resident) {
                    (true, Some(resident)) if resident < RANGE.len() / 2 => assert_eq!(counted, 0),
                    (true, Some(_)) => assert!(counted > 0, "through the kernel's memory"),
                    (true, None) => {}
                    // The first granule speaks for all.
                    (false, _) if first == Some(0) => assert_eq!(counted, 0),
                    // Where a file system has no reads that must not wait, all comes from the disk.
                    (false, _) => assert!(counted > 0 || file.copy_resident(0, &mut [0]) == 0),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_gets_shorter_has_changed_however_it_is_read() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let path = folder.path().join("model");
        for resident in [None, Some(0), Some(RANGE.len())] {
            let (_, _, file) = local(&path);
            File::options().write(true).open(&path).unwrap().set_len(2_000_000).unwrap();
            let found = filled(&file, resident).await.err();
            assert!(
                matches!(found, Some(Error::Cache(forebay_cache::Error::Changed { .. }))),
                "{resident:?}: {found:?}"
            );
        }
    }
}
