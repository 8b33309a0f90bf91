//! `forebay trace` and `forebay bench` as users run them, and what they measure memory with.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_loader::measure::process::{peak_rss_bytes, reset_peak_rss};
use home::{Home, interrupt};
use serde_json::Value;
use stalled::Stalled;

mod home;
mod shards;
mod stalled;

/// Samples of each of the three shards.
const PER_SHARD: usize = 20;

fn picture(number: usize) -> Vec<u8> {
    let (width, height) = (64 + number as u32 % 7, 48);
    let pixels: Vec<u8> = (0..width * height * 3).map(|at| (at as usize * (number + 3) / 5) as u8).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}

/// Shards of pictures with labels in the folder `shards`.
fn pictures(home: &Home) {
    fs::create_dir(home.path("shards")).unwrap();
    for shard in 0..3 {
        let members: Vec<_> = (shard * PER_SHARD..(shard + 1) * PER_SHARD)
            .flat_map(|number| {
                let name = format!("{number:06}");
                [
                    (format!("{name}.png"), picture(number)),
                    (format!("{name}.cls"), number.to_string().into_bytes()),
                ]
            })
            .collect();
        fs::write(home.path(&format!("shards/{shard}.tar")), shards::tar(&members)).unwrap();
    }
}

fn events(path: &Path) -> Vec<Value> {
    let trace: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    trace["traceEvents"].as_array().unwrap().clone()
}

fn named<'a>(events: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["name"] == name)
}

/// Spans of a track lie beside or inside each other.
fn nest(events: &[Value]) {
    let mut tracks: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let start = event["ts"].as_f64().unwrap();
        let end = start + event["dur"].as_f64().unwrap();
        tracks.entry(event["tid"].as_u64().unwrap()).or_default().push((start, end));
    }
    for (track, mut spans) in tracks {
        spans.sort_by(|one, other| one.0.total_cmp(&other.0).then(other.1.total_cmp(&one.1)));
        let mut open: Vec<f64> = Vec::new();
        for (start, end) in spans {
            // Microseconds are written with the digits of a double.
            open.retain(|&other| other > start + 1e-3);
            assert!(
                open.iter().all(|&other| end <= other + 1e-3),
                "track {track}: {start}..{end} in {open:?}"
            );
            open.push(end);
        }
    }
}

