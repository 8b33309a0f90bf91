//! The address space of the devices: addresses that the CPU can't follow, and the bytes behind them.
//!
//! A device address lies in a mapping without any right, so that a host that dereferences it dies at once. The bytes are in a second mapping
//! at a constant distance, [`AddressSpace::shift`], which copies and kernels add. What is freed loses its bytes; addresses are used again
//! only after all others.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range;

use crate::clocks::{Clock, Point};
use crate::codes::Code;
use crate::physical::Mapping;
use crate::places::Origin;

/// The addresses that there are: no program here uses as much at a time, and it costs nothing but page tables never made.
const SPACE: u64 = 1 << 40;

/// The smallest unit of the address space: a page, with one page between any two allocations.
const PAGE: u64 = 4096;

/// What fresh device memory holds: as a float32 −1.2e17, as a pixel 219.
pub(crate) const FRESH: u8 = 0xDB;

/// A part of the address space in use.
pub(crate) enum Block {
    /// Memory by cuMemAlloc.
    Allocation(Allocation),
    /// Addresses by cuMemAddressReserve, with what is mapped to them.
    Reservation { bytes: u64, origin: Origin, mapped: BTreeMap<u64, Mapping> },
}

/// Memory by cuMemAlloc.
pub(crate) struct Allocation {
    pub(crate) bytes: u64,
    pub(crate) device: usize,
    pub(crate) context: u64,
    pub(crate) origin: Origin,
    /// A point of a stream at which cuMemFreeAsync ends it.
    pub(crate) ending: Option<(Point, Origin)>,
}

/// What is wrong with a range of device addresses.
pub(crate) enum Bad {
    /// It was freed or unmapped there.
    Freed(Origin),
    /// Nothing is there, or less than asked for.
    Outside,
    /// It's another device's, without access for this one.
    NoAccess,
}

/// How memory is to be used.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) writes: bool,
    /// By the driver, which copies between devices, rather than by a kernel.
    pub(crate) peers: bool,
}

/// The devices' addresses, shared by all of them as in a real process.
pub(crate) struct AddressSpace {
    base: u64,
    shift: i64,
    cursor: u64,
    blocks: BTreeMap<u64, Block>,
    freed: BTreeMap<u64, (u64, Origin)>,
}

impl AddressSpace {
    pub(crate) fn new() -> Option<AddressSpace> {
        let base = reserve(SPACE)?;
        let shadow = reserve(SPACE)?;
        Some(AddressSpace {
            base,
            shift: shadow as i64 - base as i64,
            cursor: base,
            blocks: BTreeMap::new(),
            freed: BTreeMap::new(),
        })
    }

    /// The distance from a device address to its bytes.
    pub(crate) fn shift(&self) -> isize {
        self.shift as isize
    }

