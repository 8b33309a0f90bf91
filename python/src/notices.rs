//! What the runtime says (`tracing` events), for Python's `logging`.
//!
//! A thread of the runtime must never wait for the interpreter lock, so it only leaves its words in a bounded queue; the next
//! call that comes from Python takes them along. Where the queue is full the oldest go, and that is said.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// More than anybody reads; a runtime that says more than this between two batches repeats itself.
const MOST: usize = 200;

static QUEUE: Mutex<VecDeque<(u8, String)>> = Mutex::new(VecDeque::new());
static LOST: AtomicU64 = AtomicU64::new(0);

/// Listens from now on, unless somebody in this process already does.
pub(crate) fn install() {
    // The error says that another subscriber is set, whose business the events then are.
    let _already = tracing::subscriber::set_global_default(Notices);
}

/// What was said since the last call, as (level of Python's `logging`, text).
pub(crate) fn take() -> Vec<(u8, String)> {
    // A forked child may have inherited the lock held: it hears nothing rather than waits.
    let Some(mut queue) = QUEUE.try_lock() else { return Vec::new() };
    let mut said: Vec<_> = queue.drain(..).collect();
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        said.push((30, format!("{lost} earlier messages were dropped")));
    }
    said
}

struct Notices;

impl Subscriber for Notices {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.is_event() && metadata.target().starts_with("forebay")
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            _ => 20,
        };
        let mut queue = QUEUE.lock();
        if queue.len() == MOST {
            queue.pop_front();
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back((level, text.whole()));
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    // Spans are not shown; every span is the same one.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(self) -> String {
        let gap = if self.message.is_empty() || self.fields.is_empty() { "" } else { " " };
        format!("{}{gap}{}", self.message, self.fields)
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String can't fail.
        let _infallible = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let gap = if self.fields.is_empty() { "" } else { " " };
            write!(self.fields, "{gap}{}={value:?}", field.name())
        };
    }
}
