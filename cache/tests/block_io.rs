//! One suite that every block I/O engine passes, and what only a ring promises.
// clippy's leave to unwrap in tests ends at the functions that tests share.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_cache::io::{self, BlockIo, Blocking, IoFile, Operation, Options, Uring};
use forebay_cache::memory::{Arena, Region, Slab};
use forebay_cache::testing::FaultyIo;
use proptest::prelude::*;
use tokio::sync::oneshot;

const PAGE: usize = 4096;

struct Setup {
    folder: tempfile::TempDir,
    region: Region,
    runtime: tokio::runtime::Runtime,
}

type Waiting = oneshot::Receiver<(Slab, std::io::Result<usize>)>;

impl Setup {
    fn new(home: &Path, pages: usize) -> Self {
        let folder = tempfile::tempdir_in(home).unwrap();
        let region = Arena::new((pages * PAGE) as u64).unwrap().region("test", pages * PAGE).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { folder, region, runtime }
    }

    /// A file of these bytes, whatever its length.
    fn file(&self, bytes: &[u8]) -> Arc<IoFile> {
        let path = self.folder.path().join("a.data");
        std::fs::write(&path, bytes).unwrap();
        Arc::new(IoFile::open(&path, false).unwrap())
    }

    fn read(
        &self,
        io: &dyn BlockIo,
        file: &Arc<IoFile>,
        offset: u64,
        len: usize,
    ) -> std::io::Result<Vec<u8>> {
        let slab = self.region.try_allocate(len).unwrap();
        let (slab, result) = self.runtime.block_on(io::read(io, file, offset, len, slab));
        let slab = slab.unwrap();
        result.map(|filled| slab[..filled].to_vec())
    }

    fn write(&self, io: &dyn BlockIo, file: &Arc<IoFile>, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut slab = self.region.try_allocate(bytes.len()).unwrap();
        slab.copy_from_slice(bytes);
        self.runtime.block_on(io::write(io, file, offset, slab.freeze()))
    }

    fn submit(&self, io: &dyn BlockIo, file: &Arc<IoFile>, offset: u64) -> Waiting {
        let (operation, waiting) = self.operation(file, offset);
        io.submit(operation);
        waiting
    }

    fn operation(&self, file: &Arc<IoFile>, offset: u64) -> (Operation, Waiting) {
        let slab = self.runtime.block_on(self.region.allocate(PAGE)).unwrap();
        let (done, waiting) = oneshot::channel();
        (Operation::Read { file: file.clone(), offset, len: PAGE, slab, done }, waiting)
    }

    /// Waits until every slab has come back.
    fn wait_until_all_is_free(&self) {
        let all = self.region.capacity_bytes();
        drop(self.runtime.block_on(self.region.allocate(all)).unwrap());
    }
}

/// Bytes in which every granule differs.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / PAGE * 31 + at * 7) as u8).collect()
}

/// The suite, on a disk and, where there is one, on a file system in memory, which refuses direct I/O.
fn conforms(make: impl Fn(usize) -> Arc<dyn BlockIo>) {
    conforms_in(&std::env::temp_dir(), &make);
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        conforms_in(memory, &make);
    }
}

fn conforms_in(home: &Path, make: &impl Fn(usize) -> Arc<dyn BlockIo>) {
    what_is_written_is_read_at_any_offset(&*make(4), home);
    the_end_of_a_file_is_a_short_read(&*make(4), home);
    more_operations_than_the_depth_all_end(&*make(3), home);
    a_batch_larger_than_the_queue_ends(&*make(2), home);
    dropped_futures_give_their_buffers_back(&*make(2), home);
    errors_carry_their_code_and_the_buffer(&*make(2), home);
    what_was_submitted_is_done_when_the_engine_drops(make(2), home);
    threads_may_submit_at_once(make(8), home);
}

fn what_is_written_is_read_at_any_offset(io: &dyn BlockIo, home: &Path) {
    let setup = Setup::new(home, 256);
    let mut model = bytes(64 * PAGE);
    let file = setup.file(&model);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let model = std::cell::RefCell::new(&mut model);
    runner
        .run(&(0usize..64, 1usize..64, any::<u8>(), any::<bool>()), |(page, pages, value, writes)| {
            let mut model = model.borrow_mut();
            let range = page * PAGE..((page + pages).min(64)) * PAGE;
            if writes {
                model[range.clone()].fill(value);
                setup.write(io, &file, range.start as u64, &model[range.clone()]).unwrap();
            }
            prop_assert_eq!(&setup.read(io, &file, range.start as u64, range.len()).unwrap(), &model[range]);
            Ok(())
        })
        .unwrap();
}

