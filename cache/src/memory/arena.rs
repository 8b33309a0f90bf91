//! One anonymous mapping for everything that moves through this process.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::region::Region;
use super::slab::Slab;
use crate::error::{Error, Result};

/// Makes a mapping known to a device: pins it where it lies, unpins it before it is unmapped.
pub trait HostMemory: Send + Sync + fmt::Debug {
    /// Called with the whole mapping. After an error the mapping is pageable as before.
    fn pin(&self, start: NonNull<u8>, len: usize) -> io::Result<()>;
    /// Called once before the mapping goes away, only where `pin` succeeded.
    fn unpin(&self, start: NonNull<u8>, len: usize);
}

/// The mapping itself; regions and slabs keep it alive.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    pinned: OnceLock<Arc<dyn HostMemory>>,
}

// SAFETY: the mapping is plain memory that no thread owns; who may touch which part is decided by `Region`, which never
// hands the same extent out twice.
unsafe impl Send for Mapping {}
// SAFETY: as above; `Mapping` itself gives out addresses only.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        // SAFETY: a new private mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        // SAFETY: the range was just mapped. DONTFORK: a child's copy-on-write would move pages under a device or a
        // read in flight; huge pages save TLB misses, and a kernel without them may refuse.
        unsafe {
            madvise(start, len, Advice::LinuxDontFork)?;
            if let Err(refused) = madvise(start, len, Advice::LinuxHugepage) {
                tracing::debug!(%refused, "no transparent huge pages");
            }
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, pinned: OnceLock::new() })
    }

    /// Maps memory that other processes can read through the descriptor that comes along. It can't shrink under the mapping.
    fn shared(len: usize) -> io::Result<(Self, OwnedFd)> {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};
        let fd = memfd_create("forebay", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing; its file is new and sealed against
        // shrinking, so every page of it exists.
        let start = unsafe { mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, &fd, 0)? };
        // SAFETY: the range was just mapped. A forked child has no business in it.
        unsafe { madvise(start, len, Advice::LinuxDontFork)? };
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok((Self { start, len, pinned: OnceLock::new() }, fd))
    }

    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len, "offset {offset} lies outside the arena");
        // SAFETY: inside the mapping, or one past its end.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(host) = self.pinned.get() {
            host.unpin(self.start, self.len);
        }
        // SAFETY: every slab and lease holds an `Arc` of the mapping, so none is left.
        if let Err(error) = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "the arena could not be unmapped");
        }
    }
}

/// `host_memory_limit` as one mapping, carved into regions.
#[derive(Debug)]
pub struct Arena {
    ground: Arc<Ground>,
    limit: usize,
}

/// The mapping and what of it nobody has; whoever has a part of it keeps it alive.
#[derive(Debug)]
pub(super) struct Ground {
    mapping: Mapping,
    /// Parts that nobody has, as (offset, length), sorted by offset.
    free: Mutex<Vec<(usize, usize)>>,
    /// Whether what is given back stays resident, to be used again soon.
    keeps_pages: AtomicBool,
}

impl Arena {
    /// Maps `limit_bytes`, rounded down to whole pages. No page is touched yet.
    pub fn new(limit_bytes: u64) -> Result<Self> {
        let limit =
            usize::try_from(limit_bytes).unwrap_or(usize::MAX) / super::region::PAGE * super::region::PAGE;
        let refused = |error: io::Error| {
            Error::config(format!(
                "host_memory_limit: {limit} bytes of address space could not be mapped: {error}"
            ))
        };
        if limit == 0 {
            return Err(refused(io::ErrorKind::InvalidInput.into()));
        }
        Ok(Self::over(Mapping::new(limit).map_err(refused)?, limit))
    }

    /// Memory that another process reads through the descriptor: byte `n` of it is byte `n` of the file, and
    /// [`Region::offset_of`] tells where a lease lies. Other processes are trusted not to write.
    pub(crate) fn shared(limit_bytes: usize) -> io::Result<(Self, OwnedFd)> {
        let limit = limit_bytes.next_multiple_of(super::region::PAGE);
        let (mapping, fd) = Mapping::shared(limit)?;
        Ok((Self::over(mapping, limit), fd))
    }

