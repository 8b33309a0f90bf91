//! Objects of a store as plain files, for `forebay.integrations`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use forebay_loader::objects::Objects;
use pyo3::prelude::*;

use crate::wait::stoppable;

/// URLs of everything below a folder, by name.
#[pyfunction]
pub(crate) fn list_objects(
    py: Python<'_>,
    folder: String,
    storage_options: BTreeMap<String, String>,
) -> PyResult<Vec<String>> {
    stoppable(py, move |stop| Objects::new(storage_options)?.list(&folder, stop))
}

/// Copies objects to files, one after the other, each whole or not at all.
#[pyfunction]
pub(crate) fn copy_objects(
    py: Python<'_>,
    files: Vec<(String, PathBuf)>,
    storage_options: BTreeMap<String, String>,
) -> PyResult<()> {
    stoppable(py, move |stop| {
        let objects = Objects::new(storage_options)?;
        files.iter().try_for_each(|(url, file)| objects.copy(url, file, stop))
    })
}
