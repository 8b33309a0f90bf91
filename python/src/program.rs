//! The program `forebay`, for the console script that a wheel installs.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the program with `argv`, whose first entry is its name, and returns its exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, argv: Vec<OsString>) -> u8 {
    py.detach(|| forebay_loader::cli::run(argv))
}
