//! Device memory: by the virtual memory interface where the driver has it, by cuMemAlloc otherwise.
//!
//! With the interface a stretch is one reserved range of addresses with memory behind it in chunks, which the device and its peers may
//! read and write, and which can be handed to another process as a file descriptor.

use std::collections::HashMap;
use std::sync::OnceLock;

use cudarc::driver::sys;
use parking_lot::Mutex;

use super::context::Context;
use crate::device::Address;
use crate::error::{Error, Result};

/// Memory behind a range comes in chunks of at most this many bytes: a device with little left says so before much of it is taken.
const CHUNK_BYTES: usize = 256 << 20;

/// cuda.h: CUDA_ERROR_OUT_OF_MEMORY.
const OUT_OF_MEMORY: u32 = 2;

/// Where memory comes from.
#[derive(Debug)]
pub(super) struct Source {
    /// The best that the driver says it has, then what is left where it refuses that after all, as in some virtual machines.
    ways: Vec<Way>,
    /// The one that worked.
    chosen: OnceLock<usize>,
    /// What lies behind ranges of the virtual memory interface.
    ranges: Mutex<HashMap<u64, Vec<Chunk>>>,
}

/// How memory is had.
#[derive(Debug)]
enum Way {
    /// By the virtual memory interface.
    Virtual {
        granularity: usize,
        properties: Properties,
        /// Who may read and write: the device, and those that can reach it.
        access: Vec<sys::CUmemAccessDesc>,
    },
    /// By cuMemAlloc.
    Plain,
}

/// What memory is made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Properties {
    device: sys::CUdevice,
    /// Network cards may read and write it.
    rdma: bool,
}

/// Memory behind a part of a range.
#[derive(Debug)]
pub(super) struct Chunk {
    handle: sys::CUmemGenericAllocationHandle,
    bytes: usize,
}

impl Properties {
    fn raw(self) -> sys::CUmemAllocationProp {
        sys::CUmemAllocationProp {
            type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            requestedHandleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
            location: location(self.device),
            win32HandleMetaData: std::ptr::null_mut(),
            allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
                compressionType: 0,
                gpuDirectRDMACapable: u8::from(self.rdma),
                usage: 0,
                reserved: [0; 4],
            },
        }
    }
}

impl Source {
    /// What the driver says that the device has.
    pub(super) fn new(context: &Context, attribute: impl Fn(sys::CUdevice_attribute) -> i32) -> Result<Self> {
        use sys::CUdevice_attribute as A;
        let managed = attribute(A::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) != 0;
        let as_files = attribute(A::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) != 0;
        let mut ways = Vec::new();
        if context.driver.has_virtual_memory && managed && as_files {
            let rdma = attribute(A::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED) != 0;
            let peers = peers(context)?;
            let mut kinds = vec![(rdma, peers.clone()), (false, peers), (false, Vec::new())];
            kinds.dedup();
            for (rdma, peers) in kinds {
                let properties = Properties { device: context.device, rdma };
                let devices = std::iter::once(context.device).chain(peers);
                let access = devices.map(|device| sys::CUmemAccessDesc {
                    location: location(device),
                    flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
                });
                let granularity = granularity(context, properties)?;
                ways.push(Way::Virtual { granularity, properties, access: access.collect() });
            }
        }
        ways.push(Way::Plain);
        Ok(Self { ways, chosen: OnceLock::new(), ranges: Mutex::default() })
    }

    /// As [`Device::memory_kind`](crate::device::Device::memory_kind).
    pub(super) fn name(&self) -> &'static str {
        match self.ways[self.chosen.get().copied().unwrap_or(0)] {
            Way::Virtual { .. } => "virtual memory",
            Way::Plain => "cuMemAlloc",
        }
    }

    pub(super) fn take(&self, context: &Context, bytes: u64, what: &'static str) -> Result<(Address, u64)> {
        let _inside = context.enter()?;
        let bytes = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        let mut at = self.chosen.get().copied().unwrap_or(0);
        loop {
            match self.take_by(&self.ways[at], context, bytes, what) {
                Ok(taken) => {
                    self.chosen.get_or_init(|| at);
                    return Ok(taken);
                }
                // What follows would be no better, or is not to be mixed with what was had before.
                Err(error @ (Error::DeviceFull { .. } | Error::Lost { .. })) => return Err(error),
                Err(error) if self.chosen.get().is_some() || at + 1 == self.ways.len() => return Err(error),
                Err(refused) => {
                    tracing::debug!(%refused, "memory of this kind is not to be had: {:?}", self.ways[at])
                }
            }
            at += 1;
        }
    }

    fn take_by(
        &self,
        way: &Way,
        context: &Context,
        bytes: usize,
        what: &'static str,
    ) -> Result<(Address, u64)> {
        let mut start = 0;
        match way {
            Way::Virtual { granularity, properties, access } => {
                let bytes = bytes
                    .checked_next_multiple_of(*granularity)
                    .unwrap_or(usize::MAX / granularity * granularity);
                // SAFETY: writes one address, of the driver's choice.
                let code = unsafe { sys::cuMemAddressReserve(&mut start, bytes, 0, 0, 0) } as u32;
                if code == OUT_OF_MEMORY {
                    return Err(full(context, bytes, 0, what));
                }
                context.check("cuMemAddressReserve", code)?;
                let mut range = Range { context, start, bytes, chunks: Vec::new() };
                range.fill(*properties, *granularity, what)?;
                range.open(access)?;
                let chunks = std::mem::take(&mut range.chunks);
                // Its parts are in the table now.
                std::mem::forget(range);
                self.ranges.lock().insert(start, chunks);
                Ok((Address(start), bytes as u64))
            }
            Way::Plain => {
                // SAFETY: writes one address.
                let code = unsafe { sys::cuMemAlloc_v2(&mut start, bytes) } as u32;
                if code == OUT_OF_MEMORY {
                    return Err(full(context, bytes, 0, what));
                }
                context.check("cuMemAlloc", code)?;
                Ok((Address(start), bytes as u64))
            }
        }
    }

    /// # Safety
    /// As [`Device::give_back`](crate::device::Device::give_back).
    pub(super) unsafe fn give_back(&self, context: &Context, at: Address, bytes: u64) {
        let Ok(_inside) = context.enter() else { return };
        let range = self.ranges.lock().remove(&at.0);
        match range {
            Some(chunks) => drop(Range { context, start: at.0, bytes: bytes as usize, chunks }),
            // SAFETY: cuMemAlloc gave it, and the caller says that nobody uses it any more.
            None => context.note("cuMemFree", unsafe { sys::cuMemFree_v2(at.0) } as u32),
        }
    }
}

