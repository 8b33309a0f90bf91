//! What the measuring programs share: options, processor time, fio, memory.
//!
//! Each program measures one thing and prints one JSON object per measurement on standard output; the harness in
//! `benches/harness` runs them in turn with their peers, and draws up the account.

pub mod fio;
pub mod folder;
pub mod hot;
pub mod photos;
pub mod reading;

pub use forebay_loader::measure::process;

/// The finalizer of splitmix64: any two turns go to unrelated places.
pub fn mixed(turn: u64) -> u64 {
    let mut x = turn.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
