//! What the simulator found wrong: kept for the tests, printed, and written to a file where one is named.
//!
//! A finding names the call and the place it was made from. [`Kind`] lists what is looked for; a program that does one of these on purpose
//! allows it by name (`allow=pageable`).

use std::fmt::Write as _;

use crate::places::Origin;
use crate::settings::Settings;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What can be found.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        pub(crate) enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// The name in settings and reports.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name,)*
                }
            }

            pub(crate) fn from_name(name: &str) -> Option<Kind> {
                match name {
                    $($name => Some(Kind::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Two accesses to the same bytes, one of them a write, with nothing that orders them.
    Race = "race",
    /// The CPU wrote to host memory that a copy reads or writes.
    HostWrite = "host-write",
    /// Memory freed, unmapped or unpinned before the host knew that the work on it was complete.
    InFlight = "in-flight",
    /// Device memory used after it was freed.
    UseAfterFree = "use-after-free",
    /// Device memory that was never allocated, or not as far, or not for this device.
    OutOfBounds = "out-of-bounds",
    /// The same thing freed, destroyed or released twice.
    DoubleFree = "double-free",
    /// Something never freed.
    Leak = "leak",
    /// An asynchronous copy from or to host memory that isn't pinned.
    Pageable = "pageable",
    /// Host memory registered twice.
    Overlap = "overlap",
    /// A wait on an event that was never recorded, which waits for nothing.
    NeverRecorded = "never-recorded",
    /// A CUDA call in a host function.
    HostFunction = "host-function",
    /// The GIL held in a call that blocks.
    Gil = "gil",
    /// A thread's context or capture mode differs when the call that borrowed it returns.
    NotRestored = "not-restored",
    /// A stream, event, module or graph used after it was destroyed.
    Destroyed = "destroyed",
    /// A call in a forked child.
    Forked = "forked",
    /// A call after the process began to exit.
    Exited = "exited",
    /// A call that a stream capture forbids.
    Capture = "capture",
    /// A call that the simulated driver's version doesn't have.
    Missing = "missing",
    /// A call with arguments that no program has a reason for.
    Misuse = "misuse",
}

/// Something found.
struct Finding {
    kind: Kind,
    text: String,
}

/// Everything found since the last time it was taken.
#[derive(Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// Records a finding: `what` in a sentence, `by` the call that did it, `other` the call it is at odds with.
    pub(crate) fn add(
        &mut self,
        settings: &Settings,
        kind: Kind,
        what: &str,
        by: &Origin,
        other: Option<&Origin>,
    ) {
        if settings.allowed.contains(&kind) {
            return;
        }
        let mut text =
            format!("forebay-fake-cuda: {}: {}: {what}\n    at\n{}", kind.name(), by.call, by.frames());
        if let Some(other) = other {
            let _ = write!(text, "    against {} at\n{}", other.call, other.frames());
        }
        publish(settings, &text);
        self.0.push(Finding { kind, text });
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All findings as text, each with its kind on the first line.
    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|finding| finding.text.as_str()).collect()
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|finding| finding.kind == kind).count()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Shows a finding where nobody may ask for it: on stderr, and in the file that the settings name. Ends the process if they say so. Takes no
/// lock: a forked child may be the one that says it.
pub(crate) fn publish(settings: &Settings, text: &str) {
    if !settings.quiet {
        say(text);
    }
    if let Some(path) = &settings.log {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
            say(&format!("forebay-fake-cuda: writing {}: {error}\n", path.display()));
        }
    }
    if settings.abort {
        std::process::abort();
    }
}

fn say(text: &str) {
    // SAFETY: writes bytes that live as long as the call. Where stderr is closed nobody is to be told.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}
