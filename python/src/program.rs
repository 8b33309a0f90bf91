//! The program `forebay`, for the console script that a wheel installs.

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::prelude::*;

/// Runs the program with `argv`, whose first entry is its name, and returns its exit code. `jpeg_folders`: where NVIDIA's wheels have what
/// decodes JPEG on a device.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, argv: Vec<OsString>, jpeg_folders: Vec<PathBuf>) -> u8 {
    py.detach(|| forebay_loader::cli::run(argv, &jpeg_folders))
}
