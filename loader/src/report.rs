//! What a user is told while a loader works: announcements, each once, and the progress of long passes.

use std::fmt;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, WeakProgressBar};
use parking_lot::Mutex;

/// Most announcements kept for `stats()`.
const KEPT: usize = 100;

/// A pass on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub what: String,
    /// How many bytes it is through.
    pub done_bytes: u64,
    /// How many bytes it has to do.
    pub total_bytes: u64,
}

/// Announces to standard error and keeps what was said. Clones share it.
#[derive(Clone, Default)]
pub struct Reporter {
    said: Arc<Mutex<Vec<String>>>,
    /// The last bar, for those who draw it themselves; it ends with the pass that it is of.
    bar: Arc<Mutex<Option<WeakProgressBar>>>,
    quiet: bool,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter")
            .field("said", &self.said)
            .field("quiet", &self.quiet)
            .finish_non_exhaustive()
    }
}

impl Reporter {
    /// A reporter that keeps what is said but prints nothing.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::default() }
    }

    /// Says something once: a repeated text is not said again.
    pub fn announce(&self, text: impl Into<String>) {
        let text = text.into();
        let mut said = self.said.lock();
        if said.len() >= KEPT || said.contains(&text) {
            return;
        }
        tracing::info!("{text}");
        if !self.quiet {
            eprintln!("forebay: {text}");
        }
        said.push(text);
    }

    /// Everything that was said.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().clone()
    }

    /// A bar over `total_bytes`, drawn where standard error is a terminal.
    pub fn bar(&self, what: &'static str, total_bytes: u64) -> ProgressBar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target).with_message(what);
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        *self.bar.lock() = Some(bar.downgrade());
        bar
    }

    /// How far the pass is that runs now.
    pub fn progress(&self) -> Option<Progress> {
        let bar = self.bar.lock().as_ref()?.upgrade()?;
        let total_bytes = bar.length()?;
        (!bar.is_finished()).then(|| Progress {
            what: bar.message(),
            done_bytes: bar.position(),
            total_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_is_said_once() {
        let reporter = Reporter::quiet();
        reporter.announce("a");
        reporter.announce("a");
        reporter.announce("b");
        assert_eq!(reporter.said(), ["a", "b"]);
    }

    #[test]
    fn a_bar_tells_its_progress_until_it_ends() {
        let reporter = Reporter::quiet();
        assert_eq!(reporter.progress(), None);
        let bar = reporter.bar("indexing", 10);
        bar.inc(4);
        let progress = Progress { what: "indexing".into(), done_bytes: 4, total_bytes: 10 };
        assert_eq!(reporter.clone().progress(), Some(progress));
        bar.finish_and_clear();
        assert_eq!(reporter.progress(), None);
    }
}
