//! What really ran, as numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::device::DeviceStats;

/// A loader's account since it was opened; every figure only grows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoaderStats {
    /// Batches handed to the consumer.
    pub batches: u64,
    /// Samples in them, padding not counted.
    pub samples: u64,
    /// Samples by the farthest tier that any of their bytes came from: "decoded", "memory", "nvme", "origin".
    pub samples_by_tier: BTreeMap<&'static str, u64>,
    /// Bytes by the tier that they came from: of members, and of decoded samples.
    pub bytes_by_tier: BTreeMap<&'static str, u64>,
    /// Bytes not fetched from the origin as a part of all.
    pub hit_rate: f64,
    /// Samples that are kept decoded.
    pub decoded_samples: u64,
    /// Bytes that they take of the limit for them.
    pub decoded_bytes: u64,
    /// How long the consumer waited, by the stage that it waited for: "index", "memory", "read", "decode",
    /// "assemble".
    pub stall: BTreeMap<&'static str, Duration>,
    /// CPU time of the decoding threads spent in decoding.
    pub decode_time: Duration,
    /// Samples skipped for an error.
    pub skipped: u64,
    /// The first of those errors' texts, at most 100.
    pub errors: Vec<String>,
    /// "io_uring" or "blocking".
    pub io_engine: &'static str,
    /// "direct" or "buffered".
    pub io_mode: &'static str,
    /// The widest SIMD level in use: "avx512", "avx2", "sse4.1", "neon", "none".
    pub simd: &'static str,
    /// Decoding threads.
    pub threads: usize,
    /// "owner" or "client" of the cache folder.
    pub role: &'static str,
    /// Bytes of host memory in use by all stages, and the most there ever were.
    pub host_memory_bytes: u64,
    /// The most host memory ever in use at once.
    pub host_memory_peak_bytes: u64,
    /// True where the origin did not answer and only cached bytes are served.
    pub offline: bool,
    /// What was announced, each thing once.
    pub notes: Vec<String>,
    /// What the device did, where batches go to one.
    pub device: Option<DeviceStats>,
    /// The cache's own counters, shared by all loaders of the folder in this process.
    pub cache: forebay_cache::CacheStats,
}
