//! The thread that writes the index: changes in the order they came, in groups.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::object::BLOCK_BYTES;

use super::health::rest_after;
use super::index::{Change, Index};

/// Changes that may wait. Each block is megabytes of writing, so the queue is never near this long.
const QUEUE: usize = 4096;

/// A group is written when it stands for this many bytes of blocks,
const GROUP_BYTES: u64 = 64 << 20;

/// or when its first change has waited this long.
const GROUP_WAIT: Duration = Duration::from_millis(500);

enum Message {
    Change(Change),
    /// Write what is there now; after a failure only who insists is a reason to try before its rest is over.
    Flush {
        done: oneshot::Sender<Result<(), Arc<io::Error>>>,
        insist: bool,
    },
    /// The index could not be read: try whether it opens again.
    Retry,
}

/// Sends changes to the thread; dropping it writes what is left and ends the thread.
#[derive(Debug)]
pub(super) struct IndexWriter {
    sender: Option<SyncSender<Message>>,
    waiting: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl IndexWriter {
    /// Starts the thread. `refused` says why the index is not open yet; `written` is told how each group went.
    pub(super) fn start(
        index: Arc<Index>,
        refused: Option<io::Error>,
        written: impl Fn(Result<(), &io::Error>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let mut group = Group::default();
        refused.into_iter().for_each(|error| group.failed(error));
        let waiting = Arc::new(AtomicUsize::new(0));
        let of_thread = waiting.clone();
        let thread = std::thread::Builder::new()
            .name("forebay-index".into())
            .spawn(move || run(&index, &receiver, group, &of_thread, &written))?;
        Ok(Self { sender: Some(sender), waiting, thread: Mutex::new(Some(thread)) })
    }

    /// Changes that were sent before the last flush and are not written.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Enters a change; it is durable after the next flush, or within half a second.
    pub(super) fn send(&self, change: Change) {
        self.push(Message::Change(change));
    }

    /// Resolves when everything sent before is durable, or says why it isn't.
    pub(super) fn flush(&self) -> oneshot::Receiver<Result<(), Arc<io::Error>>> {
        self.ask(true)
    }

    /// As [`Self::flush`], for a thread that may block.
    pub(super) fn flush_blocking(&self) -> Result<(), Arc<io::Error>> {
        let ended = |_| Err(Arc::new(io::Error::other("the index's thread ended")));
        self.flush().blocking_recv().unwrap_or_else(ended)
    }

    /// As [`Self::flush`]; where the index takes nothing at present, it says so at once.
    pub(super) fn flush_if_it_works(&self) -> oneshot::Receiver<Result<(), Arc<io::Error>>> {
        self.ask(false)
    }

    /// Opens the index again, which could not be read.
    pub(super) fn retry(&self) {
        self.push(Message::Retry);
    }

    fn ask(&self, insist: bool) -> oneshot::Receiver<Result<(), Arc<io::Error>>> {
        let (done, waiting) = oneshot::channel();
        self.push(Message::Flush { done, insist });
        waiting
    }

    fn push(&self, message: Message) {
        // The thread ends only after this sender; where it panicked, flushes say so.
        if let Some(sender) = &self.sender
            && sender.send(message).is_err()
        {
            tracing::error!("the thread of the block index has ended");
        }
    }
}

impl Drop for IndexWriter {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.get_mut().take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the block index panicked");
        }
    }
}

fn run(
    index: &Index,
    receiver: &Receiver<Message>,
    mut group: Group,
    waiting: &AtomicUsize,
    written: &dyn Fn(Result<(), &io::Error>),
) {
    loop {
        let (mut waiter, mut now, mut ended) = (None, false, false);
        match receiver.recv_timeout(group.wait()) {
            Ok(Message::Change(change)) => group.push(change),
            Ok(Message::Retry) if group.failure.is_none() => group.due = Some(Instant::now()),
            // Its next try is set.
            Ok(Message::Retry) => {}
            Ok(Message::Flush { done, insist }) => {
                (waiter, now) = (Some(done), insist || group.failure.is_none())
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => (now, ended) = (true, true),
        }
        if group.is_due() || (now && group.has_work()) {
            let result = index.apply(&group.changes);
            written(result.as_ref().copied());
            group.settle(result);
        }
        waiting.store(group.changes.len(), Relaxed);
        if let Some(waiter) = waiter {
            drop(waiter.send(group.failure.clone().map_or(Ok(()), Err)));
        }
        if ended {
            return;
        }
    }
}

/// Changes that are written together, and how the last try went. What could not be written stays, in order, and is tried again.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    /// Of the blocks that they stand for.
    bytes: u64,
    due: Option<Instant>,
    failure: Option<Arc<io::Error>>,
    /// Failures in a row.
    failures: u32,
}

impl Group {
    fn push(&mut self, change: Change) {
        if self.failure.is_some() && matches!(change, Change::PutName(..)) {
            // Readers of a folder whose index takes nothing go on opening objects; what else comes is bounded, since nothing is admitted.
            return;
        }
        self.bytes += if matches!(change, Change::PutBlock(..)) { BLOCK_BYTES } else { 0 };
        self.changes.push(change);
        self.due.get_or_insert_with(|| Instant::now() + GROUP_WAIT);
    }

    fn wait(&self) -> Duration {
        self.due.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()))
    }

    fn is_due(&self) -> bool {
        (self.failure.is_none() && self.bytes >= GROUP_BYTES)
            || self.due.is_some_and(|at| Instant::now() >= at)
    }

    fn has_work(&self) -> bool {
        self.failure.is_some() || !self.changes.is_empty()
    }

    fn settle(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => *self = Self::default(),
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: io::Error) {
        self.due = Some(Instant::now() + rest_after(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(Arc::new(error));
    }
}
