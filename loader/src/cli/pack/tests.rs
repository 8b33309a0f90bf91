use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use forebay_cache::Location;
use proptest::prelude::*;

use super::*;
use crate::dataset::tar::Event;
use crate::dataset::wids::Wids;
use crate::dataset::{Grouper, TarScanner};

fn arguments(folder: &Path, output: &Path) -> Arguments {
    Arguments {
        folder: folder.into(),
        output: output.into(),
        prefix: "train".into(),
        shard_size: 500_000_000,
        shard_samples: u64::MAX,
        labels: Labels::Auto,
        shuffle: false,
        seed: 0,
    }
}

fn pack(arguments: &Arguments) -> Result<Packed, Failure> {
    super::pack(arguments, &Reporter::quiet(), &|| false)
}

fn message(result: Result<Packed, Failure>) -> String {
    match result {
        Err(Failure::Failed(message) | Failure::Usage(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn write(folder: &Path, files: &[(&[u8], &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A sample as a reader gets it: key, then (suffix, bytes) of its members.
type Read = (Vec<u8>, Vec<(String, Vec<u8>)>);

/// Reads a shard by the loader's own scanner, and checks that its sidecar says the same.
fn read(shard: &Shard) -> Vec<Read> {
    let bytes = fs::read(&shard.path).unwrap();
    assert_eq!(bytes.len() as u64, shard.bytes);
    let (mut scanner, mut grouper) = (TarScanner::new(Some(shard.bytes)), Grouper::new());
    let (mut input, mut entries) = (&bytes[..], Vec::new());
    while let Some(event) = scanner.scan(&mut input).unwrap() {
        if let Event::Member(member) = event {
            entries.extend(grouper.push(&member).unwrap());
        }
    }
    entries.extend(grouper.finish());
    let text = fs::read(&shard.sidecar).unwrap();
    let index = sidecar::read(&text, ObjectId::from_bytes([0; 16]), shard.bytes).unwrap();
    assert_eq!(index.samples(0..index.len()).unwrap(), entries);
    assert_eq!(entries.len() as u64, shard.samples);
    let data = |member: &MemberEntry| {
        let range = member.range();
        (member.suffix.as_str().to_owned(), bytes[range.start as usize..range.end as usize].to_vec())
    };
    entries.iter().map(|e| (e.key_bytes().to_vec(), e.members.iter().map(data).collect())).collect()
}

fn read_all(packed: &Packed) -> Vec<Read> {
    packed.shards.iter().flat_map(read).collect()
}

#[test]
fn files_that_share_a_name_are_a_sample() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, output) = (dir.path().join("in"), dir.path().join("out"));
    write(
        &folder,
        &[
            (b"b/2.jpg", b"two"),
            (b"1.seg.png", b"mask"),
            (b"1.cls", b"7"),
            (b"1.jpg", b"one"),
            (b"README", b"-"),
            (b".git/config", b"-"),
        ],
    );
    let packed = pack(&arguments(&folder, &output)).unwrap();
    let text = |s: &str, bytes: &[u8]| (s.to_owned(), bytes.to_vec());
    let expected = vec![
        (b"1".to_vec(), vec![text("cls", b"7"), text("jpg", b"one"), text("seg.png", b"mask")]),
        (b"b/2".to_vec(), vec![text("jpg", b"two")]),
    ];
    assert_eq!(read_all(&packed), expected);
    assert_eq!((packed.skipped.count, packed.renamed.count, packed.classes), (2, 0, None));
    let list = Location::new(format!("file://{}", packed.list.display()));
    let wids = Wids::read(&fs::read(&packed.list).unwrap(), &list).unwrap();
    assert_eq!((wids.shards.len(), wids.shards[0].samples), (1, 2));
    assert_eq!(wids.shards[0].bytes, Some(packed.bytes));
}

#[test]
fn class_folders_become_labels() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, output) = (dir.path().join("in"), dir.path().join("out"));
    write(
        &folder,
        &[
            (b"dog/x.1.JPG", b"d1"),
            (b"dog/x.2.JPG", b"d2"),
            (b"cat/deep/a.png", b"c"),
            (b"Zebra/z.webp", b"z"),
        ],
    );
    let packed = pack(&arguments(&folder, &output)).unwrap();
    let sample = |key: &str, suffix: &str, bytes: &[u8], label: &str| {
        let members = vec![(suffix.to_owned(), bytes.to_vec()), ("cls".into(), label.as_bytes().to_vec())];
        (key.as_bytes().to_vec(), members)
    };
    let expected = vec![
        sample("Zebra/z", "webp", b"z", "0"),
        sample("cat/deep/a", "png", b"c", "1"),
        sample("dog/x_1", "jpg", b"d1", "2"),
        sample("dog/x_2", "jpg", b"d2", "2"),
    ];
    assert_eq!(read_all(&packed), expected);
    assert_eq!((packed.class_count, packed.renamed.count), (Some(3), 2));
    let classes: serde_json::Value =
        serde_json::from_slice(&fs::read(output.join("classes.json")).unwrap()).unwrap();
    assert_eq!(classes["classes"], serde_json::json!(["Zebra", "cat", "dog"]));
    assert_eq!(classes["class_to_idx"]["dog"], 2);

    let as_they_are =
        Arguments { labels: Labels::None, prefix: "plain".into(), ..arguments(&folder, &output) };
    assert_eq!(pack(&as_they_are).unwrap().samples, 3, "x.1.JPG and x.2.JPG share their key");
}

#[test]
fn labels_from_folders_are_refused_where_they_would_be_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("in");
    let folders = Arguments { labels: Labels::Folders, ..arguments(&folder, &dir.path().join("out")) };
    write(&folder, &[(b"top.jpg", b"-")]);
    assert!(message(pack(&folders)).contains("no class folders"));
    write(&folder, &[(b"a/1.jpg", b"-"), (b"empty/notes.txt", b"-")]);
    assert!(message(pack(&folders)).contains("empty: it holds no image"));
    fs::remove_dir_all(folder.join("empty")).unwrap();
    assert_eq!(pack(&folders).unwrap().skipped.examples, ["top.jpg"]);
    write(&folder, &[(b"a/1.png", b"-")]);
    let said = message(pack(&Arguments { prefix: "b".into(), ..folders.clone() }));
    assert!(said.contains("\"a/1.jpg\" and \"a/1.png\""), "{said}");
    fs::remove_file(folder.join("a/1.png")).unwrap();
    write(&folder, &[(b"new/1.jpg", b"-")]);
    let said = message(pack(&Arguments { prefix: "c".into(), ..folders }));
    assert!(said.contains("lists other classes"), "{said}");
}

#[test]
fn odd_names_are_kept_where_sidecars_can_hold_them() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, output) = (dir.path().join("in"), dir.path().join("out"));
    let long = [&[b'n'; 200][..], b".txt"].concat();
    let names: [&[u8]; 6] =
        ["grün.txt".as_bytes(), b"\xff\xfe.txt", b"a b\tc\nd.txt", b"-rf.txt", b"*?[.txt", &long];
    write(&folder, &names.map(|name| (name, name)));
    let packed = pack(&arguments(&folder, &output)).unwrap();
    let mut keys: Vec<Vec<u8>> = read_all(&packed).into_iter().map(|(key, _)| key).collect();
    keys.sort();
    let mut expected: Vec<Vec<u8>> = names.iter().map(|name| name[..name.len() - 4].to_vec()).collect();
    expected[2] = b"a_b_c_d".to_vec();
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(packed.renamed.count, 1);
    write(&folder, &[(b"a_b c_d.txt", b"-")]);
    let said = message(pack(&Arguments { prefix: "again".into(), ..arguments(&folder, &output) }));
    assert!(said.contains("a_b c_d.txt") && said.contains("rename one"), "{said}");
}

