//! What measurements share, those of `forebay bench` and those of the benchmark harness: limits of the machine, and what this process
//! has used.

pub mod decoding;
pub mod process;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::time::Instant;

use crate::error::{Error, Result};

/// Of these numbers; the mean of the middle two where their count is even, NaN where there are none.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
    (at(numbers.len() / 2) + at(numbers.len().saturating_sub(1) / 2)) / 2.0
}

/// What was done, and what it took.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// In any unit.
    pub work: f64,
    /// From the common start to the last thread's end.
    pub seconds: f64,
    /// Processor time of the whole process.
    pub cpu_seconds: f64,
}

impl Done {
    /// Work per second.
    pub fn rate(&self) -> f64 {
        self.work / self.seconds
    }
}

/// Has each of so many threads make what it needs, which warms it up; then all work at once, and say how much they did.
///
/// # Errors
/// A thread's own; one that panicked.
pub fn together<T>(
    threads: usize,
    make: impl Fn(usize) -> Result<T> + Sync,
    work: impl Fn(T) -> Result<f64> + Sync,
) -> Result<Done> {
    let (ready, go) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let panicked = || Error::Panic { message: "a measuring thread".into() };
    let run = |thread| {
        let made = catch_unwind(AssertUnwindSafe(|| make(thread))).unwrap_or_else(|_| Err(panicked()));
        // Also where it failed: the others wait.
        ready.wait();
        go.wait();
        work(made?)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let started: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        ready.wait();
        let (cpu, start) = (process::cpu_seconds(), Instant::now());
        go.wait();
        let ends = started.into_iter().map(|thread| thread.join().map_err(|_| panicked())?);
        let work = ends.sum::<Result<f64>>()?;
        let seconds = start.elapsed().as_secs_f64();
        let unknown = |error: std::io::Error| Error::config(error.to_string());
        let cpu_seconds = process::cpu_seconds().map_err(unknown)? - cpu.map_err(unknown)?;
        Ok(Done { work, seconds, cpu_seconds })
    })
}

/// Bytes of each of the buffers that [`memcpy`] copies between: more than caches hold.
const COPIED_BYTES: usize = 64 << 20;

/// Copies between buffers of each thread's own, `turns` times: bytes.
///
/// # Errors
/// As [`together`].
pub fn memcpy(threads: usize, turns: usize) -> Result<Done> {
    // Written before: a page that is touched for the first time costs more than its copy.
    let made = |_| Ok((vec![1u8; COPIED_BYTES], vec![2u8; COPIED_BYTES]));
    together(threads, made, |(from, mut to): (Vec<u8>, Vec<u8>)| {
        for _ in 0..turns {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
        Ok((turns * COPIED_BYTES) as f64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn threads_that_fail_keep_nobody_waiting() {
        let made = |thread| if thread == 1 { Err(Error::config("no")) } else { Ok(thread) };
        assert!(together(3, made, |_| Ok(1.0)).is_err());
        let panics = |thread| if thread == 1 { panic!("as asked") } else { Ok(thread) };
        assert!(matches!(together(3, panics, |_| Ok(1.0)), Err(Error::Panic { .. })));
        let done = together(3, Ok, |thread| Ok(thread as f64)).unwrap();
        assert_eq!(done.work, 3.0);
        assert!(done.rate() > 0.0);
    }
}
