//! Small shards in a local folder, and a loader over them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use forebay_loader::batch::{Batch, Column};
use forebay_loader::field::{Field, FieldKind, Shapes};
use forebay_loader::{CacheSettings, DEFAULT_PATIENCE, Error, Loader, LoaderOptions, Next};

/// A member's header as it stands in an archive; `size` is the field's text.
pub fn header(name: &str, size: &[u8; 12]) -> [u8; 512] {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(size);
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A tar shard of `(name, bytes)`, as small as one can be.
pub fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in members {
        let size = format!("{:011o}\0", bytes.len());
        out.extend_from_slice(&header(name, size.as_bytes().try_into().unwrap()));
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// Samples of these numbers: a label, and `bytes` of data that only they have and that don't compress to nothing.
pub fn members(numbers: std::ops::Range<usize>, bytes: usize) -> Vec<(String, Vec<u8>)> {
    let sample = |number: usize| {
        let name = format!("{number:06}");
        [
            (format!("{name}.bin"), data(number, bytes)),
            (format!("{name}.cls"), number.to_string().into_bytes()),
        ]
    };
    numbers.flat_map(sample).collect()
}

fn data(number: usize, bytes: usize) -> Vec<u8> {
    let mut state = number as u32 + 1;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 26) as u8
    });
    noise.take(bytes).collect()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A folder with shards of these names and bytes in `data`.
pub fn folder<'a>(shards: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    for (name, bytes) in shards {
        std::fs::write(dir.path().join("data").join(name), bytes).unwrap();
    }
    dir
}

fn field(name: &str, suffix: &str, kind: FieldKind) -> Field {
    Field { name: name.into(), suffixes: vec![suffix.into()], kind, shapes: Shapes::Equal }
}

pub fn options(dir: &Path) -> LoaderOptions {
    let cache = CacheSettings {
        dir: dir.join("cache"),
        limit_bytes: 1 << 30,
        host_memory_limit_bytes: 256 << 20,
        storage_options: BTreeMap::new(),
        patience: DEFAULT_PATIENCE,
    };
    let fields = vec![field("label", "cls", FieldKind::Int), field("data", "bin", FieldKind::Bytes)];
    LoaderOptions {
        seed: 1,
        num_threads: Some(2),
        timeout: Some(Duration::from_secs(60)),
        ..LoaderOptions::new(vec![dir.join("data").display().to_string()], fields, 7, cache)
    }
}

pub fn open(dir: &tempfile::TempDir) -> Loader {
    Loader::open(options(dir.path())).unwrap()
}

/// The next batch, or none at the end of the epoch.
pub fn next(loader: &Loader) -> Result<Option<Batch>, Error> {
    loop {
        match loader.next(Duration::from_secs(1))? {
            Next::Batch(batch) => return Ok(Some(*batch)),
            Next::End => return Ok(None),
            Next::Pending => {}
        }
    }
}

/// The labels of a whole epoch, sorted; checks that every row's data belongs to its label.
pub fn try_epoch(loader: &Loader, bytes: usize) -> Result<Vec<usize>, Error> {
    loader.start()?;
    let mut all = Vec::new();
    while let Some(batch) = next(loader)? {
        let Column::Dense(label) = &batch.columns[0].1 else { panic!("labels are dense") };
        let Column::Bytes(rows) = &batch.columns[1].1 else { panic!("data are bytes") };
        let labels = label.data.chunks_exact(8).map(|bytes| i64::from_ne_bytes(bytes.try_into().unwrap()));
        for (label, row) in labels.zip(rows).take(batch.valid) {
            assert!(**row == data(label as usize, bytes)[..], "the data of sample {label}");
            all.push(label as usize);
        }
    }
    all.sort_unstable();
    Ok(all)
}

pub fn epoch(loader: &Loader, bytes: usize) -> Vec<usize> {
    try_epoch(loader, bytes).unwrap()
}

/// The error that opening the dataset or its first epoch ends in.
pub fn failure(options: LoaderOptions) -> Error {
    match Loader::open(options) {
        Err(error) => error,
        Ok(loader) => try_epoch(&loader, 100).unwrap_err(),
    }
}

/// Asserts that an error's text has all of these parts.
#[track_caller]
pub fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}
