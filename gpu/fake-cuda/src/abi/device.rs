//! Start, version, devices.

use std::ffi::{c_char, c_int, c_uint};

use crate::codes::Code;
use crate::entry::{ANYWHERE, Call, INITIALISED, give, text};
use crate::{process, visible};

/// CU_DEVICE_ATTRIBUTE_*, with the answers of a device of compute capability 9.0.
const ATTRIBUTES: &[(i32, i32)] = &[
    (1, 1024),       // MAX_THREADS_PER_BLOCK
    (2, 1024),       // MAX_BLOCK_DIM_X
    (3, 1024),       // MAX_BLOCK_DIM_Y
    (4, 64),         // MAX_BLOCK_DIM_Z
    (5, 2147483647), // MAX_GRID_DIM_X
    (6, 65535),      // MAX_GRID_DIM_Y
    (7, 65535),      // MAX_GRID_DIM_Z
    (8, 49152),      // MAX_SHARED_MEMORY_PER_BLOCK
    (9, 65536),      // TOTAL_CONSTANT_MEMORY
    (10, 32),        // WARP_SIZE
    (11, 2147483647),
    (12, 65536),     // MAX_REGISTERS_PER_BLOCK
    (13, 1_755_000), // CLOCK_RATE, kHz
    (14, 512),       // TEXTURE_ALIGNMENT
    (15, 1),         // GPU_OVERLAP
    (16, 4),         // MULTIPROCESSOR_COUNT
    (17, 0),         // KERNEL_EXEC_TIMEOUT
    (18, 0),         // INTEGRATED
    (19, 1),         // CAN_MAP_HOST_MEMORY
    (20, 0),         // COMPUTE_MODE
    (31, 1),         // CONCURRENT_KERNELS
    (32, 1),         // ECC_ENABLED
    (33, 0),         // PCI_BUS_ID, by device
    (34, 0),         // PCI_DEVICE_ID
    (35, 0),         // TCC_DRIVER
    (36, 2_619_000), // MEMORY_CLOCK_RATE, kHz
    (37, 5120),      // GLOBAL_MEMORY_BUS_WIDTH
    (38, 50 << 20),  // L2_CACHE_SIZE
    (39, 2048),      // MAX_THREADS_PER_MULTIPROCESSOR
    (40, 2),         // ASYNC_ENGINE_COUNT
    (41, 1),         // UNIFIED_ADDRESSING
    (50, 0),         // PCI_DOMAIN_ID
    (75, 9),         // COMPUTE_CAPABILITY_MAJOR
    (76, 0),         // COMPUTE_CAPABILITY_MINOR
    (78, 1),         // STREAM_PRIORITIES_SUPPORTED
    (81, 233_472),   // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    (82, 65536),     // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, 0),         // MANAGED_MEMORY
    (84, 0),         // MULTI_GPU_BOARD
    (88, 0),         // PAGEABLE_MEMORY_ACCESS
    (89, 0),         // CONCURRENT_MANAGED_ACCESS
    (91, 1),         // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
    (97, 232_448),   // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (98, 0),         // CAN_FLUSH_REMOTE_WRITES
    (99, 1),         // HOST_REGISTER_SUPPORTED
    (100, 0),        // PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
    (104, 0),        // HANDLE_TYPE_WIN32_HANDLE_SUPPORTED
    (105, 0),        // HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED
    (106, 32),       // MAX_BLOCKS_PER_MULTIPROCESSOR
    (107, 0),        // GENERIC_COMPRESSION
    (113, 1),        // READ_ONLY_HOST_REGISTER_SUPPORTED
    (115, 1),        // MEMORY_POOLS_SUPPORTED
    (129, 0),        // UNIFIED_FUNCTION_POINTERS
];
const PCI_BUS_ID: i32 = 33;
const VIRTUAL_MEMORY_MANAGEMENT: i32 = 102;
const HANDLE_TYPE_POSIX_FD: i32 = 103;
const GPU_DIRECT_RDMA_WITH_VMM: i32 = 110;
const GPU_DIRECT_RDMA: i32 = 116;

