//! What a forked child may not touch.
//!
//! The runtime's threads don't exist in a child, and its locks may be held for ever by threads that are gone. So a value
//! that needs them knows the process it belongs to: in any other it can be neither used nor dropped. The child then leaks
//! a few hundred bytes; its parent's memory was never its own (the arena is not even mapped there).

use std::mem::ManuallyDrop;

use forebay_loader::Error;

/// A value of one process.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    value: ManuallyDrop<T>,
    process: u32,
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), process: std::process::id() }
    }

    /// The value, or the error that a forked child gets.
    pub(crate) fn get(&self) -> Result<&T, Error> {
        if self.is_here() { Ok(&self.value) } else { Err(Error::Cache(forebay_cache::Error::Forked)) }
    }

    fn is_here(&self) -> bool {
        std::process::id() == self.process
    }
}

#[allow(unsafe_code)]
impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: this is the value's only drop, and nothing reads it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}
