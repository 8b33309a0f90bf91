//! The decorator on a real file.

use super::*;
use crate::io::{self, Blocking, IoFile};

struct Bench {
    io: Arc<FaultyIo>,
    file: Arc<IoFile>,
    region: crate::memory::Region,
    _folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let io = FaultyIo::new(Arc::new(Blocking::new(2).unwrap()));
    let file = Arc::new(IoFile::open(&folder.path().join("a.data"), true).unwrap());
    let region = Arena::new(1 << 20).unwrap().region("test", 1 << 20).unwrap();
    Bench { io, file, region, _folder: folder }
}

impl Bench {
    fn page(&self, value: u8) -> Lease {
        let mut slab = self.region.try_allocate(8192).unwrap();
        slab.fill(value);
        slab.freeze()
    }

    async fn read(&self) -> std::io::Result<Vec<u8>> {
        let slab = self.region.try_allocate(8192).unwrap();
        let (slab, result) = io::read(&*self.io, &self.file, 0, 8192, slab).await;
        result.map(|filled| slab.unwrap()[..filled].to_vec())
    }
}

#[tokio::test]
async fn faults_strike_after_so_many_operations_of_their_kind_and_file() {
    let bench = bench();
    bench.io.inject(Fault::new(Kind::Write, Effect::Errno(libc::ENOSPC)).after(1).times(1));
    bench.io.inject(Fault::new(Kind::Any, Effect::Errno(libc::EIO)).on_files(".crc"));
    io::write(&*bench.io, &bench.file, 0, bench.page(1)).await.unwrap();
    assert_eq!(bench.read().await.unwrap(), vec![1; 8192]);
    let error = io::write(&*bench.io, &bench.file, 0, bench.page(2)).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    io::write(&*bench.io, &bench.file, 0, bench.page(3)).await.unwrap();
    assert_eq!(bench.read().await.unwrap(), vec![3; 8192]);
    let counts = bench.io.counts();
    assert_eq!((counts.reads, counts.writes, counts.struck), (2, 3, 1));
}

#[tokio::test]
async fn a_flipped_bit_differs_in_what_is_read_or_in_what_is_written() {
    let bench = bench();
    io::write(&*bench.io, &bench.file, 0, bench.page(0)).await.unwrap();
    bench.io.inject(Fault::new(Kind::Any, Effect::FlipBit { byte: 4097, bit: 3 }).times(1));
    assert_eq!(bench.read().await.unwrap()[4097], 8);
    assert_eq!(bench.read().await.unwrap(), vec![0; 8192], "the disk itself is right");
    bench.io.inject(Fault::new(Kind::Write, Effect::FlipBit { byte: 1, bit: 0 }).times(1));
    io::write(&*bench.io, &bench.file, 0, bench.page(0)).await.unwrap();
    assert_eq!(bench.read().await.unwrap()[1], 1);
}

#[tokio::test]
async fn torn_and_lost_writes_leave_the_old_bytes_behind() {
    let bench = bench();
    io::write(&*bench.io, &bench.file, 0, bench.page(1)).await.unwrap();
    bench.io.inject(Fault::new(Kind::Write, Effect::Torn { bytes: 4096 }).times(1));
    bench.io.inject(Fault::new(Kind::Write, Effect::Lost).times(1));
    let error = io::write(&*bench.io, &bench.file, 0, bench.page(2)).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let found = bench.read().await.unwrap();
    assert_eq!((found[4095], found[4096]), (2, 1));
    io::write(&*bench.io, &bench.file, 0, bench.page(3)).await.unwrap();
    assert_eq!(bench.read().await.unwrap()[0], 2, "the second write was lost");
}

#[tokio::test]
async fn held_operations_keep_their_buffers_until_released() {
    let bench = bench();
    bench.io.hold(Kind::Read);
    io::write(&*bench.io, &bench.file, 0, bench.page(9)).await.unwrap();
    let mut reading = Box::pin(bench.read());
    assert!(futures::poll!(&mut reading).is_pending());
    assert!(bench.io.wait_for_held(1));
    assert_eq!(bench.region.used_bytes(), 8192);
    bench.io.release();
    assert_eq!(reading.await.unwrap(), vec![9; 8192]);
}
