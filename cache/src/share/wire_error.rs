//! Errors of the owner as its clients see them: the same variants, with their sources as text.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error};
use crate::object::{ByteRange, Location};

/// An error on its way to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireError {
    /// [`Error::NotFound`].
    NotFound { location: Location },
    /// [`Error::PermissionDenied`].
    PermissionDenied { location: Location, source: String },
    /// [`Error::Changed`].
    Changed { location: Location, range: ByteRange },
    /// [`Error::Origin`].
    Origin { location: Location, range: ByteRange, attempts: u32, source: String },
    /// [`Error::Stalled`].
    Stalled { location: Location, range: ByteRange, after_ms: u64 },
    /// [`Error::OutOfRange`].
    OutOfRange { location: Location, range: ByteRange, size_bytes: u64 },
    /// [`Error::Config`].
    Config { message: String },
    /// [`Error::CacheDir`].
    CacheDir { path: std::path::PathBuf, what: String, source: String },
    /// [`Error::QuotaTooSmall`].
    QuotaTooSmall { limit_bytes: u64, needed_bytes: u64, what: String },
    /// [`Error::MemoryTooSmall`].
    MemoryTooSmall { limit_bytes: u64, needed_bytes: u64, what: String },
    /// [`Error::Disk`].
    Disk { path: std::path::PathBuf, what: String, source: String },
    /// [`Error::Closed`]: the owner is leaving.
    Closed,
    /// Anything else, as its text.
    Other { message: String },
}

/// A source that was an error in another process.
#[derive(Debug)]
struct Told(String);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Told {}

fn told(text: String) -> Cause {
    Arc::new(Told(text))
}

/// A source and its own sources, in one line.
fn chain(error: &Cause) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    // A packet has its limit; a store's answer may be a whole page.
    match text.char_indices().nth(2000) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { location } => Self::NotFound { location },
            Error::PermissionDenied { location, source } => {
                Self::PermissionDenied { location, source: chain(&source) }
            }
            Error::Changed { location, range } => Self::Changed { location, range },
            Error::Origin { location, range, attempts, source } => {
                Self::Origin { location, range, attempts, source: chain(&source) }
            }
            Error::Stalled { location, range, after } => {
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                Self::Stalled { location, range, after_ms }
            }
            Error::OutOfRange { location, range, size_bytes } => {
                Self::OutOfRange { location, range, size_bytes }
            }
            Error::Config { message } => Self::Config { message },
            Error::CacheDir { path, what, source } => Self::CacheDir { path, what, source: chain(&source) },
            Error::QuotaTooSmall { limit_bytes, needed_bytes, what } => {
                Self::QuotaTooSmall { limit_bytes, needed_bytes, what }
            }
            Error::MemoryTooSmall { limit_bytes, needed_bytes, what } => {
                Self::MemoryTooSmall { limit_bytes, needed_bytes, what }
            }
            Error::Disk { path, what, source } => Self::Disk { path, what, source: chain(&source) },
            Error::Closed => Self::Closed,
            other => Self::Other { message: other.to_string() },
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::NotFound { location } => Self::NotFound { location },
            WireError::PermissionDenied { location, source } => {
                Self::PermissionDenied { location, source: told(source) }
            }
            WireError::Changed { location, range } => Self::Changed { location, range },
            WireError::Origin { location, range, attempts, source } => {
                Self::Origin { location, range, attempts, source: told(source) }
            }
            WireError::Stalled { location, range, after_ms } => {
                Self::Stalled { location, range, after: Duration::from_millis(after_ms) }
            }
            WireError::OutOfRange { location, range, size_bytes } => {
                Self::OutOfRange { location, range, size_bytes }
            }
            WireError::Config { message } => Self::Config { message },
            WireError::CacheDir { path, what, source } => Self::CacheDir { path, what, source: told(source) },
            WireError::QuotaTooSmall { limit_bytes, needed_bytes, what } => {
                Self::QuotaTooSmall { limit_bytes, needed_bytes, what }
            }
            WireError::MemoryTooSmall { limit_bytes, needed_bytes, what } => {
                Self::MemoryTooSmall { limit_bytes, needed_bytes, what }
            }
            WireError::Disk { path, what, source } => Self::Disk { path, what, source: told(source) },
            WireError::Closed => Self::Closed,
            WireError::Other { message } => Self::Protocol { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_the_same_in_another_process() {
        let location = Location::new("s3://photos/a.tar");
        let range = ByteRange::new(1, 2);
        let source: Cause = Arc::new(std::io::Error::other("connection reset"));
        let errors = [
            Error::NotFound { location: location.clone() },
            Error::Changed { location: location.clone(), range },
            Error::Origin { location: location.clone(), range, attempts: 3, source: source.clone() },
            Error::Stalled { location: location.clone(), range, after: Duration::from_millis(1500) },
            Error::PermissionDenied { location, source },
        ];
        for error in errors {
            let text = serde_json::to_string(&WireError::from(error.clone())).unwrap();
            let there: Error = serde_json::from_str::<WireError>(&text).unwrap().into();
            assert_eq!(there.to_string(), error.to_string());
            let sources = [&there, &error].map(|e| std::error::Error::source(e).map(ToString::to_string));
            assert_eq!(sources[0], sources[1]);
        }
    }
}
