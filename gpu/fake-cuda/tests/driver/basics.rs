//! What a program gets from the driver when it does nothing wrong.

use crate::support::{Driver, SEEDS, counter, gather, of, of_mut};
use forebay_fake_cuda::abi::*;
use forebay_kernels::GatherArgs;

#[test]
fn bytes_gathered_on_the_device_come_back() {
    for seed in SEEDS {
        let driver = Driver::seed(seed);
        let (stream, module) = (driver.stream(), driver.module());
        let function = driver.gather_of(module);
        let (rows, row_bytes) = (5usize, 1000usize);
        let source = driver.pinned(8 * row_bytes);
        for (at, byte) in source.iter_mut().enumerate() {
            *byte = (at / row_bytes * 31 + at) as u8;
        }
        let order = [7usize, 0, 3, 3, 1];
        let (samples, table, out) =
            (driver.device(8 * row_bytes), driver.device(8 * rows), driver.device(rows * row_bytes));
        let addresses = driver.pinned(8 * rows);
        for (to, row) in addresses.as_chunks_mut::<8>().0.iter_mut().zip(order) {
            *to = (samples + (row * row_bytes) as u64).to_le_bytes();
        }
        let back = driver.pinned(rows * row_bytes);
        ok!(cuMemcpyHtoDAsync_v2(samples, of(source), source.len(), stream));
        ok!(cuMemcpyHtoDAsync_v2(table, of(addresses), addresses.len(), stream));
        let arguments = GatherArgs { samples: table, out, rows: rows as u64, row_bytes: row_bytes as u64 };
        assert_eq!(gather(function, arguments, stream), 0);
        ok!(cuMemcpyDtoHAsync_v2(of_mut(back), out, back.len(), stream));
        ok!(cuStreamSynchronize(stream));
        for (row, from) in order.iter().enumerate() {
            assert_eq!(back[row * row_bytes..][..row_bytes], source[from * row_bytes..][..row_bytes]);
        }
        assert_eq!(counter("h2d_bytes"), (source.len() + addresses.len()) as u64);
        assert_eq!(counter("d2h_bytes"), back.len() as u64);
        assert_eq!(counter("launches"), 1);
        driver.is_silent();
    }
}
