//! `forebay weights load`: brings a model to memory, as a process does that serves it, and says how fast.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use clap::Args;
use forebay_gpu::Which;
use serde::Serialize;

use super::super::failure::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{self, Report, count};
use super::{Model, ModelArguments, SLICE};
use crate::measure::process::cpu_seconds;
use crate::size;
use crate::weights::{Budget, Onto, Step, Wanted, Weights};

/// Load all tensors of a model into memory and let them go; prints how fast, and where the bytes came from.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Load them onto this GPU: cuda, cuda:1, cuda:GPU-... [default: into host memory]
    #[arg(long, value_name = "DEVICE", value_parser = gpu)]
    device: Option<Which>,
    #[command(flatten)]
    model: ModelArguments,
}

fn gpu(text: &str) -> Result<Which, String> {
    Which::parse(text, None).map_err(|error| error.to_string())
}

#[derive(Debug, Serialize)]
struct Loaded {
    files: usize,
    tensors: usize,
    /// Of the tensors.
    bytes: u64,
    /// Finding the files and reading their headers.
    open_seconds: f64,
    /// From the first read to the last tensor.
    seconds: f64,
    bytes_per_second: f64,
    /// Of the whole process.
    cpu_seconds: f64,
    bytes_by_source: BTreeMap<&'static str, u64>,
    /// Null for host memory.
    device: Option<OnDevice>,
}

/// What a load onto a device used.
#[derive(Debug, Serialize)]
struct OnDevice {
    /// As it names itself.
    name: String,
    /// Over its bus.
    copied_bytes: u64,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let start = Instant::now();
    let model = Model::open(&arguments.model, interrupt)?;
    let open_seconds = start.elapsed().as_secs_f64();
    let weights = &model.weights;
    let before = came(weights);
    let start = Instant::now();
    let device = match &arguments.device {
        None => load(&model).map(|()| None)?,
        Some(which) => Some(load_onto(&model, which)?),
    };
    let seconds = start.elapsed().as_secs_f64();
    let mut sources = came(weights);
    sources.iter_mut().for_each(|(source, bytes)| *bytes -= before[source]);
    let used = cpu_seconds().map_err(|error| Failure::io("this process's time can't be told", &error))?;
    let loaded = Loaded {
        files: weights.files().len(),
        tensors: weights.tensors().len(),
        bytes: weights.data_bytes(),
        open_seconds,
        seconds,
        bytes_per_second: weights.data_bytes() as f64 / seconds.max(1e-9),
        cpu_seconds: used,
        bytes_by_source: sources,
        device,
    };
    output::print(&loaded, json)
}

/// All tensors, in memory of their own until the last one is there.
fn load(model: &Model<'_>) -> Result<(), Failure> {
    let weights = &model.weights;
    let bar = model.reporter.bar("loading", weights.data_bytes());
    let (mut loading, mut kept) = (weights.load(&all(weights), u64::MAX, false)?, Vec::new());
    loop {
        match loading.next_within(SLICE) {
            Some(Ok(Some(loaded))) => {
                bar.inc(loaded.members.iter().map(|member| member.bytes).sum());
                kept.push(loaded);
            }
            Some(Ok(None)) => break,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
        model.go_on()?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// All tensors, in a device's memory until the last one is there.
fn load_onto(model: &Model<'_>, which: &Which) -> Result<OnDevice, Failure> {
    let weights = &model.weights;
    let bar = model.reporter.bar("loading", weights.data_bytes());
    let onto = Onto { which: which.clone(), memory: Some(Budget::All) };
    let (mut loading, mut kept) = (weights.load_onto(&all(weights), &onto)?, Vec::new());
    while let Some(coming) = loading.next_group()? {
        loop {
            match loading.copy(SLICE)? {
                Step::More => model.go_on()?,
                Step::Done(array) => break kept.push(array),
            }
        }
        bar.inc(coming.members.iter().map(|member| member.bytes).sum());
    }
    loading.finish()?;
    bar.finish_and_clear();
    Ok(OnDevice { name: loading.device().to_owned(), copied_bytes: loading.copied_bytes() })
}

fn all(weights: &Weights) -> Vec<Wanted> {
    (0..weights.tensors().len()).map(|tensor| Wanted { tensor, part: None }).collect()
}

impl Model<'_> {
    /// An error where Ctrl-C came.
    fn go_on(&self) -> Result<(), Failure> {
        if self.interrupt.seen() {
            return Err(Failure::Interrupted("what was fetched is kept in the cache"));
        }
        Ok(())
    }
}

fn came(weights: &Weights) -> BTreeMap<&'static str, u64> {
    let came = weights.came();
    let sources = [
        ("origin", &came.origin),
        ("disk", &came.disk),
        ("host", &came.host),
        ("page_cache", &came.page_cache),
        ("file", &came.file),
    ];
    sources.into_iter().map(|(source, bytes)| (source, bytes.load(Relaxed))).collect()
}

impl Report for Loaded {
    fn text(&self) -> String {
        let from: Vec<_> = self
            .bytes_by_source
            .iter()
            .filter(|(_, bytes)| **bytes > 0)
            .map(|(source, bytes)| format!("{} from the {}", size::show(*bytes), source.replace('_', " ")))
            .collect();
        let tensors = count(self.tensors as u64, "tensor");
        format!(
            "{tensors} of {} in {}: {:.2} GB/s, {:.2} s and {:.2} CPU seconds, after {:.2} s for the headers\n{}",
            size::show(self.bytes),
            count(self.files as u64, "file"),
            self.bytes_per_second / 1e9,
            self.seconds,
            self.cpu_seconds,
            self.open_seconds,
            from.join(", ")
        ) + &self.device.as_ref().map_or(String::new(), |device| {
            format!("\n{} over the bus to {}", size::show(device.copied_bytes), device.name)
        })
    }
}
