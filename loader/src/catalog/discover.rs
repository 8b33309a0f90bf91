//! Storage order without any index: samples are handed on as the pass over the shards finds them, so that the first batch comes before
//! the first shard is down. The indexes are kept on the way: the next epoch has them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::scan::Pass;
use super::{Catalog, Found, INDEX};
use crate::error::{Error, Result};
use crate::plan::SampleRef;

/// Samples found ahead of the planner: some batches, and bounded memory.
const FOUND_AHEAD: usize = 1024;

/// Samples taken from a known index at a time.
const CHUNK: u64 = 256;

/// Starts to look for all samples of the dataset, in storage order. The channel ends behind the last one or behind an error;
/// dropping the receiver ends the pass.
pub(crate) fn discover(
    catalog: &Arc<Catalog>,
    runtime: &Handle,
) -> (mpsc::Receiver<Result<Found>>, AbortHandle) {
    let (found, samples) = mpsc::channel(FOUND_AHEAD);
    let catalog = catalog.clone();
    let looking = runtime.spawn(async move {
        if let Err(Stopped::Failed(error)) = walk(&catalog, &found).await {
            // Nobody listens: the epoch was left, and its error with it.
            drop(found.send(Err(error)).await);
        }
    });
    (samples, looking.abort_handle())
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
        let at = shard as usize;
        if catalog.index_without_pass(at).await?.is_none()
            && let Some(object) = catalog.plain(at).await?
        {
            let mut pass = Pass::new(&catalog.cache, &object, &catalog.region);
            let mut next = 0;
            while let Some(step) = pass.step().await? {
                catalog.passed.add(step.bytes);
                for entry in step.samples {
                    let at = SampleRef { shard, index: next };
                    next += 1;
                    send(found, Found { at, object: object.clone(), entry, claimed: false }).await?;
                }
            }
            catalog.keep(INDEX, &pass.finish()?).await?;
            continue;
        }
        // Known, or gzip: that one's pass comes first.
        let index = catalog.index(shard).await?;
        let object = catalog.served(shard)?;
        for start in (0..index.len()).step_by(CHUNK as usize) {
            let end = (start + CHUNK).min(index.len());
            let entries = index.samples(start..end).map_err(|error| super::stale(&object, &error))?;
            for (index_in_shard, entry) in (start..).zip(entries) {
                let at = SampleRef { shard, index: index_in_shard };
                send(found, Found { at, object: object.clone(), entry, claimed: index.is_claimed() }).await?;
            }
        }
    }
    Ok(())
}

async fn send(found: &mpsc::Sender<Result<Found>>, sample: Found) -> Result<(), Stopped> {
    found.send(Ok(sample)).await.map_err(|_| Stopped::Left)
}
