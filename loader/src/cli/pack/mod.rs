//! `forebay pack`: a folder of files → tar shards with sidecars.
//!
//! Promises: the same folder, options and seed give the same bytes; nothing that exists is overwritten; shards appear under their
//! names when all of them are whole, and a pack that fails or is interrupted leaves nothing behind.

mod gather;
mod staging;
pub(crate) mod tar;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use forebay_cache::ObjectId;
use serde::Serialize;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::{self, Report, clean, count};
use crate::dataset::{MemberEntry, SampleEntry, ShardIndexBuilder, Suffix, sidecar};
use crate::plan::perm::{Perm, mix};
use crate::report::Reporter;
use crate::size;
use gather::{Content, Dataset, SampleFiles, Tally};
use staging::Staging;

/// Pack a folder of files into tar shards, each with a sidecar (.idx), and a wids JSON that counts their samples.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    /// The folder: files that share a name up to the first dot are a sample; or ImageFolder's layout (see --labels)
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Where the shards go; made where it doesn't exist
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,
    /// Shards are named PREFIX-000000.tar
    #[arg(long, default_value = "shard", value_parser = prefix)]
    prefix: String,
    /// A shard ends before it becomes larger than this, such as 1GiB
    #[arg(long, value_name = "SIZE", default_value = "500MB", value_parser = size::parse)]
    shard_size: u64,
    /// A shard ends after this many samples
    #[arg(long, value_name = "NUMBER", default_value_t = u64::MAX, hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    shard_samples: u64,
    /// Where labels come from
    #[arg(long, value_enum, default_value_t = Labels::Auto)]
    labels: Labels,
    /// Shuffle the samples before they are cut into shards
    #[arg(long)]
    shuffle: bool,
    /// Key of the shuffle: the same one gives the same shards
    #[arg(long, default_value_t = 0, requires = "shuffle")]
    seed: u64,
}

/// Where labels come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Labels {
    /// From class folders where all samples are single images in folders; none otherwise
    Auto,
    /// The folders right below FOLDER are classes, as in torchvision's ImageFolder: every image gets a .cls with the number of its
    /// class, by name; classes.json lists them
    Folders,
    /// Files are packed as they are
    None,
}

fn prefix(text: &str) -> Result<String, String> {
    let right = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match text.chars().all(right) && !text.is_empty() && !text.starts_with(['.', '-']) {
        true => Ok(text.to_owned()),
        false => Err("letters, digits, '-', '_' and '.' make a name that every store takes; a letter or digit is first".into()),
    }
}

