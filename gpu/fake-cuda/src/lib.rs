//! A simulated CUDA driver, stricter than a real one, for tests.

#![allow(
    unsafe_code,
    reason = "a C interface that moves bytes between addresses; every block says why it is sound"
)]

pub mod abi;
mod capture;
mod clocks;
mod codes;
pub mod control;
mod counters;
mod engine;
mod entry;
mod faults;
mod findings;
mod gil;
mod history;
mod host;
mod leaks;
mod memory;
mod modules;
mod physical;
mod process;
mod settings;
mod state;
mod threads;
mod visible;
