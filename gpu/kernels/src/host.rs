//! The kernels compiled for the host, for tests and simulated devices.
//!
//! Addresses in arguments and in tables are the device's. What is touched lies `shift` bytes from there, so a simulator may hand out
//! addresses that fault when anybody else dereferences them.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

/// Bytes that a launch reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// The device's address.
    pub address: u64,
    /// At least 1.
    pub bytes: u64,
    /// Whether they are written.
    pub writes: bool,
}

/// A kernel for the host.
#[derive(Clone, Copy, Debug)]
pub struct HostKernel {
    /// As in [`crate::NAMES`].
    pub name: &'static str,
    /// Size of the struct that is its only parameter.
    pub args_bytes: usize,
    entry: &'static Entry,
}

type Tell = extern "C" fn(*mut c_void, u64, u64, bool);

/// As in host.cpp.
#[repr(C)]
#[derive(Debug)]
struct Entry {
    name: *const c_char,
    args_bytes: u64,
    run: unsafe extern "C" fn(*const c_void, *const u32, *const u32, i64, Option<Tell>, *mut c_void),
    effects: unsafe extern "C" fn(*const c_void, i64, Tell, *mut c_void),
}

// SAFETY: entries are constants.
unsafe impl Sync for Entry {}

unsafe extern "C" {
    fn forebay_host_kernels(count: *mut u64) -> *const Entry;
}

/// The kernel of this name.
pub fn find(name: &str) -> Option<HostKernel> {
    all().iter().find(|kernel| kernel.name == name).copied()
}

/// Every kernel.
pub fn all() -> &'static [HostKernel] {
    static ALL: OnceLock<Vec<HostKernel>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut count = 0;
        // SAFETY: host.cpp returns a constant table and its length; names are literals.
        let entries = unsafe {
            let first = forebay_host_kernels(&mut count);
            std::slice::from_raw_parts(first, count as usize)
        };
        let kernel = |entry: &'static Entry| HostKernel {
            // SAFETY: a literal.
            name: unsafe { CStr::from_ptr(entry.name) }.to_str().unwrap_or_default(),
            args_bytes: entry.args_bytes as usize,
            entry,
        };
        entries.iter().map(kernel).collect()
    })
}

impl HostKernel {
    /// Runs every thread of a launch, one after the other. The calling thread may run others' launches beside it.
    ///
    /// # Safety
    /// `args` are the kernel's `args_bytes` (at any alignment); what [`Self::effects`] tells of them may be read and written, `shift`
    /// bytes from the addresses that it tells.
    pub unsafe fn run(&self, args: *const u8, grid: [u32; 3], block: [u32; 3], shift: isize) {
        // SAFETY: the caller's.
        unsafe {
            let (grid, block) = (grid.as_ptr(), block.as_ptr());
            (self.entry.run)(args.cast(), grid, block, shift as i64, None, std::ptr::null_mut());
        }
    }

    /// [`Self::run`], and tells `access` of each access before it happens. A panic in `access` ends the process.
    ///
    /// # Safety
    /// As [`Self::run`].
    pub unsafe fn run_watched(
        &self,
        args: *const u8,
        grid: [u32; 3],
        block: [u32; 3],
        shift: isize,
        mut access: &mut dyn FnMut(Access),
    ) {
        let context = (&raw mut access).cast();
        // SAFETY: the caller's; `tell` gets what it expects, and not after the call.
        unsafe {
            (self.entry.run)(args.cast(), grid.as_ptr(), block.as_ptr(), shift as i64, Some(tell), context);
        }
    }

    /// Tells `access` every byte that a launch touches, in ranges that may overlap: with any geometry of at least one thread, and no other
    /// bytes. To be asked when the launch runs, not when it is queued: tables of addresses and samples may be on their way until then. A
    /// panic in `access` ends the process.
    ///
    /// # Safety
    /// `args` are the kernel's `args_bytes` (at any alignment), and tables that they name may be read, `shift` bytes from their addresses.
    pub unsafe fn effects(&self, args: *const u8, shift: isize, mut access: &mut dyn FnMut(Access)) {
        // SAFETY: the caller's; `tell` gets what it expects, and not after the call.
        unsafe { (self.entry.effects)(args.cast(), shift as i64, tell, (&raw mut access).cast()) }
    }
}

extern "C" fn tell(context: *mut c_void, address: u64, bytes: u64, writes: bool) {
    // SAFETY: `context` is the reference that lives during the call that was given this function.
    let access = unsafe { &mut *context.cast::<&mut dyn FnMut(Access)>() };
    access(Access { address, bytes, writes });
}
