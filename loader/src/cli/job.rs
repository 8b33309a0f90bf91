//! What `trace` and `bench` run: an epoch of a dataset, as a training job takes it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::ls::peek;
use super::place::Place;
use crate::catalog::Catalog;
use crate::field::{Convert, DecodeMode, Field, FieldKind, Shapes};
use crate::measure::decoding::training;
use crate::measure::process::cpu_seconds;
use crate::options::{CacheSettings, LoaderOptions};
use crate::plan::OrderMode;
use crate::stats::LoaderStats;
use crate::trace::Trace;
use crate::{Loader, Next, threads};

/// Suffixes that are taken for images where no field is named: those of formats that can be decoded.
const IMAGES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// How often the consumer looks for Ctrl-C while it waits.
const SLICE: Duration = Duration::from_millis(100);

/// A dataset, its fields, and how batches are made of them.
#[derive(Args, Clone, Debug)]
pub(super) struct JobArguments {
    /// The dataset, as a loader names it: URLs, globs, folders, braces
    #[arg(value_name = "SOURCE", required = true)]
    pub(super) sources: Vec<String>,
    /// An image field: the suffix of its members, or several that stand for each other, such as jpg,png; gets a random crop and a flip
    #[arg(long, value_name = "SUFFIX", help_heading = "Fields")]
    image: Vec<String>,
    /// Pixels of a side of what images are cropped and resized to
    #[arg(long, value_name = "PIXELS", default_value_t = 224, value_parser = clap::value_parser!(u32).range(1..=16_384), help_heading = "Fields")]
    pub(super) crop: u32,
    /// A field of whole numbers, as decimal text
    #[arg(long, value_name = "SUFFIX", help_heading = "Fields")]
    int: Vec<String>,
    /// A field of numbers, as decimal text
    #[arg(long, value_name = "SUFFIX", help_heading = "Fields")]
    float: Vec<String>,
    /// A field of text
    #[arg(long, value_name = "SUFFIX", help_heading = "Fields")]
    text: Vec<String>,
    /// A field of .npy arrays, all of one shape
    #[arg(long, value_name = "SUFFIX", help_heading = "Fields")]
    numpy: Vec<String>,
    /// A field of bytes, taken as they are
    #[arg(long, value_name = "SUFFIX", help_heading = "Fields")]
    bytes: Vec<String>,
    /// Samples per batch
    #[arg(long, value_name = "SAMPLES", default_value_t = 256, value_parser = at_least_one, help_heading = "Batches")]
    pub(super) batch_size: usize,
    /// Decoding threads [default: the cores given to this process]
    #[arg(long, value_name = "NUMBER", value_parser = at_least_one, help_heading = "Batches")]
    threads: Option<usize>,
    /// End each epoch after so many batches
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Batches")]
    pub(super) batches: Option<u64>,
    /// Key of the order and of random crops
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Batches")]
    seed: u64,
    /// Take samples as they are stored, not shuffled
    #[arg(long, help_heading = "Batches")]
    storage_order: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=1 << 20).contains(number));
    number.ok_or_else(|| "write a whole number from 1 to 1048576".into())
}

/// How long an epoch took, what it waited for, and what it used.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Epoch {
    pub(super) samples: u64,
    pub(super) batches: u64,
    pub(super) seconds: f64,
    pub(super) samples_per_second: f64,
    /// Null where none came.
    pub(super) first_batch_seconds: Option<f64>,
    pub(super) cpu_seconds: f64,
    /// How long the consumer waited, by the stage that it waited for.
    pub(super) stall_seconds: BTreeMap<&'static str, f64>,
    pub(super) bytes_by_tier: BTreeMap<&'static str, u64>,
    /// Ctrl-C came before its end.
    pub(super) interrupted: bool,
}

/// When an epoch, and what belongs to it, began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    at: Instant,
    cpu_seconds: f64,
}

impl Start {
    pub(super) fn now() -> Result<Self, Failure> {
        Ok(Self { at: Instant::now(), cpu_seconds: used()? })
    }
}

fn used() -> Result<f64, Failure> {
    cpu_seconds().map_err(|error| Failure::io("this process's time can't be told", &error))
}

