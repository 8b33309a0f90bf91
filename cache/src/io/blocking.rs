//! pread and pwrite on a few named threads: for kernels and containers without io_uring.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::queue::Queue;
use super::transfer::{Next, Transfer};
use super::{BlockIo, Operation};

/// Blocking calls on `threads` threads.
#[derive(Debug)]
pub struct Blocking {
    queue: Arc<Queue>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Blocking {
    /// Starts the threads; one per operation that should be in flight at once (the disk sees that depth).
    pub fn new(threads: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue::new());
        let mut engine = Self { queue: queue.clone(), threads: Vec::new() };
        for index in 0..threads.max(1) {
            let queue = queue.clone();
            let run = move || {
                while let Some(operation) = queue.pop() {
                    perform(operation);
                }
            };
            let thread = std::thread::Builder::new().name(format!("forebay-io-{index}")).spawn(run)?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }
}

impl BlockIo for Blocking {
    fn submit(&self, operation: Operation) {
        self.queue.push([operation], || ());
    }

    fn submit_all(&self, operations: Vec<Operation>) {
        self.queue.push(operations, || ());
    }

    fn engine(&self) -> &'static str {
        "blocking"
    }
}

impl Drop for Blocking {
    /// What was submitted is still done. In a forked child there is nobody to wait for.
    fn drop(&mut self) {
        if !self.queue.is_alive() {
            return;
        }
        self.queue.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an I/O thread panicked");
            }
        }
    }
}

/// Does one operation to its end. Whoever waited may have gone: then the answer, and the buffer with it, is dropped here.
fn perform(mut operation: Operation) {
    let transfer = match Transfer::new(&operation) {
        Ok(transfer) => transfer,
        Err(error) => return operation.fail(error),
    };
    let result = match &mut operation {
        Operation::Read { file, len, slab, .. } => {
            let visible = slab.len();
            slab.set_len(*len);
            let result =
                repeat(transfer, file.file(), |part, offset| file.file().read_at(&mut slab[part], offset));
            slab.set_len(visible);
            result
        }
        Operation::Write { file, bytes, .. } => {
            repeat(transfer, file.file(), |part, offset| file.file().write_at(&bytes[part], offset))
        }
    };
    operation.finish(result);
}

fn repeat(
    mut transfer: Transfer,
    file: &std::fs::File,
    mut call: impl FnMut(std::ops::Range<usize>, u64) -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        let (part, offset) = transfer.rest();
        let completion = call(part, offset);
        if let Next::Done(result) = transfer.advance(completion, || Ok(file.metadata()?.len())) {
            return result;
        }
    }
}
