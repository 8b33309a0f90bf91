//! Finds the driver and looks every function up before it is called: cudarc panics at the first one that is missing.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::driver::sys;

use crate::error::{Error, Result};

/// The name under which every driver is installed. `libcuda.so` without a number is a development link, or a stub without a driver.
const LIBRARY: &CStr = c"libcuda.so.1";

/// What is needed: all of it is in every driver since CUDA 12.0.
const NEEDED: &[&CStr] = &[
    c"cuCtxPopCurrent_v2",
    c"cuCtxPushCurrent_v2",
    c"cuCtxSynchronize",
    c"cuDeviceGet",
    c"cuDeviceGetAttribute",
    c"cuDeviceGetCount",
    c"cuDeviceGetName",
    c"cuDeviceGetPCIBusId",
    c"cuDeviceGetUuid_v2",
    c"cuDevicePrimaryCtxRelease_v2",
    c"cuDevicePrimaryCtxRetain",
    c"cuDeviceTotalMem_v2",
    c"cuDriverGetVersion",
    c"cuEventCreate",
    c"cuEventDestroy_v2",
    c"cuEventQuery",
    c"cuEventRecord",
    c"cuEventSynchronize",
    c"cuGetErrorName",
    c"cuGetErrorString",
    c"cuInit",
    c"cuLaunchKernel",
    c"cuMemAlloc_v2",
    c"cuMemFreeHost",
    c"cuMemFree_v2",
    c"cuMemGetInfo_v2",
    c"cuMemHostAlloc",
    c"cuMemHostRegister_v2",
    c"cuMemHostUnregister",
    c"cuMemcpyDtoDAsync_v2",
    c"cuMemcpyDtoHAsync_v2",
    c"cuMemcpyHtoDAsync_v2",
    c"cuModuleGetFunction",
    c"cuModuleLoadDataEx",
    c"cuModuleUnload",
    c"cuStreamCreate",
    c"cuStreamDestroy_v2",
    c"cuStreamGetCtx",
    c"cuStreamIsCapturing",
    c"cuStreamWaitEvent",
    c"cuThreadExchangeStreamCaptureMode",
];

/// The virtual memory interface; without it memory comes from cuMemAlloc.
const VIRTUAL_MEMORY: &[&CStr] = &[
    c"cuDeviceCanAccessPeer",
    c"cuMemAddressFree",
    c"cuMemAddressReserve",
    c"cuMemCreate",
    c"cuMemGetAllocationGranularity",
    c"cuMemMap",
    c"cuMemRelease",
    c"cuMemSetAccess",
    c"cuMemUnmap",
];

/// The oldest driver whose PTX compiler takes ours.
const OLDEST: (i32, i32) = (12, 0);

pub(super) type RecordAll = unsafe extern "C" fn(sys::CUcontext, sys::CUevent) -> u32;

/// A driver that is there and has what is needed.
#[derive(Debug)]
pub(super) struct Driver {
    /// The file that it was loaded from.
    pub(super) library: PathBuf,
    /// Its version.
    pub(super) version: (i32, i32),
    /// It has the virtual memory interface.
    pub(super) has_virtual_memory: bool,
    /// cuCtxRecordEvent, since CUDA 12.5.
    pub(super) record_all: Option<RecordAll>,
    /// Which initialised it; CUDA doesn't survive fork().
    process: u32,
}

static DRIVER: OnceLock<Result<Driver>> = OnceLock::new();

/// The driver, looked for once.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::DriverTooOld`]; [`Error::Forked`] in a child of a process that looked for it.
pub(super) fn driver() -> Result<&'static Driver> {
    let driver = DRIVER.get_or_init(find).as_ref().map_err(Clone::clone)?;
    if driver.process != std::process::id() {
        return Err(Error::Forked { device: "a GPU".into() });
    }
    Ok(driver)
}

/// Whether this process has looked for the driver, and found it.
pub(super) fn is_used() -> bool {
    let process = std::process::id();
    DRIVER.get().is_some_and(|driver| driver.as_ref().is_ok_and(|driver| driver.process == process))
}