fn the_end_of_a_file_is_a_short_read(io: &dyn BlockIo, home: &Path) {
    let setup = Setup::new(home, 16);
    for size in [0, 1, 511, 512, 513, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 1000, 4 * PAGE] {
        let model = bytes(size);
        let file = setup.file(&model);
        for offset in (0..6 * PAGE).step_by(PAGE) {
            let found = setup.read(io, &file, offset as u64, 4 * PAGE).unwrap();
            let expected = model.get(offset..(offset + 4 * PAGE).min(size)).unwrap_or_default();
            assert!(found == expected, "size {size}, offset {offset}: {} bytes", found.len());
        }
    }
}

fn more_operations_than_the_depth_all_end(io: &dyn BlockIo, home: &Path) {
    let setup = Setup::new(home, 200);
    let model = bytes(50 * PAGE);
    let file = setup.file(&model);
    let waiting: Vec<_> =
        (0..200).map(|at| (at % 50, setup.submit(io, &file, (at % 50 * PAGE) as u64))).collect();
    for (page, waiting) in waiting {
        let (slab, result) = setup.runtime.block_on(waiting).unwrap();
        assert_eq!(result.unwrap(), PAGE);
        assert!(slab[..] == model[page * PAGE..][..PAGE], "page {page}");
    }
}

fn a_batch_larger_than_the_queue_ends(io: &dyn BlockIo, home: &Path) {
    let setup = Setup::new(home, 3000);
    let file = setup.file(&bytes(PAGE));
    let (operations, waiting): (Vec<_>, Vec<_>) = (0..3000).map(|_| setup.operation(&file, 0)).unzip();
    io.submit_all(operations);
    for waiting in waiting {
        assert_eq!(setup.runtime.block_on(waiting).unwrap().1.unwrap(), PAGE);
    }
}

fn dropped_futures_give_their_buffers_back(io: &dyn BlockIo, home: &Path) {
    let setup = Setup::new(home, 64);
    let file = setup.file(&bytes(64 * PAGE));
    for round in 0..20 {
        let waiting: VecDeque<_> = (0..64).map(|at| setup.submit(io, &file, at * PAGE as u64)).collect();
        // Some are answered before they are dropped, some are not.
        for (at, waiting) in waiting.into_iter().enumerate() {
            if at % 20 == round {
                setup.runtime.block_on(waiting).unwrap().1.unwrap();
            }
        }
        setup.wait_until_all_is_free();
    }
    assert_eq!(setup.region.used_bytes(), 0);
    assert_eq!(Arc::strong_count(&file), 1, "no operation keeps the file");
}

fn errors_carry_their_code_and_the_buffer(io: &dyn BlockIo, home: &Path) {
    let setup = Setup::new(home, 8);
    let path = setup.folder.path().join("a.data");
    std::fs::write(&path, bytes(PAGE)).unwrap();
    let read_only = Arc::new(IoFile::from_file(File::open(&path).unwrap(), path).unwrap());
    let error = setup.write(io, &read_only, 0, &bytes(PAGE)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));

    let folder = File::open(setup.folder.path()).unwrap();
    let folder = Arc::new(IoFile::from_file(folder, PathBuf::from("folder")).unwrap());
    assert_eq!(setup.read(io, &folder, 0, PAGE).unwrap_err().raw_os_error(), Some(libc::EISDIR));

    let file = setup.file(&bytes(PAGE));
    if file.is_direct() {
        let error = setup.read(io, &file, 100, PAGE).unwrap_err();
        assert!(error.to_string().contains("a.data") && error.to_string().contains("granule"), "{error}");
    }
    let slab = setup.region.try_allocate(PAGE).unwrap();
    let (slab, result) = setup.runtime.block_on(io::read(io, &file, 0, 2 * PAGE, slab));
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    drop(slab.unwrap());
    assert!(setup.read(io, &file, u64::MAX / PAGE as u64 * PAGE as u64, PAGE).is_err());
    assert_eq!(setup.region.used_bytes(), 0);
    assert_eq!(setup.read(io, &file, 0, PAGE).unwrap(), bytes(PAGE), "the engine goes on after errors");
}

fn what_was_submitted_is_done_when_the_engine_drops(io: Arc<dyn BlockIo>, home: &Path) {
    let setup = Setup::new(home, 100);
    let model = bytes(50 * PAGE);
    let file = setup.file(&vec![0; 50 * PAGE]);
    for (page, content) in model.chunks(PAGE).enumerate() {
        let mut slab = setup.region.try_allocate(PAGE).unwrap();
        slab.copy_from_slice(content);
        let (done, _) = oneshot::channel();
        let (file, offset) = (file.clone(), (page * PAGE) as u64);
        io.submit(Operation::Write { file, offset, bytes: slab.freeze(), done });
    }
    drop(io);
    assert_eq!(setup.region.used_bytes(), 0, "nothing is in flight behind a dropped engine");
    assert_eq!(std::fs::read(file.path()).unwrap(), model);
}