    fn over(mapping: Mapping, limit: usize) -> Self {
        Self {
            ground: Arc::new(Ground {
                mapping,
                free: Mutex::new(vec![(0, limit)]),
                keeps_pages: AtomicBool::new(false),
            }),
            limit,
        }
    }

    /// Pins all of it, pages that nobody has touched included, until it is unmapped. Once: whoever comes later finds it pinned.
    pub fn pin(&self, host: Arc<dyn HostMemory>) -> io::Result<()> {
        let mapping = &self.ground.mapping;
        // No page is given back meanwhile.
        let _free = self.ground.free.lock();
        if mapping.pinned.get().is_none() {
            host.pin(mapping.start, mapping.len)?;
            // The lock is held: nobody else set it.
            drop(mapping.pinned.set(host));
        }
        Ok(())
    }

    /// From now on a forked child gets a copy of the pages of these bytes, as of any memory; so far it got none.
    pub(super) fn share_with_children(&self, start: NonNull<u8>, len: usize) {
        let before = start.as_ptr() as usize % super::region::PAGE;
        // SAFETY: the page's start, in the same mapping.
        let start = unsafe { start.sub(before) };
        // SAFETY: the range is mapped; what a child may touch changes nothing here.
        let advised = unsafe {
            rustix::mm::madvise(start.as_ptr().cast(), before + len, rustix::mm::Advice::LinuxDoFork)
        };
        if let Err(refused) = advised {
            tracing::debug!(%refused, "forked children get no copy of this memory");
        }
    }

    /// What is given back from now on stays resident.
    pub(super) fn keep_pages(&self) {
        self.ground.keeps_pages.store(true, Relaxed);
    }

    /// True where these bytes lie in it.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.ground.offset_of(bytes).is_some()
    }

    /// True where a device has it pinned.
    pub fn is_pinned(&self) -> bool {
        self.ground.mapping.pinned.get().is_some()
    }

    /// Sets `bytes` (rounded up to pages) aside for one stage, called `what` in errors: in one part where there is such a part,
    /// otherwise in several. Given back when the region is closed or gone, and everything allocated from it too.
    pub fn region(&self, what: &'static str, bytes: usize) -> Result<Region> {
        Ok(Region::new(what, self.ground.clone(), self.take(what, bytes)?))
    }

    /// As [`Self::region`], in one part always.
    pub fn undivided(&self, what: &'static str, bytes: usize) -> Result<Region> {
        let region = self.neighbours(what, &[bytes]).and_then(|mut regions| regions.pop());
        region.ok_or_else(|| Error::MemoryTooSmall {
            limit_bytes: self.limit as u64,
            needed_bytes: (self.limit - self.free_bytes()).saturating_add(bytes) as u64,
            what: format!("{what} need {bytes} bytes in one part"),
        })
    }

    /// Regions of these sizes (rounded up to pages), one behind the other; none where no free part has room for all of them.
    pub(super) fn neighbours(&self, what: &'static str, lens: &[usize]) -> Option<Vec<Region>> {
        let pages = |len: &usize| len.next_multiple_of(super::region::PAGE).max(super::region::PAGE);
        let total = lens.iter().map(pages).sum();
        let (mut offset, _) = {
            let mut free = self.ground.free.lock();
            let at = free.iter().position(|&(_, have)| have >= total)?;
            cut(&mut free, at, total)
        };
        let region = |len: usize| {
            let region = Region::new(what, self.ground.clone(), vec![(offset, len)]);
            offset += len;
            region
        };
        Some(lens.iter().map(pages).map(region).collect())
    }

    /// Sets `bytes` aside that a stage counts and keeps elsewhere, on the heap.
    pub fn hold(&self, what: &'static str, bytes: usize) -> Result<Held> {
        Ok(Held { parts: Mutex::new(self.take(what, bytes)?), ground: self.ground.clone() })
    }

    fn take(&self, what: &str, bytes: usize) -> Result<Vec<(usize, usize)>> {
        let len = bytes.checked_next_multiple_of(super::region::PAGE).unwrap_or(usize::MAX);
        let len = len.max(super::region::PAGE);
        let mut free = self.ground.free.lock();
        let left: usize = free.iter().map(|&(_, have)| have).sum();
        if left < len {
            return Err(Error::MemoryTooSmall {
                limit_bytes: self.limit as u64,
                needed_bytes: (self.limit - left).saturating_add(len) as u64,
                what: format!("{what} needs {len} bytes, {left} are left"),
            });
        }
        if let Some(whole) = free.iter().position(|&(_, have)| have >= len) {
            return Ok(vec![cut(&mut free, whole, len)]);
        }
        // What a closed loader's last batches leave lies in parts: the largest ones are the most use.
        let (mut parts, mut missing) = (Vec::new(), len);
        while missing > 0 {
            let Some(largest) = (0..free.len()).max_by_key(|&at| free[at].1) else { break };
            let part = free[largest].1.min(missing);
            parts.push(cut(&mut free, largest, part));
            missing -= part;
        }
        Ok(parts)
    }

    /// Bytes that no region has taken.
    pub fn free_bytes(&self) -> usize {
        self.ground.free.lock().iter().map(|&(_, len)| len).sum()
    }

    /// `host_memory_limit` in whole pages.
    pub fn limit_bytes(&self) -> usize {
        self.limit
    }
}

