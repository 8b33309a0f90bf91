//! What decoding costs: one thread, photographs from a folder, random boxes resized to SIDE (224) and flipped.
//!
//! `cargo run --release -p forebay-loader --example decode -- FOLDER [SIDE]`, where FOLDER holds JPEG files. Prints milliseconds per
//! image: with the nearest pixel, which is the decoding of the crop and next to nothing else; with its resize; and of the
//! whole image for comparison. Each figure is the fastest of several rounds over the folder, so that other work on the
//! machine counts as little as possible.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use forebay_loader::decode::{Decoder, Draws, Geometry, ImageOut, Limits};
use forebay_loader::field::{DecodeMode, Interpolation, Transform};

const ROUNDS: u32 = 7;

fn main() -> anyhow::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).context("usage: decode FOLDER [SIDE]")?.into();
    let side: u32 = std::env::args().nth(2).map_or(Ok(224), |side| side.parse())?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let bytes = std::fs::read(entry?.path())?;
        if bytes.starts_with(&[0xFF, 0xD8]) {
            files.push(bytes);
        }
    }
    ensure!(!files.is_empty(), "{} holds no JPEG files", folder.display());
    let bytes: usize = files.iter().map(Vec::len).sum();
    println!("{} images, {} kB on average", files.len(), bytes / files.len() / 1000);
    for interpolation in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
        let transforms = [
            Transform::RandomResizedCrop {
                size: (side, side),
                scale: (0.08, 1.0),
                ratio: (0.75, 4.0 / 3.0),
                interpolation,
                antialias: true,
            },
            Transform::RandomHorizontalFlip { p: 0.5 },
        ];
        for mode in [DecodeMode::Exact, DecodeMode::Fast] {
            let mut slot = vec![0; (side * side * 3) as usize];
            let time = measure(&files, |decoder, bytes, draws| {
                let out = ImageOut::Slot(&mut slot);
                decoder.image(bytes, &transforms, mode, draws, out).map(|decoded| decoded.geometry)
            })?;
            println!("{:32} {:.3} ms", format!("crop + resize, {interpolation:?}, {mode:?}"), millis(time));
        }
    }
    let whole = measure(&files, |decoder, bytes, draws| {
        decoder.image(bytes, &[], DecodeMode::Exact, draws, ImageOut::New).map(|decoded| decoded.geometry)
    })?;
    println!("{:32} {:.3} ms", "whole image", millis(whole));
    Ok(())
}

fn measure(
    files: &[Vec<u8>],
    mut decode: impl FnMut(&mut Decoder, &[u8], &dyn Draws) -> forebay_loader::decode::Result<Geometry>,
) -> anyhow::Result<Duration> {
    let mut decoder = Decoder::new(Limits::default());
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for (number, bytes) in files.iter().enumerate() {
            decode(&mut decoder, bytes, &|operation, draw| uniform(number as u32, operation, draw))?;
        }
        best = best.min(start.elapsed() / files.len() as u32);
    }
    Ok(best)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The same boxes in every run.
fn uniform(image: u32, operation: u32, draw: u32) -> f64 {
    let mut state = u64::from(image) << 32 | u64::from(operation) << 16 | u64::from(draw);
    for _ in 0..3 {
        state = (state ^ state >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    (state >> 11) as f64 / (1u64 << 53) as f64
}
