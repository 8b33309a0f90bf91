//! What a loader does with its memory and its time, on origins and shards that a test controls.

use std::path::Path;
use std::time::Instant;

use forebay_cache::ByteRange;
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::testing::{FakeOrigin, Fault, Gate, Rule};

use super::*;
use crate::batch::Column;
use crate::cli::pack::tar;
use crate::field::{Convert, DecodeMode, Field, FieldKind, Shapes};
use crate::options::{CacheSettings, OnError};

mod memory;

fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in members {
        out.extend(tar::header(name.as_bytes(), bytes.len() as u64));
        out.extend_from_slice(bytes);
        out.extend_from_slice(tar::padding(bytes.len() as u64));
    }
    out.resize(out.len() + tar::END_BYTES as usize, 0);
    out
}

/// Waits for what another thread does, and not for ever.
fn until(done: impl Fn() -> bool) {
    let late = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < late, "nothing happens");
        std::thread::yield_now();
    }
}

fn field(name: &str, kind: FieldKind, shapes: Shapes) -> Field {
    Field { name: name.into(), suffixes: vec![name.into()], kind, shapes }
}

fn whole() -> FieldKind {
    FieldKind::Image { transforms: vec![], decode: DecodeMode::Exact, convert: Convert::default() }
}

fn options(dir: &Path, fields: Vec<Field>, limit_bytes: u64) -> LoaderOptions {
    let cache = CacheSettings {
        dir: dir.join("cache"),
        limit_bytes: 4 << 30,
        host_memory_limit_bytes: limit_bytes,
        storage_options: Default::default(),
        patience: crate::options::DEFAULT_PATIENCE,
    };
    LoaderOptions {
        mode: OrderMode::Storage,
        num_threads: Some(2),
        prefetch_factor: 64,
        timeout: Some(Duration::from_secs(120)),
        ..LoaderOptions::new(vec![dir.join("data").display().to_string()], fields, 4, cache)
    }
}

fn folder(shards: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    for (name, bytes) in shards {
        std::fs::write(dir.path().join("data").join(name), bytes).unwrap();
    }
    dir
}

fn next(loader: &Loader) -> Result<Option<Batch>> {
    loop {
        match loader.next(Duration::from_secs(1))? {
            Next::Batch(batch) => return Ok(Some(*batch)),
            Next::End => return Ok(None),
            Next::Pending => {}
        }
    }
}

/// Batches of an epoch, each let go before the next one is asked for.
fn epoch(loader: &Loader) -> Result<Vec<Vec<(u32, u64)>>> {
    loader.start()?;
    let mut all = Vec::new();
    while let Some(batch) = next(loader)? {
        all.push(batch.samples);
    }
    Ok(all)
}

fn needed(error: &Error) -> u64 {
    match error {
        Error::Cache(forebay_cache::Error::MemoryTooSmall { needed_bytes, .. }) => *needed_bytes,
        other => panic!("{other}"),
    }
}

#[test]
fn a_closed_loader_keeps_only_what_a_live_batch_holds() {
    let members: Vec<_> = (0..40)
        .flat_map(|number| {
            [
                (format!("{number:04}.bin"), vec![number as u8; 100_000]),
                (format!("{number:04}.cls"), number.to_string().into_bytes()),
            ]
        })
        .collect();
    let dir = folder(&[("a.tar", tar(&members))]);
    let fields =
        || vec![field("bin", FieldKind::Bytes, Shapes::Equal), field("cls", FieldKind::Int, Shapes::Equal)];
    let options = || LoaderOptions { prefetch_factor: 2, ..options(dir.path(), fields(), 96 << 20) };
    // Keeps the session, as a second loader on the folder would.
    let session = Session::open(&options().cache).unwrap();
    let whole = session.arena().free_bytes();
    let mut kept = Vec::new();
    for round in 0..12 {
        let loader = Loader::open(options()).unwrap();
        loader.start().unwrap();
        next(&loader).unwrap().unwrap();
        kept.push(next(&loader).unwrap().unwrap());
        // In the middle of the epoch.
        loader.close();
        let held = whole - session.arena().free_bytes();
        // 4 rows of 100,000 bytes and 4 labels, in whole pages.
        assert!(held >= 400_000 * (round + 1) && held <= 420_000 * (round + 1), "{held} in round {round}");
        assert!(matches!(loader.next(Duration::ZERO), Err(Error::Closed)));
    }
    for batch in &kept {
        let Column::Bytes(rows) = &batch.columns[0].1 else { panic!("not bytes") };
        for (row, (_, sample)) in rows.iter().zip(&batch.samples) {
            assert_eq!(**row, vec![*sample as u8; 100_000]);
        }
    }
    drop(kept);
    assert_eq!(session.arena().free_bytes(), whole);
}