    /// Whether an address is a device's at all, allocated or not.
    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.base..self.base + SPACE).contains(&address)
    }

    /// Where the bytes of a device address are.
    pub(crate) fn shadow(&self, address: u64) -> *mut u8 {
        (address as i64 + self.shift) as *mut u8
    }

    pub(crate) fn blocks(&self) -> &BTreeMap<u64, Block> {
        &self.blocks
    }

    /// The block that begins at `address`.
    pub(crate) fn at(&mut self, address: u64) -> Option<&mut Block> {
        self.blocks.get_mut(&address)
    }

    /// The block that `address` lies in, and where it begins.
    pub(crate) fn around(&mut self, address: u64) -> Option<(u64, &mut Block)> {
        let (start, block) = self.blocks.range_mut(..=address).next_back()?;
        (address < start + block.bytes()).then_some((*start, block))
    }

    /// Finds addresses for `block`, with an unused page after it.
    pub(crate) fn place(&mut self, block: Block, align: u64) -> Result<u64, Code> {
        let bytes = block.bytes().next_multiple_of(PAGE) + PAGE;
        let align = align.max(PAGE);
        let start = self
            .gap(self.cursor, bytes, align)
            .or_else(|| self.gap(self.base, bytes, align))
            .ok_or(Code::OUT_OF_MEMORY)?;
        self.cursor = start + bytes;
        self.unfreed(start..start + bytes);
        self.blocks.insert(start, block);
        Ok(start)
    }

    fn gap(&self, from: u64, bytes: u64, align: u64) -> Option<u64> {
        let mut at = from.next_multiple_of(align);
        for (start, block) in &self.blocks {
            let end = start + block.bytes().next_multiple_of(PAGE) + PAGE;
            if end <= at {
                continue;
            }
            if *start >= at + bytes {
                break;
            }
            at = end.next_multiple_of(align);
        }
        (at + bytes <= self.base + SPACE).then_some(at)
    }

    /// Gives a range fresh bytes of its own.
    pub(crate) fn back(&self, address: u64, bytes: u64) -> Result<(), Code> {
        let length = bytes.next_multiple_of(PAGE) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: a range of the shadow, which is ours alone and which nothing uses: its block has just been placed.
        let at = unsafe {
            libc::mmap(self.shadow(address).cast(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(Code::OUT_OF_MEMORY);
        }
        // SAFETY: `length` bytes have just been mapped there for writing.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), FRESH, length) };
        Ok(())
    }

    /// Maps `file` from `offset` on behind a range of addresses.
    pub(crate) fn back_by(&self, address: u64, bytes: u64, file: i32, offset: u64) -> Result<(), Code> {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a range of the shadow, which is ours alone, of a reservation with nothing mapped there.
        let at = unsafe {
            libc::mmap(
                self.shadow(address).cast(),
                bytes as usize,
                rights,
                flags,
                file,
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED { Err(Code::MAP_FAILED) } else { Ok(()) }
    }

    /// Takes the bytes of a range away, and remembers who did.
    pub(crate) fn unback(&mut self, address: u64, bytes: u64, origin: Origin) {
        let length = bytes.next_multiple_of(PAGE) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: a range of the shadow, which is ours alone; the caller has waited for the operations that use it.
        let at = unsafe { libc::mmap(self.shadow(address).cast(), length, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mapping nothing over a mapping of our own");
        self.freed.insert(address, (address + bytes, origin));
    }

    /// Lets reads of a bad range find zeros, so that a kernel's accesses can be told to the end. Pages in use stay as they are.
    pub(crate) fn lend(&self, bytes: &Range<u64>) {
        const MOST: u64 = 1 << 20;
        let end = bytes.end.min(bytes.start.saturating_add(MOST));
        for page in (bytes.start & !(PAGE - 1)..end).step_by(PAGE as usize) {
            if self.contains(page) && self.device_of(page).is_none() {
                // SAFETY: a page of the shadow, which is ours alone, with nothing behind it.
                unsafe { libc::mprotect(self.shadow(page).cast(), PAGE as usize, libc::PROT_READ) };
            }
        }
    }

    /// Gives all addresses back to the system. Nothing may use them.
    pub(crate) fn give_back(self) {
        for start in [self.base, self.shadow(self.base) as u64] {
            // SAFETY: the two reservations of this address space, which ends here.
            unsafe { libc::munmap(start as *mut c_void, SPACE as usize) };
        }
    }

    /// Takes a block out, whose bytes are already gone.
    pub(crate) fn remove(&mut self, address: u64) -> Option<Block> {
        self.blocks.remove(&address)
    }

    /// Memory is at a range again.
    pub(crate) fn unfreed(&mut self, bytes: Range<u64>) {
        self.freed.retain(|start, (end, _)| *end <= bytes.start || *start >= bytes.end);
    }

    /// Who freed what `address` lay in.
    pub(crate) fn freed_by(&self, address: u64) -> Option<&Origin> {
        let (_, (end, origin)) = self.freed.range(..=address).next_back()?;
        (address < *end).then_some(origin)
    }

    /// Whether `device` may use all of `bytes`: one allocation, or mapped parts of one reservation without a gap.
    /// `knows` is what the user comes after: memory that was freed in a stream's order is gone for those who come after that point.
    pub(crate) fn check(
        &self,
        bytes: &Range<u64>,
        device: usize,
        usage: Usage,
        knows: &Clock,
    ) -> Result<(), Bad> {
        let outside = || self.freed_by(bytes.start).map_or(Bad::Outside, |by| Bad::Freed(by.clone()));
        let (start, block) = self.blocks.range(..=bytes.start).next_back().ok_or_else(outside)?;
        match block {
            Block::Allocation(allocation) => {
                if bytes.start >= start + allocation.bytes {
                    Err(outside())
                } else if bytes.end > start + allocation.bytes {
                    Err(Bad::Outside)
                } else if let Some((point, by)) = &allocation.ending
                    && knows.covers(*point)
                {
                    Err(Bad::Freed(by.clone()))
                } else if allocation.device != device && !usage.peers {
                    Err(Bad::NoAccess)
                } else {
                    Ok(())
                }
            }
            Block::Reservation { mapped, .. } => {
                let mut at = bytes.start;
                while at < bytes.end {
                    let (start, mapping) = mapped.range(..=at).next_back().ok_or_else(outside)?;
                    if at >= start + mapping.bytes {
                        return Err(self.freed_by(at).map_or(Bad::Outside, |by| Bad::Freed(by.clone())));
                    }
                    if !mapping.allows(device, usage.writes) {
                        return Err(Bad::NoAccess);
                    }
                    at = start + mapping.bytes;
                }
                Ok(())
            }
        }
    }

    /// The device whose memory is at `address`.
    pub(crate) fn device_of(&self, address: u64) -> Option<usize> {
        let (start, block) = self.blocks.range(..=address).next_back()?;
        match block {
            Block::Allocation(allocation) => {
                (address < start + allocation.bytes).then_some(allocation.device)
            }
            Block::Reservation { mapped, .. } => {
                let (start, mapping) = mapped.range(..=address).next_back()?;
                (address < start + mapping.bytes).then_some(mapping.device)
            }
        }
    }
}

impl Block {
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Block::Allocation(allocation) => allocation.bytes,
            Block::Reservation { bytes, .. } => *bytes,
        }
    }
}

/// Addresses without memory and without rights.
fn reserve(bytes: u64) -> Option<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a mapping at an address of the kernel's choice takes nothing from anybody.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut::<c_void>(), bytes as usize, libc::PROT_NONE, flags, -1, 0) };
    (at != libc::MAP_FAILED).then_some(at as u64)
}