fn location(device: sys::CUdevice) -> sys::CUmemLocation {
    sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: device }
}

/// The unit that memory comes in.
fn granularity(context: &Context, properties: Properties) -> Result<usize> {
    let (inside, raw) = (context.enter()?, properties.raw());
    let mut granularity = 0;
    let recommended = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED;
    // SAFETY: writes one number; the properties live as long as the call.
    let code = unsafe { sys::cuMemGetAllocationGranularity(&mut granularity, &raw, recommended) } as u32;
    inside.check("cuMemGetAllocationGranularity", code)?;
    Ok(granularity.max(1))
}

/// The other devices that can reach this one's memory.
fn peers(context: &Context) -> Result<Vec<sys::CUdevice>> {
    let mut count = 0;
    // SAFETY: writes one number.
    context.check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) } as u32)?;
    let mut peers = Vec::new();
    for index in 0..count {
        let (mut device, mut reaches) = (0, 0);
        // SAFETY: writes one handle.
        context.check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, index) } as u32)?;
        if device != context.device {
            // SAFETY: writes one number; both devices exist.
            let code = unsafe { sys::cuDeviceCanAccessPeer(&mut reaches, device, context.device) } as u32;
            context.check("cuDeviceCanAccessPeer", code)?;
            peers.extend((reaches != 0).then_some(device));
        }
    }
    Ok(peers)
}

/// A reserved range with memory behind its first part. Inside the context; undone on drop.
struct Range<'a> {
    context: &'a Context,
    start: u64,
    bytes: usize,
    chunks: Vec<Chunk>,
}

impl Range<'_> {
    fn filled(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// Puts memory behind all of it.
    fn fill(&mut self, properties: Properties, granularity: usize, what: &'static str) -> Result<()> {
        let raw = properties.raw();
        while self.filled() < self.bytes {
            let bytes = (self.bytes - self.filled()).min(CHUNK_BYTES.next_multiple_of(granularity));
            let mut handle = 0;
            // SAFETY: writes one handle; the properties live as long as the call.
            let code = unsafe { sys::cuMemCreate(&mut handle, bytes, &raw, 0) } as u32;
            if code == OUT_OF_MEMORY {
                return Err(full(self.context, self.bytes, self.filled(), what));
            }
            self.context.check("cuMemCreate", code)?;
            let at = self.start + self.filled() as u64;
            // SAFETY: the part is reserved and has nothing behind it; the handle is new.
            let code = unsafe { sys::cuMemMap(at, bytes, 0, handle, 0) } as u32;
            if let Err(error) = self.context.check("cuMemMap", code) {
                // SAFETY: made above, mapped nowhere.
                self.context.note("cuMemRelease", unsafe { sys::cuMemRelease(handle) } as u32);
                return Err(error);
            }
            self.chunks.push(Chunk { handle, bytes });
        }
        Ok(())
    }

    /// Lets these devices read and write.
    fn open(&self, access: &[sys::CUmemAccessDesc]) -> Result<()> {
        // SAFETY: the whole range has memory behind it; the descriptions live as long as the call.
        let code =
            unsafe { sys::cuMemSetAccess(self.start, self.bytes, access.as_ptr(), access.len()) } as u32;
        self.context.check("cuMemSetAccess", code)
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        let mut at = self.start;
        for chunk in &self.chunks {
            // SAFETY: mapped by `fill` at this place with this length; nobody uses it any more.
            self.context.note("cuMemUnmap", unsafe { sys::cuMemUnmap(at, chunk.bytes) } as u32);
            // SAFETY: created by `fill`, mapped nowhere now.
            self.context.note("cuMemRelease", unsafe { sys::cuMemRelease(chunk.handle) } as u32);
            at += chunk.bytes as u64;
        }
        // SAFETY: reserved with this length; nothing is mapped in it any more.
        self.context
            .note("cuMemAddressFree", unsafe { sys::cuMemAddressFree(self.start, self.bytes) } as u32);
    }
}

/// `taken` of what was wanted was there, and is given back.
fn full(context: &Context, wanted: usize, taken: usize, what: &'static str) -> Error {
    match free_and_total(context) {
        Ok((free, total_bytes)) => Error::DeviceFull {
            device: context.name.clone(),
            what,
            wanted_bytes: wanted as u64,
            free_bytes: free + taken as u64,
            total_bytes,
        },
        Err(error) => error,
    }
}

/// Bytes of the device that nobody has, and all of them. The caller is inside the context.
pub(super) fn free_and_total(context: &Context) -> Result<(u64, u64)> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes two numbers.
    let code = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) } as u32;
    context.check("cuMemGetInfo", code)?;
    Ok((free as u64, total as u64))
}
