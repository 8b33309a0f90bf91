//! Bugs on purpose, each of which the tests on the simulated driver must find.
//!
//! With the feature `mutants`, which no release has, `FOREBAY_MUTANT` names the one that a process has. Without it there is none, and no trace
//! of them in what is built.

macro_rules! mutants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $variant,)*
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

mutants! {
    /// The consumer's stream doesn't wait for the copy.
    NoWait = "no-wait",
    /// A host slot is free as soon as its copy is submitted.
    SlotEarly = "slot-early",
    /// What an export's stream has queued is not waited for.
    NoGuard = "no-guard",
    /// The loader's own stream guards what the consumer's works on.
    GuardOnOurs = "guard-on-ours",
    /// The first export that is let go guards for all.
    OneGuard = "one-guard",
    /// The event behind the copies is recorded before them.
    EventEarly = "event-early",
    /// Host memory is unpinned while it is copied.
    UnpinEarly = "unpin-early",
    /// Device memory is given back before the work on it is done.
    FreeEarly = "free-early",
    /// A capsule's end lets go of what a consumer took from it.
    CapsuleEarly = "capsule-early",
    /// A context stays current on the user's thread.
    ContextLeft = "context-left",
    /// The user's thread stays in the relaxed capture mode.
    ModeLeft = "mode-left",
    /// A stream that is being captured is taken for any other.
    CaptureIgnored = "capture-ignored",
    /// Kernels don't wait for the samples of the tier that they read.
    TierNoWait = "tier-no-wait",
    /// Another sample may take a sample's place while kernels read it.
    TierEarly = "tier-early",
    /// Parts of images are cut out before they are decoded.
    DrawNoWait = "draw-no-wait",
    /// A group of images is decoded over the one before it.
    FramesEarly = "frames-early",
    /// A batch doesn't wait for the rows that the device draws.
    ColumnNoWait = "column-no-wait",
}

/// Whether this process has this bug.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("FOREBAY_MUTANT").ok().filter(|name| !name.is_empty())?;
        let known = Mutant::named(&name);
        assert!(known.is_some(), "FOREBAY_MUTANT={name}: there is no such mutant");
        known
    });
    *chosen == Some(mutant)
}

/// Never.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}
