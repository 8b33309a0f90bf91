//! `forebay_gather` against copies by hand.

use crate::memory::Memory;
use forebay_kernels::{GatherArgs, Launch};
use proptest::prelude::*;

fn noise(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 17 + at / 7) as u8).collect()
}

fn gathered(row_bytes: usize, pasts: &[usize], out_past: usize, launch: Option<Launch>) {
    let mut memory = Memory::new((row_bytes + 40) * (2 * pasts.len() + 1) + 256);
    let rows: Vec<Vec<u8>> = (0..pasts.len()).map(|row| noise(row_bytes, row)).collect();
    let samples: Vec<u64> = rows.iter().zip(pasts).map(|(row, past)| memory.put(row, *past)).collect();
    let args = GatherArgs {
        samples: memory.put_words(&samples),
        out: memory.take(row_bytes * rows.len(), out_past),
        rows: rows.len() as u64,
        row_bytes: row_bytes as u64,
    };
    match launch {
        Some(launch) => memory.run_as(&args, launch),
        None => memory.run(&args),
    }
    assert_eq!(memory.get(args.out, row_bytes * rows.len()), rows.concat());
}

proptest! {
    #[test]
    fn rows_arrive_whatever_their_size_and_alignment(
        row_bytes in 0usize..500,
        pasts in prop::collection::vec(prop_oneof![Just(0usize), 0usize..16], 0..9),
        out_past in prop_oneof![Just(0usize), 0usize..16],
        launch in prop::option::of((1u32..4, 1u32..4, 1u32..9, 1u32..4)),
    ) {
        let launch = launch.map(|(x, y, wide, high)| Launch { grid: [x, y, 1], block: [wide, high, 1] });
        gathered(row_bytes, &pasts, out_past, launch);
    }
}

#[test]
fn more_rows_than_a_grid_has_blocks() {
    gathered(1, &vec![0; 300], 0, Some(Launch { grid: [1, 2, 1], block: [1, 1, 1] }));
}

/// A row of 4 GiB and more begins where 32 bits would have begun anew.
#[test]
fn offsets_beyond_4_gib_are_declared_as_they_are() {
    let kernel = forebay_kernels::host::find("forebay_gather").unwrap();
    let table = [1u64 << 40, 1 << 41];
    let args = GatherArgs { samples: table.as_ptr() as u64, out: 1 << 42, rows: 2, row_bytes: 5 << 32 };
    let mut told = Vec::new();
    let bytes = std::ptr::from_ref(&args).cast();
    // SAFETY: the table is read at its own address; nothing else is touched.
    #[allow(unsafe_code)]
    unsafe {
        kernel.effects(bytes, 0, &mut |access| told.push((access.address, access.bytes, access.writes)));
    }
    let (table, row) = (table.as_ptr() as u64, 5 << 32);
    assert_eq!(
        told,
        [(table, 16, false), (1 << 40, row, false), (1 << 41, row, false), (1 << 42, 2 * row, true)]
    );
}
