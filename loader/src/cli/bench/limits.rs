//! What the parts of a machine give by themselves, with the very bytes of the dataset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_cache::memory::Region;
use forebay_cache::object::BLOCK_BYTES;
use forebay_cache::{ByteRange, Cache, ObjectMeta};
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;

use super::super::failure::Failure;
use super::super::interrupt::Interrupt;
use super::super::job::JobArguments;
use super::super::place::Place;
use super::LEFT;
use crate::catalog::Catalog;
use crate::error::Error;
use crate::field::{DecodeMode, Field, Transform};
use crate::measure::{self, decoding::Decoding};
use crate::plan::{DEFAULT_SHUFFLE_WINDOW, EpochRng, Order, OrderMode, OrderSpec};

/// How long a limit is measured, at least: long enough that its beginning doesn't count, short enough for many rounds.
const MEASURED: Duration = Duration::from_secs(1);

/// Bytes of one read from the disk, and reads in flight of all threads together: what fills any NVMe.
const READ_BYTES: u64 = 1 << 20;
const READS_AT_ONCE: usize = 24;

/// Requests to the origin at once, and bytes of each, as the cache has them.
const REQUESTS: usize = 16;
const REQUEST_BYTES: u64 = 4 * BLOCK_BYTES;

/// Images whose decoding is measured: as many as tell their mean to some per cent, in little memory.
const IMAGES: u64 = 512;
const IMAGES_BYTES: usize = 64 << 20;

/// Copies of 64 MiB of each thread.
const COPIES: usize = 8;

/// Bytes per second.
pub(super) fn memcpy(threads: usize) -> Result<f64, Failure> {
    Ok(measure::memcpy(threads, COPIES)?.rate())
}

/// Bytes per second from the cache folder's files, verified, read in order by so many threads.
pub(super) fn disk(place: &Place<'_>, catalog: &Catalog, threads: usize) -> Result<f64, Failure> {
    let pieces = pieces(catalog, READ_BYTES)?;
    let region = place.reads()?;
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let over = || began.elapsed() >= MEASURED || place.interrupt.seen() || stop.load(Relaxed);
    let depth = (READS_AT_ONCE / threads).max(1);
    let read = || {
        let done = block_on(read_on(place.session.cache(), &region, &pieces, &next, depth, &bytes, &over));
        stop.fetch_or(done.is_err(), Relaxed);
        done
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        let panicked = || Failure::from(Error::Panic { message: "a reader".into() });
        readers.into_iter().try_for_each(|reader| reader.join().map_err(|_| panicked())?)
    })?;
    if place.interrupt.seen() {
        return Err(Failure::Interrupted(LEFT));
    }
    Ok(bytes.load(Relaxed) as f64 / began.elapsed().as_secs_f64())
}

/// Reads pieces, some at once, until it is over; from the beginning again where there are no more.
async fn read_on(
    cache: &Cache,
    region: &Region,
    pieces: &[(Arc<ObjectMeta>, ByteRange)],
    next: &AtomicUsize,
    depth: usize,
    bytes: &AtomicU64,
    over: &(impl Fn() -> bool + Sync),
) -> Result<(), Failure> {
    let submit = || {
        let (object, range) = &pieces[next.fetch_add(1, Relaxed) % pieces.len()];
        cache.read(object, *range, region)
    };
    let mut reading: FuturesUnordered<_> = (0..depth).map(|_| submit()).collect();
    while let Some(read) = reading.next().await {
        bytes.fetch_add(read?.tiers.disk, Relaxed);
        if !over() {
            reading.push(submit());
        }
    }
    Ok(())
}

/// The dataset in pieces, in order.
fn pieces(catalog: &Catalog, piece_bytes: u64) -> Result<Vec<(Arc<ObjectMeta>, ByteRange)>, Failure> {
    let mut pieces = Vec::new();
    for shard in 0..catalog.objects().len() as u32 {
        let object = catalog.served(shard)?;
        pieces.extend(cut(&object, piece_bytes).map(|range| (object.clone(), range)));
    }
    Ok(pieces)
}

fn cut(object: &ObjectMeta, piece_bytes: u64) -> impl Iterator<Item = ByteRange> + use<> {
    let end = object.size_bytes;
    (0..end).step_by(piece_bytes as usize).map(move |at| ByteRange::new(at, (at + piece_bytes).min(end)))
}

