//! The cache's arena, pinned for a device.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use forebay_cache::memory::HostMemory;

use crate::device::Device;

/// Pins host memory for a device: copies from it overlap with other work, and the bus is used to the full.
#[derive(Debug)]
pub struct Pinned(pub Arc<dyn Device>);

impl HostMemory for Pinned {
    fn pin(&self, start: NonNull<u8>, len: usize) -> io::Result<()> {
        self.0.pin(start, len)
    }

    fn unpin(&self, start: NonNull<u8>, len: usize) {
        self.0.unpin(start, len);
    }
}
