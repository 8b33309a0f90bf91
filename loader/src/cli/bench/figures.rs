//! What was measured, and what it comes to: medians, and each tier's share of what limits it.

use std::collections::BTreeMap;

use forebay_cache::io::Report as Io;
use serde::Serialize;

use super::super::job::{Epoch, JobArguments, show_stalls};
use super::super::output::{Report, Table, clean, count};
use crate::catalog::Catalog;
use crate::field::{Field, FieldKind};
use crate::measure::median;
use crate::measure::process::{peak_rss_bytes, reset_peak_rss};
use crate::size;

/// Where an epoch's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tier {
    Cold,
    Nvme,
    Memory,
}

/// A part of the machine that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Limit {
    Decoding,
    Origin,
    Disk,
    Memcpy,
}

/// How large the dataset is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Dataset {
    pub(super) shards: usize,
    pub(super) samples: u64,
    pub(super) bytes: u64,
}

impl Dataset {
    pub(super) fn of(catalog: &Catalog, samples: u64) -> Self {
        let bytes = catalog.objects().iter().map(|object| object.size_bytes).sum();
        Self { shards: catalog.objects().len(), samples, bytes }
    }
}

/// Every figure of every round.
#[derive(Debug)]
pub(super) struct Figures {
    /// That are finished.
    pub(super) rounds: u32,
    pub(super) interrupted: bool,
    head: Head,
    images_per_sample: usize,
    limits: BTreeMap<Limit, Vec<f64>>,
    epochs: BTreeMap<Tier, Vec<(Epoch, Option<u64>)>>,
    left_out: BTreeMap<Tier, String>,
    /// Whether a peak is that of what came since the last reset.
    peaks: bool,
}

/// What is known before the first figure.
#[derive(Clone, Debug, Serialize)]
struct Head {
    dataset: Dataset,
    fields: Vec<Field>,
    planned_rounds: u32,
    threads: usize,
    batch_size: usize,
    /// Of each epoch at most; null: all.
    batches: Option<u64>,
    io: Io,
}

impl Figures {
    pub(super) fn new(job: &JobArguments, rounds: u32, dataset: Dataset, fields: &[Field], io: &Io) -> Self {
        let head = Head {
            dataset,
            fields: fields.to_vec(),
            planned_rounds: rounds,
            threads: job.threads(),
            batch_size: job.batch_size,
            batches: job.batches,
            io: io.clone(),
        };
        let images = fields.iter().filter(|field| matches!(field.kind, FieldKind::Image { .. })).count();
        Self {
            rounds: 0,
            interrupted: false,
            head,
            images_per_sample: images,
            limits: BTreeMap::new(),
            epochs: BTreeMap::new(),
            left_out: BTreeMap::new(),
            peaks: false,
        }
    }

    /// The next epoch's peak of memory begins here, where the kernel allows that.
    pub(super) fn reset_peak(&mut self) {
        self.peaks = reset_peak_rss().is_ok();
    }

    pub(super) fn epoch(&mut self, tier: Tier, epoch: Epoch) {
        let peak = peak_rss_bytes().ok().filter(|_| self.peaks);
        self.epochs.entry(tier).or_default().push((epoch, peak));
    }

    pub(super) fn limit(&mut self, limit: Limit, rate: f64) {
        self.limits.entry(limit).or_default().push(rate);
    }

    /// An epoch from host memory that wasn't.
    pub(super) fn left_out(&mut self, tier: Tier, from_memory: u64, all: u64, most: u64) {
        let why = format!(
            "{} of an epoch's {} were in host memory; a larger --host-memory-limit keeps more than {} of blocks there",
            size::show(from_memory),
            size::show(all),
            size::show(most)
        );
        self.left_out.insert(tier, why);
    }

    pub(super) fn summary(&self) -> Summary {
        let limits: Vec<LimitSummary> =
            self.limits.iter().map(|(&limit, rates)| self.limit_summary(limit, rates)).collect();
        let tiers = self.epochs.iter().map(|(&tier, epochs)| TierSummary::new(tier, epochs, &limits));
        let left_out = self.left_out.iter().filter(|(tier, _)| !self.epochs.contains_key(tier));
        Summary {
            interrupted: self.interrupted,
            rounds: self.rounds,
            head: self.head.clone(),
            tiers: tiers.collect(),
            left_out: left_out.map(|(&tier, why)| LeftOut { tier, why: why.clone() }).collect(),
            limits,
        }
    }

