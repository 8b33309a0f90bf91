//! Objects held whole: mapped, and shown as files of their own names.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use forebay_cache::disk::Evict;
use forebay_cache::io::IoFile;
use forebay_cache::{Cache, ObjectMeta};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::world::{MIB, World, until, whole};

/// The first is the owner.
fn open(world: &World) -> Cache {
    Cache::open(world.options()).unwrap()
}

fn data(world: &World, object: &ObjectMeta) -> std::path::PathBuf {
    let id = object.id.to_string();
    world.dir.path().join("objects").join(&id[..2]).join(format!("{id}.data"))
}

#[tokio::test]
async fn what_is_mapped_stays_whoever_mapped_it_and_whoever_owns_the_folder() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 9 * MIB + 77, 1);
    let (owner, client) = (open(&world), open(&world));
    assert_eq!((owner.stats().role, client.stats().role), ("owner", "client"));
    assert!(client.whole(&object).await.unwrap().is_none(), "nothing of it is there");
    owner.prefetch(&object, whole(&object)).await.unwrap();
    for cache in [&owner, &client] {
        let held = Arc::new(cache.whole(&object).await.unwrap().unwrap());
        let mapped = held.map(Arc::new(())).unwrap();
        assert_eq!(held.mismatch(&mapped), None);
        drop(held);
        owner.evict(Evict::All).await.unwrap();
        assert!(*mapped == all[..], "a hole would read as zeros");
        assert!(cache.whole(&object).await.unwrap().is_some());
    }
    let mapped = Arc::new(client.whole(&object).await.unwrap().unwrap()).map(Arc::new(())).unwrap();
    owner.close().await.unwrap();
    client.evict(Evict::All).await.unwrap();
    assert_eq!(client.stats().role, "owner");
    assert!(*mapped == all[..], "the new owner knows");
    drop(mapped);
    until("it may go now", async || {
        client.evict(Evict::All).await.unwrap();
        client.whole(&object).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn a_flipped_bit_is_found_in_the_mapping_by_owner_and_client() {
    let world = World::new(64 * MIB);
    let (object, _) = world.put("a", 9 * MIB + 77, 1);
    let (owner, client) = (open(&world), open(&world));
    owner.prefetch(&object, whole(&object)).await.unwrap();
    let path = data(&world, &object);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for cache in [&owner, &client] {
        let held = Arc::new(cache.whole(&object).await.unwrap().unwrap());
        let mapped = held.map(Arc::new(())).unwrap();
        assert_eq!(held.mismatch(&mapped).map(|block| block.index), Some(2));
    }
}

#[tokio::test]
async fn an_object_without_bytes_is_whole_and_has_a_file() {
    let world = World::new(64 * MIB);
    let (object, _) = world.put("nothing", 0, 1);
    let cache = open(&world);
    let held = Arc::new(cache.whole(&object).await.unwrap().unwrap());
    assert!(held.map(Arc::new(())).unwrap().is_empty());
    let path = cache.view().unwrap().show(&held, "nothing").unwrap();
    assert!(!path.exists(), "the view is gone");
    let view = cache.view().unwrap();
    assert_eq!(std::fs::read(view.show(&held, "nothing").unwrap()).unwrap(), b"");
}

#[tokio::test]
async fn a_file_is_shown_by_name_read_only_until_the_view_goes() {
    let world = World::new(64 * MIB);
    let (object, all) = world.put("a", 5 * MIB + 3, 1);
    let (owner, client) = (open(&world), open(&world));
    owner.prefetch(&object, whole(&object)).await.unwrap();
    let before = world.allocated();
    for cache in [&owner, &client] {
        let view = cache.view().unwrap();
        let held = Arc::new(cache.whole(&object).await.unwrap().unwrap());
        let path = view.show(&held, "compiled/model.safetensors").unwrap();
        drop(held);
        assert_eq!(
            view.show(&Arc::new(cache.whole(&object).await.unwrap().unwrap()), "compiled/model.safetensors")
                .unwrap(),
            path
        );
        owner.evict(Evict::All).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == all);
        assert_eq!(path.file_name().unwrap(), "model.safetensors");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        let shown = path.clone();
        // Without the right to override permissions, which root has otherwise; of this thread alone.
        let refused = std::thread::Builder::new()
            .name("other".into())
            .spawn(move || {
                let mut sets = capabilities(None).unwrap();
                sets.effective.remove(CapabilitySet::DAC_OVERRIDE);
                set_capabilities(None, sets).unwrap();
                OpenOptions::new().write(true).open(shown).unwrap_err().kind()
            })
            .unwrap();
        assert_eq!(refused.join().unwrap(), ErrorKind::PermissionDenied);
        drop(view);
        assert!(!path.exists());
    }
    assert!(world.allocated() < before + MIB, "names take no space");
    assert_eq!(std::fs::read_dir(world.dir.path().join("views")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_cache_itself_writes_to_a_file_that_was_shown() {
    let world = World::new(64 * MIB);
    let (object, _) = world.put("a", 5 * MIB, 1);
    let cache = open(&world);
    cache.prefetch(&object, whole(&object)).await.unwrap();
    let held = Arc::new(cache.whole(&object).await.unwrap().unwrap());
    cache.view().unwrap().show(&held, "a").unwrap();
    let path = data(&world, &object);
    let opened = std::thread::Builder::new()
        .name("other".into())
        .spawn(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::DAC_OVERRIDE);
            set_capabilities(None, sets).unwrap();
            let file = IoFile::open(&path, false).unwrap();
            (
                rustix::fs::fcntl_getfl(file.file()).unwrap(),
                std::fs::metadata(&path).unwrap().permissions().mode(),
            )
        })
        .unwrap();
    let (flags, mode) = opened.join().unwrap();
    assert!(flags.contains(rustix::fs::OFlags::RDWR) && mode & 0o777 == 0o444, "{flags:?} {mode:o}");
}

#[tokio::test]
async fn names_that_the_dead_left_go_with_the_next_view_and_those_of_the_living_stay() {
    let world = World::new(64 * MIB);
    let cache = open(&world);
    let living = cache.view().unwrap();
    let left = world.dir.path().join("views/0123456789abcdef");
    std::fs::create_dir_all(left.join("sub")).unwrap();
    std::fs::write(left.join("sub/model"), b"bytes").unwrap();
    let _next = cache.view().unwrap();
    assert!(!left.exists());
    assert_eq!(std::fs::read_dir(world.dir.path().join("views")).unwrap().count(), 2);
    drop(living);
}
