//! Healthy → degraded → down: what a failing disk is still trusted with.
//!
//! Errors never reach a reader while the origin works; they decide whether blocks are still admitted. Time is passed in, so that
//! this is a function of what happened.

use std::io;
use std::time::{Duration, Instant};

use crate::stats::DiskState;

/// Failures in a row after which nothing is admitted any more.
const DOWN_AFTER: u32 = 8;

/// How long an error is remembered, and how long admission waits after the disk was full or down before it tries again. Where room was made
/// this recently and the disk is full all the same, the rests are shorter.
const REST: Duration = Duration::from_secs(30);

/// The first rest after space could not be given back, or came back late, or the index took no entries; each further failure in a row doubles
/// it, up to [`REST`].
const FIRST_REST: Duration = Duration::from_secs(1);

/// What the block index is trusted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trust {
    #[default]
    Works,
    /// It took no entries the last time; it is tried again.
    Refuses,
    /// It can't be believed until the folder is opened again.
    Broken,
}

/// The disk's record.
#[derive(Debug, Default)]
pub(super) struct Health {
    in_a_row: u32,
    last_error: Option<Instant>,
    full_until: Option<Instant>,
    freed_at: Option<Instant>,
    /// Times that the disk was still full since then.
    full_again: u32,
    index: Trust,
    /// Removals in a row that gave nothing back.
    vain_removals: u32,
    no_removal_before: Option<Instant>,
}

impl Health {
    /// An operation failed.
    pub(super) fn failed(&mut self, error: &io::Error, now: Instant) {
        self.last_error = Some(now);
        if is_full(error) {
            self.is_full(now);
        } else {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
    }

    /// A write failed that began at some time before. That there was no room then says nothing of the room that was made since.
    pub(super) fn write_failed(&mut self, error: &io::Error, began: Instant, now: Instant) {
        let outdated = is_full(error) && self.freed_at.is_some_and(|freed| began < freed);
        if !outdated {
            self.failed(error, now);
        }
    }

    fn is_full(&mut self, now: Instant) {
        if self.is_resting(now) {
            return;
        }
        // Some file systems have the room that was made only after their next commit.
        let expected = self.freed_at.is_some_and(|freed| now.saturating_duration_since(freed) < REST);
        let rest = if expected { rest_after(self.full_again) } else { REST };
        self.full_until = Some(now + rest);
        self.full_again = self.full_again.saturating_add(1);
    }

    /// An operation worked.
    pub(super) fn worked(&mut self) {
        self.in_a_row = 0;
    }

    /// The index took no entries.
    pub(super) fn index_refused(&mut self, error: &io::Error, now: Instant) {
        self.failed(error, now);
        if self.index == Trust::Works {
            self.index = Trust::Refuses;
        }
    }

    /// The index takes entries. True where it did not before.
    pub(super) fn index_accepted(&mut self) -> bool {
        let back = self.index == Trust::Refuses;
        if back {
            self.index = Trust::Works;
            // Where it was full, it has room again.
            self.full_until = None;
        }
        back
    }

    /// The index can't be used: nothing is entered or removed until the folder is opened again.
    pub(super) fn index_broken(&mut self, now: Instant) {
        self.index = Trust::Broken;
        self.last_error = Some(now);
    }

    /// False where no entry can be written or removed.
    pub(super) fn index_works(&self) -> bool {
        self.index == Trust::Works
    }

    /// Space could not be given back.
    pub(super) fn removal_failed(&mut self, now: Instant) {
        self.no_removal_before = Some(now + rest_after(self.vain_removals));
        self.vain_removals = self.vain_removals.saturating_add(1);
    }

    /// Space was given back: a full disk may have room again.
    pub(super) fn removal_worked(&mut self, now: Instant) {
        (self.full_until, self.freed_at, self.full_again) = (None, Some(now), 0);
        (self.vain_removals, self.no_removal_before) = (0, None);
    }

    /// True where the last removal failed.
    pub(super) fn removals_fail(&self) -> bool {
        !self.index_works() || self.vain_removals > 0
    }

    /// True where a removal may be tried.
    pub(super) fn removes(&self, now: Instant) -> bool {
        self.index_works() && self.no_removal_before.is_none_or(|at| now >= at)
    }

    pub(super) fn state(&self, now: Instant) -> DiskState {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < REST);
        if !self.index_works() || (self.in_a_row >= DOWN_AFTER && recent(self.last_error)) {
            DiskState::Down
        } else if recent(self.last_error) || self.is_resting(now) {
            DiskState::Degraded
        } else {
            DiskState::Healthy
        }
    }

