//! Photographs out of a shard, in memory.

use std::path::Path;

use anyhow::{Context, Result};
use forebay_loader::dataset::tar::Event;
use forebay_loader::dataset::{Grouper, MemberEntry, SampleEntry, TarScanner};

/// Pixels of a side of what training takes of them.
pub const SIDE: u32 = 224;
/// Of such an image.
pub const IMAGE_BYTES: usize = (SIDE * SIDE * 3) as usize;

/// Samples of a tar shard that lies in memory, in storage order.
///
/// # Errors
/// A damaged shard, with the byte where it shows.
pub fn samples(shard: &[u8]) -> Result<Vec<SampleEntry>> {
    let (mut scanner, mut grouper) = (TarScanner::new(Some(shard.len() as u64)), Grouper::new());
    let mut samples = Vec::new();
    let mut input = shard;
    while let Some(event) = scanner.scan(&mut input)? {
        if let Event::Member(member) = event {
            samples.extend(grouper.push(&member)?);
        }
    }
    if let Some(Event::Member(member)) = scanner.finish()? {
        samples.extend(grouper.push(&member)?);
    }
    samples.extend(grouper.finish());
    Ok(samples)
}

/// The .jpg members of a shard, in storage order.
///
/// # Errors
/// A file that can't be read, a damaged or cut shard, one without a .jpg.
pub fn jpegs(path: &Path) -> Result<Vec<Vec<u8>>> {
    let read = || -> Result<Vec<Vec<u8>>> {
        let shard = std::fs::read(path)?;
        let samples = samples(&shard)?;
        let ranges = samples.iter().filter_map(|sample| sample.member(&["jpg"])).map(MemberEntry::range);
        let images = ranges.map(|range| {
            let data = shard.get(range.start as usize..range.end as usize).context("the shard is cut")?;
            Ok(data.to_vec())
        });
        let images = images.collect::<Result<Vec<_>>>()?;
        anyhow::ensure!(!images.is_empty(), "it holds no .jpg");
        Ok(images)
    };
    read().with_context(|| path.display().to_string())
}
