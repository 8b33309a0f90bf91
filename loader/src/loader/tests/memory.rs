//! What is counted against host_memory_limit, by errors and from outside the process.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use super::*;
use crate::decode::testing::{Encoded, jpeg, photo};

/// A whole photograph of 4 megapixels: 12 MB of pixels.
static PICTURE: LazyLock<Vec<u8>> =
    LazyLock::new(|| jpeg(&photo(2464, 1632), &Encoded { quality: 50, ..Encoded::default() }));
const PICTURE_BYTES: u64 = 2464 * 1632 * 3;
/// What the process itself may take beside the limit.
const BESIDE: u64 = 300 << 20;

/// What a process of its own does with a dataset; `memory` is asked from outside.
struct InChild {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl InChild {
    fn start(dir: &Path, what: &str, limit: u64, batch_size: usize) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--ignored",
                "--nocapture",
                "loader::tests::memory::a_loader_in_a_process_of_its_own",
            ])
            .env("FOREBAY_TEST_CHILD", format!("{}\n{what}\n{limit}\n{batch_size}", dir.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// Waits for a line that starts with "child", and gives its rest.
    fn says(&mut self) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some((_, said)) = line.split_once("child: ") {
                return said.trim().to_owned();
            }
            line.clear();
        }
        panic!("the child ended");
    }

    fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    fn go_on(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for InChild {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// The limits that a child asks for, one after the other, until it ends otherwise; its last words, and how its peak RSS grew.
fn at_the_least(dir: &Path, what: &str, batch_size: usize) -> (u64, String, u64) {
    let mut limit = 64 << 20;
    for _ in 0..8 {
        let (said, grown) = in_child(dir, what, limit, batch_size);
        let Some(asked) = least(&said) else { return (limit, said, grown) };
        assert!(asked > limit && grown < limit + BESIDE, "{grown}: {said}");
        limit = asked;
    }
    panic!("no limit is enough: {limit}");
}

/// The limit that an error of the child names.
fn least(said: &str) -> Option<u64> {
    said.strip_prefix("error ")?.split(' ').next()?.parse().ok()
}

/// What the child says, and how its peak RSS grew from before the loader was opened.
fn in_child(dir: &Path, what: &str, limit: u64, batch_size: usize) -> (String, u64) {
    let mut child = InChild::start(dir, what, limit, batch_size);
    assert_eq!(child.says(), "ready");
    let before = child.peak_bytes();
    child.go_on();
    let said = child.says();
    (said, child.peak_bytes() - before)
}

#[test]
#[ignore = "reads what to do from the environment: run by the tests below in a process of its own"]
fn a_loader_in_a_process_of_its_own() {
    let Ok(job) = std::env::var("FOREBAY_TEST_CHILD") else { return };
    let [dir, what, limit, batch_size] = job.split('\n').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let fields = match what {
        "pictures" => vec![field("jpg", whole(), Shapes::Equal)],
        "texts" => {
            vec![field("txt", FieldKind::Text, Shapes::Equal), field("json", FieldKind::Json, Shapes::Equal)]
        }
        other => panic!("{other}"),
    };
    let options = LoaderOptions {
        batch_size: batch_size.parse().unwrap(),
        ..options(&PathBuf::from(dir), fields, limit.parse().unwrap())
    };
    let (mut said, stdin) = (std::io::stdout(), std::io::stdin());
    let wait = || {
        stdin.read_line(&mut String::new()).unwrap();
    };
    writeln!(said, "\nchild: ready").unwrap();
    wait();
    let outcome = Loader::open(options).and_then(|loader| {
        loader.start()?;
        let mut batches = 0;
        while let Some(batch) = next(&loader)? {
            batches += 1;
            // As far ahead as memory lets it go, before the next one is asked for: until two more batches lie there, or all is read.
            let bytes: usize = batch.columns.iter().map(|(_, column)| bytes_of(column)).sum();
            let enough = 2 * bytes as u64;
            let values = || loader.place.values.budget.used_bytes() as u64;
            let all_read = || loader.stats().samples_by_tier.values().sum::<u64>() > 63;
            until(|| batches > 1 || values() >= enough || all_read());
        }
        Ok(batches)
    });
    match outcome {
        Ok(batches) => writeln!(said, "child: ok {batches}").unwrap(),
        Err(error) => writeln!(said, "child: error {} {error}", needed(&error)).unwrap(),
    }
    wait();
}

fn bytes_of(column: &Column) -> usize {
    match column {
        Column::Dense(array) => array.data.len(),
        Column::Device(array) => array.memory.bytes() as usize,
        Column::Ragged(arrays) => arrays.iter().map(|array| array.data.len()).sum(),
        Column::Text(rows) | Column::Json(rows) => rows.iter().map(|text| text.as_str().len()).sum(),
        Column::Bytes(rows) => rows.iter().map(|bytes| bytes.len()).sum(),
    }
}

#[test]
fn whole_pictures_are_an_error_that_names_the_least_limit_or_stay_within_it() {
    let members: Vec<_> = (0..64).map(|number| (format!("{number:04}.jpg"), PICTURE.clone())).collect();
    let dir = folder(&[("a.tar", tar(&members))]);
    // A batch of 64 has 772 MB of pixels, which nobody may hold under this limit.
    let (said, grown) = in_child(dir.path(), "pictures", 64 << 20, 64);
    let asked = least(&said).unwrap();
    assert!(asked > 2 * 64 * PICTURE_BYTES && said.contains("a.tar: 00"), "{said}");
    assert!(said.contains("a batch of 64 samples takes 772"), "{said}");
    assert!(grown < (64 << 20) + BESIDE, "{grown}");
    // One by one they fit under less; all that 64 batches ahead would hold is 772 MB again.
    let (limit, said, grown) = at_the_least(dir.path(), "pictures", 1);
    assert_eq!(said, "ok 64");
    assert!(limit < 400 << 20 && grown < limit + (100 << 20), "{grown} of {limit}");
    let (said, _) = in_child(dir.path(), "pictures", limit - 4096, 1);
    assert_eq!(least(&said), Some(limit), "{said}");
}

#[test]
fn long_texts_and_documents_stay_within_the_limit() {
    let members: Vec<_> = (0..64)
        .flat_map(|number| {
            let document = format!("[{}0]", "1, ".repeat(5_000_000 / 3)).into_bytes();
            [(format!("{number:04}.txt"), vec![b'a'; 5_000_000]), (format!("{number:04}.json"), document)]
        })
        .collect();
    let dir = folder(&[("a.tar", tar(&members))]);
    drop(members);
    let (limit, said, grown) = at_the_least(dir.path(), "texts", 2);
    assert_eq!(said, "ok 32");
    // 640 MB of values, all of which 64 batches ahead would hold.
    assert!(limit < 450 << 20 && grown < limit, "{grown} of {limit}");
}

/// Samples of every kind: tiny and large ones side by side, which leave holes wherever they lie.
fn mixture() -> Vec<(String, Vec<u8>)> {
    let npy = |elements: usize| {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({elements},), }}\n");
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &vec![7; elements]].concat()
    };
    let pictures: Vec<Vec<u8>> =
        [(9, 7), (640, 480), (1500, 900)].map(|(w, h)| jpeg(&photo(w, h), &Encoded::default())).into();
    let sizes = [1, 300_000, 10, 1_500_000, 4097, 2, 700_000, 0, 65_536, 3];
    (0..120usize)
        .flat_map(|number| {
            let size = |offset: usize| sizes[(number * 7 + offset) % sizes.len()];
            [
                (format!("{number:04}.bin"), vec![number as u8; size(0)]),
                (format!("{number:04}.json"), format!("\"{}\"", "x".repeat(size(3))).into_bytes()),
                (format!("{number:04}.npy"), npy(size(5))),
                (format!("{number:04}.txt"), vec![b'a'; size(8)]),
                (format!("{number:04}.jpg"), pictures[number * 5 % 3].clone()),
            ]
        })
        .collect()
}

