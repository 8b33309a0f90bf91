//! The functions that everything waits for, each as a case that can be run any number of times: for timing (`cargo bench`) and for
//! counting instructions (`make instructions`). One run of a case does the work named beside it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use forebay_cache::ObjectId;
use forebay_cache::disk::CrcPage;
use forebay_loader::dataset::TarScanner;
use forebay_loader::dataset::index::{ShardIndex, ShardIndexBuilder};
use forebay_loader::decode::{Converter, Decoder, ImageOut, Limits};
use forebay_loader::field::{Convert, DecodeMode, Normalize, PixelLayout, PixelType, Transform};
use forebay_loader::measure::decoding::training;
use forebay_loader::plan::{Cursor, EpochRng, Order, OrderMode, OrderSpec};

use crate::{mixed, photos};

/// Cases, and what one run of each does.
pub const CASES: [(&str, &str); 10] = [
    ("crop_224", "decodes a random crop of a photograph and resizes it to 224 × 224"),
    ("whole", "decodes a whole photograph"),
    ("convert_float32", "normalises 224 × 224 pixels to float32"),
    ("convert_planes", "normalises 224 × 224 pixels to planes of bfloat16"),
    ("checksum", "verifies 1 MiB in granules of 4 KiB"),
    ("tar_scan", "finds the members of a shard that lies in memory"),
    ("index_window", "reads the entries of 64 samples from a shard's index"),
    ("index_entry", "reads the entry of one sample from a shard's index"),
    ("order_seek", "finds the sample at a random position of 10⁹"),
    ("order_walk", "walks 1,000 positions of 10⁹"),
];

/// A case, ready to run.
///
/// # Errors
/// An unknown name; a `shard` of photographs that can't be read.
pub fn case(name: &str, shard: &Path) -> Result<Box<dyn FnMut() -> Result<()>>> {
    Ok(match name {
        "crop_224" => decode(shard, training(photos::SIDE).to_vec())?,
        "whole" => decode(shard, Vec::new())?,
        "convert_float32" => convert(PixelType::Float32, PixelLayout::Nhwc),
        "convert_planes" => convert(PixelType::BFloat16, PixelLayout::Nchw),
        "checksum" => checksum(),
        "tar_scan" => tar_scan(shard)?,
        "index_window" => index_window(shard)?,
        "index_entry" => index_entry(shard)?,
        "order_seek" => order_seek()?,
        "order_walk" => order_walk()?,
        _ => bail!("no case is called {name}: {}", CASES.map(|(name, _)| name).join(", ")),
    })
}

fn decode(shard: &Path, transforms: Vec<Transform>) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let images = photos::jpegs(shard)?;
    let mut decoder = Decoder::new(Limits::default());
    let mut slot = vec![0; photos::IMAGE_BYTES];
    let random = EpochRng::new(0, 0);
    let mut turn = 0;
    Ok(Box::new(move || {
        let number = turn % images.len();
        turn += 1;
        let draws = random.draws(number as u64);
        let out = if transforms.is_empty() { ImageOut::New } else { ImageOut::Slot(&mut slot) };
        let decoded = decoder.image(&images[number], &transforms, DecodeMode::Exact, &draws, out);
        decoded.map(drop).with_context(|| format!("image {number}"))
    }))
}

fn convert(dtype: PixelType, layout: PixelLayout) -> Box<dyn FnMut() -> Result<()>> {
    let normalize = Some(Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] });
    let converter = Converter::new(&Convert { normalize, dtype, layout });
    let pixels: Vec<u8> = (0..photos::IMAGE_BYTES as u64).map(|at| mixed(at) as u8).collect();
    let mut slot = vec![0; pixels.len() * converter.number_bytes()];
    Box::new(move || {
        converter.convert(std::hint::black_box(&pixels), std::hint::black_box(&mut slot));
        Ok(())
    })
}

fn checksum() -> Box<dyn FnMut() -> Result<()>> {
    let bytes: Vec<u8> = (0..1 << 17).flat_map(|turn| mixed(turn).to_le_bytes()).collect();
    let page = CrcPage::of(&bytes);
    Box::new(move || match page.mismatch(0, std::hint::black_box(&bytes)) {
        None => Ok(()),
        Some(granule) => bail!("granule {granule} differs"),
    })
}

fn tar_scan(shard: &Path) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let shard = std::fs::read(shard)?;
    Ok(Box::new(move || {
        let mut scanner = TarScanner::new(Some(shard.len() as u64));
        let mut input = &shard[..];
        let mut events = 0;
        while scanner.scan(&mut input)?.is_some() {
            events += 1;
        }
        std::hint::black_box(events);
        Ok(())
    }))
}

fn index(shard: &Path) -> Result<ShardIndex> {
    let shard = std::fs::read(shard)?;
    let samples = photos::samples(&shard)?;
    let mut builder = ShardIndexBuilder::new();
    for sample in &samples {
        builder.push(sample)?;
    }
    Ok(builder.finish(ObjectId::from_bytes([1; 16]), shard.len() as u64)?)
}

fn index_window(shard: &Path) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let index = index(shard)?;
    let end = index.len().min(64);
    Ok(Box::new(move || {
        std::hint::black_box(index.samples(0..end)?);
        Ok(())
    }))
}

fn index_entry(shard: &Path) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let index = index(shard)?;
    let mut turn = 0;
    Ok(Box::new(move || {
        turn += 1;
        let at = mixed(turn) % index.len();
        std::hint::black_box(index.samples(at..at + 1)?);
        Ok(())
    }))
}

/// 10⁹ samples in 10⁵ shards.
fn large_order() -> Result<Order> {
    Ok(Order::new(&OrderSpec {
        counts: Arc::from(vec![10_000; 100_000]),
        seed: 1,
        epoch: 2,
        canonical_ranks: 8,
        shuffle_window: 131_072,
        mode: OrderMode::Shuffle,
    })?)
}

fn order_seek() -> Result<Box<dyn FnMut() -> Result<()>>> {
    let order = large_order()?;
    let mut turn = 0;
    Ok(Box::new(move || {
        turn += 1;
        std::hint::black_box(order.sample(mixed(turn) % order.total()));
        Ok(())
    }))
}

fn order_walk() -> Result<Box<dyn FnMut() -> Result<()>>> {
    let order = Arc::new(large_order()?);
    Ok(Box::new(move || {
        let mut cursor = Cursor::new(order.clone());
        for position in 500_000_000..500_001_000 {
            std::hint::black_box(cursor.at(position));
        }
        Ok(())
    }))
}
