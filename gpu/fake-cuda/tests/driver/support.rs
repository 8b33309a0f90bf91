//! A program on the simulated driver, as tests write it: one at a time, since a process has one driver.

use std::ffi::{CString, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_fake_cuda::{abi::*, control::*};
use forebay_kernels::{GatherArgs, Kernel};

/// Calls a function of the driver, and returns its result.
macro_rules! cu {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: the tests keep the contract of the function, or break it where the simulator is to notice.
        #[allow(unused_unsafe, reason = "arguments may be calls too")]
        unsafe { $function($($argument),*) }
    }};
}

/// Calls a function of the driver, which must succeed.
macro_rules! ok {
    ($function:ident($($argument:expr),* $(,)?)) => {
        assert_eq!(cu!($function($($argument),*)), 0, stringify!($function))
    };
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A fresh driver with a current context, for the calling test alone.
pub(crate) struct Driver {
    pub(crate) context: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Driver {
    /// With settings, as one line.
    pub(crate) fn with(settings: &str) -> Driver {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        forebay_fake_reset();
        configure("quiet=1");
        configure(settings);
        ok!(cuInit(0));
        let mut context = 0;
        ok!(cuDevicePrimaryCtxRetain(&mut context, 0));
        ok!(cuCtxSetCurrent(context));
        Driver { context, _alone: alone }
    }

    /// With the settings of a seed.
    pub(crate) fn seed(seed: u64) -> Driver {
        Driver::with(&format!("seed={seed}"))
    }

    /// The findings so far, which are gone afterwards.
    pub(crate) fn findings(&self) -> String {
        let bytes = cu!(forebay_fake_take_findings(std::ptr::null_mut::<c_char>(), 0));
        let mut text = vec![0u8; bytes];
        let written = cu!(forebay_fake_take_findings(text.as_mut_ptr().cast::<c_char>(), bytes));
        assert_eq!(written, bytes, "nothing was found in between");
        text.pop();
        String::from_utf8(text).expect("UTF-8")
    }

    /// Nothing was found.
    pub(crate) fn is_silent(&self) {
        let findings = self.findings();
        assert!(findings.is_empty(), "{findings}");
    }

    /// Something of this kind was found, and nothing else.
    pub(crate) fn found(&self, kind: &str) -> String {
        let findings = self.findings();
        let of_the_kind = format!("forebay-fake-cuda: {kind}: ");
        assert!(findings.contains(&of_the_kind), "no {kind} in {findings:?}");
        let heads = findings.lines().filter(|line| line.starts_with("forebay-fake-cuda: "));
        for head in heads {
            assert!(head.starts_with(&of_the_kind), "not only {kind}: {head}");
        }
        findings
    }

    pub(crate) fn stream(&self) -> u64 {
        let mut stream = 0;
        // Non-blocking.
        ok!(cuStreamCreate(&mut stream, 1));
        stream
    }

    pub(crate) fn event(&self) -> u64 {
        let mut event = 0;
        ok!(cuEventCreate(&mut event, 2));
        event
    }

    pub(crate) fn device(&self, bytes: usize) -> u64 {
        let mut address = 0;
        ok!(cuMemAlloc_v2(&mut address, bytes));
        address
    }

    pub(crate) fn pinned(&self, bytes: usize) -> &'static mut [u8] {
        let mut address: *mut c_void = std::ptr::null_mut();
        ok!(cuMemHostAlloc(&mut address, bytes, 1));
        // SAFETY: `bytes` bytes that live until they are freed, which is after their last use in every test.
        unsafe { std::slice::from_raw_parts_mut(address.cast(), bytes) }
    }

    pub(crate) fn module(&self) -> u64 {
        let ptx = CString::new(forebay_kernels::PTX).expect("no zero");
        let mut module = 0;
        ok!(cuModuleLoadData(&mut module, ptx.as_ptr().cast()));
        module
    }

    pub(crate) fn gather_of(&self, module: u64) -> u64 {
        let name = CString::new(GatherArgs::NAME).expect("no zero");
        let mut function = 0;
        ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
        function
    }
}

/// Launches gather.
pub(crate) fn gather(function: u64, arguments: GatherArgs, stream: u64) -> i32 {
    let launch = arguments.launch();
    let mut arguments = arguments;
    let mut parameters = [(&raw mut arguments).cast::<c_void>()];
    let ([x, y, z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
    cu!(cuLaunchKernel(
        function,
        x,
        y,
        z,
        block_x,
        block_y,
        block_z,
        0,
        stream,
        parameters.as_mut_ptr(),
        std::ptr::null_mut()
    ))
}

pub(crate) fn configure(line: &str) {
    let line = CString::new(line).expect("no zero");
    assert_eq!(cu!(forebay_fake_configure(line.as_ptr())), 0, "{line:?}");
}

pub(crate) fn counter(name: &str) -> u64 {
    let name = CString::new(name).expect("no zero");
    cu!(forebay_fake_counter(name.as_ptr()))
}

pub(crate) fn of(bytes: &[u8]) -> *const c_void {
    bytes.as_ptr().cast()
}

pub(crate) fn of_mut(bytes: &mut [u8]) -> *mut c_void {
    bytes.as_mut_ptr().cast()
}

/// The seeds that every race is looked for on.
pub(crate) const SEEDS: std::ops::Range<u64> = 0..20;
