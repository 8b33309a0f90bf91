//! pread and pwrite on a few named threads: for kernels and containers without io_uring.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;

use super::{BlockIo, Operation};

/// Operations that may wait before `submit` does.
const QUEUE_LIMIT: usize = 1024;

/// Blocking calls on `threads` threads.
#[derive(Debug)]
pub struct Blocking {
    queue: Arc<Queue>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<(VecDeque<Operation>, bool)>,
    work: Condvar,
    room: Condvar,
}

impl Blocking {
    /// Starts the threads; one per operation that should be in flight at once (the disk sees that depth).
    pub fn new(threads: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let spawn = |index: usize| {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("forebay-io-{index}")).spawn(move || run(&queue))
        };
        let threads = (0..threads.max(1)).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { queue, threads })
    }
}

impl BlockIo for Blocking {
    fn submit(&self, operation: Operation) {
        let mut state = self.queue.state.lock();
        while state.0.len() >= QUEUE_LIMIT {
            self.queue.room.wait(&mut state);
        }
        state.0.push_back(operation);
        self.queue.work.notify_one();
    }

    fn engine(&self) -> &'static str {
        "blocking"
    }
}

impl Drop for Blocking {
    /// What was submitted is still done.
    fn drop(&mut self) {
        self.queue.state.lock().1 = true;
        self.queue.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an I/O thread panicked");
            }
        }
    }
}

fn run(queue: &Queue) {
    loop {
        let operation = {
            let mut state = queue.state.lock();
            loop {
                if let Some(operation) = state.0.pop_front() {
                    break operation;
                }
                if state.1 {
                    return;
                }
                queue.work.wait(&mut state);
            }
        };
        queue.room.notify_one();
        perform(operation);
    }
}

/// Does one operation to its end. Whoever waited may have gone: then the answer, and the buffer with it, is dropped here.
fn perform(operation: Operation) {
    match operation {
        Operation::Read { file, offset, len, mut slab, done } => {
            let visible = slab.len();
            slab.set_len(len);
            let result = read_full(file.file(), offset, &mut slab);
            slab.set_len(visible);
            drop(done.send((slab, result)));
        }
        Operation::Write { file, offset, bytes, done } => {
            drop(done.send(file.file().write_all_at(&bytes, offset)));
        }
    }
}

fn read_full(file: &std::fs::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
