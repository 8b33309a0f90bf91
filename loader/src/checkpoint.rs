//! The state of a loader: where all ranks stand in which order of which dataset, as small JSON.
//!
//! Equal on every rank and of constant size: it holds positions and settings, no list of samples, and nothing of batch size,
//! world size or cache. Taking one copies a few numbers. Loading one checks everything that the order depends on, so
//! that a resumed job delivers exactly the samples that were not delivered, or an error says why it can't.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::sync::Arc;

use forebay_cache::ObjectId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plan::{Order, OrderMode, OrderSpec, Progress};
use crate::{Error, Result};

/// The version of the JSON that is written; this one and older ones are read.
pub const STATE_VERSION: u64 = 1;

/// Which dataset a state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Number of shards, empty ones included.
    pub shards: u64,
    /// Number of samples.
    pub samples: u64,
    /// A digest of the shards' counts, which the order depends on.
    pub counts: String,
    /// A digest of the shards' object ids, which it does not: a copy elsewhere has other ids and the same order.
    pub objects: String,
}

impl Fingerprint {
    /// Of the shards in the dataset's order.
    pub fn new<'a>(counts: &[u64], objects: impl IntoIterator<Item = &'a ObjectId>) -> Self {
        let (mut of_counts, mut of_objects) = (blake3::Hasher::new(), blake3::Hasher::new());
        for count in counts {
            of_counts.update(&count.to_le_bytes());
        }
        for object in objects {
            of_objects.update(object.as_bytes());
        }
        let digest = |hasher: blake3::Hasher| hasher.finalize().to_hex()[..32].to_owned();
        Self {
            shards: counts.len() as u64,
            samples: counts.iter().fold(0, |sum, &count| sum.saturating_add(count)),
            counts: digest(of_counts),
            objects: digest(of_objects),
        }
    }
}

/// What `state_dict()` gives, once it is JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// [`STATE_VERSION`] of the program that wrote it.
    pub version: u64,
    /// The epoch that is being delivered, or that comes next.
    pub epoch: u64,
    /// Positions of it that were delivered, over all ranks.
    pub consumed: u64,
    /// Of the order.
    pub seed: u64,
    /// Of the order.
    pub mode: OrderMode,
    /// Of the order.
    pub canonical_ranks: u32,
    /// Of the order, in samples.
    pub shuffle_window: u64,
    /// [`OrderSpec::hash`].
    pub order: String,
    /// The dataset.
    pub dataset: Fingerprint,
}

/// Settings that a user gave beside a state. `None`: whatever the state says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// seed=
    pub seed: Option<u64>,
    /// shuffle=
    pub mode: Option<OrderMode>,
    /// canonical_ranks=
    pub canonical_ranks: Option<u32>,
    /// shuffle_window=
    pub shuffle_window: Option<u64>,
}

/// A state that fits the dataset.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The order to go on with, in the state's epoch.
    pub spec: OrderSpec,
    /// Where to go on.
    pub progress: Progress,
    /// False where counts agree but object ids don't: a copy elsewhere, or shards that were written anew. The order is the
    /// same; whether the samples are, only the user knows, so that it deserves a warning.
    pub same_objects: bool,
}

impl State {
    /// The state at the start of an order's epoch. Costs a hash of the counts; [`at`](Self::at) moves a copy on for nothing.
    pub fn new(spec: &OrderSpec, dataset: Fingerprint) -> Self {
        Self {
            version: STATE_VERSION,
            epoch: spec.epoch,
            consumed: 0,
            seed: spec.seed,
            mode: spec.mode,
            canonical_ranks: spec.canonical_ranks,
            shuffle_window: spec.shuffle_window,
            order: spec.hash(),
            dataset,
        }
    }

    /// The same, elsewhere in the run.
    pub fn at(&self, progress: Progress) -> Self {
        Self { epoch: progress.epoch, consumed: progress.consumed, ..self.clone() }
    }

    /// Where it stands; an epoch that is consumed to its end is the start of the next.
    pub fn progress(&self) -> Progress {
        if self.consumed == self.dataset.samples {
            return Progress { epoch: self.epoch.saturating_add(1), consumed: 0 };
        }
        Progress { epoch: self.epoch, consumed: self.consumed }
    }