/// The device of this ordinal.
pub(crate) fn device(call: &Call, device: c_int) -> Result<usize, Code> {
    usize::try_from(device).ok().filter(|device| *device < call.devices.len()).ok_or(Code::INVALID_DEVICE)
}

fn write_text(to: *mut c_char, length: c_int, text: &str) -> Result<(), Code> {
    let length = usize::try_from(length).map_err(|_| Code::INVALID_VALUE)?;
    if to.is_null() || length == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let bytes = &text.as_bytes()[..text.len().min(length - 1)];
    // SAFETY: the caller says that there is room for `length` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len());
        to.add(bytes.len()).write(0);
    }
    Ok(())
}

fn bus_id(number: usize) -> String {
    format!("0000:{:02X}:00.0", visible::bus(number))
}

driver! {
    ANYWHERE => fn cuInit(flags: c_uint) |call| {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let visible = visible::devices(&call.settings);
        if visible.is_empty() {
            return Err(Code::NO_DEVICE);
        }
        if !call.initialised {
            call.devices = visible.into_iter().map(crate::state::Device::new).collect();
            call.initialised = true;
            process::own();
        }
        Ok(())
    }

    ANYWHERE => fn cuDriverGetVersion(version: *mut c_int) |call| {
        give(version, call.settings.version)
    }

    INITIALISED => fn cuDeviceGetCount(count: *mut c_int) |call| {
        give(count, call.devices.len() as c_int)
    }

    INITIALISED => fn cuDeviceGet(to: *mut c_int, ordinal: c_int) |call| {
        device(call, ordinal)?;
        give(to, ordinal)
    }

    INITIALISED => fn cuDeviceGetName(name: *mut c_char, length: c_int, number: c_int) |call| {
        device(call, number)?;
        write_text(name, length, "Forebay Simulated GPU")
    }

    INITIALISED => fn cuDeviceGetUuid(uuid: *mut [u8; 16], number: c_int) |call| {
        let number = device(call, number)?;
        give(uuid, visible::uuid(call.devices[number].number))
    }

    INITIALISED => fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], number: c_int) |call| {
        let number = device(call, number)?;
        give(uuid, visible::uuid(call.devices[number].number))
    }

    INITIALISED => fn cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, number: c_int) |call| {
        let number = device(call, number)?;
        write_text(text, length, &bus_id(call.devices[number].number))
    }

    INITIALISED => fn cuDeviceGetByPCIBusId(to: *mut c_int, id: *const c_char) |call| {
        let id = text(id)?;
        let found = call.devices.iter().position(|device| bus_id(device.number).eq_ignore_ascii_case(id));
        give(to, found.ok_or(Code::INVALID_DEVICE)? as c_int)
    }

    INITIALISED => fn cuDeviceTotalMem_v2(bytes: *mut usize, number: c_int) |call| {
        device(call, number)?;
        give(bytes, call.settings.memory as usize)
    }

    INITIALISED => fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, number: c_int) |call| {
        let number = device(call, number)?;
        let (vmm, rdma) = (call.settings.vmm, call.settings.rdma);
        give(value, match attribute {
            PCI_BUS_ID => visible::bus(call.devices[number].number) as c_int,
            VIRTUAL_MEMORY_MANAGEMENT | HANDLE_TYPE_POSIX_FD => vmm.into(),
            GPU_DIRECT_RDMA => rdma.into(),
            GPU_DIRECT_RDMA_WITH_VMM => (rdma && vmm).into(),
            _ => {
                let known = ATTRIBUTES.iter().find(|(known, _)| *known == attribute);
                known.ok_or(Code::INVALID_VALUE)?.1
            }
        })
    }

    INITIALISED => fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, number: c_int) |call| {
        device(call, number)?;
        give(major, 9)?;
        give(minor, 0)
    }

    INITIALISED => fn cuDeviceCanAccessPeer(can: *mut c_int, number: c_int, peer: c_int) |call| {
        let (number, peer) = (device(call, number)?, device(call, peer)?);
        give(can, (number != peer).into())
    }
}
