//! Who becomes what, decided without doing anything: the states of one process on a cache folder, and when a new owner may evict.
//!
//! A process tries the owner's lock first. With the lock it opens the folder and serves; without it, it asks the holder to be
//! let in. When the holder is gone it starts again, so that of several clients exactly one takes over, and the others find it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The pause before the lock is tried again, while somebody holds it and doesn't answer yet: a new owner that opens the folder, or
/// a dead one whose last operations the kernel is finishing. Doubled each time.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest such pause.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What one process is to the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It tries the owner's lock.
    Trying {
        /// How often it was in vain, since it was last something.
        vain: u32,
    },
    /// Somebody has the lock: it asks to be let in.
    Asking {
        /// As above.
        vain: u32,
    },
    /// Nobody answered: it waits.
    Pausing {
        /// As above.
        vain: u32,
    },
    /// It has the lock and opens the folder.
    Opening,
    /// It owns the folder.
    Owner,
    /// It is a client.
    Client,
    /// It has left.
    Left,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The lock is ours.
    Locked,
    /// The lock is somebody else's.
    NotLocked,
    /// The owner let us in.
    Welcome,
    /// Nobody listens, or it doesn't answer.
    NoAnswer,
    /// The pause is over.
    Rested,
    /// The folder is open, and clients may come.
    Opened,
    /// The folder can't be opened. The lock has been given back.
    CannotOpen,
    /// The connection to the owner ended.
    Lost,
    /// The cache is being closed.
    Leave,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Try the owner's lock.
    TryLock,
    /// Connect and say hello.
    Ask,
    /// Wait this long.
    Pause(Duration),
    /// Open the folder and listen.
    Open,
    /// Nothing until something happens.
    Watch,
    /// Give everything back, the lock last.
    Leave,
}

impl State {
    /// Where every process begins.
    pub(crate) const START: Self = Self::Trying { vain: 0 };

    /// What this state calls for.
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Trying { .. } => Action::TryLock,
            Self::Asking { .. } => Action::Ask,
            Self::Pausing { vain } => Action::Pause(pause(vain)),
            Self::Opening => Action::Open,
            Self::Owner | Self::Client => Action::Watch,
            Self::Left => Action::Leave,
        }
    }

    /// The state after an event; events that mean nothing in this state change nothing.
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (_, Event::Leave) => Self::Left,
            (Self::Trying { .. }, Event::Locked) => Self::Opening,
            (Self::Trying { vain }, Event::NotLocked) => Self::Asking { vain },
            (Self::Asking { .. }, Event::Welcome) => Self::Client,
            (Self::Asking { vain }, Event::NoAnswer) => Self::Pausing { vain: vain.saturating_add(1) },
            (Self::Pausing { vain }, Event::Rested) => Self::Trying { vain },
            (Self::Opening, Event::Opened) => Self::Owner,
            // Another process may do better: its limits or its rights may differ.
            (Self::Opening, Event::CannotOpen) => Self::Pausing { vain: 1 },
            (Self::Client, Event::Lost) => Self::START,
            (state, _) => state,
        }
    }
}

fn pause(vain: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << vain.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

/// Whether a new owner may evict: not before every client that lived at the take-over has registered again, or is gone, since it may be
/// reading any block under a lease that the dead owner gave.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    missing: BTreeSet<Arc<str>>,
}

impl Gate {
    /// Closed until all of `clients` (names of their locks) are accounted for.
    pub(crate) fn new(clients: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { missing: clients.into_iter().collect() }
    }

    /// A client has registered the leases that it holds, or is gone.
    pub(crate) fn accounted(&mut self, client: &str) {
        self.missing.remove(client);
    }

    /// True where nothing stands in the way of eviction.
    pub(crate) fn is_open(&self) -> bool {
        self.missing.is_empty()
    }

    /// Who has not been heard of.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &Arc<str>> {
        self.missing.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A folder as its processes see it: who has the lock, who listens.
    #[derive(Default)]
    struct Folder {
        lock: Option<usize>,
        listens: bool,
    }

    /// Does what `state` of process `me` calls for, and says what came of it.
    fn act(folder: &mut Folder, me: usize, state: State) -> Option<Event> {
        Some(match state.action() {
            Action::TryLock if folder.lock.is_none() => {
                folder.lock = Some(me);
                Event::Locked
            }
            Action::TryLock => Event::NotLocked,
            Action::Ask if folder.listens => Event::Welcome,
            Action::Ask => Event::NoAnswer,
            Action::Pause(_) => Event::Rested,
            Action::Open => {
                folder.listens = true;
                Event::Opened
            }
            Action::Watch | Action::Leave => return None,
        })
    }

    fn kill(folder: &mut Folder, states: &mut [State], me: usize) {
        states[me] = State::Left;
        if folder.lock == Some(me) {
            *folder = Folder::default();
            for state in states.iter_mut().filter(|state| **state == State::Client) {
                *state = state.after(Event::Lost);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn there_is_never_more_than_one_owner_and_soon_one(
            steps in proptest::collection::vec((0usize..5, 0u8..12), 0..200)
        ) {
            let mut folder = Folder::default();
            let mut states = vec![State::START; 5];
            for (me, what) in steps {
                if what == 0 {
                    kill(&mut folder, &mut states, me);
                } else if let Some(event) = act(&mut folder, me, states[me]) {
                    states[me] = states[me].after(event);
                }
                let owners = states.iter().filter(|s| matches!(s, State::Owner | State::Opening)).count();
                prop_assert!(owners <= 1);
            }
            for _ in 0..6 {
                for (me, state) in states.iter_mut().enumerate() {
                    if let Some(event) = act(&mut folder, me, *state) {
                        *state = state.after(event);
                    }
                }
            }
            let alive = states.iter().filter(|s| **s != State::Left).count();
            let owners = states.iter().filter(|s| **s == State::Owner).count();
            let clients = states.iter().filter(|s| **s == State::Client).count();
            prop_assert_eq!((owners, clients), (alive.min(1), alive.saturating_sub(1)));
        }
    }

    #[test]
    fn eviction_waits_for_the_last_client() {
        let mut gate = Gate::new(["a".into(), "b".into()]);
        gate.accounted("a");
        assert!(!gate.is_open());
        gate.accounted("unheard of");
        gate.accounted("b");
        assert!(gate.is_open() && gate.missing().next().is_none());
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(State::Pausing { vain: 1 }.action(), Action::Pause(FIRST_PAUSE));
        assert_eq!(State::Pausing { vain: u32::MAX }.action(), Action::Pause(LONGEST_PAUSE));
    }
}