#[test]
fn a_trace_shows_every_sample_once_and_where_its_bytes_came_from() {
    let home = Home::new();
    pictures(&home);
    let arguments =
        ["trace", "shards", "-o", "epoch.json", "--batch-size", "10", "--crop", "32", "--threads", "2"];
    let said = home.json(0, &arguments);
    assert_eq!((&said["samples"], &said["batches"], &said["dropped"]), (&60.into(), &6.into(), &0.into()));
    let events = events(&home.path("epoch.json"));
    assert_eq!(said["events"], events.len());
    assert_eq!(said["bytes"], fs::metadata(home.path("epoch.json")).unwrap().len());
    nest(&events);

    let decoded: Vec<_> = named(&events, "decode")
        .map(|event| (event["args"]["shard"].as_u64().unwrap(), event["args"]["sample"].as_u64().unwrap()))
        .collect();
    assert_eq!(decoded.len(), 60);
    assert_eq!(decoded.into_iter().collect::<BTreeSet<_>>().len(), 60);
    for event in named(&events, "decode") {
        let args = &event["args"];
        assert_eq!(args["object"], format!("{}.tar", args["shard"]));
        assert!(["memory", "nvme", "origin"].contains(&args["tier"].as_str().unwrap()), "{event}");
        assert!(args["bytes"].as_u64().unwrap() > 100, "{event}");
    }

    let threads = said["threads"].as_array().unwrap();
    assert_eq!(threads.iter().map(|thread| thread["samples"].as_u64().unwrap()).sum::<u64>(), 60);
    for thread in threads {
        let name = &thread["name"];
        assert!(name.as_str().unwrap().starts_with("forebay-decode-"), "{name}");
        let track = named(&events, "thread_name").find(|event| event["args"]["name"] == *name).unwrap();
        let spans = named(&events, "decode").filter(|event| event["tid"] == track["tid"]);
        let busy: f64 = spans.map(|span| span["dur"].as_f64().unwrap() / 1e6).sum();
        assert!((busy - thread["busy_seconds"].as_f64().unwrap()).abs() < 1e-3, "{thread}");
    }

    assert_eq!(named(&events, "assemble").count(), 6);
    assert!(named(&events, "consume").count() >= 5);
    let begun: Vec<_> = events.iter().filter(|event| event["ph"] == "b").map(|event| &event["id"]).collect();
    let mut ended: Vec<_> =
        events.iter().filter(|event| event["ph"] == "e").map(|event| &event["id"]).collect();
    ended.retain(|id| begun.contains(id));
    assert_eq!((begun.len(), named(&events, "batch").count()), (ended.len(), 12));
    for counter in ["bytes being read", "batches ready", "host memory in use"] {
        assert!(named(&events, counter).all(|event| event["args"]["value"].is_u64()), "{counter}");
        assert!(named(&events, counter).count() > 0, "{counter}");
    }
    let waits: f64 = events
        .iter()
        .filter(|event| event["name"].as_str().unwrap().starts_with("wait: "))
        .map(|event| event["dur"].as_f64().unwrap() / 1e6)
        .sum();
    let stalls: f64 = said["stall_seconds"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
    assert!((waits - stalls).abs() < 0.01, "{waits} {stalls}");
}

#[test]
fn a_cold_trace_shows_what_is_fetched_from_the_origin() {
    let home = Home::new();
    pictures(&home);
    // In storage order and with counts from a list, nothing but the epoch reads the shards.
    let shard = |shard: usize| format!(r#"{{"url":"{shard}.tar","nsamples":{PER_SHARD}}}"#);
    let list = format!(
        r#"{{"__kind__":"wids-shard-index-v1","wids_version":1,"shardlist":[{},{},{}]}}"#,
        shard(0),
        shard(1),
        shard(2)
    );
    fs::write(home.path("shards/index.json"), list).unwrap();
    let arguments = [
        "trace",
        "shards/index.json",
        "-o",
        "t.json",
        "--int",
        "cls",
        "--batches",
        "2",
        "--batch-size",
        "10",
    ];
    let said = home.json(0, &arguments);
    assert_eq!((&said["samples"], &said["batches"]), (&20.into(), &2.into()));
    let events = events(&home.path("t.json"));
    let fetched: u64 = named(&events, "fetch").filter_map(|event| event["args"]["arrived"].as_u64()).sum();
    assert!(fetched > 0, "{events:?}");
    assert!(named(&events, "bytes being fetched").count() > 0);
}

#[test]
fn a_trace_has_a_bound_and_says_what_had_no_room() {
    let home = Home::new();
    pictures(&home);
    let arguments =
        ["trace", "shards", "-o", "t.json", "--crop", "32", "--batch-size", "10", "--events", "10"];
    let said = home.json(0, &arguments);
    let dropped = said["dropped"].as_u64().unwrap();
    assert!(dropped > 60, "{said:#}");
    let trace: Value = serde_json::from_slice(&fs::read(home.path("t.json")).unwrap()).unwrap();
    assert_eq!(trace["otherData"]["dropped_events"], dropped);
    assert!(trace["traceEvents"].as_array().unwrap().len() < 60);
    let samples = |thread: &Value| thread["samples"].as_u64().unwrap();
    assert_eq!(
        said["threads"].as_array().unwrap().iter().map(samples).sum::<u64>(),
        60,
        "accounts stay right"
    );
    let output = home.run(&arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("had no room") && text.contains("busy") && text.contains("ui.perfetto.dev"),
        "{text}"
    );
}

#[test]
fn a_trace_that_can_not_be_made_leaves_no_file() {
    let home = Home::new();
    pictures(&home);
    let said = home.error(1, &["trace", "shards", "-o", "nowhere/t.json"]);
    assert!(said.contains("nowhere/t.json can't be written") && said.contains("--output"), "{said}");
    let said = home.error(1, &["trace", "shards", "-o", "shards"]);
    assert!(said.contains("it is a folder"), "{said}");
    let said = home.error(1, &["trace", "nowhere.tar", "-o", "t.json"]);
    assert!(said.contains("nowhere.tar does not exist"), "{said}");
    for (arguments, wanted) in [
        (&["trace", "shards"][..], "--output"),
        (&["trace", "shards", "-o", "t.json", "--int", ","], "names no member suffix"),
        (&["trace", "shards", "-o", "t.json", "--int", "cls", "--bytes", "cls"], "given twice"),
        (&["trace", "shards", "-o", "t.json", "--batch-size", "0"], "1048576"),
        (&["trace", "shards", "-o", "t.json", "--crop", "0"], "1..=16384"),
        (&["bench", "shards", "--rounds", "0"], "1..=1000"),
    ] {
        let said = home.error(2, arguments);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
    let left: Vec<_> =
        fs::read_dir(home.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().contains("t.json")), "{left:?}");
}

#[test]
fn a_trace_of_an_epoch_that_fails_ends_with_the_sample_that_did() {
    let home = Home::new();
    pictures(&home);
    let members: Vec<_> = (0..PER_SHARD)
        .map(|number| {
            let label = if number == 17 { "not a number".into() } else { number.to_string() };
            (format!("{number:06}.cls"), label.into_bytes())
        })
        .collect();
    fs::write(home.path("shards/3.tar"), shards::tar(&members)).unwrap();
    let options = ["-o", "t.json", "--int", "cls", "--batch-size", "10", "--storage-order", "--threads", "1"];
    let said = home.error(1, &[&["trace", "shards"], &options[..]].concat());
    assert!(said.contains("000017") && said.contains("not a number"), "{said}");
    let events = events(&home.path("t.json"));
    assert!(said.contains(&format!("t.json ends there, after {} events", events.len())), "{said}");
    assert!(named(&events, "decode").count() >= 60, "the samples before it");
    assert_eq!(named(&events, "decode, failed").count(), 1);
    nest(&events);
    // Nothing runs at all, and nothing is written.
    let said = home.error(1, &["trace", "nowhere.tar", "-o", "none.json"]);
    assert!(said.contains("nowhere.tar does not exist") && !home.path("none.json").exists(), "{said}");
}

#[test]
fn an_interrupted_trace_ends_where_the_epoch_did() {
    let home = Home::new();
    pictures(&home);
    home.json(0, &["index", "shards", "--write-sidecars"]);
    // Size and index of the last shard are served, and no byte of it: the epoch begins with the others and waits for this one.
    let size = fs::metadata(home.path("shards/2.tar")).unwrap().len();
    let server = Stalled::serve(size, fs::read(home.path("shards/2.idx")).unwrap());
    let sources = ["shards/0.tar", "shards/1.tar", &server.url];
    let options = ["-o", "t.json", "--json", "--crop", "32", "--batch-size", "8", "--storage-order"];
    let child = home.start(&[&["trace"], &sources[..], &options].concat());
    let waiting = server.asked();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    drop(waiting);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["interrupted"], true);
    assert!(said["samples"].as_u64().unwrap() < 60, "{said:#}");
    assert_eq!(said["events"], events(&home.path("t.json")).len());
}

#[test]
fn bench_measures_tiers_and_limits_and_leaves_nothing_behind() {
    let home = Home::new();
    pictures(&home);
    fs::create_dir(home.path("mine")).unwrap();
    fs::write(home.path("mine/precious"), "data").unwrap();
    let options =
        ["--cache-dir", "mine", "--rounds", "2", "--batch-size", "8", "--crop", "32", "--threads", "2"];
    let said = home.json(0, &[&["bench", "shards"], &options[..]].concat());
    assert_eq!(
        (&said["rounds"], &said["planned_rounds"], &said["interrupted"]),
        (&2.into(), &2.into(), &false.into())
    );
    assert_eq!(said["dataset"]["samples"], 60);
    let fields: Vec<_> = said["fields"].as_array().unwrap().iter().map(|field| &field["name"]).collect();
    assert_eq!(fields, ["png", "cls"]);
    let limits: Vec<_> = said["limits"].as_array().unwrap().iter().map(|limit| &limit["limit"]).collect();
    assert_eq!(limits, ["decoding", "origin", "disk", "memcpy"]);
    for limit in said["limits"].as_array().unwrap() {
        assert!(limit["samples_per_second"].as_f64().unwrap() > 0.0, "{limit}");
        assert!(limit["min"].as_f64().unwrap() <= limit["max"].as_f64().unwrap(), "{limit}");
    }
    let tiers = said["tiers"].as_array().unwrap();
    assert_eq!(tiers.iter().map(|tier| &tier["tier"]).collect::<Vec<_>>(), ["cold", "nvme", "memory"]);
    for tier in tiers {
        assert_eq!(tier["epochs"], 2);
        assert!(tier["share_of_limit"].as_f64().unwrap() > 0.0, "{tier}");
        assert!(tier["first_batch_seconds"].as_f64().unwrap() > 0.0, "{tier}");
        assert!(tier["peak_rss_bytes"].as_u64().unwrap() > 1 << 20, "{tier}");
    }
    let read = |tier: usize, from: &str| tiers[tier]["bytes_by_tier"][from].as_u64().unwrap();
    assert!(read(1, "nvme") > 0 && read(1, "origin") == 0 && read(1, "memory") == 0, "{tiers:?}");
    assert!(read(2, "memory") > 0 && read(2, "origin") == 0, "{tiers:?}");
    let left: BTreeSet<_> =
        fs::read_dir(home.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mine", "shards"].map(Into::into).into());
    assert_eq!(fs::read_dir(home.path("mine")).unwrap().count(), 1, "the user's own folder is left alone");
}

#[test]
fn bench_takes_a_dataset_without_images() {
    let home = Home::new();
    fs::create_dir(home.path("shards")).unwrap();
    fs::write(home.path("shards/a.tar"), shards::tar(&shards::members(0..50, 3000))).unwrap();
    let said = home.json(0, &["bench", "shards", "--rounds", "1", "--batch-size", "8"]);
    let limits: Vec<_> = said["limits"].as_array().unwrap().iter().map(|limit| &limit["limit"]).collect();
    assert_eq!(limits, ["origin", "disk", "memcpy"]);
    assert_eq!(said["tiers"][0]["limit"], "origin");
    let text =
        String::from_utf8(home.run(&["bench", "shards", "--rounds", "1", "--batches", "2"]).stdout).unwrap();
    assert!(text.contains("NVMe") && text.contains("memcpy") && text.contains("page cache"), "{text}");
}

#[test]
fn every_image_field_counts_for_the_limit_of_decoding() {
    let home = Home::new();
    fs::create_dir(home.path("shards")).unwrap();
    let members: Vec<_> = (0..PER_SHARD)
        .flat_map(|number| {
            ["large", "small"].map(|name| (format!("{number:06}.{name}.png"), picture(number)))
        })
        .collect();
    fs::write(home.path("shards/0.tar"), shards::tar(&members)).unwrap();
    let fields = ["--image", "large.png", "--image", "small.png"];
    let options = ["--rounds", "1", "--batch-size", "4", "--crop", "8"];
    let said = home.json(0, &[&["bench", "shards"], &fields[..], &options[..]].concat());
    let limit = &said["limits"][0];
    assert_eq!(limit["limit"], "decoding");
    let per_sample = limit["median"].as_f64().unwrap() / limit["samples_per_second"].as_f64().unwrap();
    assert!((per_sample - 2.0).abs() < 1e-9, "{limit}");
}

#[test]
fn what_a_killed_bench_left_is_removed_and_what_a_living_one_has_is_not() {
    let home = Home::new();
    pictures(&home);
    let endless = ["bench", "shards", "--rounds", "1000", "--crop", "32", "--cache-dir", "mine"];
    let begun = |child: &mut std::process::Child| {
        let folder = home.path(&format!(".forebay-bench-{}", child.id()));
        let late = Instant::now() + Duration::from_secs(300);
        while !folder.join("round-1").exists() {
            assert!(Instant::now() < late && child.try_wait().unwrap().is_none(), "no round begins");
            std::thread::yield_now();
        }
        folder
    };
    let (mut killed, mut living) = (home.start(&endless), home.start(&endless));
    let (left, used) = (begun(&mut killed), begun(&mut living));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(left.exists());
    // Not of a bench, whatever it is.
    fs::create_dir(home.path(".forebay-bench-notes")).unwrap();
    fs::write(home.path(".forebay-bench-7"), "a file").unwrap();

    let output = home.run(&["bench", "shards", "--rounds", "1", "--crop", "32", "--cache-dir", "mine"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("removed {}, which a killed bench had left", left.display())), "{said}");
    assert!(!left.exists() && used.exists(), "{said}");
    assert!(home.path(".forebay-bench-notes").exists() && home.path(".forebay-bench-7").exists());
    assert!(living.try_wait().unwrap().is_none());
    interrupt(&living);
    assert_eq!(living.wait().unwrap().code(), Some(130));
}

#[test]
fn bench_says_what_it_lacks_before_it_begins() {
    let home = Home::new();
    fs::File::create(home.path("large.tar")).unwrap().set_len(100_000_000).unwrap();
    let said = home.error(1, &["bench", "large.tar", "--cache-limit", "50MB"]);
    assert!(said.contains("needs 112 MB") && said.contains("fewer shards"), "{said}");
    let said = home.error(1, &["bench", "nowhere.tar"]);
    assert!(said.contains("nowhere.tar does not exist"), "{said}");
    fs::write(home.path("empty.tar"), vec![0; 1024]).unwrap();
    let said = home.error(1, &["bench", "empty.tar"]);
    assert!(said.contains("no samples"), "{said}");
    let left: Vec<_> =
        fs::read_dir(home.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().contains("bench")), "{left:?}");
}

#[test]
fn an_interrupted_bench_gives_the_figures_that_it_has() {
    let home = Home::new();
    pictures(&home);
    let mut child =
        home.start(&["bench", "shards", "--rounds", "1000", "--crop", "32", "--json", "--cache-dir", "mine"]);
    let second = home.path(&format!(".forebay-bench-{}/round-2", child.id()));
    let late = Instant::now() + Duration::from_secs(300);
    while !second.exists() {
        assert!(Instant::now() < late && child.try_wait().unwrap().is_none(), "no second round begins");
        std::thread::yield_now();
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["interrupted"], &said["planned_rounds"]), (&true.into(), &1000.into()));
    assert!(
        said["rounds"].as_u64().unwrap() >= 1 && said["tiers"].as_array().unwrap().len() == 3,
        "{said:#}"
    );
    assert!(!second.parent().unwrap().exists(), "the temporary folder is gone");
    assert!(String::from_utf8(output.stderr).unwrap().contains("interrupted"));
}

#[test]
fn a_peak_that_was_reset_is_that_of_what_follows() {
    let spike = vec![1u8; 256 << 20];
    assert!(std::hint::black_box(&spike).iter().step_by(4096).all(|&byte| byte == 1));
    let before = peak_rss_bytes().unwrap();
    assert!(before >= 256 << 20, "{before}");
    drop(spike);
    reset_peak_rss().unwrap();
    let after = peak_rss_bytes().unwrap();
    assert!(after + (128 << 20) < before, "{after} {before}");
}
