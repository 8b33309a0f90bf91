//! The thread that writes the index: changes in the order they came, in groups.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::object::BLOCK_BYTES;

use super::index::{Change, Index};

/// Changes that may wait. Each block is megabytes of writing, so the queue is never near this long.
const QUEUE: usize = 4096;

/// A group is written when it stands for this many bytes of blocks,
const GROUP_BYTES: u64 = 64 << 20;

/// or when its first change has waited this long.
const GROUP_WAIT: Duration = Duration::from_millis(500);

enum Message {
    Change(Change),
    Flush(oneshot::Sender<Result<(), Arc<io::Error>>>),
}

/// Sends changes to the thread; dropping it writes what is left and ends the thread.
#[derive(Debug)]
pub(super) struct IndexWriter {
    sender: Option<SyncSender<Message>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl IndexWriter {
    /// Starts the thread. `written` is told how each group went.
    pub(super) fn start(
        index: Arc<Index>,
        written: impl Fn(Result<(), &io::Error>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("forebay-index".into())
            .spawn(move || run(&index, &receiver, &written))?;
        Ok(Self { sender: Some(sender), thread: Mutex::new(Some(thread)) })
    }

    /// Enters a change; it is durable after the next flush, or within half a second.
    pub(super) fn send(&self, change: Change) {
        self.push(Message::Change(change));
    }

    /// Resolves when everything sent before is durable, or says why it isn't.
    pub(super) fn flush(&self) -> oneshot::Receiver<Result<(), Arc<io::Error>>> {
        let (done, waiting) = oneshot::channel();
        self.push(Message::Flush(done));
        waiting
    }

    /// As [`Self::flush`], for a thread that may block.
    pub(super) fn flush_blocking(&self) -> Result<(), Arc<io::Error>> {
        let ended = |_| Err(Arc::new(io::Error::other("the index's thread ended")));
        self.flush().blocking_recv().unwrap_or_else(ended)
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

fn run(index: &Index, receiver: &Receiver<Message>, written: &dyn Fn(Result<(), &io::Error>)) {
    // After a failure the database accepts no writes, and entries that would be written out of order are worse than
    // none: what has no entry is reclaimed at the next start.
    let mut failure: Option<Arc<io::Error>> = None;
    let (mut group, mut bytes) = (Vec::new(), 0);
    let mut first: Option<Instant> = None;
    loop {
        let wait = first.map_or(Duration::from_secs(3600), |at| GROUP_WAIT.saturating_sub(at.elapsed()));
        let (waiter, ended) = match receiver.recv_timeout(wait) {
            Ok(Message::Change(change)) => {
                bytes += if matches!(change, Change::PutBlock(..)) { BLOCK_BYTES } else { 0 };
                group.push(change);
                first.get_or_insert_with(Instant::now);
                if bytes < GROUP_BYTES {
                    continue;
                }
                (None, false)
            }
            Ok(Message::Flush(done)) => (Some(done), false),
            Err(RecvTimeoutError::Timeout) => (None, false),
            Err(RecvTimeoutError::Disconnected) => (None, true),
        };
        if failure.is_none() && !group.is_empty() {
            let result = index.apply(&group);
            written(result.as_ref().copied());
            failure = result.err().map(Arc::new);
        }
        (group, bytes, first) = (Vec::new(), 0, None);
        if let Some(waiter) = waiter {
            drop(waiter.send(failure.clone().map_or(Ok(()), Err)));
        }
        if ended {
            return;
        }
    }
}
