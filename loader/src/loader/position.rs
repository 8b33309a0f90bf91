//! Where a loader stands, and the order in which it goes on: by its options, or by a state that was loaded.

use std::sync::Arc;
use std::time::Duration;

use super::Loader;
use crate::agree::{Agreement, Terms};
use crate::checkpoint::{Fingerprint, Given, State};
use crate::epoch::{Epoch, Over};
use crate::error::Result;
use crate::options::LoaderOptions;
use crate::pipeline::queue::Stage;
use crate::plan::{DEFAULT_SHUFFLE_WINDOW, EpochCut, OrderMode, OrderSpec, Progress};

/// Where the loader stands, and what runs.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) progress: Progress,
    /// The epoch was left early by the consumer: the next start begins another one.
    pub(super) left: bool,
    /// A state that was loaded and not yet gone on with.
    pub(super) pending: Option<State>,
    /// The order's settings and the dataset's fingerprint, once counts are known.
    pub(super) order: Option<(OrderSpec, Fingerprint)>,
    pub(super) epoch: Option<Epoch>,
    /// None with one rank, or where nothing tells which the others are.
    pub(super) agreement: Option<Agreement>,
    /// Tells when nothing of the last epoch's work is left.
    pub(super) over: Option<Over>,
    /// Stalls of epochs that are over, by stage.
    pub(super) stalls: [Duration; Stage::ALL.len()],
    pub(super) batches: u64,
    pub(super) samples: u64,
    pub(super) closed: bool,
}

impl Position {
    pub(super) fn new(agreement: Option<Agreement>) -> Self {
        Self {
            progress: Progress { epoch: 0, consumed: 0 },
            left: false,
            pending: None,
            order: None,
            epoch: None,
            agreement,
            over: None,
            stalls: Default::default(),
            batches: 0,
            samples: 0,
            closed: false,
        }
    }

    pub(super) fn run(&mut self, (epoch, over): (Epoch, Over)) {
        (self.epoch, self.over) = (Some(epoch), Some(over));
    }

    /// Where the next start begins: an epoch that was left is over.
    pub(super) fn upcoming(&self) -> Progress {
        match self.left {
            true => Progress { epoch: self.progress.epoch.saturating_add(1), consumed: 0 },
            false => self.progress,
        }
    }

    /// Keeps an ended epoch's account.
    pub(super) fn settle(&mut self, epoch: &Epoch) {
        for stage in Stage::ALL {
            self.stalls[stage as usize] += epoch.ready.stall(stage);
        }
    }
}

impl Loader {
    pub(super) fn cut(&self, total: u64, start: Progress) -> Result<EpochCut> {
        EpochCut::new(total, start, self.options.batch_size as u64, self.world, self.options.drop_last)
    }

    pub(super) fn terms_at(&self, position: &Position, order: String) -> Terms {
        let Progress { epoch, consumed } = position.upcoming();
        let LoaderOptions { batch_size, drop_last, .. } = &self.options;
        Terms { order, epoch, consumed, batch_size: *batch_size as u64, drop_last: *drop_last }
    }

    pub(super) fn fingerprint(&self, counts: &[u64]) -> Fingerprint {
        Fingerprint::new(counts, self.place.catalog.objects().iter().map(|object| &object.id))
    }

    pub(super) fn given(&self) -> Given {
        Given {
            seed: Some(self.options.seed),
            mode: Some(self.options.mode),
            canonical_ranks: self.options.canonical_ranks,
            shuffle_window: self.options.shuffle_window,
        }
    }

    pub(super) fn options_order(&self, counts: Arc<[u64]>, epoch: u64) -> OrderSpec {
        OrderSpec {
            counts,
            seed: self.options.seed,
            epoch,
            canonical_ranks: self.options.canonical_ranks.unwrap_or(self.options.world_size),
            shuffle_window: self.options.shuffle_window.unwrap_or(DEFAULT_SHUFFLE_WINDOW),
            mode: self.options.mode,
        }
    }

    /// The order's settings: those of the loaded state, or the options'.
    pub(super) fn order(&self, position: &mut Position) -> Result<(OrderSpec, Fingerprint)> {
        if let Some(order) = &position.order {
            return Ok(order.clone());
        }
        let counts = self.place.session.block_on(self.place.catalog.counts())?;
        let dataset = self.fingerprint(&counts);
        let spec = match &position.pending {
            Some(state) => {
                let resumed = state.resume(counts, &dataset, &self.given())?;
                if !resumed.same_objects {
                    self.place.reporter.announce(
                        "the state was taken on other versions of the shards (a copy, or written anew): the order is the same, \
                         the samples are if the shards' contents are",
                    );
                }
                position.pending = None;
                resumed.spec
            }
            None => self.options_order(counts, position.progress.epoch),
        };
        if self.options.mode == OrderMode::Storage && self.options.world_size > 1 {
            self.place.reporter.announce(
                "shuffle=False with several ranks: every rank reads every shard; shuffle=True gives each rank shards of its own",
            );
        }
        Ok(position.order.insert((spec, dataset)).clone())
    }
}
