//! What a training process sees of a loader, on shards in a local folder.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use forebay_loader::batch::{Batch, Column};
use forebay_loader::plan::OrderMode;
use forebay_loader::{Error, Loader, LoaderOptions, Next, OnError};
use shards::{options, tar};

mod shards;

/// `shards` shards of `samples` samples; a sample's label is its number in storage order.
fn dataset(dir: &Path, shards: usize, samples: usize) {
    for shard in 0..shards {
        let members: Vec<_> = (0..samples)
            .flat_map(|sample| {
                let number = shard * samples + sample;
                let name = format!("{number:06}");
                [
                    (format!("{name}.bin"), vec![number as u8; 100 + number]),
                    (format!("{name}.cls"), number.to_string().into_bytes()),
                ]
            })
            .collect();
        std::fs::write(dir.join(format!("train-{shard:03}.tar")), tar(&members)).unwrap();
    }
}

fn folder(shards: usize, samples: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    dataset(&dir.path().join("data"), shards, samples);
    dir
}

fn next(loader: &Loader) -> Result<Option<Batch>, Error> {
    loop {
        match loader.next(Duration::from_secs(1))? {
            Next::Batch(batch) => return Ok(Some(*batch)),
            Next::End => return Ok(None),
            Next::Pending => {}
        }
    }
}

/// The labels of a batch's real rows; checks that every row's data belongs to its label.
fn labels(batch: &Batch) -> Vec<i64> {
    let Column::Dense(label) = &batch.columns[0].1 else { panic!("labels are dense") };
    let Column::Bytes(data) = &batch.columns[1].1 else { panic!("data are bytes") };
    assert_eq!(label.shape, [batch.rows]);
    let labels: Vec<i64> =
        label.data.chunks_exact(8).map(|bytes| i64::from_ne_bytes(bytes.try_into().unwrap())).collect();
    for (label, data) in labels.iter().zip(data) {
        assert_eq!(**data, vec![*label as u8; 100 + *label as usize][..]);
    }
    labels[..batch.valid].to_vec()
}

fn epoch(loader: &Loader) -> Vec<i64> {
    loader.start().unwrap();
    let mut all = Vec::new();
    while let Some(batch) = next(loader).unwrap() {
        all.extend(labels(&batch));
    }
    all
}

#[test]
fn an_epoch_delivers_every_sample_once_and_the_next_one_in_another_order() {
    let dir = folder(3, 20);
    let loader = Loader::open(options(dir.path())).unwrap();
    let (first, second) = (epoch(&loader), epoch(&loader));
    let all: Vec<i64> = (0..60).collect();
    for epoch in [&first, &second] {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, all);
    }
    assert_ne!(first, second);
    assert_ne!(first, all);
    let again = Loader::open(options(dir.path())).unwrap();
    assert_eq!(epoch(&again), first, "the same seed, the same order");
    assert_eq!(loader.len(), Some(9));
}

#[test]
fn unshuffled_order_is_storage_order() {
    let dir = folder(3, 20);
    let loader = Loader::open(LoaderOptions { mode: OrderMode::Storage, ..options(dir.path()) }).unwrap();
    assert_eq!(epoch(&loader), (0..60).collect::<Vec<_>>());
}

#[test]
fn a_job_resumed_on_two_ranks_delivers_exactly_what_was_missing() {
    let dir = folder(4, 25);
    let loader = Loader::open(options(dir.path())).unwrap();
    loader.start().unwrap();
    let mut delivered: Vec<i64> = (0..5).flat_map(|_| labels(&next(&loader).unwrap().unwrap())).collect();
    let state = loader.state().unwrap();
    drop(loader);
    for rank in 0..2 {
        let rank = Loader::open(LoaderOptions { rank, world_size: 2, batch_size: 4, ..options(dir.path()) })
            .unwrap();
        rank.load_state(&state).unwrap();
        assert_eq!(rank.state().unwrap(), state, "a state that was loaded is given back");
        delivered.extend(epoch(&rank));
    }
    delivered.sort_unstable();
    assert_eq!(delivered, (0..100).collect::<Vec<_>>());
}

#[test]
fn leaving_early_starts_the_next_epoch_and_set_epoch_keeps_the_position() {
    let dir = folder(2, 20);
    let loader = Loader::open(options(dir.path())).unwrap();
    loader.start().unwrap();
    let first = labels(&next(&loader).unwrap().unwrap());
    loader.stop();
    loader.set_epoch(0);
    let rest = epoch(&loader);
    let all: BTreeSet<i64> = first.iter().chain(&rest).copied().collect();
    assert_eq!((all.len(), rest.len()), (40, 33));
    loader.start().unwrap();
    next(&loader).unwrap().unwrap();
    assert_eq!(epoch(&loader).len(), 40, "epoch 1 was left, epoch 2 is whole");
    assert!(loader.state().unwrap().contains("\"epoch\":3"), "{}", loader.state().unwrap());
}

