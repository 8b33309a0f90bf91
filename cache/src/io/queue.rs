//! Operations on their way from whoever submits them to the threads that do them: bounded, closed once, useless after fork().

use std::collections::VecDeque;
use std::io;

use parking_lot::{Condvar, Mutex};

use super::Operation;

/// Operations that may wait before `push` does. More than any sensible memory limit has slabs for.
const LIMIT: usize = 1024;

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    process: u32,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Operation>,
    closed: bool,
    /// The one consumer that can't wait on `work` is about to sleep, or sleeps.
    asleep: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            process: std::process::id(),
        }
    }

    /// True where the threads behind this queue exist: they don't survive fork().
    pub(super) fn is_alive(&self) -> bool {
        self.process == std::process::id()
    }

    /// Adds operations, waiting for room; calls `wake` where the consumer sleeps elsewhere than on `work`. What can't be added
    /// is answered with an error.
    pub(super) fn push(&self, operations: impl IntoIterator<Item = Operation>, wake: impl Fn()) {
        // Before the lock: in a forked child it may be held by a thread that doesn't exist.
        if !self.is_alive() {
            for operation in operations {
                operation.fail(io::Error::other("this process forked after the cache was opened"));
            }
            return;
        }
        let mut state = self.state.lock();
        let mut sleeps = false;
        for operation in operations {
            while state.waiting.len() >= LIMIT && !state.closed {
                // Now, not at the end: otherwise both would wait for each other.
                if std::mem::take(&mut sleeps) {
                    wake();
                }
                self.room.wait(&mut state);
            }
            if state.closed {
                operation.fail(ended());
                continue;
            }
            state.waiting.push_back(operation);
            sleeps |= std::mem::take(&mut state.asleep);
            self.work.notify_one();
        }
        drop(state);
        if sleeps {
            wake();
        }
    }

    /// The next operation, waited for; none when the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<Operation> {
        let mut state = self.state.lock();
        loop {
            if let Some(operation) = state.waiting.pop_front() {
                self.room.notify_one();
                return Some(operation);
            }
            if state.closed {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    /// At most `most` operations, not waited for, and whether more may come.
    pub(super) fn take(&self, most: usize) -> (Vec<Operation>, bool) {
        let mut state = self.state.lock();
        state.asleep = false;
        let count = most.min(state.waiting.len());
        let taken: Vec<_> = state.waiting.drain(..count).collect();
        if count > 0 {
            self.room.notify_all();
        }
        (taken, !state.closed || !state.waiting.is_empty())
    }

    /// Announces that the consumer sleeps until it is woken; false where there is something to do instead.
    pub(super) fn falls_asleep(&self) -> bool {
        let mut state = self.state.lock();
        state.asleep = state.waiting.is_empty() && !state.closed;
        state.asleep
    }

    /// Takes no more; what waits is still done.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Takes no more, and answers what waits: nobody is left to do it.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        waiting.into_iter().for_each(|operation| operation.fail(ended()));
    }
}

/// The answer where no thread is left to do the operation.
pub(super) fn ended() -> io::Error {
    io::Error::other("the I/O thread ended")
}
