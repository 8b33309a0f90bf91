//! What the measuring programs share: options, processor time, fio, medians, memory.
//!
//! Each program measures one thing and prints one JSON object per measurement on standard output; the harness in
//! `benches/harness` runs them in turn with their peers, and draws up the account.

pub mod fio;
pub mod folder;
pub mod hot;
pub mod photos;
pub mod process;
pub mod reading;

/// Of these numbers; the mean of the middle two where their count is even, NaN where there are none.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
    (at(numbers.len() / 2) + at(numbers.len().saturating_sub(1) / 2)) / 2.0
}

/// The finalizer of splitmix64: any two turns go to unrelated places.
pub fn mixed(turn: u64) -> u64 {
    let mut x = turn.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
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
