//! `forebay weights` as users run it: what a model is, in the cache and where it lies, and what is said when something is wrong.

// A helper that unwraps is a test that fails; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use home::{Home, interrupt};
use serde_json::{Map, Value, json};
use stalled::Stalled;

mod home;
mod stalled;

/// Bytes of one tensor: more than a block, and no whole granules.
const LARGE: usize = 5_000_002;

/// A safetensors file of tensors of bytes.
fn safetensors(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, dtype, shape, bytes) in tensors {
        let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]});
        header.insert((*name).into(), tensor);
        at += bytes;
    }
    let mut json = serde_json::to_vec(&header).unwrap();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json);
    file.extend((0..at).map(|byte| (byte * 31 % 251) as u8));
    file
}

impl Home {
    /// A folder as hubs have them: two files of weights and their index, what belongs to them, and the same weights as a pickle.
    fn model(&self) {
        let folder = self.path("llama");
        fs::create_dir_all(folder.join("compiled")).unwrap();
        let one = safetensors(&[("a", "BF16", &[LARGE / 2], LARGE), ("b", "F32", &[2, 3], 24)]);
        let two = safetensors(&[("c", "BF16", &[0], 0), ("d", "BF16", &[7], 14)]);
        fs::write(folder.join("model-00001-of-00002.safetensors"), one).unwrap();
        fs::write(folder.join("model-00002-of-00002.safetensors"), two).unwrap();
        let map: Map<_, _> = [("a", 1), ("b", 1), ("c", 2), ("d", 2)]
            .into_iter()
            .map(|(name, file)| (name.into(), json!(format!("model-0000{file}-of-00002.safetensors"))))
            .collect();
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        fs::write(folder.join("tokenizer.json"), vec![b' '; 100_000]).unwrap();
        fs::write(folder.join("compiled/kernels.so"), [7; 5000]).unwrap();
        fs::write(folder.join("pytorch_model.bin"), b"PK\x03\x04 code").unwrap();
    }

    fn size(&self, name: &str) -> u64 {
        fs::metadata(self.path("llama").join(name)).unwrap().len()
    }

    /// Of both files.
    fn weights_bytes(&self) -> u64 {
        self.size("model-00001-of-00002.safetensors") + self.size("model-00002-of-00002.safetensors")
    }
}

/// The largest file of cached bytes.
fn largest(folder: &Path) -> PathBuf {
    let buckets = fs::read_dir(folder.join("objects")).unwrap().map(|bucket| bucket.unwrap().path());
    let files = buckets.flat_map(|bucket| fs::read_dir(bucket).unwrap().map(|file| file.unwrap().path()));
    let data = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "data"));
    data.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn names(files: &Value) -> Vec<&str> {
    files.as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect()
}

const CACHED: [&str; 2] = ["--cache-dir", "cache"];

#[test]
fn a_model_is_listed_cached_checked_and_loaded() {
    let home = Home::new();
    home.model();
    let run = |code, command: &str| home.json(code, &[&["weights", command, "llama"], &CACHED[..]].concat());

    let listed = home.json(0, &["weights", "ls", "llama", "--tensors"]);
    assert_eq!((&listed["tensors"], &listed["bytes"]), (&4.into(), &(LARGE + 24 + 14).into()));
    assert_eq!(
        names(&listed["files"]),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    );
    assert_eq!(
        names(&listed["other_files"]),
        ["compiled/kernels.so", "config.json", "model.safetensors.index.json", "tokenizer.json"],
        "and no pickle"
    );
    assert!(listed["files"][0]["cached_bytes"].is_null(), "it is read where it lies");
    assert_eq!(
        listed["dtypes"],
        json!([
            {"dtype": "BF16", "tensors": 3, "bytes": LARGE + 14},
            {"dtype": "F32", "tensors": 1, "bytes": 24},
        ])
    );
    let b = &listed["all_tensors"][1];
    assert_eq!((&b["name"], &b["shape"], &b["bytes"]), (&"b".into(), &json!([2, 3]), &24.into()));
    assert!(!home.path(".cache").exists() && !home.path("cache").exists(), "no cache was made");

    let fetched = run(0, "prefetch");
    let others: u64 =
        ["compiled/kernels.so", "config.json", "model.safetensors.index.json", "tokenizer.json"]
            .iter()
            .map(|name| home.size(name))
            .sum();
    assert_eq!((&fetched["files"], &fetched["declined_blocks"]), (&6.into(), &0.into()));
    assert_eq!(fetched["bytes"], home.weights_bytes() + others);
    assert_eq!(fetched["origin_bytes"], fetched["bytes"], "each byte came once, with the headers");
    let again = run(0, "prefetch");
    assert_eq!((&again["stored_blocks"], &again["origin_bytes"]), (&0.into(), &0.into()), "{again:#}");
    let listed = run(0, "ls");
    for file in listed["files"].as_array().unwrap().iter().chain(listed["other_files"].as_array().unwrap()) {
        assert_eq!(file["cached_bytes"], file["size_bytes"], "{file:#}");
    }

    let loaded = run(0, "load");
    let sources = loaded["bytes_by_source"].as_object().unwrap();
    let of = |source: &str| sources[source].as_u64().unwrap();
    assert_eq!(loaded["bytes"], LARGE + 24 + 14);
    assert_eq!((of("origin"), of("page_cache"), of("file")), (0, 0, 0), "{loaded:#}");
    assert!(of("disk") >= LARGE as u64 && loaded["seconds"].as_f64().unwrap() > 0.0, "{loaded:#}");
    let in_place = home.json(0, &["weights", "load", "llama"]);
    let from = &in_place["bytes_by_source"];
    let local = from["page_cache"].as_u64().unwrap() + from["file"].as_u64().unwrap();
    assert!(local >= LARGE as u64 && from["disk"] == 0, "{in_place:#}");
}

