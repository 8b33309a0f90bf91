//! `forebay bench`: what this machine gives with this dataset, tier by tier, beside the limits of its parts.
//!
//! Each round measures everything once, so that a machine that changes its speed changes all figures: a cold epoch into an empty cache
//! folder, one from host memory, what the origin, the disk, memory and decoding give by themselves, and one from NVMe. The folder is
//! the measurement's own, beside the user's, and is removed at the end.

mod figures;
mod limits;
mod scratch;

use std::path::PathBuf;

use clap::Args;
use forebay_cache::ByteRange;

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::job::{Epoch, JobArguments, Start};
use super::output;
use super::place::{CacheArguments, Place};
use crate::catalog::Catalog;
use crate::field::{Field, FieldKind};
use crate::size;
use figures::{Dataset, Figures, Limit, Tier};
use scratch::Scratch;

/// What a cache takes beside its blocks, and other programs of the machine may need meanwhile.
const SPARE_BYTES: u64 = 256 << 20;

/// The least that any cache works with.
const LEAST_BYTES: u64 = 64 << 20;

/// Less than this part of an epoch's bytes from host memory is no epoch from host memory.
const MOSTLY: f64 = 0.95;

/// Measure this dataset on this machine: a cold epoch, one from NVMe, one from host memory, and the limits of the parts. Uses an empty
/// cache folder of its own beside --cache-dir, which is removed at the end; the user's own is left alone. Without fields, those of
/// the first sample: images get a random crop and a flip, .cls is a whole number, everything else is bytes.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,
    /// How often everything is measured, in turn; figures are medians
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    #[command(flatten)]
    cache: CacheArguments,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let scratch = Scratch::beside(&arguments.cache.dir()?)?;
    let mut bench = Bench::prepare(arguments, &scratch, interrupt)?;
    let ended = bench.rounds();
    bench.figures.interrupted = matches!(ended, Err(Failure::Interrupted(_)));
    // Rounds that were finished before an error count.
    if ended.is_ok() || bench.figures.interrupted || bench.figures.rounds > 0 {
        output::print(&bench.figures.summary(), json)?;
    }
    ended
}

/// Said when Ctrl-C comes.
const LEFT: &str =
    "the figures are those of what was measured until then; the temporary cache folder is removed";

struct Bench<'a> {
    arguments: &'a Arguments,
    interrupt: &'a Interrupt,
    scratch: &'a Scratch,
    /// The round's cache.
    folder: PathBuf,
    limit_bytes: u64,
    fields: Vec<Field>,
    figures: Figures,
}

impl<'a> Bench<'a> {
    /// Finds the dataset and its fields, and makes sure that it fits.
    fn prepare(
        arguments: &'a Arguments,
        scratch: &'a Scratch,
        interrupt: &'a Interrupt,
    ) -> Result<Self, Failure> {
        let free_bytes = scratch.free_bytes()?.saturating_sub(SPARE_BYTES);
        if free_bytes < LEAST_BYTES {
            return Err(Failure::failed(format!(
                "{} has too little room: {} are left free, and at least {} are needed beside them; name a folder on another disk with \
                 --cache-dir",
                scratch.parent().display(),
                size::show(SPARE_BYTES),
                size::show(LEAST_BYTES)
            )));
        }
        let limit_bytes = arguments.cache.cache_limit.map_or(free_bytes, |limit| limit.min(free_bytes));
        let fits = |catalog: &Catalog| check_room(catalog, limit_bytes, scratch);
        let folder = scratch.empty("round-0")?;
        let place = Place::open_in(folder.clone(), limit_bytes, &arguments.cache, interrupt)?;
        let (dataset, fields) = place.run("nothing was measured", async {
            let catalog = place.catalog(place.shards(&arguments.job.sources).await?)?;
            fits(&catalog)?;
            let fields = arguments.job.fields(&place, &catalog).await?;
            let samples = catalog.counts().await?.iter().sum();
            // Now decompressed sizes of gzip shards are known, too.
            fits(&catalog)?;
            Ok((Dataset::of(&catalog, samples), fields))
        })?;
        let figures = Figures::new(&arguments.job, arguments.rounds, dataset, &fields, place.session.io());
        Ok(Self { arguments, interrupt, scratch, folder, limit_bytes, fields, figures })
    }

    fn rounds(&mut self) -> Result<(), Failure> {
        for round in 1..=self.arguments.rounds {
            Scratch::remove(&self.folder)?;
            self.folder = self.scratch.empty(&format!("round-{round}"))?;
            self.cold()?;
            self.warm()?;
            self.figures.rounds += 1;
        }
        Ok(())
    }

