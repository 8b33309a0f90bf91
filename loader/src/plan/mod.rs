//! Pure: (counts, seed, epoch, rank, world size) → positions → samples; no I/O.

/// How an epoch is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderMode {
    /// Storage order.
    Storage,
    /// Permuted shards in lanes, windows permuted.
    #[default]
    Shuffle,
    /// As `Shuffle`, but lanes keep their shards from epoch to epoch.
    Sticky,
    /// One permutation over all samples.
    Global,
}
