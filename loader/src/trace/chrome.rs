//! A trace as a file in Chrome's trace event format (JSON object format), which Perfetto and chrome://tracing open.
//!
//! `X`: a span of a thread or a stage, `b` and `e`: what overlaps others, `C`: a counter, `M`: names. Times are microseconds since the
//! trace began. Events come in no particular order.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use forebay_cache::Tier;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Counter, Event, Lane, Outcome, Planning, Sample, Trace, What};
use crate::pipeline::account::TIER_NAMES;

/// Tracks of stages that move between threads; those of threads follow.
const PLANNER: u64 = 1;
const ASSEMBLY: u64 = 2;
const FIRST_THREAD: u64 = 10;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Events in the file.
    pub events: u64,
    /// Events for which there was no room in memory.
    pub dropped: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    ph: &'a str,
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: Value,
}

/// Makes sure that a file can be made where a trace is to be written, so that nobody learns at the end that it can't.
///
/// # Errors
/// The operating system's, where it can't.
pub fn check_place(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder; name a file in it"));
    }
    let (_, beside) = beside(path)?;
    std::fs::remove_file(beside)
}

/// An unfinished file beside `path`.
fn beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(unfinished);
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
    Ok((file, beside))
}

impl Trace {
    /// Writes what was kept until now. A file of this name is replaced when the new one is whole. Threads that record meanwhile wait.
    ///
    /// # Errors
    /// The operating system's; then there is no file, or the one before.
    pub fn write(&self, path: &Path) -> io::Result<Written> {
        let (file, beside) = beside(path)?;
        let done = self.write_to(file).and_then(|written| {
            std::fs::rename(&beside, path)?;
            Ok(written)
        });
        if done.is_err() {
            // What the failed write left is of no use to anybody.
            drop(std::fs::remove_file(&beside));
        }
        done
    }

