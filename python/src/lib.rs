//! What people import, thin: the loader's calls for Python, and arrays that hand their memory over without a copy.
//!
//! Promises: the interpreter lock is released while anything waits; Ctrl-C is looked for ten times a second; an object of
//! this module that a forked child inherits raises `ForkError` and never touches a lock of its parent. Arguments are
//! checked and errors are classed in the package's Python half (`python/forebay`), whose names these are.

use pyo3::prelude::*;

mod array;
mod batch;
mod buffer;
mod device_array;
mod dlpack;
mod error;
mod fork;
mod loader;
mod notices;
mod objects;
mod program;
mod wait;
mod weights;

/// The compiled half of the package `forebay`.
#[pymodule]
mod _forebay {
    use super::*;

    #[pymodule_export]
    use super::array::{ArrayBase, Handle};
    #[pymodule_export]
    use super::device_array::{DeviceArray, count_devices, end_devices};
    #[pymodule_export]
    use super::loader::{Loader, available_threads, check_ranks_agree, take_notices};
    #[pymodule_export]
    use super::objects::{copy_objects, list_objects};
    #[pymodule_export]
    use super::program::main;
    #[pymodule_export]
    use super::weights::{DeviceLoading, Loading, Weights};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        notices::install();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("Array", array::class(module.py())?)
    }
}