#[test]
fn bytes_that_arrive_are_progress_and_a_stall_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let origin = FakeOrigin::new();
    // One sample reaches over both blocks: until all of it has come, no piece of work ends.
    let members = [("0.bin".to_owned(), vec![1; BLOCK_BYTES as usize * 2 - 4096])];
    let shard = origin.put("s3://bucket/a.tar", tar(&members));
    let gates = [Gate::closed(), Gate::closed()];
    for (block, gate) in (0..).zip(&gates) {
        let within = ByteRange::new(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
        let fault = Fault::Stall { after_bytes: 1 << 20, gate: gate.clone() };
        origin.inject(Rule::new(fault).at(&shard.location).within(within));
    }
    let mut options = options(dir.path(), vec![field("bin", FieldKind::Bytes, Shapes::Equal)], 256 << 20);
    options.sources = vec!["s3://bucket/a.tar".into()];
    // Anything that does not move between two looks is late.
    options.timeout = Some(Duration::ZERO);
    let session = Arc::new(Session::over(Arc::new(origin), dir.path(), &options.cache).unwrap());
    let loader = Loader::open_in(session.clone(), options).unwrap();
    let arrived = |bytes: u64| {
        until(|| session.arrivals().bytes() >= bytes);
    };
    loader.start().unwrap();
    session.block_on(async { tokio::join!(gates[0].arrived(1), gates[1].arrived(1)) });
    let before = session.arrivals().bytes();
    // What else the start has moved is over when nothing has for a look.
    assert!(matches!(loader.next(Duration::ZERO), Ok(Next::Pending)));
    gates[0].open();
    arrived(before + 3 * (1 << 20));
    assert!(matches!(loader.next(Duration::ZERO), Ok(Next::Pending)), "three mebibytes came");
    let error = loop {
        match loader.next(Duration::ZERO) {
            Ok(Next::Pending) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    gates[1].open();
}

#[test]
fn the_least_cache_limit_that_an_error_names_works_and_a_byte_less_does_not() {
    // 24 shards of 4 MB: the windows of 48 lanes are a part of them.
    let shards: Vec<(String, Vec<u8>)> = (0..24)
        .map(|shard| {
            let member = |sample| (format!("{shard:02}{sample:04}.bin"), vec![shard as u8; 390_000]);
            (format!("{shard:02}.tar"), tar(&(0..10).map(member).collect::<Vec<_>>()))
        })
        .collect();
    let shards: Vec<(&str, Vec<u8>)> =
        shards.iter().map(|(name, bytes)| (&name[..], bytes.clone())).collect();
    let dir = folder(&shards);
    let with = |limit_bytes: u64| {
        let fields = vec![field("bin", FieldKind::Bytes, Shapes::Equal)];
        let mut options = LoaderOptions {
            mode: OrderMode::Sticky,
            canonical_ranks: Some(1),
            shuffle_window: Some(48),
            ..options(dir.path(), fields, 256 << 20)
        };
        options.cache.limit_bytes = limit_bytes;
        options.cache.dir = dir.path().join(format!("cache-{limit_bytes}"));
        Loader::open(options)
            .and_then(|loader| epoch(&loader).map(|epoch| (epoch, loader.stats().cache.origin_bytes)))
    };
    let least = |error: Error| match error {
        Error::Cache(forebay_cache::Error::QuotaTooSmall { needed_bytes, .. }) => needed_bytes,
        other => panic!("{other}"),
    };
    let needed = least(with(16 << 20).unwrap_err());
    let total: u64 = shards.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let (epoch, read) = with(needed).unwrap();
    // Once to count the samples and once for the epoch: windows that don't fit would be fetched again for each of their blocks' neighbours.
    assert!(read < total / 2 * 5, "{read} of {total}");
    assert_eq!(epoch.iter().map(Vec::len).sum::<usize>(), 240);
    assert_eq!(least(with(needed - 1).unwrap_err()), needed);
}