    fn write_to(&self, file: File) -> io::Result<Written> {
        let mut out = Output { out: BufWriter::new(file), pid: std::process::id(), events: 0 };
        let dropped = self.dropped();
        let about = json!({ "forebay": env!("CARGO_PKG_VERSION"), "dropped_events": dropped });
        write!(out.out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[")?;
        out.name("process_name", 0, json!({ "name": "forebay" }))?;
        out.track(PLANNER, "planner", 1)?;
        out.track(ASSEMBLY, "assembly", 2)?;
        let lanes = self.shared.lanes.lock().clone();
        for (tid, lane) in (FIRST_THREAD..).zip(&lanes) {
            out.lane(tid, lane)?;
        }
        out.out.write_all(b"\n]}\n")?;
        let mut file = out.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let bytes = io::Seek::stream_position(&mut file)?;
        Ok(Written { events: out.events, dropped, bytes })
    }
}

struct Output {
    out: BufWriter<File>,
    pid: u32,
    events: u64,
}

impl Output {
    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        self.out.write_all(if self.events == 0 { b"\n" } else { b",\n" })?;
        self.events += 1;
        serde_json::to_writer(&mut self.out, line).map_err(io::Error::from)
    }

    fn name(&mut self, name: &str, tid: u64, args: Value) -> io::Result<()> {
        let pid = self.pid;
        self.line(&Line { name, cat: "", ph: "M", ts: 0.0, dur: None, pid, tid, id: None, args })
    }

    fn track(&mut self, tid: u64, name: &str, order: u64) -> io::Result<()> {
        self.name("thread_name", tid, json!({ "name": name }))?;
        self.name("thread_sort_index", tid, json!({ "sort_index": order }))
    }

    /// A thread's events. It gets a name where it has spans of its own.
    fn lane(&mut self, tid: u64, lane: &Lane) -> io::Result<()> {
        let events = lane.events.lock();
        let own = |event: &&Event| matches!(event.what.shown(), Shown::Thread(_));
        let consumes = |event: &Event| matches!(event.what, What::Wait(_) | What::Consume);
        match events.iter().find(own) {
            Some(event) if consumes(event) => {
                self.track(tid, format!("consumer {}", lane.name).trim_end(), 0)?
            }
            Some(_) => self.track(tid, &lane.name, tid)?,
            None => {}
        }
        events.iter().try_for_each(|event| self.event(tid, event))
    }

    fn event(&mut self, tid: u64, event: &Event) -> io::Result<()> {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let (start, took) = (micros(event.start), micros(event.took));
        let args = event.what.args();
        let line =
            Line { name: "", cat: "", ph: "X", ts: start, dur: None, pid: self.pid, tid, id: None, args };
        match event.what.shown() {
            Shown::Thread(name) => self.line(&Line { name, dur: Some(took), ..line }),
            Shown::Stage(tid, name) => self.line(&Line { name, tid, dur: Some(took), ..line }),
            Shown::Overlapping(cat, name) => {
                // Numbers of events are as good as any to tell one from the other.
                let (tid, id, pid) = (PLANNER, Some(self.events), self.pid);
                let end =
                    Line { name, cat, ph: "e", ts: start + took, dur: None, pid, tid, id, args: Value::Null };
                self.line(&Line { name, cat, ph: "b", tid, id, ..line })?;
                self.line(&end)
            }
            Shown::Counter(name) => self.line(&Line { name, ph: "C", tid: 0, ..line }),
        }
    }
}

/// Where an event is drawn, and what it is called there.
enum Shown {
    Thread(&'static str),
    Stage(u64, &'static str),
    Overlapping(&'static str, &'static str),
    Counter(&'static str),
}

impl What {
    fn shown(&self) -> Shown {
        match self {
            Self::Decode { outcome: Outcome::Decoded, .. } => Shown::Thread("decode"),
            Self::Decode { outcome: Outcome::Failed, .. } => Shown::Thread("decode, failed"),
            Self::Decode { outcome: Outcome::NeedsMemory, .. } => Shown::Thread("decode, needs more memory"),
            Self::Measure(_) => Shown::Thread("measure"),
            Self::Wait(stage) => Shown::Thread(match stage.name() {
                "index" => "wait: index",
                "memory" => "wait: memory",
                "read" => "wait: read",
                "decode" => "wait: decode",
                _ => "wait: assemble",
            }),
            Self::Consume => Shown::Thread("consume"),
            Self::Plan(Planning::Consumer) => Shown::Stage(PLANNER, "enough ahead"),
            Self::Plan(Planning::Index) => Shown::Stage(PLANNER, "index"),
            Self::Plan(Planning::Memory) => Shown::Stage(PLANNER, "memory"),
            Self::Assemble { .. } => Shown::Stage(ASSEMBLY, "assemble"),
            Self::Batch { .. } => Shown::Overlapping("batch", "batch"),
            Self::Read { tier: Tier::Ram, .. } => Shown::Overlapping("read", "read: memory"),
            Self::Read { tier: Tier::Disk, .. } => Shown::Overlapping("read", "read: nvme"),
            Self::Read { tier: Tier::Origin, .. } => Shown::Overlapping("read", "read: origin"),
            Self::Fetch { .. } => Shown::Overlapping("fetch", "fetch"),
            Self::Count(Counter::Reading, _) => Shown::Counter("bytes being read"),
            Self::Count(Counter::Fetching, _) => Shown::Counter("bytes being fetched"),
            Self::Count(Counter::Ready, _) => Shown::Counter("batches ready"),
            Self::Count(Counter::Memory, _) => Shown::Counter("host memory in use"),
        }
    }

    fn args(&self) -> Value {
        match self {
            Self::Decode { sample, tier, bytes, .. } => {
                let Sample { location, shard, index } = sample;
                json!({
                    "object": location.file_name(), "shard": shard, "sample": index, "tier": TIER_NAMES[*tier as usize], "bytes": bytes
                })
            }
            Self::Measure(Sample { location, shard, index }) => {
                json!({ "object": location.file_name(), "shard": shard, "sample": index })
            }
            Self::Read { location, range, .. } => {
                json!({ "object": location.file_name(), "offset": range.start, "bytes": range.len() })
            }
            Self::Fetch { location, range, arrived } => {
                json!({
                    "object": location.file_name(), "offset": range.start, "bytes": range.len(), "arrived": arrived
                })
            }
            Self::Batch { epoch, index, rows } => json!({ "epoch": epoch, "batch": index, "rows": rows }),
            Self::Assemble { index } => json!({ "batch": index }),
            Self::Count(_, value) => json!({ "value": value }),
            Self::Plan(_) | Self::Wait(_) | Self::Consume => Value::Null,
        }
    }
}
