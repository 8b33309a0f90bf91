//! How one operation gets from "submitted" to "done": decided here, without a kernel, for every engine.
//!
//! A completion may be short, interrupted or refused for the moment; only this file says what follows from it. On a direct file what
//! is left must start at a granule again: a read that stops inside one either met the end of the file (its size
//! tells) or is repeated from that granule's start. Asking the kernel to go on from the middle would fail with EINVAL on
//! file systems that check alignment before they look for the end.

use std::io;
use std::ops::Range;

use super::Operation;
use crate::object::GRANULE_BYTES;

/// The most that one system call is asked for; Linux itself stops at 2 GiB less a page.
const CALL_BYTES: usize = 1 << 30;

/// Completions without progress (EINTR, EAGAIN, less than a granule) before an operation fails. Each is rare; as many in
/// a row are a device that will not answer.
const FRUITLESS_LIMIT: u32 = 64;

const GRANULE: usize = GRANULE_BYTES as usize;

/// How far one operation has come.
#[derive(Debug)]
pub(super) struct Transfer {
    offset: u64,
    wanted: usize,
    done: usize,
    reads: bool,
    direct: bool,
    fruitless: u32,
}

/// What follows from a completion.
#[derive(Debug)]
pub(super) enum Next {
    /// Submit [`Transfer::rest`] again.
    Again,
    /// The operation ends: this many bytes, or why not.
    Done(io::Result<usize>),
}

impl Transfer {
    /// Nothing is done yet. An error, before any system call, where the operation can't be right on every disk.
    pub(super) fn new(operation: &Operation) -> io::Result<Self> {
        let (file, offset, wanted, reads, address) = match operation {
            Operation::Read { file, offset, len, slab, .. } => {
                if *len > slab.capacity() {
                    return Err(invalid(operation, "is longer than its slab"));
                }
                (file, *offset, *len, true, slab.as_ptr() as usize)
            }
            Operation::Write { file, offset, bytes, .. } => {
                (file, *offset, bytes.len(), false, bytes.as_ptr() as usize)
            }
        };
        if offset.checked_add(wanted as u64).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(invalid(operation, "reaches behind the largest offset there is"));
        }
        let direct = file.is_direct();
        let aligned = |number: usize| number.is_multiple_of(GRANULE);
        if direct && !(offset.is_multiple_of(GRANULE_BYTES) && aligned(wanted) && aligned(address)) {
            return Err(invalid(operation, "is not in whole granules of 4096 bytes, as direct I/O asks"));
        }
        Ok(Self { offset, wanted, done: 0, reads, direct, fruitless: 0 })
    }

    /// The part of the buffer that the next system call should move, and its place in the file.
    pub(super) fn rest(&self) -> (Range<usize>, u64) {
        let end = self.wanted.min(self.done + CALL_BYTES);
        (self.done..end, self.offset + self.done as u64)
    }

    /// Takes one completion into account; `file_size` is asked only where a direct read stopped inside a granule.
    pub(super) fn advance(
        &mut self,
        completion: io::Result<usize>,
        file_size: impl FnOnce() -> io::Result<u64>,
    ) -> Next {
        let moved = match completion {
            Ok(moved) => moved,
            Err(error) if passes(&error) => return self.fruitless(error),
            Err(error) => return Next::Done(Err(error)),
        };
        let reached = self.done + moved.min(self.wanted - self.done);
        if reached == self.wanted {
            return Next::Done(Ok(reached));
        }
        if moved == 0 {
            return if self.reads {
                Next::Done(Ok(reached))
            } else {
                self.fruitless(io::ErrorKind::WriteZero.into())
            };
        }
        if !self.direct || reached.is_multiple_of(GRANULE) {
            self.fruitless = 0;
            self.done = reached;
            return Next::Again;
        }
        if self.reads {
            match file_size() {
                Ok(size) if self.offset + reached as u64 >= size => return Next::Done(Ok(reached)),
                Ok(_) => {}
                Err(error) => return Next::Done(Err(error)),
            }
        }
        let whole = reached / GRANULE * GRANULE;
        if whole == self.done {
            return self.fruitless(io::Error::other("the device moves less than a granule at a time"));
        }
        self.fruitless = 0;
        self.done = whole;
        Next::Again
    }

    fn fruitless(&mut self, reason: io::Error) -> Next {
        self.fruitless += 1;
        if self.fruitless > FRUITLESS_LIMIT { Next::Done(Err(reason)) } else { Next::Again }
    }
}

/// True for refusals that say "ask again".
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

fn invalid(operation: &Operation, what: &str) -> io::Error {
    let (name, offset, len) = match operation {
        Operation::Read { offset, len, .. } => ("read", offset, *len),
        Operation::Write { offset, bytes, .. } => ("write", offset, bytes.len()),
    };
    let path = operation.file().path().display();
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("a {name} of {len} bytes at byte {offset} of {path} {what}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transfer(wanted: usize, reads: bool, direct: bool) -> Transfer {
        Transfer { offset: 0, wanted, done: 0, reads, direct, fruitless: 0 }
    }

    proptest! {
        /// The "kernel" moves as many bytes as it likes, down to one sector, but never across the end of the file.
        #[test]
        fn short_reads_add_up_to_the_file_and_stay_aligned_where_direct(
            granules in 1usize..40,
            size in 0u64..150_000,
            direct: bool,
            shorts in prop::collection::vec(1usize..30_000, 0..200),
        ) {
            let wanted = granules * GRANULE;
            let mut transfer = transfer(wanted, true, direct);
            let mut shorts = shorts.into_iter();
            let result = loop {
                let (rest, offset) = transfer.rest();
                prop_assert!(!direct || rest.start.is_multiple_of(GRANULE));
                prop_assert_eq!(offset, rest.start as u64);
                let there = usize::try_from(size.saturating_sub(offset)).unwrap();
                // What a disk moves is whole sectors, at least a granule now and then.
                let short = shorts.next().map_or(usize::MAX, |short| short.max(GRANULE));
                let moved = rest.len().min(there).min(short);
                match transfer.advance(Ok(moved), || Ok(size)) {
                    Next::Again => {}
                    Next::Done(result) => break result.unwrap(),
                }
            };
            prop_assert_eq!(result as u64, size.min(wanted as u64));
        }
    }

    #[test]
    fn interruptions_are_retried_but_not_for_ever() {
        let mut transfer = transfer(GRANULE, true, true);
        let again = || Err(io::Error::from_raw_os_error(libc::EAGAIN));
        for _ in 0..FRUITLESS_LIMIT {
            assert!(matches!(transfer.advance(again(), || unreachable!()), Next::Again));
        }
        let Next::Done(Err(error)) = transfer.advance(again(), || unreachable!()) else { panic!() };
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn a_device_that_moves_sectors_only_is_an_error_not_a_loop() {
        let mut transfer = transfer(2 * GRANULE, false, true);
        let mut calls = 0;
        let result = loop {
            calls += 1;
            if let Next::Done(result) = transfer.advance(Ok(512), || unreachable!("writes don't ask")) {
                break result;
            }
        };
        assert!(result.is_err());
        assert!(calls <= FRUITLESS_LIMIT + 1);
    }

    #[test]
    fn a_short_write_goes_on_and_any_other_error_ends_it() {
        let mut transfer = transfer(3 * GRANULE, false, false);
        assert!(matches!(transfer.advance(Ok(100), || unreachable!()), Next::Again));
        assert_eq!(transfer.rest(), (100..3 * GRANULE, 100));
        let full = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(matches!(transfer.advance(full, || unreachable!()), Next::Done(Err(_))));
    }
}
