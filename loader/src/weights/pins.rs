//! Versions of files that this process keeps in the cache: as often as they are asked for, until the last one lets go.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use forebay_cache::disk::Advice;
use forebay_cache::{ByteRange, ObjectId, ObjectMeta};
use parking_lot::Mutex;

use crate::session::Session;

static PINNED: LazyLock<Mutex<HashMap<(usize, ObjectId), usize>>> = LazyLock::new(Mutex::default);

/// Keeps one version of one object in the cache folder until it is dropped: no process evicts its blocks to make room. Whoever asks for them to go
/// by name, or for everything, is obeyed.
#[derive(Debug)]
pub(super) struct Pin {
    session: Arc<Session>,
    object: Arc<ObjectMeta>,
}

impl Pin {
    pub(super) fn new(session: &Arc<Session>, object: &Arc<ObjectMeta>) -> Self {
        let pin = Self { session: session.clone(), object: object.clone() };
        let mut pinned = PINNED.lock();
        *pinned.entry(pin.key()).or_default() += 1;
        pin.advise(Advice::WillNeed);
        pin
    }

    /// True where it is of this version of this object.
    pub(super) fn holds(&self, object: &ObjectMeta) -> bool {
        self.object.id == object.id
    }

    /// A session is told by its address: it lives as long as its pins.
    fn key(&self) -> (usize, ObjectId) {
        (Arc::as_ptr(&self.session) as usize, self.object.id)
    }

    fn advise(&self, advice: Advice) {
        let whole = ByteRange::new(0, self.object.size_bytes);
        self.session.cache().advise(&self.object.id, whole, advice);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.session.check_process().is_err() {
            // In a forked child the lock may be held by a thread that isn't there.
            return;
        }
        let mut pinned = PINNED.lock();
        let key = self.key();
        let Some(count) = pinned.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            pinned.remove(&key);
            self.advise(Advice::None);
        }
    }
}
