//! Memory on both sides, and copies that are waited for.

use std::sync::Arc;

use forebay_cache::memory::{Arena, Region, Slab};
use forebay_gpu::{Address, Device, Event, Pinned, RawStream, Stream};

/// A device with a piece of its memory, pinned host memory, and a stream.
pub(crate) struct Place {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) at: Address,
    taken: u64,
    stream: Option<Stream>,
    host: Region,
    _arena: Arena,
}

const HOST_BYTES: usize = 8 << 20;

impl Place {
    /// With so many bytes of the device's.
    pub(crate) fn new(device: &Arc<dyn Device>, bytes: u64) -> Self {
        let arena = Arena::new(HOST_BYTES as u64).unwrap();
        arena.pin(Arc::new(Pinned(device.clone()))).unwrap();
        let (at, taken) = device.take(bytes, "a test").unwrap();
        Self {
            at,
            taken,
            stream: Some(Stream::new(device).unwrap()),
            host: arena.region("a test", HOST_BYTES).unwrap(),
            _arena: arena,
            device: device.clone(),
        }
    }

    pub(crate) fn stream(&self) -> RawStream {
        self.stream.as_ref().unwrap().raw()
    }

    /// Pinned memory with these bytes.
    pub(crate) fn host(&self, bytes: &[u8]) -> Slab {
        let mut slab = self.host.try_allocate(bytes.len().max(1)).unwrap();
        slab[..bytes.len()].copy_from_slice(bytes);
        slab
    }

    /// Until the stream has done everything.
    pub(crate) fn wait(&self, stream: RawStream) {
        Event::record(&self.device, stream).unwrap().block().unwrap();
    }

    /// Copies to the device, and waits.
    pub(crate) fn put(&self, at: Address, bytes: &[u8]) {
        let slab = self.host(bytes);
        // SAFETY: both ends are this place's, and kept until the copy is done.
        unsafe { self.device.copy_in(slab.as_ptr(), at, bytes.len(), self.stream()).unwrap() };
        self.wait(self.stream());
    }

    /// Copies from the device, and waits.
    pub(crate) fn get(&self, at: Address, bytes: usize) -> Vec<u8> {
        let mut slab = self.host(&vec![0; bytes]);
        // SAFETY: as above.
        unsafe { self.device.copy_out(at, slab.as_mut_ptr(), bytes, self.stream()).unwrap() };
        self.wait(self.stream());
        slab[..bytes].to_vec()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stream = None;
        if self.device.block_on_all().is_ok() {
            // SAFETY: `new` took it, and everything is done.
            unsafe { self.device.give_back(self.at, self.taken) };
        }
    }
}

/// Bytes without a pattern that a mistake would keep.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}
