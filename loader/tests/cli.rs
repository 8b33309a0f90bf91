//! The program as users run it: from a folder of files to a checked cache, and what it says when something is wrong.

// A helper that unwraps is a test that fails; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use home::{Home, interrupt};
use serde_json::Value;

mod home;

impl Home {
    /// A folder of photographs (not really) in two classes: 40 samples of about 300 kB, 12 MB.
    fn photos(&self) {
        for number in 0..40u32 {
            let class = ["cat", "dog"][number as usize % 2];
            let folder = self.path("photos").join(class);
            fs::create_dir_all(&folder).unwrap();
            let bytes: Vec<u8> =
                (0..75_000u32).flat_map(|i| (i.wrapping_mul(number + 7)).to_le_bytes()).collect();
            fs::write(folder.join(format!("{number:04}.jpg")), bytes).unwrap();
        }
    }

    fn pack(&self) -> Value {
        self.photos();
        self.json(0, &["pack", "photos", "shards", "--prefix", "train", "--shard-size", "5MB", "--shuffle"])
    }
}

/// Every file below a folder with this suffix.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.extension().is_some_and(|found| found == suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn from_a_folder_of_files_to_a_checked_cache() {
    let home = Home::new();
    let packed = home.pack();
    assert_eq!((packed["samples"].as_u64(), packed["class_count"].as_u64()), (Some(40), Some(2)));
    let shards = packed["shards"].as_array().unwrap().len();
    assert!(shards >= 3, "{packed:#}");

    let listed = home.json(0, &["ls", "shards/train-*.tar", "--samples", "2"]);
    assert_eq!(listed["samples"], 40);
    assert_eq!(listed["fields_from_samples"], 40);
    let suffixes: Vec<&str> =
        listed["fields"].as_array().unwrap().iter().filter_map(|f| f["suffix"].as_str()).collect();
    assert_eq!(suffixes, ["cls", "jpg"]);
    assert_eq!(listed["first_samples"].as_array().unwrap().len(), 2);
    assert_eq!(listed["first_samples"][0]["members"][0]["size_bytes"], 300_000);

    let indexed = home.json(0, &["index", "shards", "--write-sidecars"]);
    assert_eq!(
        (&indexed["samples"], &indexed["members"], &indexed["scanned_bytes"]),
        (&40.into(), &80.into(), &0.into())
    );

    let fetched = home.json(0, &["prefetch", "shards"]);
    assert_eq!(fetched["shards"], shards);
    assert_eq!(fetched["bytes"], packed["bytes"]);
    assert_eq!(fetched["declined_blocks"], 0);
    let again = home.json(0, &["prefetch", "shards/train.json"]);
    assert_eq!((&again["stored_blocks"], &again["origin_bytes"]), (&0.into(), &0.into()), "{again:#}");
    let blocks = again["present_blocks"].as_u64().unwrap();

    let status = home.json(0, &["status"]);
    assert_eq!(status["disk_state"], "healthy");
    let objects = status["objects"].as_array().unwrap();
    let cached: Vec<&Value> =
        objects.iter().filter(|object| object["cached_blocks"] == object["blocks"]).collect();
    assert_eq!(cached.len(), shards, "{status:#}");
    assert_eq!(
        cached.iter().map(|o| o["cached_bytes"].as_u64().unwrap()).sum::<u64>(),
        packed["bytes"].as_u64().unwrap()
    );

    let verified = home.json(0, &["verify"]);
    assert_eq!(
        (verified["checked_blocks"].as_u64(), verified["bad"].as_array().unwrap().len()),
        (Some(blocks), 0)
    );
    assert_eq!(verified["checked_bytes"], packed["bytes"]);

    let data = &files(&home.path(".cache/forebay/data"), "data")[0];
    let mut bytes = fs::read(data).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(data, bytes).unwrap();
    let verified = home.json(1, &["verify"]);
    let bad = verified["bad"].as_array().unwrap();
    assert_eq!(bad.len(), 1, "{verified:#}");
    assert!(bad[0]["what"].as_str().unwrap().contains("999424..1003520"), "{verified:#}");
    assert!(bad[0]["location"].as_str().unwrap().ends_with(".tar"));
    assert_eq!(home.json(0, &["verify"])["checked_blocks"], blocks - 1, "a bad block is gone");
    let mended = home.json(0, &["prefetch", "shards"]);
    assert_eq!((&mended["stored_blocks"], mended["present_blocks"].as_u64()), (&1.into(), Some(blocks - 1)));

    let one = home.json(0, &["evict", "shards/train-000000.tar"]);
    assert_eq!(one["objects"].as_array().unwrap().len(), 1);
    assert!(
        one["freed_bytes"].as_u64().unwrap() >= packed["shards"][0]["bytes"].as_u64().unwrap(),
        "{one:#}"
    );
    let down = home.json(0, &["evict", "--down-to", "9MB"]);
    assert!(down["used_bytes"].as_u64().unwrap() <= 9_000_000, "{down:#}");
    home.json(0, &["evict", "--all"]);
    assert_eq!(home.json(0, &["status"])["objects"].as_array().unwrap().len(), 0);
    assert!(files(&home.path(".cache/forebay/data"), "data").is_empty());
}

