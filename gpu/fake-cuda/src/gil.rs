//! Whether the calling thread holds Python's global interpreter lock, where there is a Python in the process.

use std::ffi::CStr;
use std::sync::OnceLock;

type Check = unsafe extern "C" fn() -> i32;

/// Whether it does. False without Python, before it began and after it ended.
pub(crate) fn held() -> bool {
    static PYTHON: OnceLock<Option<(Check, Check)>> = OnceLock::new();
    let python = *PYTHON.get_or_init(|| Some((find(c"Py_IsInitialized")?, find(c"PyGILState_Check")?)));
    // SAFETY: both take nothing, may be called from any thread, and the second only while there is an interpreter.
    python.is_some_and(|(initialised, check)| unsafe { initialised() != 0 && check() != 0 })
}

fn find(name: &CStr) -> Option<Check> {
    // SAFETY: a look-up in the objects of the process.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: of these names there are only CPython's functions, `int (void)`.
    (!function.is_null()).then(|| unsafe { std::mem::transmute::<*mut std::ffi::c_void, Check>(function) })
}
