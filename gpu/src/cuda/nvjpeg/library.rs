//! Finds nvJPEG: in folders that the caller names, then where the system looks for libraries.

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::sys::{Functions, GetProperty, VERSION, status};

/// By what it is installed: under the versions whose interface is known, the newest first, then as developers have it.
const NAMES: [&str; 3] = ["libnvjpeg.so.13", "libnvjpeg.so.12", "libnvjpeg.so"];

/// The versions whose interface is known. Allocators with a context came with the last of CUDA 11, which no supported driver needs.
const KNOWN: std::ops::RangeInclusive<i32> = 12..=13;

/// nvJPEG, loaded for as long as the process lives: it may have threads.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) functions: Functions,
    /// "nvJPEG 12.4.0 (/…/libnvjpeg.so.12)".
    pub(super) name: String,
}

impl Library {
    /// The first that a driver of this version can run. What was looked for and why it wouldn't do, otherwise.
    pub(super) fn open(folders: &[PathBuf], driver: (i32, i32)) -> Result<Self, String> {
        let mut unsuitable = Vec::new();
        let in_folders = folders.iter().flat_map(|folder| NAMES.map(|name| folder.join(name)));
        for file in in_folders.chain(NAMES.map(PathBuf::from)) {
            match Self::load(&file, driver) {
                Ok(Some(library)) => return Ok(library),
                Ok(None) => {}
                Err(why) => unsuitable.push(why),
            }
        }
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let inside =
            if folders.is_empty() { String::new() } else { format!("in {} and ", folders.join(", ")) };
        let found = if unsuitable.is_empty() { "none".into() } else { unsuitable.join("; ") };
        let wheel = if driver.0 < 13 { "nvidia-nvjpeg-cu12" } else { "nvidia-nvjpeg" };
        Err(format!(
            "looked for {} {inside}on the library path, and found {found}; pip install {wheel} brings one, and decode_on=\"cpu\" works without",
            NAMES.join(", "),
        ))
    }

    /// The library of this file, or nothing where there is no such file.
    fn load(file: &Path, driver: (i32, i32)) -> Result<Option<Self>, String> {
        let at = file.display();
        let Ok(name) = CString::new(file.as_os_str().as_bytes()) else { return Ok(None) };
        // SAFETY: opening a shared library runs its constructors; nvJPEG's do nothing that Rust could mind.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            // A name without a folder is looked for, and may be nowhere.
            return if file.is_absolute() && file.exists() {
                Err(format!("{at}, which can't be loaded ({})", last_error()))
            } else {
                Ok(None)
            };
        }
        // SAFETY: a name that ends in NUL, and a library that is open.
        let symbol = |name: &CStr| unsafe { libc::dlsym(library, name.as_ptr()) };
        let version = version(symbol(c"nvjpegGetProperty")).map_err(|why| format!("{at}, {why}"))?;
        let text = version.map(|part| part.to_string()).join(".");
        if !KNOWN.contains(&version[0]) {
            return Err(format!("{at}, which is {text}: {} to {} are known", KNOWN.start(), KNOWN.end()));
        }
        if version[0] > driver.0 {
            let (major, minor) = driver;
            return Err(format!(
                "{at}, which is {text} and needs a newer driver: this one is of CUDA {major}.{minor}"
            ));
        }
        let functions = Functions::find(symbol).map_err(|missing| {
            let names: Vec<_> = missing.iter().map(|name| name.to_string_lossy()).collect();
            format!("{at}, which is {text} and lacks {}", names.join(", "))
        })?;
        Ok(Some(Self { functions, name: format!("nvJPEG {text} ({at})") }))
    }
}

fn version(function: *mut c_void) -> Result<[i32; 3], String> {
    if function.is_null() {
        return Err("which is no nvJPEG: it lacks nvjpegGetProperty".into());
    }
    // SAFETY: not null, and this is the function's signature.
    let get = unsafe { std::mem::transmute::<*mut c_void, GetProperty>(function) };
    let mut version = [0; 3];
    for (property, to) in VERSION.into_iter().zip(&mut version) {
        // SAFETY: writes one int.
        match unsafe { get(property, std::ptr::from_mut::<c_int>(to)) } {
            status::SUCCESS => {}
            code => return Err(format!("which doesn't say its version ({})", status::name(code))),
        }
    }
    Ok(version)
}

fn last_error() -> String {
    // SAFETY: dlerror gives a string that stays valid until the next dl call of this thread, or null.
    let why = unsafe { libc::dlerror() };
    if why.is_null() {
        return "unknown".into();
    }
    // SAFETY: not null, as just checked.
    unsafe { CStr::from_ptr(why) }.to_string_lossy().into_owned()
}
