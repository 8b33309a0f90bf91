//! Local folders: the conformance suite, and what only files can do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use futures::TryStreamExt;

use super::*;
use crate::origin::{Origin, Origins, resolve};
use crate::testing::conformance::{self, Fixture, pattern, read};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Fixture for Folder {
    fn origin(&self) -> Arc<dyn Origin> {
        Arc::new(Origins::with_environment(BTreeMap::new(), []).unwrap())
    }

    fn locate(&self, name: &str) -> Location {
        resolve(self.path(name).to_str().unwrap()).unwrap()
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, ()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let aside = self.path(".aside");
        fs::write(&aside, bytes).unwrap();
        fs::rename(aside, path).unwrap();
        Box::pin(async {})
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        fs::remove_file(self.path(name)).unwrap();
        Box::pin(async {})
    }
}

#[tokio::test]
async fn local_folders_conform() {
    conformance::conforms(&Folder::new()).await;
}

#[tokio::test]
async fn a_file_renamed_over_another_is_another_version_though_size_and_time_agree() {
    let folder = Folder::new();
    let origin = folder.origin();
    let write = |name: &str, seed| {
        fs::write(folder.path(name), pattern(100, seed)).unwrap();
        let file = File::options().write(true).open(folder.path(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    write("a", 1);
    let old = origin.head(&folder.locate("a")).await.unwrap();
    write("b", 2);
    fs::rename(folder.path("b"), folder.path("a")).unwrap();
    let error = read(&*origin, &old, ByteRange::new(0, 100)).await.unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error:?}");
    assert!(old.version.is_stand_in());
}

#[tokio::test]
async fn a_file_rewritten_while_it_is_read_is_an_error() {
    let folder = Folder::new();
    let origin = folder.origin();
    let size = 3 * CHUNK_BYTES;
    fs::write(folder.path("a"), pattern(size as usize, 1)).unwrap();
    let object = origin.head(&folder.locate("a")).await.unwrap();
    let mut stream = origin.get(&object, ByteRange::new(0, size));
    assert!(stream.next().await.unwrap().is_ok());
    File::options().write(true).open(folder.path("a")).unwrap().set_len(size - 1).unwrap();
    let rest: Result<Vec<Bytes>> = stream.try_collect().await;
    assert!(matches!(rest, Err(Error::Changed { .. })));
}

#[tokio::test]
async fn links_are_followed_and_a_circle_of_them_ends() {
    let folder = Folder::new();
    let origin = folder.origin();
    fs::create_dir(folder.path("tree")).unwrap();
    fs::write(folder.path("real.tar"), pattern(100, 1)).unwrap();
    symlink(folder.path("real.tar"), folder.path("tree/link.tar")).unwrap();
    symlink(folder.path("tree"), folder.path("tree/circle")).unwrap();
    symlink("nowhere", folder.path("tree/dangling")).unwrap();
    let found: Vec<ObjectMeta> = origin.list(&folder.locate("tree")).try_collect().await.unwrap();
    let names: Vec<_> = found.iter().map(|found| found.location.file_name()).collect();
    assert_eq!(names, ["link.tar"]);
    assert_eq!(read(&*origin, &found[0], ByteRange::new(0, 100)).await.unwrap(), pattern(100, 1));
}

#[tokio::test]
async fn a_folder_is_no_object_and_the_error_says_so() {
    let folder = Folder::new();
    let error = folder.origin().head(&folder.locate("")).await.unwrap_err();
    assert!(error.to_string().contains("folder"), "{error}");
}

#[tokio::test]
async fn a_pipe_is_no_object_and_nobody_waits_for_it() {
    let folder = Folder::new();
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, folder.path("pipe"), kind, 0o600.into(), 0).unwrap();
    let error = folder.origin().head(&folder.locate("pipe")).await.unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

#[tokio::test]
async fn names_that_are_no_text_are_read() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let origin = folder.origin();
    let name = std::ffi::OsStr::from_bytes(b"\xff%41#?.tar");
    fs::write(folder.0.path().join(name), pattern(10, 1)).unwrap();
    let found: Vec<ObjectMeta> = origin.list(&folder.locate("")).try_collect().await.unwrap();
    assert_eq!(read(&*origin, &found[0], ByteRange::new(0, 10)).await.unwrap(), pattern(10, 1));
}
