//! What the simulator found wrong: kept for the tests, printed, and written to a file where one is named.
//!
//! A finding names the call and the place it was made from. [`Kind`] lists what is looked for; a program that does one of these on purpose
//! allows it by name (`allow=pageable`).

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::sync::Arc;

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

/// Where a call was made: cheap to take, resolved to names when it is shown.
#[derive(Clone)]
pub(crate) struct Place(Arc<Backtrace>);

impl Place {
    pub(crate) fn here() -> Place {
        Place(Arc::new(Backtrace::force_capture()))
    }

    /// The frames between the driver's function and the thread's start, as `name (file:line)`, nearest first.
    pub(crate) fn frames(&self) -> String {
        const MOST: usize = 12;
        let text = self.0.to_string();
        let mut frames: Vec<String> = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            if let Some(at) = line.strip_prefix("at ") {
                if let Some(frame) = frames.last_mut() {
                    let _ = write!(frame, " ({at})");
                }
            } else if let Some((number, name)) = line.split_once(": ")
                && number.bytes().all(|byte| byte.is_ascii_digit())
            {
                frames.push(name.to_owned());
            }
        }
        let ours = |frame: &String| {
            frame.contains("forebay_fake_cuda::") || frame.contains("backtrace") || frame.starts_with("cu")
        };
        let first = frames.iter().rposition(|frame| frame.starts_with("cu") && frame.contains("fake-cuda"));
        let skipped =
            first.map_or_else(|| frames.iter().take_while(|frame| ours(frame)).count(), |at| at + 1);
        frames.iter().skip(skipped).take(MOST).map(|frame| format!("      {frame}\n")).collect()
    }
}

/// A call that did something, as findings show it.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) call: &'static str,
    pub(crate) place: Place,
}

impl Origin {
    pub(crate) fn here(call: &'static str) -> Origin {
        Origin { call, place: Place::here() }
    }
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
            format!("forebay-fake-cuda: {}: {}: {what}\n    at\n{}", kind.name(), by.call, by.place.frames());
        if let Some(other) = other {
            let _ = write!(text, "    against {} at\n{}", other.call, other.place.frames());
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

/// Shows a finding where nobody may ask for it: on stderr, and in the file that the settings name. Ends the process if they say so.
pub(crate) fn publish(settings: &Settings, text: &str) {
    use std::io::Write as _;
    if !settings.quiet {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    if let Some(path) = &settings.log {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
            let _ = writeln!(std::io::stderr(), "forebay-fake-cuda: writing {}: {error}", path.display());
        }
    }
    if settings.abort {
        std::process::abort();
    }
}