fn threads_may_submit_at_once(io: Arc<dyn BlockIo>, home: &Path) {
    let setup = Setup::new(home, 64);
    let model = bytes(64 * PAGE);
    let file = setup.file(&model);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (io, file, region, model) = (&io, &file, &setup.region, &model);
            scope.spawn(move || {
                for round in 0..100usize {
                    let page = (round * 7 + thread * 13) % 64;
                    futures::executor::block_on(async {
                        let slab = region.allocate(PAGE).await.unwrap();
                        let (slab, result) = io::read(&**io, file, (page * PAGE) as u64, PAGE, slab).await;
                        assert_eq!(result.unwrap(), PAGE);
                        assert!(slab.unwrap()[..] == model[page * PAGE..][..PAGE]);
                    });
                }
            });
        }
    });
}

/// A ring, or a line that says why there is none here.
fn uring(options: &Options) -> Option<Uring> {
    match Uring::new(options) {
        Ok(engine) => Some(engine),
        Err(error) => {
            eprintln!("no io_uring here ({error}): this test checks nothing");
            None
        }
    }
}

#[test]
fn blocking_conforms() {
    conforms(|depth| Arc::new(Blocking::new(depth).unwrap()));
}

#[test]
fn a_ring_conforms() {
    if uring(&Options::default()).is_some() {
        conforms(|depth| Arc::new(Uring::new(&Options { depth, ..Options::default() }).unwrap()));
    }
}

#[test]
fn several_rings_conform() {
    if uring(&Options::default()).is_some() {
        conforms(|depth| Arc::new(Uring::new(&Options { depth, threads: 3, hold: None }).unwrap()));
    }
}

#[test]
fn what_the_probe_opens_conforms() {
    conforms(|depth| io::open(&std::env::temp_dir(), depth).unwrap().0);
}

#[test]
fn a_decorator_without_faults_conforms() {
    conforms(|depth| FaultyIo::new(Arc::new(Blocking::new(depth).unwrap())));
}

/// A pipe: a read of it stays in flight until somebody writes.
fn pipe() -> (Arc<IoFile>, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let reader = File::from(OwnedFd::from(reader));
    (Arc::new(IoFile::from_file(reader, PathBuf::from("pipe")).unwrap()), writer)
}

#[test]
fn a_future_dropped_while_its_read_is_in_flight_keeps_the_slab_until_the_kernel_is_done() {
    let Some(io) = uring(&Options { depth: 2, ..Options::default() }) else { return };
    let setup = Setup::new(&std::env::temp_dir(), 4);
    let (file, mut writer) = pipe();
    let waiting = setup.submit(&io, &file, 0);
    // A second operation that ends shows that the first one is in the ring.
    let disk = setup.file(&bytes(PAGE));
    assert_eq!(setup.read(&io, &disk, 0, PAGE).unwrap(), bytes(PAGE));
    drop(waiting);
    assert_eq!(setup.read(&io, &disk, 0, PAGE).unwrap(), bytes(PAGE));
    assert_eq!(setup.region.used_bytes(), PAGE, "the kernel may still write to it");
    writer.write_all(&bytes(PAGE)).unwrap();
    setup.wait_until_all_is_free();
}

#[test]
fn an_engine_dropped_with_a_read_in_flight_waits_for_it() {
    let Some(io) = uring(&Options { depth: 1, ..Options::default() }) else { return };
    let setup = Setup::new(&std::env::temp_dir(), 4);
    let (file, mut writer) = pipe();
    let waiting = setup.submit(&io, &file, 0);
    // Waits behind the first one, since the ring has one place.
    let disk = setup.file(&bytes(PAGE));
    let queued = setup.submit(&io, &disk, 0);
    let dropping = std::thread::Builder::new().name("dropping".into()).spawn(move || drop(io)).unwrap();
    // Two halves: the first is a short read, resubmitted while the engine closes.
    writer.write_all(&bytes(PAGE)[..100]).unwrap();
    writer.write_all(&bytes(PAGE)[100..]).unwrap();
    let (slab, result) = setup.runtime.block_on(waiting).unwrap();
    assert_eq!(result.unwrap(), PAGE);
    assert!(slab[..] == bytes(PAGE));
    assert_eq!(setup.runtime.block_on(queued).unwrap().1.unwrap(), PAGE);
    dropping.join().unwrap();
}

#[test]
fn a_lock_held_by_the_ring_ends_with_the_ring() {
    use rustix::fs::{FlockOperation, flock};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let lock = Arc::new(File::create(&path).unwrap());
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let Some(io) = uring(&Options { hold: Some(lock.clone()), ..Options::default() }) else { return };
    drop(lock);
    let other = File::open(&path).unwrap();
    assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
    drop(io);
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
}
