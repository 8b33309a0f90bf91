//! `cache_limit`, seen from outside while four processes read at full speed and owners are killed, on file systems of the test's own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use forebay_cache::testing::Mount;

use crate::origin::{Server, TOTAL_BYTES};
use crate::{Watch, start};

/// Most of what is read is evicted again.
const LIMIT_BYTES: u64 = TOTAL_BYTES * 2 / 3;

fn read_with_four_processes(dir: &Path) {
    let server = Server::start();
    let mut processes = start(4, dir, LIMIT_BYTES, &server);
    for round in 0..3 {
        for (seed, process) in processes.iter_mut().enumerate() {
            process.tell(&format!("epoch {}", 10 * round + seed));
        }
        if round > 0 {
            // In the middle of its fetches, punches and commits.
            processes.iter().for_each(|process| drop(process.hear("step ")));
            processes.remove(0).kill();
        }
        processes.iter().for_each(|process| drop(process.hear("done")));
        let owner = processes.iter_mut().position(|process| process.ask("role", "role ") == "owner");
        processes.rotate_left(owner.unwrap());
    }
}

fn assert_within(peak: u64) {
    assert!(peak <= LIMIT_BYTES, "{peak} bytes in use under a limit of {LIMIT_BYTES}");
    assert!(peak > LIMIT_BYTES / 2, "the limit was put to use: {peak}");
}

fn not_run(why: &str) {
    eprintln!("not run: no file system of its own can be had here: {why}");
}

/// What a file system says is in use counts all that files take, also those that were unlinked and are still open. One in memory says
/// so exactly.
#[test]
fn a_file_system_in_memory_never_sees_more_than_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let mount = match Mount::tmpfs(home.path(), 256 << 20) {
        Ok(mount) => mount,
        Err(why) => return not_run(&why),
    };
    let before = mount.used_bytes().unwrap();
    let (ends, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let watch = || {
            while !ends.load(SeqCst) {
                peak.fetch_max(mount.used_bytes().unwrap(), SeqCst);
            }
        };
        std::thread::Builder::new().name("watches-the-quota".into()).spawn_scoped(scope, watch).unwrap();
        read_with_four_processes(&mount.path().join("cache"));
        ends.store(true, SeqCst);
    });
    assert_within(peak.load(SeqCst) - before);
}

/// Here the files are asked: an ext4 itself counts a block twice for the moment in which it is allocated, as reserved and as taken.
#[test]
fn the_files_on_an_ext4_never_take_more_than_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let mount = match Mount::ext4(home.path(), 512 << 20) {
        Ok(mount) => mount,
        Err(why) => return not_run(&why),
    };
    let dir = mount.path().join("cache");
    let watch = Watch::over(&dir);
    read_with_four_processes(&dir);
    assert_within(watch.peak_bytes());
}
