//! An older driver: a copy of this library without some of its functions, for programs that look functions up by name.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::entry::text;

/// Writes a copy of this library to `path` that lacks `functions` (`cuCtxRecordEvent,cuMemCreate`). -1, with the reason on stderr, if that fails,
/// also for a function that this library doesn't have.
///
/// # Safety
/// Both are texts that end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forebay_fake_write_older(path: *const c_char, functions: *const c_char) -> c_int {
    let written = match (text(path), text(functions)) {
        (Ok(path), Ok(functions)) => write(Path::new(path), functions),
        _ => Err("no text".to_owned()),
    };
    match written {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("forebay-fake-cuda: an older driver: {error}");
            -1
        }
    }
}

fn write(path: &Path, functions: &str) -> Result<(), String> {
    let own = own_file().ok_or("this library is in no file")?;
    let mut bytes = std::fs::read(&own).map_err(|error| format!("{own:?}: {error}"))?;
    for function in functions.split(',').filter(|function| !function.is_empty()) {
        rename(&mut bytes, function)?;
    }
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// Gives a symbol another name wherever the file has it. Its hash stays the old one's, so that a look-up finds it by neither.
fn rename(bytes: &mut [u8], function: &str) -> Result<(), String> {
    let name = [b"\0", function.as_bytes(), b"\0"].concat();
    let found: Vec<usize> = bytes
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| *window == name)
        .map(|(at, _)| at)
        .collect();
    if found.is_empty() {
        return Err(format!("there is no function {function}"));
    }
    found.into_iter().for_each(|at| bytes[at + 1] = b'_');
    Ok(())
}

fn own_file() -> Option<std::ffi::OsString> {
    let mut about = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is of a function of this library, and there is room for the answer.
    let known = unsafe { libc::dladdr(forebay_fake_write_older as *const c_void, about.as_mut_ptr()) } != 0;
    // SAFETY: zero is a value of every field.
    let about = unsafe { about.assume_init() };
    if !known || about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's own text, which lives as long as the library is loaded.
    Some(OsStr::from_bytes(unsafe { CStr::from_ptr(about.dli_fname) }.to_bytes()).to_owned())
}
