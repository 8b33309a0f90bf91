//! Vector clocks: which operation is known to come before which.
//!
//! Every stream is a timeline, and so is the host: all its threads together, since what they tell each other passes by other ways than the
//! driver. An operation is a point of its timeline. It comes after another one exactly if its clock has reached that one's point, whatever
//! the two did on this run and in which order.

/// The number of a timeline: 0 is the host, the others are streams in the order of their creation.
pub(crate) type Timeline = usize;

/// The host's timeline.
pub(crate) const HOST: Timeline = 0;

/// Of every timeline, how far it is known to have come.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Clock(Vec<u64>);

/// A point of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) timeline: Timeline,
    pub(crate) count: u64,
}

impl Clock {
    /// How far `timeline` has come, as far as this clock knows.
    pub(crate) fn of(&self, timeline: Timeline) -> u64 {
        self.0.get(timeline).copied().unwrap_or(0)
    }

    /// Whether what happened at `point` is known to this clock.
    pub(crate) fn covers(&self, point: Point) -> bool {
        self.of(point.timeline) >= point.count
    }

    /// Whether it knows all that `other` knows.
    pub(crate) fn knows_all(&self, other: &Clock) -> bool {
        other.0.iter().enumerate().all(|(timeline, count)| self.of(timeline) >= *count)
    }

    /// Learns all that `other` knows.
    pub(crate) fn join(&mut self, other: &Clock) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Forgets all that `other` doesn't know.
    pub(crate) fn meet(&mut self, other: &Clock) {
        self.0.truncate(other.0.len());
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).min(*theirs);
        }
    }

    /// One more thing happens on `timeline`, which knows all that this clock knows.
    pub(crate) fn tick(&mut self, timeline: Timeline) -> Point {
        if self.0.len() <= timeline {
            self.0.resize(timeline + 1, 0);
        }
        self.0[timeline] += 1;
        Point { timeline, count: self.0[timeline] }
    }
}

#[cfg(test)]
#[path = "clocks_tests.rs"]
mod tests;