fn mixed_fields() -> Vec<Field> {
    vec![
        field("bin", FieldKind::Bytes, Shapes::Equal),
        field("json", FieldKind::Json, Shapes::Equal),
        field("npy", FieldKind::Numpy, Shapes::Ragged),
        field("txt", FieldKind::Text, Shapes::Equal),
        field("jpg", whole(), Shapes::Pad(0.0)),
    ]
}

#[test]
fn a_mixture_of_tiny_and_large_values_neither_hangs_nor_goes_over() {
    let mut members = mixture();
    // One sample's array is damaged, and its header says nothing.
    members[5 * 33 + 2].1.truncate(20);
    let dir = folder(&[("a.tar", tar(&members))]);
    for (on_error, mode, prefetch_factor) in [
        (OnError::Skip, OrderMode::Shuffle, 64),
        (OnError::Skip, OrderMode::Storage, 1),
        (OnError::Raise, OrderMode::Shuffle, 64),
    ] {
        if on_error == OnError::Raise {
            members[5 * 33 + 2].1 = members[5 * 34 + 2].1.clone();
            std::fs::write(dir.path().join("data/a.tar"), tar(&members)).unwrap();
        }
        let mut options = LoaderOptions {
            on_error,
            mode,
            prefetch_factor,
            max_errors: 1,
            batch_size: 3,
            ..options(dir.path(), mixed_fields(), 64 << 20)
        };
        // The error says which limit would do; under that one there is no room to waste.
        let least = Loader::open(options.clone()).and_then(|loader| epoch(&loader)).unwrap_err();
        options.cache.host_memory_limit_bytes = needed(&least);
        let mut batches = 0;
        let done = loop {
            let loader = Loader::open(options.clone()).unwrap();
            match epoch(&loader) {
                // Another batch is larger than the first one that was too large.
                Err(error) => options.cache.host_memory_limit_bytes = needed(&error),
                Ok(done) => break done,
            }
            batches += 1;
            assert!(batches < 40);
        };
        assert_eq!(done.iter().map(Vec::len).sum::<usize>(), 120);
    }
}

