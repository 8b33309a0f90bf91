//! The shared library, as a program loads it: by name, function by function.

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;

use forebay_kernels::{GatherArgs, Kernel, PTX};

/// The library that was built beside this program.
pub(crate) fn library() -> PathBuf {
    let program = std::env::current_exe().expect("this program");
    program.with_file_name("libforebay_fake_cuda.so")
}

struct Library(*mut c_void);

impl Library {
    fn open(path: &std::path::Path) -> Library {
        let path = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no zero");
        // SAFETY: the library has no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{path:?}");
        Library(handle)
    }

    fn find(&self, name: &CStr) -> *mut c_void {
        // SAFETY: a look-up in a library that stays loaded.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }

    /// The function of a name, as a type of the caller's choice.
    fn get<F: Copy>(&self, name: &CStr) -> F {
        let function = self.find(name);
        assert!(!function.is_null(), "{name:?}");
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: the tests ask for the functions' own types, which are pointers.
        unsafe { std::mem::transmute_copy(&function) }
    }
}

type New = unsafe extern "C" fn(*mut u64, i32) -> i32;
type Of = unsafe extern "C" fn(u64) -> i32;

#[test]
fn a_program_that_loads_the_library_gathers_rows() {
    let cuda = Library::open(&library());
    // SAFETY: the contracts of the driver's functions, in the order that they are to be called in.
    unsafe {
        let marker: unsafe extern "C" fn() -> *const c_char = cuda.get(c"forebay_fake_cuda_marker");
        assert_eq!(CStr::from_ptr(marker()), c"forebay-fake-cuda");
        assert_eq!(cuda.get::<unsafe extern "C" fn(u32) -> i32>(c"cuInit")(0), 0);
        let (mut context, mut stream, mut module, mut function) = (0u64, 0u64, 0u64, 0u64);
        assert_eq!(cuda.get::<New>(c"cuDevicePrimaryCtxRetain")(&mut context, 0), 0);
        assert_eq!(cuda.get::<Of>(c"cuCtxSetCurrent")(context), 0);
        assert_eq!(cuda.get::<New>(c"cuStreamCreate")(&mut stream, 1), 0);
        let ptx = std::ffi::CString::new(PTX).expect("no zero");
        let load: unsafe extern "C" fn(*mut u64, *const c_char) -> i32 = cuda.get(c"cuModuleLoadData");
        assert_eq!(load(&mut module, ptx.as_ptr()), 0);
        let find: unsafe extern "C" fn(*mut u64, u64, *const c_char) -> i32 =
            cuda.get(c"cuModuleGetFunction");
        assert_eq!(find(&mut function, module, c"forebay_gather".as_ptr()), 0);

        let allocate: unsafe extern "C" fn(*mut u64, usize) -> i32 = cuda.get(c"cuMemAlloc_v2");
        let (mut row, mut table, mut out) = (0u64, 0u64, 0u64);
        assert_eq!((allocate(&mut row, 64), allocate(&mut table, 8), allocate(&mut out, 64)), (0, 0, 0));
        let to_device: unsafe extern "C" fn(u64, *const c_void, usize) -> i32 = cuda.get(c"cuMemcpyHtoD_v2");
        let bytes: Vec<u8> = (0..64).collect();
        assert_eq!(to_device(row, bytes.as_ptr().cast(), 64), 0);
        assert_eq!(to_device(table, (&raw const row).cast(), 8), 0);
        let synchronise: Of = cuda.get(c"cuStreamSynchronize");
        assert_eq!(synchronise(0), 0);

        let mut arguments = GatherArgs { samples: table, out, rows: 1, row_bytes: 64 };
        let mut parameters = [(&raw mut arguments).cast::<c_void>()];
        let launch: unsafe extern "C" fn(
            u64,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u64,
            *mut *mut c_void,
            *mut c_void,
        ) -> i32 = cuda.get(c"cuLaunchKernel");
        let ([x, y, z], [a, b, c]) = (arguments.launch().grid, arguments.launch().block);
        assert_eq!(
            launch(function, x, y, z, a, b, c, 0, stream, parameters.as_mut_ptr(), std::ptr::null_mut()),
            0
        );
        assert_eq!(synchronise(stream), 0);
        let mut back = vec![0u8; 64];
        let to_host: unsafe extern "C" fn(*mut c_void, u64, usize) -> i32 = cuda.get(c"cuMemcpyDtoH_v2");
        assert_eq!(to_host(back.as_mut_ptr().cast(), out, 64), 0);
        assert_eq!(back, bytes);

        let free: Of = cuda.get(c"cuMemFree_v2");
        for address in [row, table, out] {
            assert_eq!(free(address), 0);
        }
        assert_eq!(cuda.get::<Of>(c"cuModuleUnload")(module), 0);
        assert_eq!(cuda.get::<Of>(c"cuStreamDestroy_v2")(stream), 0);
        assert_eq!(cuda.get::<unsafe extern "C" fn(i32) -> i32>(c"cuDevicePrimaryCtxRelease_v2")(0), 0);
        assert_eq!(cuda.get::<unsafe extern "C" fn() -> u64>(c"forebay_fake_finding_count")(), 0);
        assert_eq!(cuda.get::<unsafe extern "C" fn() -> u64>(c"forebay_fake_leaks")(), 0);
    }
}

#[test]
fn the_library_is_called_what_a_driver_is_called() {
    let bytes = std::fs::read(library()).expect("the library");
    let name = b"\0libcuda.so.1\0";
    assert!(bytes.windows(name.len()).any(|window| window == name));
}

#[test]
fn an_older_driver_is_a_library_without_some_functions() {
    let cuda = Library::open(&library());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("libcuda.so.1");
    let to = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no zero");
    type Write = unsafe extern "C" fn(*const c_char, *const c_char) -> i32;
    let write: Write = cuda.get(c"forebay_fake_write_older");
    // SAFETY: texts that live as long as the calls.
    unsafe {
        assert_eq!(write(to.as_ptr(), c"cuCtxNothing".as_ptr()), -1);
        assert_eq!(write(to.as_ptr(), c"cuCtxRecordEvent,cuMemCreate".as_ptr()), 0);
    }
    let older = Library::open(&path);
    for (name, there) in [
        (c"cuCtxRecordEvent", false),
        (c"cuMemCreate", false),
        (c"cuMemMap", true),
        (c"cuCtxWaitEvent", true),
    ] {
        assert_eq!(!older.find(name).is_null(), there, "{name:?}");
    }
}
