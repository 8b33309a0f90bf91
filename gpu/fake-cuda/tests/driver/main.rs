//! The simulated driver from outside: what it gives, and what it finds. Each finding has a test that provokes it, and one that nearly does.

#![allow(unsafe_code, reason = "a C interface")]

#[macro_use]
mod support;

mod basics;
mod capture;
mod faults;
mod host_memory;
mod jpeg;
mod lifetimes;
mod loaded;
mod processes;
mod programs;
mod races;
mod vmm;
