//! Virtual memory management: addresses and physical memory apart.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::os::fd::{AsRawFd, IntoRawFd};

use super::memory::quiesce;
use crate::codes::Code;
use crate::entry::{Call, INITIALISED, give, take};
use crate::findings::Kind;
use crate::memory::Block;
use crate::physical::{self, GRANULARITY, Mapping, Physical, READ_WRITE};

/// CUmemLocation
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    kind: c_int,
    id: c_int,
}

/// CUmemAllocationProp
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    win32: *mut c_void,
    compression: u8,
    rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

/// CUmemAccessDesc
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AccessDescription {
    location: Location,
    flags: c_int,
}

/// CU_MEM_ALLOCATION_TYPE_PINNED and CU_MEM_LOCATION_TYPE_DEVICE
const PINNED: c_int = 1;
const ON_DEVICE: c_int = 1;
/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
const POSIX_DESCRIPTOR: c_int = 1;

impl Location {
    /// A place of memory on a device, in any binary layout a test may want.
    pub fn device(id: c_int) -> Location {
        Location { kind: ON_DEVICE, id }
    }

    fn number(self, call: &Call) -> Result<usize, Code> {
        if self.kind != ON_DEVICE {
            return Err(Code::INVALID_VALUE);
        }
        usize::try_from(self.id).ok().filter(|id| *id < call.devices.len()).ok_or(Code::INVALID_DEVICE)
    }
}

impl Properties {
    /// Memory on a device, to be handed on as a descriptor or not.
    pub fn on(device: c_int, exportable: bool) -> Properties {
        Properties {
            kind: PINNED,
            handle_types: if exportable { POSIX_DESCRIPTOR } else { 0 },
            location: Location::device(device),
            win32: std::ptr::null_mut(),
            compression: 0,
            rdma: 0,
            usage: 0,
            reserved: [0; 4],
        }
    }
}

impl AccessDescription {
    /// Reading and writing by a device.
    pub fn of(device: c_int) -> AccessDescription {
        AccessDescription { location: Location::device(device), flags: READ_WRITE as c_int }
    }
}

fn supported(call: &Call) -> Result<(), Code> {
    if call.settings.vmm { Ok(()) } else { Err(Code::NOT_SUPPORTED) }
}

