//! Memory at addresses that only a device could dereference, and launches that are watched.

#![allow(unsafe_code)]

use forebay_kernels::host::{self, Access};
use forebay_kernels::{Kernel, Launch};

/// Where the device's memory begins: beyond what a process has.
const BASE: u64 = 0x00de_0000_0000_0000;

/// Nobody wrote it.
const POISON: u8 = 0xa5;

/// A device's memory.
#[derive(Debug)]
pub(super) struct Memory {
    /// Of 16 bytes, so that it is aligned as the device's.
    bytes: Vec<u128>,
    used: usize,
}

/// What was done with each byte.
#[derive(Debug, PartialEq, Eq)]
struct Shadow {
    read: Vec<bool>,
    written: Vec<bool>,
}

impl Shadow {
    fn mark(&mut self, access: Access) {
        let first = access.address.wrapping_sub(BASE) as usize;
        let marks = if access.writes { &mut self.written } else { &mut self.read };
        match marks.get_mut(first..first.saturating_add(access.bytes as usize)) {
            Some(range) => range.fill(true),
            None => panic!("{access:x?} lies outside the memory of {} bytes", self.read.len()),
        }
    }
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes: vec![u128::from_ne_bytes([POISON; 16]); bytes.div_ceil(16)], used: 0 }
    }

    fn shadow(&self) -> Shadow {
        let length = self.bytes.len() * 16;
        Shadow { read: vec![false; length], written: vec![false; length] }
    }

    fn all(&mut self) -> &mut [u8] {
        let length = self.bytes.len() * 16;
        // SAFETY: bytes of integers.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), length) }
    }

    /// Room for `bytes`, `past` bytes behind a multiple of 16, and the same again behind it that nobody may touch.
    pub(super) fn take(&mut self, bytes: usize, past: usize) -> u64 {
        let start = self.used.next_multiple_of(16) + past;
        self.used = start + bytes + 1;
        assert!(self.used <= self.bytes.len() * 16, "the test's memory is too small");
        BASE + start as u64
    }

    pub(super) fn put(&mut self, bytes: &[u8], past: usize) -> u64 {
        let address = self.take(bytes.len(), past);
        self.all()[(address - BASE) as usize..][..bytes.len()].copy_from_slice(bytes);
        address
    }

    pub(super) fn put_words(&mut self, words: &[u64]) -> u64 {
        self.put(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>(), 0)
    }

    pub(super) fn get(&mut self, address: u64, bytes: usize) -> &[u8] {
        &self.all()[(address - BASE) as usize..][..bytes]
    }

    /// Launches a kernel as its geometry says; checks that it touches what it declares, and nothing else.
    pub(super) fn run<K: Kernel>(&mut self, args: &K) {
        self.run_as(args, args.launch());
    }

    pub(super) fn run_as<K: Kernel>(&mut self, args: &K, Launch { grid, block }: Launch) {
        let kernel = host::find(K::NAME).expect("the host has it");
        assert_eq!(kernel.args_bytes, size_of::<K>(), "the arguments of {}", K::NAME);
        let shift = (self.bytes.as_mut_ptr() as isize).wrapping_sub(BASE as isize);
        let args: *const u8 = std::ptr::from_ref(args).cast();
        let (mut declared, mut touched) = (self.shadow(), self.shadow());
        // SAFETY: every access is checked before it happens, and ends the process where it is outside.
        unsafe {
            kernel.effects(args, shift, &mut |access| declared.mark(access));
            kernel.run_watched(args, grid, block, shift, &mut |access| touched.mark(access));
        }
        for (what, declared, touched) in
            [("reads", declared.read, touched.read), ("writes", declared.written, touched.written)]
        {
            let differs = declared.iter().zip(&touched).position(|(declared, touched)| declared != touched);
            if let Some(at) = differs {
                let (touched, declared) = (touched[at], declared[at]);
                panic!("{} {what} byte {at}: {touched}, and declares it: {declared}", K::NAME);
            }
        }
    }
}