#[derive(Debug, Serialize)]
struct Packed {
    output: PathBuf,
    samples: u64,
    /// Of all shards.
    bytes: u64,
    shards: Vec<Shard>,
    /// The wids JSON.
    list: PathBuf,
    /// Written where labels come from folders.
    classes: Option<PathBuf>,
    class_count: Option<usize>,
    /// Files that are in no sample.
    skipped: Tally,
    /// Names that were changed, since a sidecar or a field could not name them.
    renamed: Tally,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Shard {
    path: PathBuf,
    sidecar: PathBuf,
    samples: u64,
    bytes: u64,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let packed = pack(arguments, &Reporter::default(), &|| interrupt.seen())?;
    output::print(&packed, json)
}

/// Packs until `stop` says so.
fn pack(arguments: &Arguments, reporter: &Reporter, stop: &dyn Fn() -> bool) -> Result<Packed, Failure> {
    let start = Instant::now();
    let mut dataset = gather::gather(&arguments.folder, &arguments.output, arguments.labels, stop)?;
    if arguments.shuffle {
        shuffle(&mut dataset.samples, arguments.seed);
    }
    let staging = Staging::new(&arguments.output)?;
    let bar = reporter.bar("packing", dataset.samples.iter().map(SampleFiles::bytes).sum());
    let mut shards = Vec::new();
    for (number, samples) in cut(&dataset.samples, arguments).into_iter().enumerate() {
        let name = format!("{}-{number:06}.tar", arguments.prefix);
        let mut shard = Writer::new(&staging, name)?;
        for sample in samples {
            shard.push(sample, stop, &mut |bytes| bar.inc(bytes))?;
        }
        shards.push(shard.finish()?);
    }
    bar.finish_and_clear();
    let list = format!("{}.json", arguments.prefix);
    staging.write(&list, &wids(&arguments.prefix, &shards))?;
    if let Some(classes) = &dataset.classes {
        staging.write_or_same("classes.json", &classes_json(classes))?;
    }
    staging.publish()?;
    Ok(report(arguments, &dataset, shards, start))
}

fn report(arguments: &Arguments, dataset: &Dataset, shards: Vec<Written>, start: Instant) -> Packed {
    let output = &arguments.output;
    let shard = |shard: &Written| Shard {
        path: output.join(&shard.name),
        sidecar: output.join(&shard.sidecar),
        samples: shard.samples,
        bytes: shard.bytes,
    };
    Packed {
        output: output.clone(),
        samples: shards.iter().map(|shard| shard.samples).sum(),
        bytes: shards.iter().map(|shard| shard.bytes).sum(),
        shards: shards.iter().map(shard).collect(),
        list: output.join(format!("{}.json", arguments.prefix)),
        classes: dataset.classes.as_ref().map(|_| output.join("classes.json")),
        class_count: dataset.classes.as_ref().map(Vec::len),
        skipped: dataset.skipped.clone(),
        renamed: dataset.renamed.clone(),
        seconds: start.elapsed().as_secs_f64(),
    }
}

/// The order of the loader's own bijection: no table of random draws, the same on every machine.
fn shuffle(samples: &mut Vec<SampleFiles>, seed: u64) {
    let order = Perm::new(samples.len() as u64, mix(seed));
    let mut from: Vec<Option<SampleFiles>> = std::mem::take(samples).into_iter().map(Some).collect();
    samples.extend((0..from.len()).filter_map(|at| from[order.at(at as u64) as usize].take()));
}

/// Cuts samples into shards: each as full as the limits allow, and never empty.
fn cut<'a>(samples: &'a [SampleFiles], arguments: &Arguments) -> Vec<&'a [SampleFiles]> {
    let (mut shards, mut first, mut bytes) = (Vec::new(), 0, tar::END_BYTES);
    for (at, sample) in samples.iter().enumerate() {
        let more = sample.tar_bytes();
        let full = bytes + more > arguments.shard_size || (at - first) as u64 >= arguments.shard_samples;
        if full && at > first {
            shards.push(&samples[first..at]);
            (first, bytes) = (at, tar::END_BYTES);
        }
        bytes += more;
    }
    shards.push(&samples[first..]);
    shards
}

/// A shard that is whole, in the staging folder.
#[derive(Debug)]
struct Written {
    name: String,
    sidecar: String,
    samples: u64,
    bytes: u64,
}

/// Writes one shard and remembers where everything is.
struct Writer<'a> {
    staging: &'a Staging,
    name: String,
    file: BufWriter<File>,
    position: u64,
    index: ShardIndexBuilder,
}

impl<'a> Writer<'a> {
    fn new(staging: &'a Staging, name: String) -> Result<Self, Failure> {
        let file = BufWriter::with_capacity(1 << 20, staging.create(&name)?);
        Ok(Self { staging, name, file, position: 0, index: ShardIndexBuilder::new() })
    }

    fn push(
        &mut self,
        sample: &SampleFiles,
        stop: &dyn Fn() -> bool,
        done: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let mut members = Vec::with_capacity(sample.members.len());
        for member in &sample.members {
            if stop() {
                return Err(Failure::Interrupted("nothing was packed, and nothing is left behind"));
            }
            let header = tar::header(&sample.name(member), member.size);
            let refused = self.refused();
            self.file.write_all(&header).map_err(&refused)?;
            let data_offset = self.position + header.len() as u64;
            match &member.content {
                Content::Bytes(bytes) => self.file.write_all(bytes).map_err(&refused)?,
                Content::File(path) => copy(path, member.size, &mut self.file, &refused)?,
            }
            self.file.write_all(tar::padding(member.size)).map_err(&refused)?;
            self.position = data_offset + member.size.next_multiple_of(tar::BLOCK);
            done(member.size);
            members.push(MemberEntry { suffix: Suffix::new(&member.suffix), data_offset, size: member.size });
        }
        let entry = SampleEntry::new(&sample.key, members);
        self.index.push(&entry).map_err(|error| Failure::failed(format!("{}: {error}", self.name)))
    }