/// The device and the wishes of properties that the simulated device has.
fn properties(call: &Call, properties: *const Properties) -> Result<(usize, Properties), Code> {
    let properties = take(properties)?;
    if properties.kind != PINNED
        || properties.handle_types & !POSIX_DESCRIPTOR != 0
        || properties.compression != 0
    {
        return Err(Code::INVALID_VALUE);
    }
    if properties.rdma != 0 && !call.settings.rdma {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok((properties.location.number(call)?, properties))
}

fn whole(bytes: u64) -> Result<u64, Code> {
    if bytes != 0 && bytes.is_multiple_of(GRANULARITY) { Ok(bytes) } else { Err(Code::INVALID_VALUE) }
}

/// The physical memory of a handle.
fn physical(call: &mut Call, handle: u64) -> Result<&mut Physical, Code> {
    if call.physical.get(&handle).is_none_or(|physical| physical.handles == 0) {
        let name = call.name;
        return Err(call.no_such("memory handle", handle, name));
    }
    call.physical.get_mut(&handle).ok_or(Code::INVALID_HANDLE)
}

/// Forgets physical memory that nothing keeps.
fn settle(call: &mut Call, handle: u64) {
    if call.physical.get(&handle).is_some_and(|physical| physical.handles == 0 && physical.mappings == 0)
        && let Some(physical) = call.physical.remove(&handle)
        && let Some(device) = call.devices.get_mut(physical.device)
    {
        device.used -= physical.bytes;
    }
}

/// The mapped parts of the reservation around a range, which must be wholly inside of it.
fn mapped(call: &mut Call, address: u64, bytes: u64) -> Result<&mut BTreeMap<u64, Mapping>, Code> {
    match call.memory.around(address) {
        Some((start, Block::Reservation { bytes: reserved, mapped, .. }))
            if address + bytes <= start + *reserved =>
        {
            Ok(mapped)
        }
        _ => Err(Code::INVALID_VALUE),
    }
}

/// The mappings that make up a range exactly.
fn exactly(mapped: &BTreeMap<u64, Mapping>, address: u64, bytes: u64) -> Option<Vec<u64>> {
    let mut at = address;
    let mut starts = Vec::new();
    while at < address + bytes {
        let mapping = mapped.get(&at)?;
        starts.push(at);
        at += mapping.bytes;
    }
    (at == address + bytes).then_some(starts)
}

driver! {
    INITIALISED => fn cuMemGetAllocationGranularity(to: *mut usize, wanted: *const Properties, option: c_uint) |call| {
        supported(call)?;
        properties(call, wanted)?;
        if option > 1 {
            return Err(Code::INVALID_VALUE);
        }
        give(to, GRANULARITY as usize)
    }

    INITIALISED.unsafe_in_capture() => fn cuMemAddressReserve(
        to: *mut u64, bytes: usize, alignment: usize, _wish: u64, flags: c_ulonglong,
    ) |call| {
        supported(call)?;
        let bytes = whole(bytes as u64)?;
        if flags != 0 || to.is_null() || alignment != 0 && !alignment.is_power_of_two() {
            return Err(Code::INVALID_VALUE);
        }
        let origin = call.origin();
        let block = Block::Reservation { bytes, origin, mapped: BTreeMap::new() };
        let address = call.memory.place(block, (alignment as u64).max(GRANULARITY))?;
        give(to, address)
    }

    INITIALISED.unsafe_in_capture().releases() => fn cuMemAddressFree(address: u64, bytes: usize) |call| {
        let origin = call.origin();
        match call.memory.at(address) {
            Some(Block::Reservation { bytes: reserved, mapped, .. }) => {
                if *reserved != bytes as u64 {
                    return Err(Code::INVALID_VALUE);
                }
                if let Some(by) = mapped.values().next().map(|mapping| mapping.origin.clone()) {
                    call.found(Kind::Misuse, "frees addresses that still have memory mapped to them", &origin, Some(&by));
                    return Err(Code::INVALID_VALUE);
                }
            }
            _ => {
                call.found(Kind::DoubleFree, &format!("{address:#x} is no reserved address"), &origin, None);
                return Err(Code::INVALID_VALUE);
            }
        }
        call.memory.remove(address);
        Ok(())
    }

    INITIALISED.unsafe_in_capture() => fn cuMemCreate(to: *mut u64, bytes: usize, wanted: *const Properties, flags: c_ulonglong) |call| {
        supported(call)?;
        let (device, wanted) = properties(call, wanted)?;
        let bytes = whole(bytes as u64)?;
        if flags != 0 || to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        call.fault("oom")?;
        if call.devices[device].used.saturating_add(bytes) > call.settings.memory {
            return Err(Code::OUT_OF_MEMORY);
        }
        let (handle, origin) = (call.handle(), call.origin());
        let file = physical::create(bytes)?;
        let exportable = wanted.handle_types & POSIX_DESCRIPTOR != 0;
        let rdma = wanted.rdma != 0;
        call.physical.insert(handle, Physical { file, bytes, device, exportable, rdma, handles: 1, mappings: 0, origin });
        call.devices[device].used += bytes;
        call.counters.device_allocations += 1;
        give(to, handle)
    }

    INITIALISED.unsafe_in_capture().releases() => fn cuMemRelease(handle: u64) |call| {
        let (name, origin) = (call.name, call.origin());
        match call.physical.get_mut(&handle) {
            Some(physical) if physical.handles > 0 => physical.handles -= 1,
            _ => return Err(call.destroyed_twice("memory handle", handle, name)),
        }
        if call.physical[&handle].handles == 0 {
            call.bury(handle, "memory handle", &origin);
        }
        settle(call, handle);
        Ok(())
    }

    INITIALISED.unsafe_in_capture() => fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: c_ulonglong) |call| {
        let bytes = whole(bytes as u64)?;
        if flags != 0 || !address.is_multiple_of(GRANULARITY) || !(offset as u64).is_multiple_of(GRANULARITY) {
            return Err(Code::INVALID_VALUE);
        }
        let memory = physical(call, handle)?;
        if (offset as u64).checked_add(bytes).is_none_or(|end| end > memory.bytes) {
            return Err(Code::INVALID_VALUE);
        }
        let (device, file) = (memory.device, memory.file.as_raw_fd());
        let origin = call.origin();
        let devices = call.devices.len();
        let before = mapped(call, address, bytes)?;
        let taken = before.range(..address + bytes).next_back().is_some_and(|(start, mapping)| start + mapping.bytes > address);
        if taken {
            call.found(Kind::Misuse, "maps memory where memory is mapped", &origin, None);
            return Err(Code::INVALID_VALUE);
        }
        call.memory.back_by(address, bytes, file, offset as u64)?;
        call.memory.unfreed(address..address + bytes);
        call.history.forget(address..address + bytes);
        // Mapped memory can't be used before cuMemSetAccess.
        mapped(call, address, bytes)?.insert(address, Mapping { bytes, handle, device, origin, access: vec![0; devices] });
        physical(call, handle)?.mappings += 1;
        Ok(())
    }

    INITIALISED.unsafe_in_capture().releases() => fn cuMemUnmap(address: u64, bytes: usize) |call| {
        let bytes = whole(bytes as u64)?;
        let origin = call.origin();
        let Some(starts) = mapped(call, address, bytes).ok().and_then(|mapped| exactly(mapped, address, bytes)) else {
            let by = call.memory.freed_by(address).cloned();
            call.found(Kind::DoubleFree, "unmaps a range that isn't all mapped", &origin, by.as_ref());
            return Err(Code::INVALID_VALUE);
        };
        call.give_up(address..address + bytes, &origin);
        quiesce(&mut call.state);
        call.history.forget(address..address + bytes);
        for start in starts {
            let Some(mapping) = mapped(call, start, 0)?.remove(&start) else { continue };
            call.memory.unback(start, mapping.bytes, origin.clone());
            if let Some(physical) = call.physical.get_mut(&mapping.handle) {
                physical.mappings -= 1;
            }
            settle(call, mapping.handle);
        }
        Ok(())
    }

    INITIALISED.unsafe_in_capture() => fn cuMemSetAccess(address: u64, bytes: usize, wanted: *const AccessDescription, count: usize) |call| {
        let bytes = whole(bytes as u64)?;
        if wanted.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        for at in 0..count {
            // SAFETY: the caller gave `count` of them.
            let one = unsafe { wanted.add(at).read() };
            let device = one.location.number(call)?;
            let starts = exactly(mapped(call, address, bytes)?, address, bytes).ok_or(Code::INVALID_VALUE)?;
            for start in starts {
                if let Some(mapping) = mapped(call, start, 0)?.get_mut(&start) {
                    mapping.access[device] = one.flags as u64;
                }
            }
        }
        Ok(())
    }

    INITIALISED => fn cuMemGetAccess(flags: *mut c_ulonglong, location: *const Location, address: u64) |call| {
        let device = take(location)?.number(call)?;
        let (_, mapping) = mapped(call, address, 0)?.range(..=address).next_back().ok_or(Code::INVALID_VALUE)?;
        give(flags, mapping.access[device])
    }

    INITIALISED => fn cuMemExportToShareableHandle(to: *mut c_void, handle: u64, kind: c_int, flags: c_ulonglong) |call| {
        if kind != POSIX_DESCRIPTOR || flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let memory = physical(call, handle)?;
        if !memory.exportable {
            return Err(Code::NOT_PERMITTED);
        }
        let file = memory.file.try_clone().map_err(|_| Code::OUT_OF_MEMORY)?;
        give(to.cast::<c_int>(), file.into_raw_fd())
    }

    INITIALISED.unsafe_in_capture() => fn cuMemImportFromShareableHandle(to: *mut u64, descriptor: *mut c_void, kind: c_int) |call| {
        supported(call)?;
        if kind != POSIX_DESCRIPTOR {
            return Err(Code::INVALID_VALUE);
        }
        let (file, bytes) = physical::import(descriptor as usize as c_int)?;
        let (handle, origin) = (call.handle(), call.origin());
        // Of another process, whose device it is there: the first here too.
        call.devices[0].used += bytes;
        let exportable = true;
        call.physical.insert(handle, Physical { file, bytes, device: 0, exportable, rdma: false, handles: 1, mappings: 0, origin });
        give(to, handle)
    }

    INITIALISED => fn cuMemRetainAllocationHandle(to: *mut u64, address: *mut c_void) |call| {
        let address = address as u64;
        let (_, mapping) = mapped(call, address, 0)?.range(..=address).next_back().ok_or(Code::INVALID_VALUE)?;
        let handle = mapping.handle;
        let memory = call.physical.get_mut(&handle).ok_or(Code::INVALID_VALUE)?;
        memory.handles += 1;
        call.dead.remove(&handle);
        give(to, handle)
    }

    INITIALISED => fn cuMemGetAllocationPropertiesFromHandle(to: *mut Properties, handle: u64) |call| {
        let memory = physical(call, handle)?;
        let mut properties = Properties::on(memory.device as c_int, memory.exportable);
        properties.rdma = memory.rdma.into();
        give(to, properties)
    }
}