/// The first `len` bytes of a free part.
pub(super) fn cut(free: &mut Vec<(usize, usize)>, at: usize, len: usize) -> (usize, usize) {
    let (offset, have) = free[at];
    if have == len {
        free.remove(at);
    } else {
        free[at] = (offset + len, have - len);
    }
    (offset, len)
}

impl Ground {
    /// Makes these bytes' pages resident, as far as the kernel can (Linux 5.14).
    pub(super) fn populate(bytes: &Slab) {
        let (start, len) = (bytes.as_ptr().cast_mut().cast(), bytes.capacity());
        // SAFETY: the slab is mapped, and populating changes no byte of it.
        let advised = unsafe { rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxPopulateWrite) };
        if let Err(refused) = advised {
            tracing::trace!(%refused, "pages are made resident by whoever writes first");
        }
    }

    /// Where in the mapping these bytes lie; none where they lie outside it.
    pub(super) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let (start, at) = (self.mapping.start.as_ptr() as usize, bytes.as_ptr() as usize);
        let inside = at >= start && at + bytes.len() <= start + self.mapping.len;
        inside.then(|| at - start)
    }

    /// Address of byte `offset`.
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        self.mapping.at(offset)
    }

    /// Takes back a part that nobody uses any more.
    pub(super) fn give_back(&self, offset: usize, len: usize) {
        let mut free = self.free.lock();
        // Pinned pages stay: a device would go on with the old ones, and the process with new ones.
        if self.mapping.pinned.get().is_none() && !self.keeps_pages.load(Relaxed) {
            // SAFETY: the part is unused now. DONTNEED gives its pages back.
            let advised = unsafe {
                rustix::mm::madvise(self.at(offset).as_ptr().cast(), len, rustix::mm::Advice::LinuxDontNeed)
            };
            if let Err(refused) = advised {
                tracing::debug!(%refused, "pages given back stay resident");
            }
        }
        give_back(&mut free, offset, len);
    }
}

/// A part of the limit that stands for bytes kept elsewhere; goes back to the arena on drop.
#[derive(Debug)]
pub struct Held {
    ground: Arc<Ground>,
    parts: Mutex<Vec<(usize, usize)>>,
}

