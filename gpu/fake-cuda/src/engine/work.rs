//! What an operation does, and to which bytes.

use std::ops::Range;
use std::sync::Arc;

use forebay_kernels::host::HostKernel;

use crate::nvjpeg::work::Jpeg;

/// What an operation does. A graph keeps it to do it again.
#[derive(Clone)]
pub(crate) enum Work {
    /// A point of a stream: an event's record, or a wait.
    Nothing,
    /// A copy between host and device addresses.
    Copy { from: u64, to: u64, bytes: u64, route: Route },
    /// A copy from pageable host memory, of which the driver took a copy.
    Staged { bytes: Arc<[u8]>, to: u64 },
    /// A pattern of 1, 2 or 4 bytes, again and again.
    Fill { to: u64, bytes: u64, pattern: [u8; 4], width: usize },
    /// A kernel.
    Kernel(Launch),
    /// A group of images, decoded.
    Jpeg(Arc<Jpeg>),
    /// A function on the host.
    Host { function: HostFunction, data: usize },
    /// A function on the host that also gets the stream and its error.
    Callback { function: StreamCallback, stream: u64, data: usize },
    /// The beginning of memory by cuMemAllocAsync.
    Claim { address: u64, bytes: u64 },
    /// The end of memory by cuMemFreeAsync.
    Free { address: u64, bytes: u64 },
}

/// CUhostFn
pub(crate) type HostFunction = unsafe extern "C" fn(*mut std::ffi::c_void);
/// CUstreamCallback
pub(crate) type StreamCallback = unsafe extern "C" fn(*mut std::ffi::c_void, i32, *mut std::ffi::c_void);

/// A kernel with its arguments.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) kernel: HostKernel,
    pub(crate) module: u64,
    /// The argument, aligned for any struct.
    pub(crate) arguments: Arc<[u128]>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
}

/// Between what a copy copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    ToDevice,
    ToHost,
    Device,
    Host,
}

impl Work {
    /// The bytes used and whether they are written, of all work that says so before it runs.
    pub(crate) fn accesses(&self) -> Vec<(Range<u64>, bool)> {
        match self {
            Work::Copy { from, to, bytes, .. } => vec![(*from..from + bytes, false), (*to..to + bytes, true)],
            Work::Staged { bytes, to } => vec![(*to..to + bytes.len() as u64, true)],
            Work::Fill { to, bytes, .. } => vec![(*to..to + bytes, true)],
            Work::Claim { address, bytes } | Work::Free { address, bytes } => {
                vec![(*address..address + bytes, true)]
            }
            Work::Jpeg(jpeg) => jpeg.accesses(),
            _ => Vec::new(),
        }
    }

    /// How many bytes cross the bus, and in which direction: 0 to the device.
    pub(crate) fn transfer(&self) -> Option<(u64, usize)> {
        match self {
            Work::Copy { bytes, route: Route::ToDevice, .. } => Some((*bytes, 0)),
            Work::Copy { bytes, route: Route::ToHost, .. } => Some((*bytes, 1)),
            Work::Staged { bytes, .. } => Some((bytes.len() as u64, 0)),
            _ => None,
        }
    }
}