#[test]
fn the_same_suffix_twice_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, output) = (dir.path().join("in"), dir.path().join("out"));
    write(&folder, &[(b"1.jpg", b"-"), (b"1.JPG", b"-"), (b"1.cls", b"0")]);
    let said = message(pack(&arguments(&folder, &output)));
    assert!(said.contains("\"1.JPG\"") && said.contains("\"1.jpg\""), "{said}");
    assert!(!output.exists());
}

#[test]
fn what_holds_no_sample_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, output) = (dir.path().join("in"), dir.path().join("out"));
    assert!(message(pack(&arguments(&folder, &output))).contains("can't be read"));
    fs::create_dir(&folder).unwrap();
    assert!(message(pack(&arguments(&folder, &output))).contains("no sample"));
    write(&folder, &[(b"README", b"-")]);
    assert!(message(pack(&arguments(&folder, &output))).contains("1 files were passed over"));
    assert!(message(pack(&arguments(&folder, &folder.join("out")))).contains("inside"));
    assert!(message(pack(&arguments(&folder.join("README"), &output))).contains("not a folder"));
    assert!(!output.exists());
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, output) = (dir.path().join("in"), dir.path().join("out"));
    write(&folder, &[(b"1.txt", b"-")]);
    write(&output, &[(b"train-000000.tar", b"precious")]);
    assert!(message(pack(&arguments(&folder, &output))).contains("train-000000.tar exists"));
    assert_eq!(fs::read(output.join("train-000000.tar")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&output).unwrap().count(), 1);
    let other = Arguments { prefix: "val".into(), ..arguments(&folder, &output) };
    pack(&other).unwrap();
    assert!(message(pack(&other)).contains("val-000000.tar exists"));
}

