//! Rust errors as Python's: the class is named here, and made in `forebay/_errors.py`.
//!
//! The text is the whole chain of causes on one line, since a log shows `str(error)` and not `__cause__`.

use std::error::Error as _;

use forebay_cache::{Error as CacheError, Location};
use forebay_gpu::Error as DeviceError;
use forebay_loader::Error;
use pyo3::prelude::*;

/// Where an error points, as far as it does.
#[derive(Default)]
struct Place<'a> {
    location: Option<&'a Location>,
    member: Option<&'a str>,
    offset: Option<u64>,
}

impl<'a> Place<'a> {
    fn at(location: &'a Location, offset: Option<u64>) -> Self {
        Self { location: Some(location), member: None, offset }
    }
}

/// The exception for `error`.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let (class, place) = class_of(error);
    let location = place.location.map(ToString::to_string);
    let made = py.import("forebay._errors").and_then(|errors| {
        errors.getattr("_make")?.call1((class, text(error), location, place.member, place.offset))
    });
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// `Ok`, or the exception.
pub(crate) fn check<T>(py: Python<'_>, result: Result<T, Error>) -> PyResult<T> {
    result.map_err(|error| raise(py, &error))
}

fn class_of(error: &Error) -> (&'static str, Place<'_>) {
    match error {
        Error::Cache(error) => class_of_cache(error),
        Error::Device(error) => (class_of_device(error), Place::default()),
        Error::Shard { location, offset, .. } => ("DataError", Place::at(location, Some(*offset))),
        Error::Weights { location, offset, .. } => ("SafetensorError", Place::at(location, *offset)),
        Error::Sample { location, member, offset, .. } => {
            ("DataError", Place { member: Some(member), ..Place::at(location, Some(*offset)) })
        }
        Error::MissingField { location, key, offset, .. } => {
            ("DataError", Place { member: Some(key), ..Place::at(location, Some(*offset)) })
        }
        Error::Shapes { .. } | Error::Dataset { .. } => ("DataError", Place::default()),
        Error::Config { .. } => ("ConfigError", Place::default()),
        Error::State { .. } | Error::Closed => ("StateError", Place::default()),
        Error::TooManyErrors { last, .. } => ("DataError", class_of(last).1),
        Error::Timeout { .. } => ("TimeoutError", Place::default()),
        Error::Panic { .. } => ("InternalError", Place::default()),
        _ => ("Error", Place::default()),
    }
}

fn class_of_cache(error: &CacheError) -> (&'static str, Place<'_>) {
    match error {
        CacheError::NotFound { location } => ("NotFoundError", Place::at(location, None)),
        CacheError::PermissionDenied { location, .. } => ("PermissionError", Place::at(location, None)),
        CacheError::Changed { location, range } => ("ChangedError", Place::at(location, Some(range.start))),
        CacheError::Origin { location, range, .. } | CacheError::OutOfRange { location, range, .. } => {
            ("OriginError", Place::at(location, Some(range.start)))
        }
        CacheError::Stalled { location, range, .. } => {
            ("StalledError", Place::at(location, Some(range.start)))
        }
        CacheError::Config { .. } | CacheError::QuotaTooSmall { .. } | CacheError::MemoryTooSmall { .. } => {
            ("ConfigError", Place::default())
        }
        CacheError::CacheDir { .. }
        | CacheError::Owned { .. }
        | CacheError::Disk { .. }
        | CacheError::Protocol { .. } => ("CacheError", Place::default()),
        CacheError::Closed => ("StateError", Place::default()),
        CacheError::Forked => ("ForkError", Place::default()),
        _ => ("Error", Place::default()),
    }
}

fn class_of_device(error: &DeviceError) -> &'static str {
    match error {
        DeviceError::NoDevice { .. } | DeviceError::OverBudget { .. } => "ConfigError",
        DeviceError::Forked { .. } => "ForkError",
        _ => "DeviceError",
    }
}

/// The error and its causes, each said once.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}