#[test]
fn a_flipped_bit_in_the_cache_is_found_and_fetched_again() {
    let home = Home::new();
    home.model();
    let run = |code, command: &str| home.json(code, &[&["weights", command, "llama"], &CACHED[..]].concat());
    let first = run(0, "verify");
    assert_eq!(
        first["fetched_bytes"].as_u64().unwrap() + first["checked_bytes"].as_u64().unwrap(),
        home.weights_bytes()
    );
    let sound = run(0, "verify");
    assert_eq!((&sound["checked_bytes"], &sound["fetched_bytes"]), (&home.weights_bytes().into(), &0.into()));

    let path = largest(&home.path("cache"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[4_500_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let found = run(1, "verify");
    let bad = found["bad"].as_array().unwrap();
    assert_eq!(bad.len(), 1, "{found:#}");
    assert_eq!(bad[0]["file"], "model-00001-of-00002.safetensors");
    assert_eq!((&bad[0]["block"], &bad[0]["mended"]), (&1.into(), &true.into()));
    assert_eq!(found["fetched_bytes"], bad[0]["bytes"]);
    let mended = run(0, "verify");
    assert_eq!(mended["checked_bytes"], home.weights_bytes(), "{mended:#}");

    let in_place = home.json(0, &["weights", "verify", "llama"]);
    assert_eq!(
        (&in_place["read_bytes"], &in_place["checked_bytes"]),
        (&home.weights_bytes().into(), &0.into())
    );
}

#[test]
fn weights_alone_can_be_cached_and_a_limit_that_is_too_small_is_said() {
    let home = Home::new();
    home.model();
    let prefetch = |more: &[&'static str]| [&["weights", "prefetch", "llama"], &CACHED[..], more].concat();
    let fetched = home.json(0, &prefetch(&["--weights-only"]));
    assert_eq!((&fetched["files"], &fetched["bytes"]), (&2.into(), &home.weights_bytes().into()));
    let one = ["weights", "prefetch", "llama/model-00002-of-00002.safetensors", "--cache-dir", "other"];
    assert_eq!(home.json(0, &one)["files"], 1, "nobody listed its folder");

    fs::File::create(home.path("llama/large.json")).unwrap().set_len(100_000_000).unwrap();
    let said = home.error(1, &prefetch(&["--cache-limit", "50MB"]));
    assert!(
        said.contains("cache_limit of 50000000 bytes is too small") && said.contains("--weights-only"),
        "{said}"
    );
    let said = home.error(2, &["weights", "prefetch", "llama"]);
    assert!(said.contains("read where they lie") && said.contains("--cache-dir"), "{said}");
}

#[test]
fn what_is_no_model_is_said_and_the_tables_are_for_people() {
    let home = Home::new();
    home.model();
    let said = |code, url| home.error(code, &["weights", "ls", url]);
    assert!(said(1, "nothing/here").contains("nothing/here"));
    assert!(said(1, "llama/pytorch_model.bin").contains("pickle"));
    assert!(said(2, "llama/compiled").contains("no .safetensors file"));
    fs::write(home.path("cut.safetensors"), &safetensors(&[("a", "U8", &[9], 9)])[..70]).unwrap();
    assert!(said(1, "cut.safetensors").contains("cut.safetensors"));

    let text = |command: &str| String::from_utf8(home.run(&["weights", command, "llama"]).stdout).unwrap();
    let listed = text("ls");
    assert!(
        listed.contains("4 tensors of 5.0 MB in 2 files") && listed.contains("tokenizer.json"),
        "{listed}"
    );
    let loaded = text("load");
    let from = ["5.0 MB from the page cache", "5.0 MB from the file"];
    assert!(loaded.contains("GB/s") && from.iter().any(|from| loaded.contains(from)), "{loaded}");
    let cached = |command: &'static str| {
        let output = home.run(&[&["weights", command, "llama"], &CACHED[..]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    cached("prefetch");
    let loaded = cached("load");
    assert!(loaded.contains("5.0 MB from the disk") && !loaded.contains("from the origin"), "{loaded}");
    assert!(text("verify").contains("no checksums"));
}

#[test]
fn an_interrupt_ends_a_command_that_waits_for_an_origin() {
    let home = Home::new();
    let server = Stalled::serve(1 << 20, Vec::new());
    // A query says that this is a file, whatever its name.
    let child = home.start(&["weights", "load", &format!("{}?signature=1", server.url)]);
    let _waiting = server.asked();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("interrupted"));
}
