//! Which samples the batches of an epoch hold, one batch after another.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::catalog::Found;
use crate::error::{Error, Result};
use crate::plan::{Cursor, EpochCut, Order, Progress, SampleRef};

/// A row's sample.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Its position in the epoch's order.
    pub(crate) position: u64,
    /// Its number in storage order, which random augmentation is keyed by.
    pub(crate) number: u64,
    pub(crate) at: SampleRef,
    /// Where its members lie, as far as that is known already.
    pub(crate) found: Option<Found>,
}

/// The samples of one batch of this rank.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) samples: Vec<Placed>,
    /// Rows that are not padding.
    pub(crate) valid: usize,
    /// The first position of the global batch.
    pub(crate) start: u64,
    /// Where all ranks stand once it is delivered.
    pub(crate) after: Progress,
}

/// A walk over the batches of an epoch.
#[derive(Debug)]
pub(crate) enum Walk {
    /// By the order.
    Ordered(Ordered),
    /// In storage order on one rank, with no count known: as samples are found.
    Discovered(Discovered),
}

impl Walk {
    /// The next batch; `None` behind the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Planned>> {
        match self {
            Self::Ordered(walk) => Ok(walk.next()),
            Self::Discovered(walk) => walk.next().await,
        }
    }
}

/// See [`Walk::Ordered`].
#[derive(Debug)]
pub(crate) struct Ordered {
    cursor: Cursor,
    cut: EpochCut,
    next: u64,
}

impl Ordered {
    pub(crate) fn new(order: Arc<Order>, cut: EpochCut) -> Self {
        Self { cursor: Cursor::new(order), cut, next: 0 }
    }

    fn next(&mut self) -> Option<Planned> {
        let batch = self.cut.batch(self.next)?;
        self.next += 1;
        let mut samples = Vec::with_capacity(batch.rows as usize);
        for position in batch.positions() {
            let at = self.cursor.at(position).sample;
            let number = self.cursor.order().sample_number(at);
            samples.push(Placed { position, number, at, found: None });
        }
        let after = self.cut.progress(self.next);
        Some(Planned { samples, valid: batch.valid as usize, start: batch.start, after })
    }
}

/// See [`Walk::Discovered`].
#[derive(Debug)]
pub(crate) struct Discovered {
    samples: mpsc::Receiver<Result<Found>>,
    /// A sample that was found and not yet planned.
    ahead: Option<Found>,
    batch_size: usize,
    drop_last: bool,
    at: Progress,
}

impl Discovered {
    pub(crate) fn new(
        samples: mpsc::Receiver<Result<Found>>,
        epoch: u64,
        batch_size: usize,
        drop_last: bool,
    ) -> Self {
        Self { samples, ahead: None, batch_size, drop_last, at: Progress { epoch, consumed: 0 } }
    }

    async fn next(&mut self) -> Result<Option<Planned>> {
        let mut rows = Vec::with_capacity(self.batch_size);
        let start = self.at.consumed;
        while rows.len() < self.batch_size
            && let Some(sample) = self.sample().await?
        {
            let position = start + rows.len() as u64;
            rows.push(Placed { position, number: position, at: sample.at, found: Some(sample) });
        }
        if rows.is_empty() || (self.drop_last && rows.len() < self.batch_size) {
            return if start > 0 { Ok(None) } else { Err(self.nothing(rows.len())) };
        }
        self.at.consumed += rows.len() as u64;
        // Whether this is the last batch belongs to the state, so one sample more is waited for. (A rest that drop_last
        // leaves out shows only at the end: until then the state points to it, and a resumed epoch ends at once.)
        self.ahead = self.sample().await?;
        let after = match self.ahead {
            Some(_) => self.at,
            None => Progress { epoch: self.at.epoch.saturating_add(1), consumed: 0 },
        };
        Ok(Some(Planned { valid: rows.len(), samples: rows, start, after }))
    }

    /// An epoch without a batch would end in silence.
    fn nothing(&self, samples: usize) -> Error {
        let message = match samples {
            0 => "the dataset has no samples: every shard is empty".to_owned(),
            _ => format!(
                "the dataset's {samples} samples are fewer than a batch of {}, and drop_last leaves them out; use drop_last=False or a \
                 smaller batch_size",
                self.batch_size
            ),
        };
        Error::Dataset { message }
    }

    async fn sample(&mut self) -> Result<Option<Found>> {
        match self.ahead.take() {
            Some(sample) => Ok(Some(sample)),
            None => self.samples.recv().await.transpose(),
        }
    }
}