#[test]
fn an_interrupted_pack_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, output) = (dir.path().join("in"), dir.path().join("out"));
    write(&folder, &[(b"1.txt", b"-"), (b"2.txt", b"-"), (b"3.txt", b"-")]);
    for after in 0..6 {
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) >= after;
        let result = super::pack(&arguments(&folder, &output), &Reporter::quiet(), &stop);
        assert!(matches!(result, Err(Failure::Interrupted(_))), "{result:?}");
        assert!(!output.exists());
    }
}

#[test]
fn a_file_that_changed_since_it_was_listed_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, b"12345").unwrap();
    let refused = |error: std::io::Error| panic!("{error}");
    for listed in [4, 6] {
        let result = copy(&path, listed, &mut Vec::new(), &refused);
        assert!(matches!(result, Err(Failure::Failed(what)) if what.contains("changed while")));
    }
    copy(&path, 5, &mut Vec::new(), &refused).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_sample_is_in_one_shard_within_the_limits(
        sizes in prop::collection::vec(0usize..3000, 1..40),
        shard_size in 1_000u64..20_000,
        shard_samples in 1u64..12,
        seed in any::<u64>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("in");
        for (at, size) in sizes.iter().enumerate() {
            write(&folder, &[(format!("{at:03}.bin").as_bytes(), &vec![at as u8; *size])]);
        }
        let shuffled = |output: &str| {
            let output = dir.path().join(output);
            Arguments { shard_size, shard_samples, shuffle: true, seed, ..arguments(&folder, &output) }
        };
        let packed = pack(&shuffled("one")).unwrap();
        for shard in &packed.shards {
            prop_assert!(shard.samples >= 1 && shard.samples <= shard_samples);
            prop_assert!(shard.samples == 1 || shard.bytes <= shard_size);
        }
        let read = read_all(&packed);
        let mut sorted = read.clone();
        sorted.sort();
        let expected: Vec<Read> = sizes
            .iter()
            .enumerate()
            .map(|(at, &size)| (format!("{at:03}").into_bytes(), vec![("bin".to_owned(), vec![at as u8; size])]))
            .collect();
        prop_assert_eq!(sorted, expected);
        let again = pack(&shuffled("two")).unwrap();
        for (one, two) in packed.shards.iter().zip(&again.shards) {
            prop_assert_eq!(fs::read(&one.path).unwrap(), fs::read(&two.path).unwrap());
        }
    }
}