    fn limit_summary(&self, limit: Limit, rates: &[f64]) -> LimitSummary {
        let rate = Range::of(rates.iter().copied());
        let per_sample = match limit {
            Limit::Decoding => self.images_per_sample as f64,
            _ => self.head.dataset.bytes as f64 / self.head.dataset.samples as f64,
        };
        let unit = if limit == Limit::Decoding { "images/s" } else { "bytes/s" };
        LimitSummary { limit, unit, rate, samples_per_second: rate.median / per_sample }
    }
}

/// Of one figure, over all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Range {
    min: f64,
    median: f64,
    max: f64,
}

impl Range {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        Self {
            min: values.clone().fold(f64::INFINITY, f64::min),
            max: values.clone().fold(f64::NEG_INFINITY, f64::max),
            median: median(values),
        }
    }
}

/// The report.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    interrupted: bool,
    rounds: u32,
    #[serde(flatten)]
    head: Head,
    limits: Vec<LimitSummary>,
    tiers: Vec<TierSummary>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug, Serialize)]
struct LimitSummary {
    limit: Limit,
    unit: &'static str,
    #[serde(flatten)]
    rate: Range,
    /// What the median comes to.
    samples_per_second: f64,
}

#[derive(Debug, Serialize)]
struct TierSummary {
    tier: Tier,
    epochs: usize,
    samples_per_second: Range,
    /// Which one it is: the least of those that the tier has; null where none was measured yet.
    limit: Option<Limit>,
    share_of_limit: Option<f64>,
    cpu_seconds_per_sample: f64,
    first_batch_seconds: f64,
    peak_rss_bytes: Option<u64>,
    stall_seconds: BTreeMap<&'static str, f64>,
    bytes_by_tier: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct LeftOut {
    tier: Tier,
    why: String,
}

impl TierSummary {
    fn new(tier: Tier, epochs: &[(Epoch, Option<u64>)], limits: &[LimitSummary]) -> Self {
        let all = || epochs.iter().map(|(epoch, _)| epoch);
        let by_stage = all().flat_map(|epoch| epoch.stall_seconds.keys().copied());
        let stall = |stage| median(all().filter_map(|epoch| epoch.stall_seconds.get(stage).copied()));
        let bytes = |tier: &str| all().filter_map(|epoch| epoch.bytes_by_tier.get(tier).copied()).max();
        let rate = Range::of(all().map(|epoch| epoch.samples_per_second));
        let limit = limits.iter().filter(|limit| tier.is_limited_by(limit.limit));
        let limit = limit.min_by(|one, other| one.samples_per_second.total_cmp(&other.samples_per_second));
        Self {
            tier,
            epochs: epochs.len(),
            samples_per_second: rate,
            limit: limit.map(|limit| limit.limit),
            share_of_limit: limit.map(|limit| rate.median / limit.samples_per_second),
            cpu_seconds_per_sample: median(all().map(|epoch| epoch.cpu_seconds / epoch.samples as f64)),
            first_batch_seconds: median(all().filter_map(|epoch| epoch.first_batch_seconds)),
            peak_rss_bytes: epochs.iter().map(|(_, peak)| *peak).max().flatten(),
            stall_seconds: by_stage.map(|stage| (stage, stall(stage))).collect(),
            bytes_by_tier: crate::pipeline::account::TIER_NAMES
                .into_iter()
                .map(|tier| (tier, bytes(tier).unwrap_or(0)))
                .collect(),
        }
    }
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Nvme => "NVMe",
            Self::Memory => "host memory",
        }
    }

    fn is_limited_by(self, limit: Limit) -> bool {
        match limit {
            Limit::Decoding => true,
            Limit::Origin => self == Self::Cold,
            Limit::Disk => self == Self::Nvme,
            Limit::Memcpy => self == Self::Memory,
        }
    }
}

impl Limit {
    fn name(self) -> &'static str {
        match self {
            Self::Decoding => "decode and resize alone",
            Self::Origin => "plain fetch from the origin",
            Self::Disk => "reads from the disk, verified",
            Self::Memcpy => "memcpy",
        }
    }
}