    /// As JSON, on one line, keys in a fixed order: equal states are equal text.
    pub fn to_json(&self) -> String {
        // A struct of numbers and strings has no way to fail; the alternative would be a Result that nobody can act on.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Error::State`] where it is not JSON, not a state, of a newer version, or holds a number that can't be.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            wrong(format!("the state is not JSON ({error}); load what state_dict() returned, unchanged"))
        })?;
        let fields = Fields::of(&value, "")?;
        let version = fields.number("version", 1..=u64::MAX)?;
        if version > STATE_VERSION {
            return Err(wrong(format!(
                "the state has version {version}, written by a newer Forebay; this one reads up to {STATE_VERSION}: update it, or start without the state"
            )));
        }
        let dataset = Fields::of(fields.value("dataset")?, "dataset.")?;
        let samples = dataset.number("samples", 1..=u64::MAX)?;
        Ok(Self {
            version,
            epoch: fields.number("epoch", 0..=u64::MAX - 1)?,
            consumed: fields.number("consumed", 0..=samples)?,
            seed: fields.number("seed", 0..=u64::MAX)?,
            mode: fields.mode()?,
            canonical_ranks: fields.number("canonical_ranks", 1..=u64::from(u32::MAX))? as u32,
            shuffle_window: fields.number("shuffle_window", 1..=u64::MAX)?,
            order: fields.text("order")?,
            dataset: Fingerprint {
                shards: dataset.number("shards", 1..=u64::from(u32::MAX))?,
                samples,
                counts: dataset.text("counts")?,
                objects: dataset.text("objects")?,
            },
        })
    }

    /// Goes on with this state on a dataset.
    ///
    /// # Errors
    /// [`Error::State`] where the dataset is another one or a given setting contradicts the state, saying what differs.
    pub fn resume(&self, counts: Arc<[u64]>, dataset: &Fingerprint, given: &Given) -> Result<Resumed> {
        self.check_dataset(dataset)?;
        self.check_given(given)?;
        let progress = self.progress();
        let spec = OrderSpec {
            counts,
            seed: self.seed,
            epoch: progress.epoch,
            canonical_ranks: self.canonical_ranks,
            shuffle_window: self.shuffle_window,
            mode: self.mode,
        };
        if spec.hash() != self.order {
            return Err(wrong(
                "the state's numbers and its order hash contradict each other: it was changed, or damaged, after state_dict() returned it".to_owned(),
            ));
        }
        Ok(Resumed { spec, progress, same_objects: dataset.objects == self.dataset.objects })
    }

    fn check_dataset(&self, here: &Fingerprint) -> Result<()> {
        let was = &self.dataset;
        let differs = if was.shards != here.shards || was.samples != here.samples {
            format!(
                "it had {} samples in {} shards, here are {} in {}",
                was.samples, was.shards, here.samples, here.shards
            )
        } else if was.counts != here.counts {
            format!(
                "as many samples ({}) in as many shards ({}), but spread over them otherwise; are shards listed in another order?",
                was.samples, was.shards
            )
        } else {
            return Ok(());
        };
        Err(wrong(format!(
            "the state is of another dataset: {differs}; give the loader the shards that the state was taken with, or start without the state"
        )))
    }

    fn check_given(&self, given: &Given) -> Result<()> {
        conflict("shuffle", given.mode.map(OrderMode::as_str), self.mode.as_str())?;
        conflict("seed", given.seed, self.seed)?;
        if self.mode.has_lanes() {
            conflict("canonical_ranks", given.canonical_ranks, self.canonical_ranks)?;
            conflict("shuffle_window", given.shuffle_window, self.shuffle_window)?;
        }
        Ok(())
    }
}

impl Order {
    /// [`State::new`] of this order.
    pub fn state(&self, dataset: Fingerprint) -> State {
        State::new(self.spec(), dataset)
    }
}

fn conflict<T: PartialEq + Display>(name: &str, given: Option<T>, state: T) -> Result<()> {
    match given {
        Some(given) if given != state => Err(wrong(format!(
            "{name} is {given} here and {state} in the state; it is part of the order, so that an epoch can't go on with another: give the loader {name}={state}, or start without the state"
        ))),
        _ => Ok(()),
    }
}

fn wrong(message: String) -> Error {
    Error::State { message }
}

/// Fields of a JSON object, read so that an error names the field.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, prefix: &'static str) -> Result<Self> {
        match value.as_object() {
            Some(map) => Ok(Self { map, prefix }),
            None => Err(wrong(format!(
                "the state{} is not a JSON object; load what state_dict() returned, unchanged",
                if prefix.is_empty() { "" } else { "'s dataset" }
            ))),
        }
    }

    fn value(&self, name: &str) -> Result<&'a Value> {
        self.map.get(name).ok_or_else(|| {
            wrong(format!(
                "the state has no field {}{name}; load what state_dict() returned, unchanged",
                self.prefix
            ))
        })
    }

    fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        let value = self.value(name)?;
        value.as_u64().filter(|number| range.contains(number)).ok_or_else(|| {
            self.unexpected(name, value, &format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    fn text(&self, name: &str) -> Result<String> {
        let value = self.value(name)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.unexpected(name, value, "a string"))
    }

    fn mode(&self) -> Result<OrderMode> {
        let value = self.value("mode")?;
        OrderMode::deserialize(value)
            .map_err(|_| self.unexpected("mode", value, "\"shuffle\", \"sticky\", \"global\" or \"storage\""))
    }

    fn unexpected(&self, name: &str, value: &Value, wanted: &str) -> Error {
        let shown: String = value.to_string().chars().take(40).collect();
        wrong(format!("the state's {}{name} is {shown}; {wanted} was expected", self.prefix))
    }
}