impl Held {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.parts.lock().iter().map(|&(_, len)| len).sum()
    }

    /// Gives back all but `bytes`, rounded up to pages.
    pub fn shrink_to(&self, bytes: usize) {
        let mut parts = self.parts.lock();
        let held: usize = parts.iter().map(|&(_, len)| len).sum();
        let mut excess = held.saturating_sub(bytes.next_multiple_of(super::region::PAGE));
        while excess > 0
            && let Some((offset, len)) = parts.pop()
        {
            let back = len.min(excess);
            if back < len {
                parts.push((offset, len - back));
            }
            self.ground.give_back(offset + len - back, back);
            excess -= back;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Puts `(offset, len)` into a sorted list of free extents, joined with its neighbours.
pub(super) fn give_back(free: &mut Vec<(usize, usize)>, offset: usize, len: usize) {
    let mut at = free.partition_point(|&(other, _)| other < offset);
    free.insert(at, (offset, len));
    if at > 0 && free[at - 1].0 + free[at - 1].1 == offset {
        free[at - 1].1 += len;
        free.remove(at);
        at -= 1;
    }
    if at + 1 < free.len() && free[at].0 + free[at].1 == free[at + 1].0 {
        free[at].1 += free[at + 1].1;
        free.remove(at + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_does_not_fit_says_how_much_would() {
        let arena = Arena::new(1 << 20).unwrap();
        let _half = arena.region("blocks", 512 << 10).unwrap();
        let error = arena.region("batches", 600 << 10).unwrap_err();
        assert!(
            matches!(error, Error::MemoryTooSmall { needed_bytes, .. } if needed_bytes == (512 + 600) << 10),
            "{error}"
        );
    }

    #[test]
    fn dropped_regions_come_back_whole() {
        let arena = Arena::new(1 << 20).unwrap();
        let parts: Vec<_> = (0..4).map(|_| arena.region("part", 256 << 10).unwrap()).collect();
        assert_eq!(arena.free_bytes(), 0);
        drop(parts);
        arena.region("all", 1 << 20).unwrap();
    }

    #[test]
    fn what_is_left_in_parts_makes_a_region_of_parts() {
        let arena = Arena::new(1 << 20).unwrap();
        let mut parts: Vec<_> = (0..4).map(|_| arena.region("part", 256 << 10).unwrap()).collect();
        drop((parts.remove(3), parts.remove(1)));
        let region = arena.region("two parts", 512 << 10).unwrap();
        assert_eq!((region.capacity_bytes(), arena.free_bytes()), (512 << 10, 0));
        let slabs = [region.try_allocate(256 << 10).unwrap(), region.try_allocate(256 << 10).unwrap()];
        let error = futures::executor::block_on(region.allocate(300 << 10)).unwrap_err();
        assert!(matches!(error, Error::MemoryTooSmall { .. }), "no part is that large: {error}");
        drop((slabs, region));
        assert_eq!(arena.free_bytes(), 512 << 10);
    }

    #[derive(Debug, Default)]
    struct Device {
        pins: Mutex<Vec<(bool, usize)>>,
        refuses: bool,
    }

    impl HostMemory for Device {
        fn pin(&self, _: NonNull<u8>, len: usize) -> io::Result<()> {
            self.pins.lock().push((true, len));
            if self.refuses { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }

        fn unpin(&self, _: NonNull<u8>, len: usize) {
            self.pins.lock().push((false, len));
        }
    }

    #[test]
    fn it_is_pinned_once_and_keeps_its_pages_until_it_is_unpinned_and_gone() {
        let arena = Arena::new(1 << 20).unwrap();
        arena.pin(Arc::new(Device { refuses: true, ..Device::default() })).unwrap_err();
        assert!(!arena.is_pinned());
        let device = Arc::new(Device::default());
        arena.pin(device.clone()).unwrap();
        arena.pin(Arc::new(Device::default())).unwrap();
        let fill = |byte| {
            let region = arena.region("all", 1 << 20).unwrap();
            let mut slab = region.try_allocate(1 << 20).unwrap();
            let before = slab[77];
            slab.fill(byte);
            before
        };
        fill(9);
        assert_eq!(fill(1), 9, "the page that the device knows is still there");
        drop(arena);
        assert_eq!(*device.pins.lock(), [(true, 1 << 20), (false, 1 << 20)]);
    }

    #[test]
    fn what_is_held_shrinks_and_comes_back() {
        let arena = Arena::new(1 << 20).unwrap();
        let held = arena.hold("heap", 512 << 10).unwrap();
        held.shrink_to(5000);
        assert_eq!((held.bytes(), arena.free_bytes()), (8192, (1 << 20) - 8192));
        drop(held);
        assert_eq!(arena.free_bytes(), 1 << 20);
    }
}