#[test]
fn sidecars_are_made_by_a_pass_and_agree_with_those_of_pack() {
    let home = Home::new();
    let packed = home.pack();
    let shards = packed["shards"].as_array().unwrap().len();
    let sidecar = home.path("shards/train-000000.idx");
    let by_pack = fs::read(&sidecar).unwrap();
    for path in files(&home.path("shards"), "idx") {
        fs::remove_file(path).unwrap();
    }
    let unknown = home.json(0, &["ls", "shards"]);
    assert_eq!((&unknown["samples"], &unknown["fields_from_samples"]), (&Value::Null, &3.into()));
    assert_eq!(unknown["first_samples"].as_array().unwrap().len(), 3);

    let elsewhere = home.json(0, &["index", "shards", "--write-sidecars", "--output", "sidecars"]);
    assert_eq!(elsewhere["scanned_bytes"], packed["bytes"]);
    assert_eq!(files(&home.path("sidecars"), "idx").len(), shards);
    assert_eq!(fs::read(home.path("sidecars/train-000000.idx")).unwrap(), by_pack);
    let beside = home.json(0, &["index", "shards", "--write-sidecars"]);
    assert_eq!(beside["scanned_bytes"], 0, "the pass is made once");
    assert_eq!(fs::read(&sidecar).unwrap(), by_pack);

    fs::write(&sidecar, "mine").unwrap();
    let said = home.error(1, &["index", "shards", "--write-sidecars"]);
    assert!(said.contains("train-000000.idx") && said.contains("--overwrite"), "{said}");
    assert_eq!(home.json(0, &["ls", "shards"])["samples"], 40);
}

#[test]
fn some_shards_can_be_prefetched_and_a_limit_that_is_too_small_is_said() {
    let home = Home::new();
    home.pack();
    let some = home.json(0, &["prefetch", "shards", "--shards", "1..3"]);
    assert_eq!(some["shards"], 2);
    let small = ["prefetch", "photos.tar", "--cache-limit", "1kB"];
    assert!(home.error(1, &small).contains("cache_limit of 1000 bytes is too small"));
    fs::File::create(home.path("large.tar")).unwrap().set_len(100_000_000).unwrap();
    let said = home.error(1, &["prefetch", "large.tar", "--cache-limit", "50MB", "--cache-dir", "other"]);
    assert!(said.contains("100 MB don't fit") && said.contains("--cache-limit 1"), "{said}");
}

#[test]
fn the_table_is_for_people_and_a_closed_pipe_is_no_error() {
    let home = Home::new();
    home.pack();
    let output = home.run(&["ls", "shards"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("40 samples") && text.contains("300 kB"), "{text}");
    let mut child = home.start(&["ls", "shards"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_command_line_that_can_not_be_used_is_exit_code_2() {
    let home = Home::new();
    let cases: [(&[&str], &str); 9] = [
        (&["prefetch"], "<SOURCE>"),
        (&["frobnicate"], "unrecognized"),
        (&["evict"], "--all"),
        (&["evict", "--all", "--down-to", "1GB"], "cannot be used with"),
        (&["prefetch", "a.tar", "--cache-limit", "20XB"], "500GiB"),
        (&["status", "--wait", "0"], "0.1 to 86400"),
        (&["prefetch", "ftp://host/a.tar"], "ftp"),
        (&["prefetch", "a.tar", "--storage-option", "hunter2"], "key=value"),
        (&["prefetch", "s3://b/a.tar", "--storage-option", "endpoit=x"], "endpoint"),
    ];
    for (arguments, wanted) in cases {
        let said = home.error(2, arguments);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let home = Home::new();
    for command in ["status", "verify"] {
        let said = home.error(1, &[command]);
        assert!(said.contains(".cache/forebay/data holds no cache"), "{said}");
    }
    assert!(!home.path(".cache").exists(), "looking makes no cache");
    let said = home.error(1, &["prefetch", "nowhere.tar"]);
    assert!(said.contains("nowhere.tar does not exist"), "{said}");
    let said = home.error(1, &["evict", "nowhere.tar"]);
    assert!(said.contains("nothing that \"nowhere.tar\" names is cached"), "{said}");
    fs::write(home.path("broken.tar"), vec![7; 2000]).unwrap();
    let said = home.error(1, &["ls", "broken.tar"]);
    assert!(said.contains("broken.tar: byte 0"), "{said}");
}

#[test]
fn doctor_tells_what_the_machine_has() {
    let home = Home::new();
    let found = home.json(0, &["doctor"]);
    assert_eq!(found["storage"]["exists"], false);
    assert!(["io_uring", "blocking"].contains(&found["storage"]["io"]["engine"].as_str().unwrap()));
    assert!(!home.path(".cache").exists(), "looking makes no cache");
    let text = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains("cores") && text.contains("GPU"), "{text}");
    let said = home.error(1, &["doctor", "--cache-dir", "/proc/nothing"]);
    assert!(said.contains("1 problem"), "{said}");
}

#[test]
fn a_folder_that_another_process_owns_is_named() {
    let home = Home::new();
    home.pack();
    home.json(0, &["prefetch", "shards"]);
    let dir = home.path(".cache/forebay/data");
    let lock = forebay_cache::disk::FolderLock::try_acquire(&dir).unwrap().unwrap();
    for command in ["status", "verify"] {
        let said = home.error(1, &[command, "--wait", "0.2"]);
        assert!(said.contains(".cache/forebay/data") && said.contains("another process"), "{said}");
    }
    drop(lock);
    home.json(0, &["verify"]);
}

#[test]
fn an_interrupted_prefetch_keeps_what_it_has() {
    let home = Home::new();
    home.pack();
    // Served by nobody: the connection is accepted and no byte ever comes, so that the command is still at work when it is interrupted.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a.tar", listener.local_addr().unwrap());
    let child = home.start(&["prefetch", "shards/train-000000.tar", &url]);
    let connection = listener.accept().unwrap();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    drop(connection);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted; what was fetched is kept"), "{said}");
    home.json(0, &["verify"]);
}
