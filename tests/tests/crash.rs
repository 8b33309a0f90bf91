//! kill -9 at random moments: the next start serves at once, serves no wrong byte, and leaks no space.
//!
//! The victim is this test's own program, started again with the folder in its environment. It reads, prefetches and evicts until it is
//! killed; then this process opens the folder and compares every byte.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_cache::disk::Evict;
use forebay_cache::io::Blocking;
use forebay_cache::memory::{Arena, Region};
use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Cache, CacheOptions, ObjectMeta};

use forebay_cache::testing::{FakeOrigin, allocated};

const FOLDER: &str = "FOREBAY_CRASH_FOLDER";
const SEED: &str = "FOREBAY_CRASH_SEED";
const KILLS: u64 = 50;
const LIMIT: u64 = 40 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const SIZES: [u64; 6] = [5_000, 4 << 20, (9 << 20) + 17, 12 << 20, (16 << 20) - 1, 20 << 20];

/// Bytes that say where they belong.
fn content(object: u64, len: u64) -> Vec<u8> {
    let word = |at: u64| (at ^ object << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(len as usize);
    bytes
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

struct Setup {
    cache: Cache,
    region: Region,
    objects: Vec<(Arc<ObjectMeta>, Vec<u8>)>,
    _arena: Arena,
}

/// Every process makes the same objects in the same order, so that their versions are the same.
fn setup(folder: &Path) -> Setup {
    let origin = Arc::new(FakeOrigin::new());
    let put = |(at, len): (usize, &u64)| {
        let bytes = content(at as u64, *len);
        (Arc::new(origin.put(&format!("s3://b/{at}"), bytes.clone())), bytes)
    };
    let objects = SIZES.iter().enumerate().map(put).collect();
    let arena = Arena::new(128 << 20).unwrap();
    let blocks = arena.region("blocks", 32 << 20).unwrap();
    let region = arena.region("samples", 48 << 20).unwrap();
    let io = Arc::new(Blocking::new(4).unwrap());
    let origin: Arc<dyn Origin> = origin;
    let cache = Cache::open(CacheOptions::new(folder, LIMIT, blocks, origin, io)).unwrap();
    Setup { cache, region, objects, _arena: arena }
}

/// What the victim does until it is killed.
#[test]
#[ignore = "the victim: started by the test below"]
fn victim() {
    let (Ok(folder), Ok(seed)) = (std::env::var(FOLDER), std::env::var(SEED)) else { return };
    let Setup { cache, region, objects, _arena } = setup(Path::new(&folder));
    let mut state: u64 = seed.parse::<u64>().unwrap() * 2 + 1;
    println!("ready");
    futures::executor::block_on(async {
        loop {
            let (object, all) = &objects[(next(&mut state) % SIZES.len() as u64) as usize];
            let start = next(&mut state) % object.size_bytes;
            let range = ByteRange::new(start, (start + next(&mut state) % 400_000).min(object.size_bytes));
            match next(&mut state) % 8 {
                0 => drop(cache.prefetch(object, ByteRange::new(0, object.size_bytes)).await),
                1 => drop(cache.evict(Evict::Object(object.id)).await),
                2 => drop(cache.aux_put("index", &object.id, vec![7; 50_000]).await),
                _ => {
                    let read = cache.read(object, range, &region).await.unwrap();
                    assert!(read.lease[..] == all[range.start as usize..range.end as usize], "WRONG {range}");
                }
            }
        }
    });
}

fn start_victim(folder: &Path, seed: u64) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.contains("ready"));
    assert!(ready, "the victim opens the folder that its predecessor left");
    child
}

#[test]
fn killed_fifty_times_it_serves_no_wrong_byte_and_leaks_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 88_172_645_463_325_252;
    for kill in 0..KILLS {
        let mut child = start_victim(folder.path(), kill + 1);
        // A random moment of its work, not a wait for something: 0 to 60 ms.
        std::thread::sleep(Duration::from_micros(next(&mut state) % 60_000));
        assert!(child.try_wait().unwrap().is_none(), "the victim found a wrong byte in round {kill}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(allocated(folder.path()) <= LIMIT, "the limit held until the kill, in round {kill}");
        if kill % 5 == 4 {
            check(folder.path());
        }
    }
}

fn check(folder: &Path) {
    let Setup { cache, region, objects, _arena } = setup(folder);
    futures::executor::block_on(async {
        let mut progress = cache.verify().unwrap();
        while let Some(step) = progress.recv().await {
            assert_eq!(step.finding, None);
        }
        for (object, all) in &objects {
            let range = ByteRange::new(0, object.size_bytes);
            let read = cache.read(object, range, &region).await.unwrap();
            assert!(read.lease[..] == all[..], "wrong bytes of {}", object.location);
        }
        assert_eq!(cache.stats().quarantined_blocks, 0, "a kill is no power loss: nothing is bad");
        // Blocks that were read are still being written: waits for them.
        for (object, _) in &objects {
            cache.prefetch(object, ByteRange::new(0, object.size_bytes)).await.unwrap();
        }
        cache.evict(Evict::All).await.unwrap();
    });
    // What a crash left without an owner goes behind the service; with everything evicted, nothing may be left.
    let began = Instant::now();
    while allocated(folder) > 2 << 20 {
        assert!(began.elapsed() < PATIENCE, "{} bytes stay", allocated(folder));
        std::thread::yield_now();
    }
    futures::executor::block_on(cache.close()).unwrap();
}
