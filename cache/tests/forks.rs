//! Children of this process: one that inherits an open cache, and one that may not write to the folder.
//!
//! A program of its own: a child that lives for a moment inherits every open file, and with it other tests' folders.
#![allow(unsafe_code, dead_code, clippy::unwrap_used)]

#[path = "cache/world.rs"]
mod world;

use std::os::unix::fs::PermissionsExt;

use forebay_cache::{ByteRange, Cache, Error};

use world::{MIB, World, expect, whole};

/// Runs `child` in a forked process, and gives what it returned.
fn in_child(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `child` and leaves by _exit: no destructor of the parent runs twice.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = child();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made; `status` is valid.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
}

#[tokio::test]
async fn a_forked_child_gets_a_clear_error_and_harms_nothing() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 5 * MIB, 1);
    let cache = world.open();
    cache.prefetch(&object, whole(&object)).await.unwrap();
    let of_child = cache.clone();
    let code = in_child(|| {
        let read = of_child.read(&object, ByteRange::new(0, 10), &world.region);
        let forked = matches!(futures::executor::block_on(read), Err(Error::Forked));
        let closed = matches!(futures::executor::block_on(of_child.close()), Err(Error::Forked));
        of_child.stats();
        i32::from(forked) + i32::from(closed) * 2
    });
    assert_eq!(code, 3);
    expect(&cache, &world, &object, whole(&object), &all).await;
}

#[test]
fn a_folder_without_the_right_to_write_is_a_clear_error() {
    let world = World::new(64 * MIB);
    std::fs::set_permissions(world.dir.path(), PermissionsExt::from_mode(0o555)).unwrap();
    let code = in_child(|| {
        // SAFETY: changes the user of the child alone: root may write everywhere.
        unsafe { libc::setuid(65534) };
        match Cache::open(world.options()) {
            Err(error @ Error::CacheDir { .. }) => {
                eprintln!("{error}");
                i32::from(error.to_string().contains("not writable"))
            }
            _ => 2,
        }
    });
    assert_eq!(code, 1);
}

#[test]
fn a_forked_child_that_drops_a_note_leaves_it_to_its_parent() {
    let world = World::new(64 * MIB);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let cache = Cache::open(world.options()).unwrap();
    let mut note = Some(cache.leave_note("board", "words").unwrap());
    assert_eq!(in_child(|| i32::from(note.take().is_some())), 1);
    assert_eq!(cache.notes("board").unwrap(), ["words"]);
    drop(note);
    assert!(cache.notes("board").unwrap().is_empty());
    runtime.block_on(cache.close()).unwrap();
}