    /// True where new blocks may be written.
    pub(super) fn admits(&self, now: Instant) -> bool {
        !self.is_resting(now) && self.state(now) != DiskState::Down
    }

    /// True where the disk was full a short while ago.
    fn is_resting(&self, now: Instant) -> bool {
        self.full_until.is_some_and(|until| now < until)
    }
}

/// The rest after a failure, by how many there were before it in a row.
pub(super) fn rest_after(failures: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << failures.min(16)).min(REST)
}

/// The file system or the user's quota on it is exhausted.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stops_admission_until_space_is_freed_or_time_passes() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(&io::Error::from_raw_os_error(libc::ENOSPC), now);
        assert!(!health.admits(now) && health.state(now) == DiskState::Degraded);
        assert!(health.admits(now + REST));
        health.removal_worked(now);
        assert!(health.admits(now));
    }

    #[test]
    fn a_write_that_began_before_space_was_freed_does_not_say_that_the_disk_is_full() {
        let (mut health, began) = (Health::default(), Instant::now());
        let (freed, later) = (began + Duration::from_millis(1), began + Duration::from_millis(2));
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        health.removal_worked(freed);
        health.write_failed(&full, began, later);
        assert!(health.admits(later) && health.state(later) == DiskState::Healthy);
        health.write_failed(&io::Error::from_raw_os_error(libc::EIO), began, later);
        assert_eq!(health.state(later), DiskState::Degraded, "an error of another kind counts");
        health.write_failed(&full, later, later);
        assert!(!health.admits(later));
    }

    #[test]
    fn a_disk_that_is_full_after_space_was_freed_is_tried_again_soon() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        health.removal_worked(now);
        for rest in [1, 2, 4, 8] {
            for _ in 0..8 {
                health.write_failed(&full, now, now);
            }
            now += Duration::from_secs(rest);
            assert!(!health.admits(now - Duration::from_millis(1)) && health.admits(now), "{rest} s");
        }
        now += REST;
        health.write_failed(&full, now, now);
        assert!(!health.admits(now + Duration::from_secs(29)) && health.admits(now + REST));
    }

    #[test]
    fn removals_that_fail_are_tried_again_after_rests_that_grow_and_are_bounded() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for rest in [1, 2, 4, 8, 16, 30, 30] {
            assert!(health.removes(now));
            health.removal_failed(now);
            now += Duration::from_secs(rest);
            assert!(!health.removes(now - Duration::from_millis(1)) && health.removals_fail());
        }
        health.removal_worked(now);
        assert!(health.removes(now) && !health.removals_fail());
        health.index_refused(&io::Error::from_raw_os_error(libc::EIO), now);
        assert!(!health.removes(now + REST));
        assert!(health.index_accepted() && health.removes(now));
        health.index_broken(now);
        assert!(!health.index_accepted() && !health.removes(now + REST));
    }

    #[test]
    fn many_failures_in_a_row_are_down_and_rest_brings_another_try() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..DOWN_AFTER {
            assert!(health.admits(now));
            health.failed(&io::Error::from_raw_os_error(libc::EIO), now);
        }
        assert_eq!(health.state(now), DiskState::Down);
        assert!(!health.admits(now) && health.admits(now + REST));
        health.worked();
        assert_eq!(health.state(now), DiskState::Degraded);
        assert_eq!(health.state(now + REST), DiskState::Healthy);
    }
}
