//! What a user is told while a loader works: announcements, each once, and the progress of long passes.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

/// Most announcements kept for `stats()`.
const KEPT: usize = 100;

/// Announces to standard error and keeps what was said. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Reporter {
    said: Arc<Mutex<Vec<String>>>,
    quiet: bool,
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
        bar
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
}
