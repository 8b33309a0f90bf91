//! Grouping and brace lists against the Python package webdataset, in the interpreter that FOREBAY_TEST_PYTHON names; `make test` makes
//! one.
#![allow(clippy::unwrap_used)] // a test may, its helpers too

use std::fs;
use std::path::Path;
use std::process::Command;

use forebay_cache::{Location, ObjectId};
use forebay_loader::dataset::tar::Event;
use forebay_loader::dataset::{
    Grouper, Malformed, Pattern, SampleEntry, ShardIndexBuilder, Surroundings, TarScanner, sidecar, urls,
};

/// A key, and its members' suffixes and sizes.
type Sample = (String, Vec<(String, u64)>);

fn samples(bytes: &[u8]) -> Result<Vec<SampleEntry>, Malformed> {
    let (mut scanner, mut grouper) = (TarScanner::new(None), Grouper::new());
    let mut samples = Vec::new();
    let mut input = bytes;
    while let Some(event) = scanner.scan(&mut input)? {
        if let Event::Member(member) = event {
            samples.extend(grouper.push(&member)?);
        }
    }
    scanner.finish()?;
    samples.extend(grouper.finish());
    Ok(samples)
}

fn plain(sample: &SampleEntry) -> Sample {
    let member = |m: &forebay_loader::dataset::MemberEntry| (m.suffix.as_str().to_owned(), m.size);
    (sample.key().into_owned(), sample.members.iter().map(member).collect())
}

/// The index of a scan, and of the sidecar that is written from it, are the same bytes.
fn check_sidecar(found: &[SampleEntry], length: u64) {
    let id = ObjectId::from_bytes([0; 16]);
    let mut builder = ShardIndexBuilder::new();
    found.iter().for_each(|sample| builder.push(sample).unwrap());
    let index = builder.finish(id, length).unwrap();
    if let Ok(text) = sidecar::write(&index) {
        assert_eq!(sidecar::read(&text, id, length).unwrap().as_bytes(), index.as_bytes());
    }
}

#[test]
fn samples_and_patterns_are_those_of_webdataset() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/webdataset_samples.py");
    let python = std::env::var("FOREBAY_TEST_PYTHON").expect(
        "FOREBAY_TEST_PYTHON is not set: run `make test`, or name a Python that has the package webdataset",
    );
    assert!(Command::new(python).arg(script).arg(folder.path()).status().unwrap().success());
    let (mut groups, mut refused) = (0, 0);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "tar") {
            continue;
        }
        let listed: serde_json::Value =
            serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
        let bytes = fs::read(&path).unwrap();
        match samples(&bytes) {
            Ok(found) => {
                let wanted: Vec<Sample> = serde_json::from_value(listed).unwrap();
                assert_eq!(found.iter().map(plain).collect::<Vec<_>>(), wanted, "{}", path.display());
                check_sidecar(&found, bytes.len() as u64);
                groups += found.len();
            }
            Err(error) => {
                assert_eq!(listed, "duplicate", "{}: {error}", path.display());
                refused += 1;
            }
        }
    }
    assert!(groups > 300 && refused > 5, "{groups} {refused}");
    compare_patterns(folder.path());
}

fn compare_patterns(folder: &Path) {
    let patterns: Vec<(String, Vec<String>)> =
        serde_json::from_slice(&fs::read(folder.join("patterns.json")).unwrap()).unwrap();
    let around = Surroundings { working_dir: "/".into(), variable: &|_| None, is_dir: &|_| false };
    for (pattern, wanted) in patterns {
        let root = Location::new("file:///");
        let wanted: Vec<_> =
            wanted.iter().map(|path| Pattern::Exact(urls::child(&root, &path[1..]))).collect();
        assert_eq!(urls::resolve(&[&pattern], &around).unwrap(), wanted, "{pattern}");
    }
}