    fn refused(&self) -> impl Fn(std::io::Error) -> Failure + use<> {
        let name = self.name.clone();
        move |error| Failure::io(format_args!("{name} can't be written"), &error)
    }

    fn finish(mut self) -> Result<Written, Failure> {
        let refused = self.refused();
        self.file.write_all(&[0; tar::END_BYTES as usize]).map_err(&refused)?;
        let bytes = self.position + tar::END_BYTES;
        let file = self.file.into_inner().map_err(|error| refused(error.into_error()))?;
        file.sync_all().map_err(&refused)?;
        let wrong = |error| Failure::failed(format!("the sidecar of {}: {error}", self.name));
        // Sidecars hold no identity: it follows from where the shard is stored.
        let index = self.index.finish(ObjectId::from_bytes([0; 16]), bytes).map_err(wrong)?;
        let sidecar = format!("{}.idx", self.name.trim_end_matches(".tar"));
        self.staging.write(&sidecar, &sidecar::write(&index).map_err(wrong)?)?;
        Ok(Written { name: self.name, sidecar, samples: index.len(), bytes })
    }
}

/// Copies a file of exactly `size` bytes.
fn copy(
    path: &Path,
    size: u64,
    into: &mut impl Write,
    refused: &impl Fn(std::io::Error) -> Failure,
) -> Result<(), Failure> {
    let unreadable = |error| Failure::io(format_args!("{} can't be read", path.display()), &error);
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut left, mut buffer) = (size, vec![0; 256 << 10]);
    loop {
        // One byte more than there should be shows a file that has grown.
        let most = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let read = file.read(&mut buffer[..most]).map_err(unreadable)?;
        if read as u64 > left || (read == 0 && left > 0) {
            return Err(Failure::failed(format!(
                "{} changed while it was packed ({size} bytes when it was listed); pack again when nothing writes there",
                path.display()
            )));
        }
        if read == 0 {
            return Ok(());
        }
        into.write_all(&buffer[..read]).map_err(refused)?;
        left -= read as u64;
    }
}

/// WebDataset's list of shards with their counts.
fn wids(name: &str, shards: &[Written]) -> Vec<u8> {
    let shard = |shard: &Written| serde_json::json!({"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes});
    let list: Vec<_> = shards.iter().map(shard).collect();
    pretty(&serde_json::json!({
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name,
        "shardlist": list,
    }))
}

fn classes_json(classes: &[String]) -> Vec<u8> {
    let numbers: serde_json::Map<_, _> =
        classes.iter().enumerate().map(|(number, name)| (name.clone(), number.into())).collect();
    pretty(&serde_json::json!({"classes": classes, "class_to_idx": numbers}))
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

impl Report for Packed {
    fn text(&self) -> String {
        let labels =
            self.class_count.map(|n| format!(" in {}", count(n as u64, "class"))).unwrap_or_default();
        let mut lines = vec![format!(
            "{}{labels} packed into {}, {}, in {:.1} s",
            count(self.samples, "sample"),
            count(self.shards.len() as u64, "shard"),
            size::show(self.bytes),
            self.seconds
        )];
        let mut table = output::Table::new(&[], &[1, 2]);
        for shard in &self.shards {
            let path = clean(&shard.path.display().to_string());
            table.row([path, count(shard.samples, "sample"), size::show(shard.bytes), "+ .idx".into()]);
        }
        lines.push(table.text());
        let also = [Some(&self.list), self.classes.as_ref()].into_iter().flatten();
        lines.extend(also.map(|path| clean(&path.display().to_string())));
        for (tally, noun, why) in [
            (&self.skipped, "file", "in no sample (hidden, special, without a suffix, or no image)"),
            (
                &self.renamed,
                "name",
                "changed, since white space and dots in keys can't be named in sidecars and fields",
            ),
        ] {
            if tally.count > 0 {
                let examples: Vec<String> = tally.examples.iter().map(|name| clean(name)).collect();
                lines.push(format!("{} {why}: {}", count(tally.count, noun), examples.join(", ")));
            }
        }
        lines.join("\n")
    }
}
