//! Work in the background that ends with whoever waits for it.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use crate::error::{Error, Result};

/// A task of the runtime; dropped, it is aborted.
#[derive(Debug)]
pub(crate) struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    pub(crate) fn spawn(handle: &Handle, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(handle.spawn(work))
    }

    /// On a thread that may wait; not begun where nobody waits for it any more.
    pub(crate) fn blocking(handle: &Handle, work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(handle.spawn_blocking(work))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for Task<Result<T>> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.0).poll(context).map(|ended| ended.unwrap_or_else(|error| Err(ended_early(error))))
    }
}

/// The error that a task without a result is to the user.
pub(crate) fn ended_early(error: JoinError) -> Error {
    error.try_into_panic().map_or(Error::Closed, |panic| panicked(&*panic))
}

/// The error that a panic is to the user.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Panic { message: text.unwrap_or_else(|| "without a message".into()) }
}
