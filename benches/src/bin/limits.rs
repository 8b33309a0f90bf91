//! What the machine gives: steps of decoding by themselves, and plain copies of memory. One of them per call, so that the harness
//! lets them take turns.
//!
//! `limits --threads 1 decode STEP SHARD...` and `limits --threads 1 copy` print one JSON object.

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use forebay_bench::photos;
use forebay_bench::process::peak_rss_bytes;
use forebay_loader::Error;
use forebay_loader::decode::jpeg::alone::{Alone, Huffman};
use forebay_loader::decode::orientation::Rect;
use forebay_loader::decode::{Decoder, Limits};
use forebay_loader::measure::decoding::training;
use forebay_loader::measure::{Done, memcpy, together};
use forebay_loader::plan::EpochRng;

#[derive(Parser)]
struct Args {
    /// Threads that do the same at the same time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Decodes JPEGs that lie in memory: images/s.
    Decode {
        step: Step,
        /// Whose Huffman decoder.
        #[arg(long, value_enum, default_value_t = Whose::Forebay)]
        huffman: Whose,
        /// Tar shards of JPEGs.
        #[arg(required = true)]
        shards: Vec<PathBuf>,
    },
    /// Copies from one large buffer to another: 10⁹ bytes/s.
    Copy {
        /// Copies of a whole buffer, by each thread.
        #[arg(long, default_value_t = 32)]
        times: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Step {
    /// The coefficients of the whole image.
    Entropy,
    /// The pixels of the whole image.
    Whole,
    /// The pixels of the box that a training crop draws, not resized.
    Crop,
}

#[derive(Clone, Copy, ValueEnum)]
enum Whose {
    Forebay,
    LibjpegTurbo,
}

impl From<Whose> for Huffman {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Forebay => Self::Forebay,
            Whose::LibjpegTurbo => Self::LibjpegTurbo,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.threads > 0, "threads must be 1 or more");
    let done = match &args.what {
        What::Decode { step, huffman, shards } => decode(args.threads, *step, *huffman, shards)?,
        What::Copy { times } => gigabytes(memcpy(args.threads, *times)?),
    };
    let answer = serde_json::json!({
        "value": done.rate(),
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "peak_rss_bytes": peak_rss_bytes()?,
    });
    println!("{answer}");
    Ok(())
}

fn gigabytes(done: Done) -> Done {
    Done { work: done.work / 1e9, ..done }
}

fn decode(threads: usize, step: Step, huffman: Whose, shards: &[PathBuf]) -> Result<Done> {
    let mut images = Vec::new();
    for shard in shards {
        images.extend(photos::jpegs(shard)?);
    }
    let boxes = boxes(&images)?;
    // Every thread takes all images, from places of its own: no counter between them.
    let pass = |alone: &mut Alone, thread: usize| -> forebay_loader::Result<f64> {
        let start = images.len() * thread / threads;
        for at in (start..images.len()).chain(0..start) {
            let decoded = match step {
                Step::Entropy => alone.coefficients(&images[at]),
                Step::Whole => alone.pixels(&images[at], None),
                Step::Crop => alone.pixels(&images[at], Some(boxes[at])),
            };
            decoded.map_err(|error| Error::Dataset { message: format!("image {at}: {error}") })?;
        }
        Ok(images.len() as f64)
    };
    let made = |thread| {
        let mut alone = Alone::new(huffman.into(), Limits::default())
            .map_err(|error| Error::Dataset { message: error.to_string() })?;
        pass(&mut alone, thread)?;
        Ok((alone, thread))
    };
    Ok(together(threads, made, |(mut alone, thread)| pass(&mut alone, thread))?)
}

/// What training crops of each image.
fn boxes(images: &[Vec<u8>]) -> Result<Vec<Rect>> {
    let (mut decoder, transforms, random) =
        (Decoder::new(Limits::default()), training(photos::SIDE), EpochRng::new(0, 0));
    let crop = |(number, bytes): (usize, &Vec<u8>)| {
        let geometry = decoder.geometry(bytes, &transforms, &random.draws(number as u64));
        let geometry = geometry.map_err(|error| anyhow!("image {number}: {error}"))?;
        Ok(geometry.stages[0].crop)
    };
    images.iter().enumerate().map(crop).collect()
}
