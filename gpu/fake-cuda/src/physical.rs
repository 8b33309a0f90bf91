//! Physical memory by cuMemCreate: a file in memory, mapped behind as many addresses as asked for, and handed on as its descriptor.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::codes::Code;
use crate::memory::FRESH;
use crate::places::Origin;

/// The unit of physical memory and of its addresses, as on every device since Volta.
pub(crate) const GRANULARITY: u64 = 2 << 20;

/// Memory without addresses.
pub(crate) struct Physical {
    pub(crate) file: OwnedFd,
    pub(crate) bytes: u64,
    pub(crate) device: usize,
    pub(crate) exportable: bool,
    pub(crate) rdma: bool,
    /// How many handles and mappings keep it: cuMemRelease gives up one handle, and mapped memory outlives all of them.
    pub(crate) handles: u32,
    pub(crate) mappings: u32,
    pub(crate) origin: Origin,
}

/// A part of a reservation with physical memory behind it.
#[derive(Clone)]
pub(crate) struct Mapping {
    pub(crate) bytes: u64,
    pub(crate) handle: u64,
    pub(crate) device: usize,
    pub(crate) origin: Origin,
    /// By device: CU_MEM_ACCESS_FLAGS_PROT_NONE, _READ or _READWRITE.
    pub(crate) access: Vec<u64>,
}

/// CU_MEM_ACCESS_FLAGS_PROT_READ
pub(crate) const READ: u64 = 1;
/// CU_MEM_ACCESS_FLAGS_PROT_READWRITE
pub(crate) const READ_WRITE: u64 = 3;

impl Mapping {
    pub(crate) fn allows(&self, device: usize, writes: bool) -> bool {
        let needed = if writes { READ_WRITE } else { READ };
        self.access.get(device).is_some_and(|access| access & needed == needed)
    }
}

/// A new file in memory, of `bytes`, filled with what fresh memory holds.
pub(crate) fn create(bytes: u64) -> Result<OwnedFd, Code> {
    // SAFETY: a plain call with a constant name.
    let file = unsafe { libc::memfd_create(c"forebay-fake-cuda".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(Code::OUT_OF_MEMORY);
    }
    // SAFETY: the descriptor has just been opened, and is nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    // SAFETY: a plain call on our own descriptor.
    if unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) } != 0 {
        return Err(Code::OUT_OF_MEMORY);
    }
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a mapping at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes as usize, rights, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if at == libc::MAP_FAILED {
        return Err(Code::OUT_OF_MEMORY);
    }
    // SAFETY: `bytes` bytes have just been mapped there for writing, and are unmapped once.
    unsafe {
        std::ptr::write_bytes(at.cast::<u8>(), FRESH, bytes as usize);
        libc::munmap(at, bytes as usize);
    }
    Ok(file)
}

/// A descriptor of our own for somebody else's memory, and its size.
pub(crate) fn import(descriptor: i32) -> Result<(OwnedFd, u64), Code> {
    // SAFETY: duplicating takes nothing from the owner, and fails on what is no descriptor.
    let file = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) };
    if file < 0 {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the descriptor has just been made.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what fstat writes.
    if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: fstat succeeded, and so filled it.
    let bytes = unsafe { stat.assume_init() }.st_size as u64;
    if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
        return Err(Code::INVALID_VALUE);
    }
    Ok((file, bytes))
}
