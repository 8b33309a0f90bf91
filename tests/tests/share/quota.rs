//! `cache_limit`, seen from outside while four processes read at full speed and owners are killed, on file systems of the test's own.

use std::path::Path;
use std::sync::Arc;

use forebay_cache::testing::{Mount, Watch};

use crate::origin::{Server, TOTAL_BYTES};
use crate::start;

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

/// What a file system says is in use counts all that files take, also those that were unlinked and are still open. One in memory says
/// so exactly.
#[test]
fn a_file_system_in_memory_never_sees_more_than_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(home.path(), 256 << 20).unwrap() else { return };
    let mount = Arc::new(mount);
    let before = mount.used_bytes().unwrap();
    let watched = mount.clone();
    let watch = Watch::new(move || Some(watched.used_bytes().unwrap())).unwrap();
    read_with_four_processes(&mount.path().join("cache"));
    let (peak, looks) = watch.end();
    assert!(looks > 10);
    assert_within(peak - before);
}

/// Here the files are asked: an ext4 itself counts a block twice for the moment in which it is allocated, as reserved and as taken.
#[test]
fn the_files_on_an_ext4_never_take_more_than_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::ext4(home.path(), 512 << 20).unwrap() else { return };
    let dir = mount.path().join("cache");
    let watch = Watch::over(&dir).unwrap();
    read_with_four_processes(&dir);
    assert_within(watch.end().0);
}
