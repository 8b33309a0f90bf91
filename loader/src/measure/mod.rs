//! What measurements share, those of `forebay bench` and those of the benchmark harness: limits of the machine, and what this process
//! has used.

pub mod decoding;
pub mod process;

use std::time::Instant;

/// Of these numbers; the mean of the middle two where their count is even, NaN where there are none.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
    (at(numbers.len() / 2) + at(numbers.len().saturating_sub(1) / 2)) / 2.0
}

/// Bytes of each of the buffers that [`memcpy`] copies between: more than caches hold.
const COPIED_BYTES: usize = 64 << 20;

/// Bytes copied per second by so many threads together, over `turns` copies each.
pub fn memcpy(threads: usize, turns: usize) -> f64 {
    let copy = || {
        // Written before: a page that is touched for the first time costs more than its copy.
        let (from, mut to) = (vec![1u8; COPIED_BYTES], vec![2u8; COPIED_BYTES]);
        let began = Instant::now();
        for _ in 0..turns {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
        (turns * COPIED_BYTES) as f64 / began.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let copies: Vec<_> = (0..threads).map(|_| scope.spawn(copy)).collect();
        copies.into_iter().filter_map(|copy| copy.join().ok()).sum()
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
}