    /// What an empty cache folder has to do with: the cold epoch, the one behind it in the same process, and the origin alone.
    fn cold(&mut self) -> Result<(), Failure> {
        self.figures.reset_peak();
        let start = Start::now()?;
        let place = self.open()?;
        // A part of what is measured: without indexes this is a pass over the data.
        let catalog = self.catalog(&place)?;
        place.run(LEFT, async { Ok(catalog.counts().await?) })?;
        drop(catalog);
        let cold = self.epoch(&place, start)?;
        self.figures.epoch(Tier::Cold, cold);

        self.figures.reset_peak();
        let memory = self.epoch(&place, Start::now()?)?;
        let (from_memory, all) = (memory.bytes_by_tier["memory"], memory.bytes_by_tier.values().sum::<u64>());
        if from_memory as f64 >= MOSTLY * all as f64 {
            self.figures.epoch(Tier::Memory, memory);
        } else {
            self.figures.left_out(
                Tier::Memory,
                from_memory,
                all,
                place.session.cache().stats().ram_limit_bytes,
            );
        }

        let catalog = self.catalog(&place)?;
        if let Some(rate) = limits::origin(&place, &catalog)? {
            self.figures.limit(Limit::Origin, rate);
        }
        // What an epoch didn't need is not measured, but would be missing where the disk is.
        place.run(LEFT, fill(&place, &catalog))
    }

    /// What a process has to do with that finds everything on NVMe, and nothing in memory.
    fn warm(&mut self) -> Result<(), Failure> {
        let place = self.open()?;
        let threads = self.arguments.job.threads();
        self.figures.limit(Limit::Memcpy, limits::memcpy(threads)?);
        let catalog = self.catalog(&place)?;
        self.figures.limit(Limit::Disk, limits::disk(&place, &catalog, threads)?);
        if let Some(rate) = self.decoding(&place, &catalog)? {
            self.figures.limit(Limit::Decoding, rate);
        }
        drop(catalog);
        self.figures.reset_peak();
        let warm = self.epoch(&place, Start::now()?)?;
        self.figures.epoch(Tier::Nvme, warm);
        Ok(())
    }

    fn open(&self) -> Result<Place<'a>, Failure> {
        Place::open_in(self.folder.clone(), self.limit_bytes, &self.arguments.cache, self.interrupt)
    }

    fn catalog(&self, place: &Place<'_>) -> Result<Catalog, Failure> {
        place.run(LEFT, async { place.catalog(place.shards(&self.arguments.job.sources).await?) })
    }

    fn epoch(&self, place: &Place<'_>, start: Start) -> Result<Epoch, Failure> {
        let job = &self.arguments.job;
        let options = job.options(self.fields.clone(), place.settings.clone(), None);
        let epoch = job.epoch(options, start, self.interrupt)?;
        // A part of an epoch is no figure: its first batch weighs too much.
        if epoch.interrupted { Err(Failure::Interrupted(LEFT)) } else { Ok(epoch) }
    }

    /// Images per second of a sample's image fields together. None where there is none.
    fn decoding(&self, place: &Place<'_>, catalog: &Catalog) -> Result<Option<f64>, Failure> {
        let mut rates = Vec::new();
        for field in &self.fields {
            if let FieldKind::Image { transforms, decode, .. } = &field.kind {
                let images = place.run(LEFT, limits::images(place, catalog, field))?;
                let job = &self.arguments.job;
                rates.push(limits::decoding(&images, transforms, *decode, job, self.interrupt)?);
            }
        }
        Ok((!rates.is_empty()).then(|| limits::in_turn(&rates)))
    }
}

/// Brings all of the dataset into the folder.
async fn fill(place: &Place<'_>, catalog: &Catalog) -> Result<(), Failure> {
    for shard in 0..catalog.objects().len() as u32 {
        let object = catalog.served(shard)?;
        let done = place.session.cache().prefetch(&object, ByteRange::new(0, object.size_bytes)).await?;
        if done.declined > 0 {
            return Err(Failure::failed(format!(
                "{} of {} found no room in the temporary cache folder, or its disk fails",
                output::count(done.declined.into(), "block"),
                object.location
            )));
        }
    }
    Ok(())
}

/// An error where the dataset doesn't fit: what is read would be evicted before it is read again.
fn check_room(catalog: &Catalog, limit_bytes: u64, scratch: &Scratch) -> Result<(), Failure> {
    let needed_bytes = catalog.fitting_limit_bytes();
    if needed_bytes <= limit_bytes {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "the dataset needs {} in a cache folder of its own in {}, and {} may be used there ({} stay free); name fewer shards, or a folder \
         on a larger disk with --cache-dir",
        size::show(needed_bytes),
        scratch.parent().display(),
        size::show(limit_bytes),
        size::show(SPARE_BYTES)
    )))
}
