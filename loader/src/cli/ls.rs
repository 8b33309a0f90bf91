//! `forebay ls`: the shards, fields and first samples of a dataset.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use forebay_cache::{ByteRange, ObjectMeta};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::{self, Report, Table, clean, count, grouped};
use super::place::{CacheArguments, Place};
use crate::catalog::Catalog;
use crate::dataset::gzip::is_gzip;
use crate::dataset::tar::Event;
use crate::dataset::{Grouper, GzipDecoder, Malformed, SampleEntry, ShardIndex, TarScanner};
use crate::size;

/// Indexes looked up at once, as the loader does.
const AT_ONCE: usize = 16;

/// Samples that fields are told from: a million entries take some seconds and say what a billion would.
const FIELD_SAMPLES: u64 = 1_000_000;

/// Bytes read at a time where a shard's first samples are looked for without an index.
const STEP_BYTES: u64 = 1 << 20;

/// Show the shards of a dataset, how many samples they have, which fields, and the first samples.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The dataset, as a loader names it: URLs, globs, folders, braces
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    /// Samples to show
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    samples: u64,
    /// Read shards that have no index, so that every count is known (this fills the cache)
    #[arg(long)]
    scan: bool,
    /// Show every shard, not the first ten
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    cache: CacheArguments,
}

#[derive(Debug, Serialize)]
struct Listing {
    /// Of all shards; null where not every count is known.
    samples: Option<u64>,
    bytes: u64,
    shards: Vec<Shard>,
    fields: Vec<Field>,
    /// How many samples `fields` was told from.
    fields_from_samples: u64,
    first_samples: Vec<Sample>,
    #[serde(skip)]
    shown_shards: usize,
}

#[derive(Debug, Serialize)]
struct Shard {
    location: String,
    size_bytes: u64,
    /// Null where nothing knows it without reading the shard.
    samples: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Field {
    suffix: String,
    members: u64,
    bytes: u64,
    smallest_bytes: u64,
    largest_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Sample {
    key: String,
    location: String,
    offset: u64,
    members: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    suffix: String,
    offset: u64,
    size_bytes: u64,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let place = Place::open(&arguments.cache, interrupt)?;
    let listing = place.run("nothing was changed", list(&place, arguments))?;
    output::print(&listing, json)
}

async fn list(place: &Place<'_>, arguments: &Arguments) -> Result<Listing, Failure> {
    let catalog = place.catalog(place.shards(&arguments.sources).await?)?;
    let counts = counts(&catalog, arguments.scan).await?;
    let mut fields = Fields::default();
    let mut first: Vec<Sample> = Vec::new();
    for (shard, object) in catalog.objects().iter().enumerate() {
        let wanted = arguments.samples - first.len() as u64;
        let Some(index) = catalog.index_without_pass(shard).await? else {
            if fields.samples == 0 {
                // Nothing is known of this dataset: its first samples stand for it.
                let entries = peek(place, object, arguments.samples.max(1)).await?;
                entries.iter().for_each(|entry| fields.add(entry));
                first.extend(entries.iter().take(wanted as usize).map(|entry| Sample::of(object, entry)));
            }
            break;
        };
        let entries = samples(object, &index, wanted)?;
        first.extend(entries.iter().map(|entry| Sample::of(object, entry)));
        fields.add_all(object, &index)?;
        if fields.samples >= FIELD_SAMPLES {
            break;
        }
    }
    let shards = catalog.objects().iter().zip(&counts);
    let shards = shards.map(|(object, &samples)| Shard {
        location: object.location.to_string(),
        size_bytes: object.size_bytes,
        samples,
    });
    Ok(Listing {
        samples: counts.iter().copied().sum(),
        bytes: catalog.objects().iter().map(|object| object.size_bytes).sum(),
        shards: shards.collect(),
        fields_from_samples: fields.samples,
        fields: fields.by_suffix.into_values().collect(),
        first_samples: first,
        shown_shards: if arguments.all { usize::MAX } else { 10 },
    })
}

/// The shards' counts, as far as they are known, or (`scan`) all of them.
async fn counts(catalog: &Catalog, scan: bool) -> Result<Vec<Option<u64>>, Failure> {
    if scan {
        return Ok(catalog.counts().await?.iter().copied().map(Some).collect());
    }
    if let Some(counts) = catalog.try_counts().await? {
        return Ok(counts.iter().copied().map(Some).collect());
    }
    let known = stream::iter(0..catalog.objects().len())
        .map(async |shard| Ok(catalog.index_without_pass(shard).await?.map(|index| index.len())));
    known.buffered(AT_ONCE).try_collect().await
}

fn samples(object: &ObjectMeta, index: &ShardIndex, wanted: u64) -> Result<Vec<SampleEntry>, Failure> {
    let entries = index.samples(0..wanted.min(index.len()));
    Ok(entries.map_err(|error| error.at(&object.location))?)
}

/// The first samples of a shard, read from its beginning.
pub(super) async fn peek(
    place: &Place<'_>,
    object: &Arc<ObjectMeta>,
    wanted: u64,
) -> Result<Vec<SampleEntry>, Failure> {
    let region = place.reads()?;
    let mut start = Start::default();
    let mut offset = 0;
    while offset < object.size_bytes && (start.samples.len() as u64) < wanted && !start.ended {
        let end = (offset + STEP_BYTES).min(object.size_bytes);
        let step = place.session.cache().read(object, ByteRange::new(offset, end), &region).await?;
        start.feed(&step.lease).map_err(|error| error.at(&object.location))?;
        offset = end;
    }
    if offset == object.size_bytes {
        start.samples.extend(start.grouper.finish());
    }
    start.samples.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
    Ok(start.samples)
}

/// The beginning of a shard, compressed or not.
#[derive(Default)]
struct Start {
    gzip: Option<GzipDecoder>,
    scanner: Option<TarScanner>,
    grouper: Grouper,
    samples: Vec<SampleEntry>,
    ended: bool,
}

impl Start {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        if self.scanner.is_none() {
            self.scanner = Some(TarScanner::new(None));
            self.gzip = is_gzip(bytes).then(GzipDecoder::new);
        }
        let Some(mut gzip) = self.gzip.take() else { return self.scan(bytes) };
        let mut plain = vec![0; 64 << 10];
        loop {
            let written = gzip.decode(&mut bytes, &mut plain)?;
            self.scan(&plain[..written])?;
            if written < plain.len() {
                break;
            }
        }
        self.gzip = Some(gzip);
        Ok(())
    }

    fn scan(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        while let Some(event) = scanner.scan(&mut bytes)? {
            match event {
                Event::Member(member) => self.samples.extend(self.grouper.push(&member)?),
                Event::End { .. } => {
                    self.samples.extend(self.grouper.finish());
                    self.ended = true;
                }
            }
        }
        Ok(())
    }
}

/// What members there are, by suffix.
#[derive(Default)]
struct Fields {
    samples: u64,
    by_suffix: BTreeMap<String, Field>,
}

impl Fields {
    fn add(&mut self, entry: &SampleEntry) {
        self.samples += 1;
        for member in &entry.members {
            let suffix = member.suffix.as_str();
            if !self.by_suffix.contains_key(suffix) {
                let field = Field {
                    suffix: suffix.into(),
                    members: 0,
                    bytes: 0,
                    smallest_bytes: u64::MAX,
                    largest_bytes: 0,
                };
                self.by_suffix.insert(suffix.into(), field);
            }
            if let Some(field) = self.by_suffix.get_mut(suffix) {
                field.members += 1;
                field.bytes += member.size;
                field.smallest_bytes = field.smallest_bytes.min(member.size);
                field.largest_bytes = field.largest_bytes.max(member.size);
            }
        }
    }

