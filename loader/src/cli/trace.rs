//! `forebay trace`: runs an epoch and writes a timeline of it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::job::{Epoch, JobArguments, Start, show_stalls};
use super::output::{self, Report, clean, count, grouped};
use super::place::{CacheArguments, Place};
use crate::field::Field;
use crate::size;
use crate::trace::{DEFAULT_MOST_EVENTS, ThreadTime, Trace, Written, check_place};

/// Run an epoch as a training job would and write a timeline of its stages, for Perfetto (ui.perfetto.dev) or chrome://tracing. Without
/// fields, those of the first sample: images get a random crop and a flip, .cls is a whole number, everything else is bytes.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,
    /// The file to write; one that exists is replaced
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Most events to keep, of 80 bytes of memory each; how many more there were is said
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_MOST_EVENTS)]
    events: usize,
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Debug, Serialize)]
struct Traced {
    output: PathBuf,
    #[serde(flatten)]
    written: Written,
    #[serde(flatten)]
    epoch: Epoch,
    threads: Vec<Thread>,
}

#[derive(Debug, Serialize)]
struct Thread {
    name: String,
    samples: u64,
    busy_seconds: f64,
    /// Of the epoch's time.
    busy: f64,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let failed = |error| {
        Failure::io(
            format_args!("{} can't be written; choose another --output", arguments.output.display()),
            &error,
        )
    };
    check_place(&arguments.output).map_err(failed)?;
    let place = Place::open(&arguments.cache, interrupt)?;
    let left = "what was fetched is kept, and no trace was written";
    let fields = place.run(left, prepare(&place, &arguments.job))?;
    let trace = Trace::new(arguments.events);
    let options = arguments.job.options(fields, place.settings.clone(), Some(trace.clone()));
    let ran = arguments.job.epoch(options, Start::now()?, interrupt);
    if trace.is_empty() {
        return ran.map(drop);
    }
    let written = trace.write(&arguments.output).map_err(failed)?;
    let epoch = ran.map_err(|failure| ended(failure, &arguments.output, written))?;
    let threads = trace.threads().into_iter().map(|thread| Thread::of(thread, epoch.seconds)).collect();
    let interrupted = epoch.interrupted;
    output::print(&Traced { output: arguments.output.clone(), written, epoch, threads }, json)?;
    match interrupted {
        true => Err(Failure::Interrupted("the trace ends where the epoch did")),
        false => Ok(()),
    }
}

/// Why the epoch ended, and that its trace ends there too.
fn ended(failure: Failure, output: &Path, written: Written) -> Failure {
    let events = count(written.events, "event");
    let with_trace = |message| format!("{message}\n{} ends there, after {events}", output.display());
    match failure {
        Failure::Usage(message) => Failure::Usage(with_trace(message)),
        Failure::Failed(message) => Failure::Failed(with_trace(message)),
        other => other,
    }
}

/// What is done before the epoch and is no part of it: shards are counted, and fields found.
async fn prepare(place: &Place<'_>, job: &JobArguments) -> Result<Vec<Field>, Failure> {
    let catalog = place.catalog(place.shards(&job.sources).await?)?;
    let fields = job.fields(place, &catalog).await?;
    catalog.counts().await?;
    Ok(fields)
}

impl Thread {
    fn of(thread: ThreadTime, seconds: f64) -> Self {
        let busy_seconds = thread.busy.as_secs_f64();
        Self { name: thread.name, samples: thread.samples, busy_seconds, busy: busy_seconds / seconds }
    }
}

impl Report for Traced {
    fn text(&self) -> String {
        let Self { output, written, epoch, threads } = self;
        let mut lines = vec![
            format!(
                "{} in {} in {:.2} s: {:.0}/s{}",
                count(epoch.samples, "sample"),
                count(epoch.batches, "batch"),
                epoch.seconds,
                epoch.samples_per_second,
                if epoch.interrupted { "; interrupted" } else { "" }
            ),
            match epoch.first_batch_seconds {
                Some(seconds) => format!("first batch after {seconds:.3} s"),
                None => "no batch came".into(),
            },
            format!("waited for: {}", show_stalls(&epoch.stall_seconds)),
            format!("read: {}", show_tiers(epoch)),
        ];
        for Thread { name, samples, busy, .. } in threads {
            lines.push(format!("{}: busy {:.0} %, {}", clean(name), busy * 100.0, count(*samples, "sample")));
        }
        let dropped = match written.dropped {
            0 => String::new(),
            more => format!("; {} more had no room (--events keeps more)", grouped(more)),
        };
        lines.push(format!(
            "{}: {} in {}{dropped}; open it in ui.perfetto.dev",
            output.display(),
            count(written.events, "event"),
            size::show(written.bytes)
        ));
        lines.join("\n")
    }
}

fn show_tiers(epoch: &Epoch) -> String {
    let read = epoch.bytes_by_tier.iter().filter(|(_, bytes)| **bytes > 0);
    let shown: Vec<String> =
        read.map(|(tier, bytes)| format!("{} from {tier}", size::show(*bytes))).collect();
    if shown.is_empty() { "nothing".into() } else { shown.join(", ") }
}