#[test]
fn a_label_that_is_no_number_names_shard_member_and_offset_or_is_replaced() {
    let dir = folder(1, 20);
    let mut members: Vec<_> =
        (20..40).map(|n: usize| (format!("{n:06}.cls"), n.to_string().into_bytes())).collect();
    members[3].1 = b"abc".to_vec();
    let members: Vec<_> = members
        .into_iter()
        .enumerate()
        .flat_map(|(at, label)| [(label.0.replace("cls", "bin"), vec![(20 + at) as u8; 120 + at]), label])
        .collect();
    std::fs::write(dir.path().join("data/train-001.tar"), tar(&members)).unwrap();

    let loader = Loader::open(options(dir.path())).unwrap();
    loader.start().unwrap();
    let error = std::iter::from_fn(|| next(&loader).transpose()).find_map(Result::err).unwrap().to_string();
    assert!(
        error.contains("train-001.tar") && error.contains("000023.cls") && error.contains("abc"),
        "{error}"
    );
    drop(loader);

    let skip = LoaderOptions { on_error: OnError::Skip, max_errors: 1, ..options(dir.path()) };
    let loader = Loader::open(skip).unwrap();
    let delivered = epoch(&loader);
    assert_eq!(delivered.len(), 40, "positions never shift");
    assert!(!delivered.contains(&23));
    let stats = loader.stats();
    assert_eq!(stats.skipped, 1);
    assert!(stats.errors[0].contains("000023.cls"), "{:?}", stats.errors);
    loader.start().unwrap();
    let error = std::iter::from_fn(|| next(&loader).transpose()).find_map(Result::err).unwrap();
    assert!(matches!(error, Error::TooManyErrors { skipped: 1, max: 1, .. }), "{error}");
}

#[test]
fn a_consumer_that_keeps_batches_reads_them_unchanged_after_the_loader_is_gone() {
    let dir = folder(2, 20);
    let loader = Loader::open(options(dir.path())).unwrap();
    loader.start().unwrap();
    let batches: Vec<Batch> = std::iter::from_fn(|| next(&loader).unwrap()).collect();
    drop(loader);
    let all: BTreeSet<i64> = batches.iter().flat_map(labels).collect();
    assert_eq!(all.len(), 40);
}

#[test]
fn a_second_epoch_does_not_ask_the_origin() {
    let dir = folder(2, 20);
    let loader = Loader::open(options(dir.path())).unwrap();
    epoch(&loader);
    let before = loader.stats().cache.origin_bytes;
    epoch(&loader);
    assert_eq!(loader.stats().cache.origin_bytes, before);
}

#[test]
fn unshuffled_epochs_need_no_index_and_the_next_one_has_it() {
    let dir = folder(3, 20);
    let loader = Loader::open(LoaderOptions { mode: OrderMode::Storage, ..options(dir.path()) }).unwrap();
    assert_eq!(loader.len(), None, "nothing was counted yet");
    let (first, notes) = (epoch(&loader), loader.stats().notes);
    assert_eq!(first, (0..60).collect::<Vec<_>>());
    assert_eq!(notes, Vec::<String>::new(), "no pass was announced");
    loader.count().unwrap();
    assert_eq!(loader.stats().notes, Vec::<String>::new(), "the epoch has left its indexes behind");
    assert_eq!(epoch(&loader), first);
    assert!(loader.state().unwrap().contains("\"epoch\":2"));
}

#[test]
fn the_last_batch_of_discovered_samples_ends_the_epoch_in_the_state() {
    let dir = folder(1, 14);
    let loader = Loader::open(LoaderOptions { mode: OrderMode::Storage, ..options(dir.path()) }).unwrap();
    loader.start().unwrap();
    next(&loader).unwrap().unwrap();
    next(&loader).unwrap().unwrap();
    assert!(loader.state().unwrap().contains("\"epoch\":1,\"consumed\":0"), "{}", loader.state().unwrap());
}

#[test]
fn a_batch_may_be_read_through_less_memory_than_its_files_take() {
    let dir = folder(0, 0);
    // Each label's read is a granule: 16 MiB in all, where 64 MiB of host memory leave 8 MiB for reads.
    let members: Vec<_> =
        (0..4096).map(|number| (format!("{number:06}.cls"), number.to_string().into_bytes())).collect();
    std::fs::write(dir.path().join("data/train-000.tar"), tar(&members)).unwrap();
    let mut options = options(dir.path());
    options.fields.truncate(1);
    options.batch_size = members.len();
    options.cache.host_memory_limit_bytes = 64 << 20;
    let loader = Loader::open(options).unwrap();
    loader.start().unwrap();
    let batch = next(&loader).unwrap().unwrap();
    assert_eq!(batch.valid, members.len());
    assert!(next(&loader).unwrap().is_none());
}
