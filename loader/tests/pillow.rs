//! Decoding against Pillow: the same files, the same boxes, pixel by pixel.
//!
//! Needs a Python with Pillow, numpy, scikit-image, scikit-learn and matplotlib, named by FOREBAY_TEST_PYTHON. `make test`
//! sets it up. Prints a table of the differences (`cargo test --test pillow -- --nocapture`), which docs/decoding.md shows.

#![allow(clippy::unwrap_used, reason = "a test, helpers included: a panic is its way to fail")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use forebay_loader::decode::{Decoder, ImageOut, Limits, Size, resolve};
use forebay_loader::field::{DecodeMode, Transform};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    group: String,
    kind: String,
    transforms: Vec<Transform>,
    draws: Vec<Vec<f64>>,
    most: u8,
    mean: f64,
    height: u32,
    width: u32,
    modes: Vec<DecodeMode>,
}

#[derive(Default)]
struct Difference {
    cases: usize,
    most: u8,
    sum: f64,
    worst_mean: f64,
}

fn python() -> String {
    std::env::var("FOREBAY_TEST_PYTHON").unwrap_or_else(|_| {
        panic!(
            "FOREBAY_TEST_PYTHON is not set: run `make test`, or name a Python that has pillow, numpy, scikit-image, \
             scikit-learn and matplotlib"
        )
    })
}

fn reference(folder: &Path) -> Vec<Case> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pillow_reference.py");
    let python = python();
    let status = Command::new(&python).arg(&script).arg(folder).status();
    let status =
        status.unwrap_or_else(|error| panic!("FOREBAY_TEST_PYTHON={python}: {error}; run `make test`"));
    assert!(status.success(), "{} failed under {python}; run `make test`", script.display());
    serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap()
}

fn decode(decoder: &mut Decoder, case: &Case, bytes: &[u8], mode: DecodeMode) -> (Vec<u8>, u32) {
    let draws = |operation: u32, draw: u32| case.draws[operation as usize][draw as usize];
    let decoded = if case.kind == "mask" {
        // The image that it belongs to has the mask's size, which decoding the mask as an image tells.
        let input = decoder.image(bytes, &[], mode, &draws, ImageOut::New).unwrap().size();
        let geometry = resolve(&case.transforms, input, &draws, &Limits::default()).unwrap();
        decoder.mask(bytes, &geometry, ImageOut::New)
    } else {
        decoder.image(bytes, &case.transforms, mode, &draws, ImageOut::New)
    };
    let decoded = decoded.unwrap_or_else(|error| panic!("{}: {error}", case.group));
    assert_eq!(decoded.size(), Size { width: case.width, height: case.height }, "{}", case.group);
    (decoded.pixels.unwrap(), decoded.denominator)
}

#[test]
fn pixels_equal_pillows() {
    let folder = tempfile::tempdir().unwrap();
    let cases = reference(folder.path());
    let mut decoder = Decoder::new(Limits::default());
    let mut table: BTreeMap<String, Difference> = BTreeMap::new();
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let bytes = std::fs::read(folder.path().join(format!("{number}.bin"))).unwrap();
        let expected = std::fs::read(folder.path().join(format!("{number}.raw"))).unwrap();
        for &mode in &case.modes {
            let (pixels, denominator) = decode(&mut decoder, case, &bytes, mode);
            assert_eq!(pixels.len(), expected.len(), "{}", case.group);
            let differences = || pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
            let most = differences().max().unwrap();
            let mean = differences().map(f64::from).sum::<f64>() / pixels.len() as f64;
            let row = table.entry(format!("{mode:?} 1/{denominator}: {}", case.group)).or_default();
            row.cases += 1;
            row.most = row.most.max(most);
            row.sum += mean;
            row.worst_mean = row.worst_mean.max(mean);
            // Fast decoding is bounded too, well above what docs/decoding.md shows: a wrong box would be far beyond it.
            let bounds = if denominator == 1 { (case.most, case.mean) } else { (80, 6.0) };
            if most > bounds.0 || mean > bounds.1 {
                failures.push(format!("{} (case {number}): most {most}, mean {mean:.3}", case.group));
            }
        }
    }
    println!("{:40} {:>5} {:>4} {:>7} {:>10}", "what", "cases", "most", "mean", "worst mean");
    for (what, row) in &table {
        let mean = row.sum / row.cases as f64;
        println!("{what:40} {:>5} {:>4} {mean:>7.4} {:>10.4}", row.cases, row.most, row.worst_mean);
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases differ:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}
