//! Storage order without any index: samples are handed on as the pass over the shards finds them, so that the first batch comes before
//! the first shard is down. The indexes are kept on the way: the next epoch has them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::scan::Scan;
use super::{Catalog, Found};
use crate::error::{Error, Result};
use crate::plan::SampleRef;

/// Samples found ahead of the planner: some batches, and bounded memory.
const FOUND_AHEAD: usize = 1024;

/// Samples taken from a known index at a time.
const CHUNK: u64 = 256;

/// Starts to look for all samples of the dataset, in storage order. The channel ends behind the last one or behind an error;
/// dropping the receiver ends the pass.
pub(crate) fn discover(catalog: &Arc<Catalog>) -> mpsc::Receiver<Result<Found>> {
    let (found, samples) = mpsc::channel(FOUND_AHEAD);
    let catalog = catalog.clone();
    tokio::spawn(async move {
        if let Err(Stopped::Failed(error)) = walk(&catalog, &found).await {
            // Nobody listens: the epoch was left, and its error with it.
            drop(found.send(Err(error)).await);
        }
    });
    samples
}

enum Stopped {
    Failed(Error),
    Left,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

async fn walk(catalog: &Catalog, found: &mpsc::Sender<Result<Found>>) -> Result<(), Stopped> {
    for shard in 0..catalog.objects().len() as u32 {
        let object = &catalog.objects()[shard as usize];
        let mut next = 0;
        let mut send = async |entry| {
            let at = SampleRef { shard, index: next };
            next += 1;
            found.send(Ok(Found { at, object: object.clone(), entry })).await.map_err(|_| Stopped::Left)
        };
        if let Some(index) = catalog.index_without_pass(object).await? {
            for start in (0..index.len()).step_by(CHUNK as usize) {
                let end = (start + CHUNK).min(index.len());
                for entry in index.samples(start..end).map_err(|error| super::stale(object, &error))? {
                    send(entry).await?;
                }
            }
            continue;
        }
        let mut scan = Scan::new(&catalog.cache, object, &catalog.region);
        while let Some(step) = scan.step().await? {
            for entry in step.samples {
                send(entry).await?;
            }
        }
        catalog.keep(object, &scan.finish()?).await?;
    }
    Ok(())
}
