//! Shards → samples: one file per format; the sample index.
