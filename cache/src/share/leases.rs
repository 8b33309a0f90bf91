//! What this client was lent, over all owners that it has had: so that a new owner can be told.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::disk::Grant;
use crate::object::{ByteRange, ObjectMeta};

/// The leases of one client.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    table: Mutex<Table>,
    wake: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts connections: a lease's number means something to the owner that gave it only.
    session: u64,
    next: u64,
    held: HashMap<u64, Held>,
    /// Numbers to be told to the present owner.
    ended: Vec<u64>,
}

#[derive(Debug)]
struct Held {
    object: Arc<ObjectMeta>,
    range: ByteRange,
    /// Blocks of the folder: memory of a dead owner needs nobody's consent.
    in_file: bool,
    session: u64,
    number: u64,
    /// The blocks themselves, where this process has become the owner.
    pin: Option<Grant>,
}

/// A lease that a new owner has to know about.
#[derive(Clone, Debug)]
pub(crate) struct ToKeep {
    key: u64,
    /// Which object.
    pub(crate) object: Arc<ObjectMeta>,
    /// Which bytes.
    pub(crate) range: ByteRange,
}

/// One lease; ends on drop. Owned by the read that needs it until the kernel has completed it.
#[derive(Debug)]
#[must_use = "the lease ends when this is dropped"]
pub(crate) struct HeldLease {
    leases: Arc<Leases>,
    key: u64,
}

impl Leases {
    /// A new connection: its number, and what its owner has to be told.
    pub(crate) fn begin(&self) -> (u64, Vec<ToKeep>) {
        let mut table = self.table.lock();
        table.session += 1;
        table.ended.clear();
        let held = table.held.iter().filter(|(_, held)| held.in_file);
        let keep =
            held.map(|(key, held)| ToKeep { key: *key, object: held.object.clone(), range: held.range });
        (table.session, keep.collect())
    }

    /// A lease that the owner of `session` gave under `number`: whoever asked for it may be gone.
    pub(crate) fn unclaimed(self: &Arc<Self>, session: u64, number: u64) -> Unclaimed {
        Unclaimed { leases: Some(self.clone()), session, number }
    }

    fn hold(self: Arc<Self>, held: Held) -> HeldLease {
        let key = {
            let mut table = self.table.lock();
            table.next += 1;
            let key = table.next;
            table.held.insert(key, held);
            key
        };
        HeldLease { leases: self, key }
    }

    /// The new owner keeps it as `number`.
    pub(crate) fn kept(&self, session: u64, kept: &ToKeep, number: u64) {
        let mut table = self.table.lock();
        if let Some(held) = table.held.get_mut(&kept.key) {
            (held.session, held.number) = (session, number);
        } else {
            table.end(session, number);
            self.wake.notify_one();
        }
    }

    /// This process is the owner now: the lease keeps its blocks in place without anybody else.
    pub(crate) fn pin(&self, kept: &ToKeep, grant: Grant) {
        if let Some(held) = self.table.lock().held.get_mut(&kept.key) {
            held.pin = Some(grant);
        }
    }

    /// Waits until no lease is held.
    pub(crate) async fn none_held(&self) {
        let mut woken = std::pin::pin!(self.emptied.notified());
        loop {
            woken.as_mut().enable();
            if self.table.lock().held.is_empty() {
                return;
            }
            woken.as_mut().await;
            woken.set(self.emptied.notified());
        }
    }

    /// Waits for leases of the present session that have ended; their numbers.
    pub(crate) async fn ended(&self) -> Vec<u64> {
        loop {
            let woken = self.wake.notified();
            let ended = std::mem::take(&mut self.table.lock().ended);
            if !ended.is_empty() {
                return ended;
            }
            woken.await;
        }
    }
}

impl Table {
    fn end(&mut self, session: u64, number: u64) {
        if session == self.session {
            self.ended.push(number);
        }
    }
}

/// A lease on its way to whoever asked for it; ends on drop.
#[derive(Debug)]
#[must_use = "the lease ends when this is dropped"]
pub(crate) struct Unclaimed {
    leases: Option<Arc<Leases>>,
    session: u64,
    number: u64,
}

impl Unclaimed {
    /// Takes it: blocks of the folder (`in_file`) or memory of the owner.
    pub(crate) fn claim(
        mut self,
        in_file: bool,
        object: Arc<ObjectMeta>,
        range: ByteRange,
    ) -> Option<HeldLease> {
        let (session, number) = (self.session, self.number);
        let leases = self.leases.take()?;
        Some(leases.hold(Held { object, range, in_file, session, number, pin: None }))
    }

    /// Leaves it to whoever knows its number.
    pub(crate) fn keep(mut self) {
        self.leases = None;
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(leases) = self.leases.take() {
            leases.table.lock().end(self.session, self.number);
            leases.wake.notify_one();
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let mut table = self.leases.table.lock();
        let held = table.held.remove(&self.key);
        if let Some(held) = &held {
            table.end(held.session, held.number);
        }
        let empty = table.held.is_empty();
        drop(table);
        self.leases.wake.notify_one();
        if empty {
            self.leases.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Location, Version};

    #[tokio::test]
    async fn a_new_owner_hears_of_file_leases_only_and_of_their_end_under_its_own_numbers() {
        let leases = Arc::new(Leases::default());
        let object = Arc::new(ObjectMeta::new(Location::new("s3://b/a"), 100, Version::Modified(1)));
        let (old, keep) = leases.begin();
        assert!(keep.is_empty());
        let claim = |number, in_file| {
            leases.unclaimed(old, number).claim(in_file, object.clone(), ByteRange::new(0, 10)).unwrap()
        };
        let (file, gone, memory) = (claim(7, true), claim(8, true), claim(9, false));
        drop(leases.unclaimed(old, 10));
        assert_eq!(leases.ended().await, [10]);
        let (new, keep) = leases.begin();
        assert_eq!(keep.len(), 2);
        drop((gone, memory));
        for (number, lease) in (100..).zip(&keep) {
            leases.kept(new, lease, number);
        }
        // One was dropped before the new owner answered; it is told under the number that it gave.
        let first = leases.ended().await;
        drop(file);
        let mut all = leases.ended().await;
        all.extend(first);
        all.sort_unstable();
        assert_eq!(all, [100, 101]);
    }
}