impl JobArguments {
    pub(super) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(threads::default_threads)
    }

    /// The fields that were asked for; where none was, those of the dataset's first sample.
    pub(super) async fn fields(&self, place: &Place<'_>, catalog: &Catalog) -> Result<Vec<Field>, Failure> {
        let named = self.named()?;
        if !named.is_empty() {
            return Ok(named);
        }
        for object in catalog.objects() {
            if let Some(sample) = peek(place, object, 1).await?.first() {
                let suffixes = sample.members.iter().map(|member| member.suffix.as_str());
                return Ok(suffixes.map(|suffix| self.guessed(suffix)).collect());
            }
        }
        Err(Failure::failed("the dataset has no samples: every shard is empty"))
    }

    fn named(&self) -> Result<Vec<Field>, Failure> {
        let kinds = [
            (&self.image, self.picture()),
            (&self.int, FieldKind::Int),
            (&self.float, FieldKind::Float),
            (&self.text, FieldKind::Text),
            (&self.numpy, FieldKind::Numpy),
            (&self.bytes, FieldKind::Bytes),
        ];
        let mut fields: Vec<Field> = Vec::new();
        for (names, kind) in kinds {
            for name in names {
                let suffixes: Vec<String> =
                    name.split(',').map(|one| one.trim().trim_start_matches('.').to_lowercase()).collect();
                if suffixes.iter().any(String::is_empty) {
                    return Err(Failure::Usage(format!("{name:?} names no member suffix, such as jpg")));
                }
                if fields.iter().any(|field| field.name == suffixes[0]) {
                    return Err(Failure::Usage(format!(
                        "the field {} is given twice; keep one",
                        suffixes[0]
                    )));
                }
                fields.push(field(suffixes, kind.clone()));
            }
        }
        Ok(fields)
    }

    fn guessed(&self, suffix: &str) -> Field {
        let kind = match suffix {
            "cls" => FieldKind::Int,
            suffix if IMAGES.contains(&suffix) => self.picture(),
            _ => FieldKind::Bytes,
        };
        field(vec![suffix.to_owned()], kind)
    }

    fn picture(&self) -> FieldKind {
        FieldKind::Image {
            transforms: training(self.crop).to_vec(),
            decode: DecodeMode::Exact,
            convert: Convert::default(),
        }
    }

    pub(super) fn options(
        &self,
        fields: Vec<Field>,
        cache: CacheSettings,
        trace: Option<Trace>,
    ) -> LoaderOptions {
        LoaderOptions {
            mode: if self.storage_order { OrderMode::Storage } else { OrderMode::Shuffle },
            seed: self.seed,
            num_threads: Some(self.threads()),
            trace,
            ..LoaderOptions::new(self.sources.clone(), fields, self.batch_size, cache)
        }
    }

    /// Runs an epoch, or as much of it as was asked for, that began at `start`. Every batch is let go at once.
    pub(super) fn epoch(
        &self,
        options: LoaderOptions,
        start: Start,
        interrupt: &Interrupt,
    ) -> Result<Epoch, Failure> {
        let loader = Loader::open(options)?;
        loader.start()?;
        let (mut batches, mut first, mut interrupted) = (0, None, false);
        while self.batches.is_none_or(|most| batches < most) {
            if interrupt.seen() {
                interrupted = true;
                break;
            }
            match loader.next(SLICE)? {
                Next::Batch(_) => {
                    first.get_or_insert_with(|| start.at.elapsed().as_secs_f64());
                    batches += 1;
                }
                Next::Pending => {}
                Next::End => break,
            }
        }
        let (seconds, cpu_seconds) = (start.at.elapsed().as_secs_f64(), used()? - start.cpu_seconds);
        let LoaderStats { samples, batches, stall, bytes_by_tier, .. } = loader.stats();
        loader.close();
        Ok(Epoch {
            samples,
            batches,
            seconds,
            samples_per_second: samples as f64 / seconds,
            first_batch_seconds: first,
            cpu_seconds,
            stall_seconds: stall.into_iter().map(|(stage, stall)| (stage, stall.as_secs_f64())).collect(),
            bytes_by_tier,
            interrupted,
        })
    }
}

fn field(suffixes: Vec<String>, kind: FieldKind) -> Field {
    Field { name: suffixes[0].clone(), suffixes, kind, shapes: Shapes::Equal }
}

/// Seconds by stage, for people: "read 1.20 s, decode 0.31 s".
pub(super) fn show_stalls<'a>(stalls: impl IntoIterator<Item = (&'a &'static str, &'a f64)>) -> String {
    let mut stalls: Vec<_> = stalls.into_iter().filter(|(_, seconds)| **seconds >= 0.005).collect();
    stalls.sort_by(|one, other| other.1.total_cmp(one.1));
    let shown: Vec<String> =
        stalls.iter().map(|(stage, seconds)| format!("{stage} {seconds:.2} s")).collect();
    if shown.is_empty() { "nothing".into() } else { shown.join(", ") }
}
