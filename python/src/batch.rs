//! A batch as plain Python objects; `forebay.Batch` is made of them in `forebay/_batch.py`.

use forebay_loader::batch::{Batch, Column, Text};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::array::wrap;
use crate::device_array::DeviceArray;

/// (columns by name, epoch, index, valid, samples).
pub(crate) fn to_python<'py>(py: Python<'py>, batch: Batch) -> PyResult<Bound<'py, PyTuple>> {
    let columns = PyDict::new(py);
    for (name, column) in batch.columns {
        columns.set_item(name, column_to_python(py, column)?)?;
    }
    (columns, batch.epoch, batch.index, batch.valid, batch.samples).into_pyobject(py)
}

fn column_to_python(py: Python<'_>, column: Column) -> PyResult<Bound<'_, PyAny>> {
    let list = match column {
        Column::Dense(array) => return wrap(py, array),
        Column::Device(array) => return Ok(Bound::new(py, DeviceArray::new(array))?.into_any()),
        Column::Ragged(arrays) => {
            let arrays = arrays.into_iter().map(|array| wrap(py, array)).collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, arrays)?
        }
        // JSON is parsed by Python's own parser, which knows which objects it makes.
        Column::Text(rows) | Column::Json(rows) => PyList::new(py, rows.iter().map(Text::as_str))?,
        Column::Bytes(rows) => PyList::new(py, rows.iter().map(|row| PyBytes::new(py, row)))?,
    };
    Ok(list.into_any())
}
