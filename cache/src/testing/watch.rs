//! What a folder takes on disk, seen from outside while others use it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;

/// Looks again and again on a thread of its own, until it is dropped: also where its test has failed.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    ends: AtomicBool,
    looks: AtomicU64,
    peak: AtomicU64,
}

impl Watch {
    /// Over what all files of a folder take, where nothing moved between two looks: they are asked one after the other, and space that moves
    /// from one to another meanwhile would be counted twice.
    pub fn over(dir: &Path) -> io::Result<Self> {
        let (dir, mut before) = (dir.to_owned(), BTreeMap::new());
        Self::new(move || {
            let now = sizes(&dir);
            let bytes = (now == before).then(|| now.values().sum());
            before = now;
            bytes
        })
    }

    /// Over what `look` says; none: nothing can be said this time.
    pub fn new(mut look: impl FnMut() -> Option<u64> + Send + 'static) -> io::Result<Self> {
        let seen = Arc::new(Seen::default());
        let of_thread = seen.clone();
        let watch = move || {
            while !of_thread.ends.load(SeqCst) {
                if let Some(bytes) = look() {
                    of_thread.peak.fetch_max(bytes, SeqCst);
                    of_thread.looks.fetch_add(1, SeqCst);
                }
            }
        };
        let thread = std::thread::Builder::new().name("watches-a-folder".into()).spawn(watch)?;
        Ok(Self { seen, thread: Some(thread) })
    }

    /// Ends it: the most that was seen, and in how many looks.
    pub fn end(mut self) -> (u64, u64) {
        self.join();
        (self.seen.peak.load(SeqCst), self.seen.looks.load(SeqCst))
    }

    fn join(&mut self) {
        self.seen.ends.store(true, SeqCst);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a test's watch panicked");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.join();
    }
}

/// What everything in a folder takes on disk, as `du` counts.
pub fn allocated(dir: &Path) -> u64 {
    sizes(dir).values().sum()
}

fn sizes(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    add(dir, &mut found);
    found
}

fn add(path: &Path, found: &mut BTreeMap<PathBuf, u64>) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    found.insert(path.into(), meta.blocks() * 512);
    // A file has no entries.
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        add(&entry.path(), found);
    }
}
