//! Rows of samples that are kept, many at a time: no task, no lock and no channel for a single one, so that it goes at the memory's speed.

use futures::future::join_all;

use super::source::Source;
use super::{Done, Job, Workshop};
use crate::error::Result;
use crate::pipeline::sample::From;
use crate::pipeline::slot::{Cell, RowSample};

/// Pieces of work that a batch's copied rows are cut in, for each thread: so many that no thread waits long for the others.
const CHUNKS_A_THREAD: usize = 4;
/// The fewest rows of such a piece: handing it over costs as much as copying one.
const LEAST_CHUNK: usize = 8;

impl Workshop {
    /// Makes rows of what is kept of their samples, some on each decoding thread: no task and no lock for a single one.
    pub(crate) async fn copy(&self, jobs: Vec<Job>) -> Vec<(usize, Result<Done>)> {
        if jobs.is_empty() {
            return Vec::new();
        }
        let each = jobs.len().div_ceil(self.pool.current_num_threads() * CHUNKS_A_THREAD).max(LEAST_CHUNK);
        let mut jobs = jobs.into_iter();
        let chunks = std::iter::from_fn(|| Some(jobs.by_ref().take(each).collect::<Vec<_>>()));
        let chunks = chunks.take_while(|chunk| !chunk.is_empty());
        join_all(chunks.map(|chunk| self.copy_chunk(chunk))).await.into_iter().flatten().collect()
    }

    async fn copy_chunk(&self, mut jobs: Vec<Job>) -> Vec<(usize, Result<Done>)> {
        let rows: Vec<usize> = jobs.iter().map(|job| job.row).collect();
        let (decoder, draws, account) = (self.decoder.clone(), self.draws, self.account.clone());
        let own = self.parts.scratch as u64;
        let copy = move || {
            let (mut samples, mut bytes) = (0, 0);
            let mut copied = Vec::with_capacity(jobs.len());
            for mut job in jobs.drain(..) {
                let made = match &job.source {
                    Source::Kept(kept) => {
                        let from = From::Kept(&kept.record);
                        let made = decoder.decode(from, &mut job.cells, &[], own, draws, job.number).is_ok();
                        samples += u64::from(made);
                        bytes += if made { kept.record.len() as u64 } else { 0 };
                        made
                    }
                    Source::Found(_) => false,
                };
                copied.push((job, made));
            }
            account.kept(samples, bytes);
            copied
        };
        let copied = match self.on_worker(copy).await {
            Ok(copied) => copied,
            Err(error) => return rows.into_iter().map(|row| (row, Err(error.clone()))).collect(),
        };
        let mut done = Vec::with_capacity(copied.len());
        for (job, made) in copied {
            let row = job.row;
            let made = match made {
                true => Ok(Done {
                    sample: RowSample { shard: job.at.shard, index: job.at.index, label: job.source.label() },
                    cells: job.cells.into_iter().map(|row| Cell { row, form: None }).collect(),
                }),
                // More memory than a thread's own, or an error: by itself, and with its name.
                false => self.row(job, None).await,
            };
            done.push((row, made));
        }
        done
    }
}