#[test]
fn values_are_what_the_members_hold() {
    let members = mixture();
    let dir = folder(&[("a.tar", tar(&members))]);
    let loader = Loader::open(LoaderOptions {
        mode: OrderMode::Shuffle,
        ..options(dir.path(), mixed_fields(), 1 << 30)
    })
    .unwrap();
    loader.start().unwrap();
    let mut rows = 0;
    while let Some(batch) = next(&loader).unwrap() {
        let column = |at: usize| &batch.columns[at].1;
        for (row, &(_, sample)) in batch.samples.iter().enumerate() {
            let member = |at: usize| &members[sample as usize * 5 + at].1[..];
            let Column::Bytes(bytes) = column(0) else { panic!() };
            let Column::Json(json) = column(1) else { panic!() };
            let Column::Ragged(arrays) = column(2) else { panic!() };
            let Column::Text(texts) = column(3) else { panic!() };
            let Column::Dense(pictures) = column(4) else { panic!() };
            assert!(*bytes[row] == *member(0) && json[row].as_str().as_bytes() == member(1));
            assert!(member(2).ends_with(&arrays[row].data) && texts[row].as_str().as_bytes() == member(3));
            assert_eq!(arrays[row].shape, [arrays[row].data.len()]);
            assert_eq!((arrays[row].data.as_ptr() as usize % 64, pictures.shape.len()), (0, 4));
            rows += 1;
        }
    }
    assert_eq!(rows, 120);
    assert_eq!(loader.place.values.budget.used_bytes(), 0, "everything was let go");
}

#[test]
fn a_large_picture_waits_for_scratch_and_one_that_never_fits_says_which_limit_does() {
    let large = jpeg(&photo(4000, 2500), &Encoded { progressive: true, quality: 40, ..Encoded::default() });
    let members: Vec<_> = (0..6).map(|number| (format!("{number}.jpg"), large.clone())).collect();
    let dir = folder(&[("a.tar", tar(&members))]);
    let transforms = vec![crate::field::Transform::CenterCrop { size: (2000, 2000) }];
    let kind = FieldKind::Image { transforms, decode: DecodeMode::Exact, convert: Convert::default() };
    let small = LoaderOptions {
        batch_size: 1,
        prefetch_factor: 1,
        ..options(dir.path(), vec![field("jpg", kind, Shapes::Equal)], 192 << 20)
    };
    let error = epoch(&Loader::open(small.clone()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("a.tar") && error.contains("0.jpg"), "{error}");
    let least: u64 = error.rsplit(' ').next().unwrap().parse().unwrap();
    let limit = |bytes| {
        let mut options = small.clone();
        options.cache.host_memory_limit_bytes = bytes;
        options
    };
    let loader = Loader::open(limit(least)).unwrap();
    assert_eq!(epoch(&loader).unwrap().len(), 6);
    let (peak, capacity) = (loader.place.large.peak_bytes(), loader.place.large.capacity_bytes());
    assert!(peak > 0 && peak <= capacity && capacity < 2 * peak, "one at a time: {peak} of {capacity}");
    drop(loader);
    epoch(&Loader::open(limit(least - 4096)).unwrap()).unwrap_err();
}