fn find() -> Result<Driver> {
    let none = |what: String| Err(Error::NoDriver { what });
    // SAFETY: opening a shared library runs its constructors; a driver's do nothing that Rust could mind. It is never closed: threads of the
    // driver run in it.
    let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        // SAFETY: dlerror gives a string that stays valid until the next dl call of this thread, or null.
        let why = unsafe { libc::dlerror() };
        let why = if why.is_null() {
            "unknown".into()
        } else {
            // SAFETY: not null, as just checked.
            unsafe { CStr::from_ptr(why) }.to_string_lossy()
        };
        return none(format!(
            "libcuda.so.1 can't be opened ({why}); install NVIDIA's driver, or start the container with access to a GPU; device=\"cpu\" works \
             without"
        ));
    }
    // SAFETY: a name that ends in NUL, and a library that is open.
    let symbol = |name: &CStr| unsafe { libc::dlsym(library, name.as_ptr()) };
    let missing: Vec<_> = NEEDED.iter().filter(|name| symbol(name).is_null()).collect();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|name| name.to_string_lossy()).collect();
        return Err(Error::DriverTooOld {
            have: version_text(symbol(c"cuDriverGetVersion")),
            need: format!("it lacks {}; drivers since CUDA 12.0 (525.60) have it", names.join(", ")),
        });
    }
    same_library(symbol(c"cuInit"))?;
    let mut version = 0;
    // SAFETY: the symbol is there; the call writes one int.
    check_early("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) } as u32)?;
    let version = (version / 1000, version % 1000 / 10);
    if version < OLDEST {
        return Err(Error::DriverTooOld {
            have: format!("{}.{}", version.0, version.1),
            need: format!("CUDA {}.{} (525.60) is the oldest that loads the kernels", OLDEST.0, OLDEST.1),
        });
    }
    // SAFETY: the symbol is there; zero is the only flag there is.
    match unsafe { sys::cuInit(0) } as u32 {
        0 => {}
        100 => {
            return Err(Error::NoDevice {
                asked: "cuda".into(),
                what: "the driver sees none (cuInit: CUDA_ERROR_NO_DEVICE); look at CUDA_VISIBLE_DEVICES and the container's devices".into(),
            });
        }
        code => check_early("cuInit", code)?,
    }
    let record_all = symbol(c"cuCtxRecordEvent");
    // SAFETY: this is the function's signature (cuda.h of CUDA 12.5).
    let record_all =
        (!record_all.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, RecordAll>(record_all) });
    Ok(Driver {
        library: file_of(symbol(c"cuInit")),
        version,
        has_virtual_memory: VIRTUAL_MEMORY.iter().all(|name| !symbol(name).is_null()),
        record_all,
        process: std::process::id(),
    })
}

/// The file that a function was loaded from; the library's name where the dynamic linker doesn't tell.
fn file_of(function: *mut c_void) -> PathBuf {
    let mut about = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: there is room for the answer.
    let known = unsafe { libc::dladdr(function, about.as_mut_ptr()) } != 0;
    // SAFETY: zero is a value of every field.
    let about = unsafe { about.assume_init() };
    let name = match known && !about.dli_fname.is_null() {
        // SAFETY: the dynamic linker's own text, which lives as long as the library is loaded; it is never closed.
        true => unsafe { CStr::from_ptr(about.dli_fname) },
        false => LIBRARY,
    };
    PathBuf::from(OsStr::from_bytes(name.to_bytes()))
}

/// cudarc opens `libcuda.so` first: an error where that is not the driver, but a toolkit's stub on the library path.
fn same_library(ours: *mut c_void) -> Result<()> {
    // SAFETY: the library is there: at worst cudarc finds the one that is open. The symbol is only compared.
    let theirs = unsafe { sys::culib().get::<*mut c_void>(b"cuInit\0").map(|symbol| *symbol) };
    match theirs {
        Ok(theirs) if theirs == ours => Ok(()),
        _ => Err(Error::NoDriver {
            what: "a libcuda.so on the library path is not the driver's libcuda.so.1, perhaps a toolkit's stub: remove its folder from \
                   LD_LIBRARY_PATH"
                .into(),
        }),
    }
}

fn version_text(function: *mut c_void) -> String {
    if function.is_null() {
        return "(unknown version)".into();
    }
    let mut version = 0;
    // SAFETY: the symbol is there; the call writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) };
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn check_early(call: &'static str, code: u32) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let (name, text) = words(code);
    Err(Error::NoDriver { what: format!("{call} failed: {name} ({code}), {text}") })
}

/// The driver's name of an error, and its words.
pub(super) fn words(code: u32) -> (String, String) {
    type Ask = unsafe extern "C" fn(u32, *mut *const std::ffi::c_char) -> u32;
    let ask = |function: &CStr| {
        let symbol = function.to_bytes_with_nul();
        let mut text = std::ptr::null();
        // SAFETY: both functions have this signature (the enum is a C int), were looked up before anything else was called, and give
        // static strings.
        let known = unsafe {
            sys::culib().get::<Ask>(symbol).is_ok_and(|ask| ask(code, &mut text) == 0) && !text.is_null()
        };
        if !known {
            return "unknown".to_owned();
        }
        // SAFETY: not null, and a static string of the driver.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    (ask(c"cuGetErrorName"), ask(c"cuGetErrorString"))
}

/// A C string of a name that has no NUL inside.
pub(super) fn c_name(name: &str) -> CString {
    CString::new(name.replace('\0', "")).unwrap_or_default()
}