/// Bytes per second from the origin, kept nowhere; on as many connections as the cache has. Whole objects as they lie there.
pub(super) fn origin(place: &Place<'_>, catalog: &Catalog) -> Result<Option<f64>, Failure> {
    let objects = catalog.objects().iter();
    let pieces: Arc<[_]> =
        objects.flat_map(|object| cut(object, REQUEST_BYTES).map(|range| (object.clone(), range))).collect();
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let request = || {
        let (pieces, next, origin) = (pieces.clone(), next.clone(), place.session.origins());
        // On the network's threads, as fetches are.
        place.session.handle().spawn(async move {
            let mut arrived = 0u64;
            while began.elapsed() < MEASURED {
                let (object, range) = &pieces[next.fetch_add(1, Relaxed) % pieces.len()];
                let mut chunks = origin.get(object, *range);
                while let Some(chunk) = chunks.next().await {
                    arrived += chunk?.len() as u64;
                    if began.elapsed() >= MEASURED {
                        break;
                    }
                }
            }
            Ok::<_, forebay_cache::Error>((arrived, began.elapsed()))
        })
    };
    let requests: Vec<_> = (0..REQUESTS).map(|_| request()).collect();
    let stop: Vec<_> = requests.iter().map(tokio::task::JoinHandle::abort_handle).collect();
    let all = async {
        let (mut bytes, mut seconds) = (0, Duration::ZERO);
        for request in requests {
            let ended = request.await.map_err(|error| Error::Panic { message: error.to_string() })?;
            let (arrived, took) = ended?;
            (bytes, seconds) = (bytes + arrived, seconds.max(took));
        }
        Ok((bytes > 0).then(|| bytes as f64 / seconds.as_secs_f64()))
    };
    let rate = place.run(LEFT, all);
    stop.iter().for_each(tokio::task::AbortHandle::abort);
    rate
}

/// Members of a field out of the whole dataset, evenly; copied into memory.
pub(super) async fn images(
    place: &Place<'_>,
    catalog: &Catalog,
    field: &Field,
) -> Result<Vec<Vec<u8>>, Failure> {
    let order = Order::new(&OrderSpec {
        counts: catalog.counts().await?,
        seed: 0,
        epoch: 0,
        canonical_ranks: 1,
        shuffle_window: DEFAULT_SHUFFLE_WINDOW,
        mode: OrderMode::Storage,
    })?;
    let wanted = IMAGES.min(order.total());
    let region = place.reads()?;
    let (mut images, mut bytes) = (Vec::new(), 0);
    for number in 0..wanted {
        let found = catalog.find(order.sample(number * order.total() / wanted)).await?;
        let Some(member) = found.entry.member(&field.suffixes) else { continue };
        let read = place.session.cache().read(&found.object, member.range(), &region).await?;
        bytes += read.lease.len();
        if bytes > IMAGES_BYTES && !images.is_empty() {
            break;
        }
        images.push(read.lease.to_vec());
    }
    Ok(images)
}

/// Images per second.
pub(super) fn decoding(
    images: &[Vec<u8>],
    transforms: &[Transform],
    mode: DecodeMode,
    job: &JobArguments,
    interrupt: &Interrupt,
) -> Result<f64, Failure> {
    let mut decoding = Decoding::new(transforms, mode, job.threads(), job.batch_size)?;
    let stop = || interrupt.seen();
    // Slots and buffers are touched for the first time here.
    decoding.pass(images, EpochRng::new(0, 0), stop)?;
    let began = Instant::now();
    let mut decoded = 0;
    for epoch in 1.. {
        decoded += decoding.pass(images, EpochRng::new(0, epoch), stop)?;
        if began.elapsed() >= MEASURED || interrupt.seen() {
            break;
        }
    }
    if interrupt.seen() {
        Err(Failure::Interrupted(LEFT))
    } else {
        Ok(decoded as f64 / began.elapsed().as_secs_f64())
    }
}

/// The rate of work that is done in turn at each of these: fields of a sample may differ in size.
pub(super) fn in_turn(rates: &[f64]) -> f64 {
    rates.len() as f64 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_field_counts_most() {
        assert_eq!(in_turn(&[200.0]), 200.0);
        assert_eq!(in_turn(&[100.0, 100.0]), 100.0);
        // Of two samples a second there are four images.
        assert!((in_turn(&[2000.0, 1e3 / 499.5]) - 4.0).abs() < 1e-9);
        assert_eq!(in_turn(&[100.0, 0.0]), 0.0);
    }
}