    fn add_all(&mut self, object: &ObjectMeta, index: &ShardIndex) -> Result<(), Failure> {
        const PAGE: u64 = 4096;
        for start in (0..index.len()).step_by(PAGE as usize) {
            if self.samples >= FIELD_SAMPLES {
                break;
            }
            let entries = index.samples(start..(start + PAGE).min(index.len()));
            entries.map_err(|error| error.at(&object.location))?.iter().for_each(|entry| self.add(entry));
        }
        Ok(())
    }
}

impl Sample {
    fn of(object: &ObjectMeta, entry: &SampleEntry) -> Self {
        let members = entry.members.iter().map(|member| Member {
            suffix: member.suffix.as_str().into(),
            offset: member.data_offset,
            size_bytes: member.size,
        });
        Self {
            key: entry.key().into_owned(),
            location: object.location.to_string(),
            offset: entry.header_offset(),
            members: members.collect(),
        }
    }
}

impl Report for Listing {
    fn text(&self) -> String {
        let samples = match self.samples {
            Some(samples) => count(samples, "sample"),
            None => "an unknown number of samples (--scan counts them)".into(),
        };
        let shards = count(self.shards.len() as u64, "shard");
        let mut parts = vec![format!("{shards}, {}, {samples}", size::show(self.bytes))];
        let mut table = Table::new(&["shard", "size", "samples"], &[1, 2]);
        for shard in self.shards.iter().take(self.shown_shards) {
            let samples = shard.samples.map_or("?".into(), grouped);
            table.row([clean(&shard.location), size::show(shard.size_bytes), samples]);
        }
        let mut text = table.text();
        if let Some(more) = self.shards.len().checked_sub(self.shown_shards).filter(|&more| more > 0) {
            text = format!("{text}\n… and {} more (--all shows them)", grouped(more as u64));
        }
        parts.push(text);
        let mut table = Table::new(&["field", "members", "mean", "smallest", "largest"], &[1, 2, 3, 4]);
        for field in &self.fields {
            table.row([
                clean(&field.suffix),
                grouped(field.members),
                size::show(field.bytes / field.members.max(1)),
                size::show(field.smallest_bytes),
                size::show(field.largest_bytes),
            ]);
        }
        if self.samples != Some(self.fields_from_samples) {
            let from = count(self.fields_from_samples, "sample");
            parts.push(format!("{}\n(from the first {from})", table.text()));
        } else {
            parts.push(table.text());
        }
        if !self.first_samples.is_empty() {
            let mut table = Table::new(&["first samples", "at byte", "members"], &[1]);
            for sample in &self.first_samples {
                let members = sample.members.iter();
                let members: Vec<String> = members
                    .map(|member| format!("{} {}", clean(&member.suffix), size::show(member.size_bytes)))
                    .collect();
                table.row([clean(&sample.key), grouped(sample.offset), members.join(", ")]);
            }
            parts.push(table.text());
        }
        parts.join("\n\n")
    }
}
