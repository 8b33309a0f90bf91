//! The tar scanner against Python's tarfile: archives of every format, with odd names, written and listed by the standard library.
#![allow(clippy::unwrap_used)] // a test may, its helpers too

use std::fs;
use std::path::Path;
use std::process::Command;

use forebay_loader::dataset::TarScanner;
use forebay_loader::dataset::tar::{Event, Kind, Member};

/// (header offset, data offset, size, name in hex, kind), as archives.py lists them.
type Listed = (u64, u64, u64, String, String);

fn scan(path: &Path) -> Vec<Member> {
    let bytes = fs::read(path).unwrap();
    let mut scanner = TarScanner::new(Some(bytes.len() as u64));
    let mut members = Vec::new();
    for mut chunk in bytes.chunks(1000) {
        while let Some(event) =
            scanner.scan(&mut chunk).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        {
            if let Event::Member(member) = event {
                members.push(member);
            }
        }
    }
    scanner.finish().unwrap();
    members
}

fn listed(member: &Member) -> Listed {
    let kind = match member.kind {
        Kind::File => "file",
        Kind::Sparse => "sparse",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::Special => "special",
        Kind::Other(_) => "other",
    };
    let name = member.path.iter().map(|byte| format!("{byte:02x}")).collect();
    (member.header_offset, member.data_offset, member.size, name, kind.to_owned())
}

fn compare(path: &Path) -> usize {
    let wanted: Vec<Listed> =
        serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
    let members = scan(path);
    assert_eq!(members.len(), wanted.len(), "{}", path.display());
    for (got, wanted) in members.iter().map(listed).zip(wanted) {
        if got.4 == "sparse" {
            // tarfile gives the size with the holes, and the data behind the map; sparse members are refused here.
            assert_eq!((got.0, &got.3, &got.4), (wanted.0, &wanted.3, &wanted.4), "{}", path.display());
        } else {
            assert_eq!(got, wanted, "{}", path.display());
        }
    }
    members.len()
}

#[test]
fn every_format_is_listed_as_tarfile_lists_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/archives.py");
    let status = Command::new("python3").arg(script).arg(folder.path()).status();
    assert!(status.expect("this test needs python3").success());
    let paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let archives: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "tar")).collect();
    assert!(archives.len() >= 16, "{archives:?}");
    let members: usize = archives.iter().map(|path| compare(path)).sum();
    assert!(members > 400, "{members}");
}