impl Summary {
    fn about(&self) -> String {
        let Head { dataset, fields, planned_rounds, threads, batch_size, io, .. } = &self.head;
        let fields: Vec<String> = fields.iter().map(|field| clean(&field.name)).collect();
        let state = match (self.interrupted, self.rounds) {
            (true, done) => format!("interrupted: {done} of {}", count((*planned_rounds).into(), "round")),
            (false, done) => count(done.into(), "round"),
        };
        let reads = match (io.direct, &io.buffered_because) {
            (true, _) => "O_DIRECT: the page cache takes no part".to_owned(),
            (false, Some(why)) => format!("through the page cache, which may hold everything ({why})"),
            (false, None) => "through the page cache, which may hold everything".to_owned(),
        };
        format!(
            "{}, {}, {}; fields {}; {}, {} a batch; {state}\nreads of the cache folder: {}, {reads}",
            count(dataset.shards as u64, "shard"),
            count(dataset.samples, "sample"),
            size::show(dataset.bytes),
            fields.join(", "),
            count(*threads as u64, "thread"),
            count(*batch_size as u64, "sample"),
            io.engine,
        )
    }

    fn limits_table(&self) -> String {
        let mut table = Table::new(&["limit", "median", "min", "max", "samples/s"], &[1, 2, 3, 4]);
        for LimitSummary { limit, rate, samples_per_second, .. } in &self.limits {
            let show = |value: f64| match limit {
                Limit::Decoding => format!("{value:.0} images/s"),
                _ => format!("{}/s", size::show(value as u64)),
            };
            table.row([
                limit.name().into(),
                show(rate.median),
                show(rate.min),
                show(rate.max),
                format!("{samples_per_second:.0}"),
            ]);
        }
        table.text()
    }

    fn tiers_table(&self) -> String {
        let head = [
            "epoch",
            "samples/s",
            "min",
            "max",
            "of its limit",
            "CPU ms",
            "first batch",
            "peak RSS",
            "waited for",
        ];
        let mut table = Table::new(&head, &[1, 2, 3, 4, 5, 6, 7]);
        for tier in &self.tiers {
            let rate = tier.samples_per_second;
            table.row([
                tier.tier.name().into(),
                format!("{:.0}", rate.median),
                format!("{:.0}", rate.min),
                format!("{:.0}", rate.max),
                tier.share_of_limit.map_or("?".into(), |share| format!("{share:.2}")),
                format!("{:.3}", tier.cpu_seconds_per_sample * 1e3),
                format!("{:.3} s", tier.first_batch_seconds),
                tier.peak_rss_bytes.map_or("?".into(), size::show),
                show_stalls(&tier.stall_seconds),
            ]);
        }
        table.text()
    }
}

impl Report for Summary {
    fn text(&self) -> String {
        let mut parts = vec![self.about()];
        if !self.tiers.is_empty() {
            parts.push(self.tiers_table());
        }
        if !self.limits.is_empty() {
            parts.push(self.limits_table());
        }
        for LeftOut { tier, why } in &self.left_out {
            parts.push(format!("{}: left out, {why}", tier.name()));
        }
        parts.join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(samples_per_second: f64) -> (Epoch, Option<u64>) {
        let epoch = Epoch {
            samples: 100,
            batches: 1,
            seconds: 100.0 / samples_per_second,
            samples_per_second,
            first_batch_seconds: Some(0.1),
            cpu_seconds: 0.2,
            stall_seconds: BTreeMap::from([("read", 0.1)]),
            bytes_by_tier: BTreeMap::from([("nvme", 1000)]),
            interrupted: false,
        };
        (epoch, Some(1 << 20))
    }

    fn limit(limit: Limit, samples_per_second: f64) -> LimitSummary {
        let rate = Range { min: 1.0, median: 1.0, max: 1.0 };
        LimitSummary { limit, unit: "", rate, samples_per_second }
    }

    #[test]
    fn a_tier_is_held_against_the_least_of_its_own_limits() {
        let limits = [limit(Limit::Decoding, 200.0), limit(Limit::Origin, 50.0), limit(Limit::Disk, 400.0)];
        let epochs = [epoch(100.0), epoch(80.0), epoch(120.0)];
        let nvme = TierSummary::new(Tier::Nvme, &epochs, &limits);
        assert_eq!((nvme.limit, nvme.share_of_limit), (Some(Limit::Decoding), Some(0.5)));
        assert_eq!((nvme.samples_per_second.min, nvme.samples_per_second.max), (80.0, 120.0));
        let cold = TierSummary::new(Tier::Cold, &epochs[..1], &limits);
        assert_eq!((cold.limit, cold.share_of_limit), (Some(Limit::Origin), Some(2.0)));
        let without = TierSummary::new(Tier::Memory, &epochs, &limits[1..]);
        assert_eq!((without.limit, without.share_of_limit), (None, None));
    }
}
