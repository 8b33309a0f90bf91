//! Huffman tables as an image declares them, made for decoding a coefficient per lookup, or for passing over several.

use super::bits::REFILLED;

/// Bits of the code that a lookup sees. Longer codes are rare and are walked: at quality 95, about 1 in 100.
const SEEN: u32 = 11;

/// Of its code 16, and of its value.
pub(super) const MOST_SYMBOL_BITS: u32 = 16 + MOST_VALUE_BITS as u32;
pub(super) const SYMBOLS_PER_REFILL: u32 = REFILLED / MOST_SYMBOL_BITS;
pub(super) const LOOKUPS_PER_REFILL: u32 = REFILLED / SEEN;

/// What 8-bit samples need: 11 for a difference of means, 10 for other coefficients.
const MOST_VALUE_BITS: u8 = 11;

/// A table as the file declares it (T.81, B.2.4.2): how many codes there are of each length, and their symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// Of 1 to 16 bits.
    pub(super) counts: [u8; 16],
    pub(super) symbols: [u8; 256],
}

/// A symbol and the value behind it, where a lookup sees both in whole. A word, from its lowest byte up: bits of both together (0: a
/// lookup does not see them); coefficients of zero before the value, [`END_OF_BLOCK`] for the symbol of that name; the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(i32);

impl Seen {
    fn new(symbol: Symbol, value: i32) -> Self {
        Self((symbol.bits() | u32::from(symbol.run) << 8) as i32 | value << 16)
    }

    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u32 & 0xFF
    }

    #[inline(always)]
    pub(super) fn run(self) -> usize {
        (self.0 >> 8 & 0xFF) as usize
    }

    #[inline(always)]
    pub(super) fn value(self) -> i16 {
        (self.0 >> 16) as i16
    }
}

/// A symbol whose value is still to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Symbol {
    /// 0 where a lookup does not see the whole code.
    code_bits: u8,
    value_bits: u8,
    run: u8,
}

impl Symbol {
    /// `run` and length of an AC symbol; of a DC symbol the run is 0.
    fn new(symbol: u8, code_bits: u32) -> Self {
        let (run, value_bits) = (symbol >> 4, symbol & 15);
        // Without a value there is the run of 16 zeros (15 and one of its own) and, whatever its run, the end of the block.
        let run = if value_bits == 0 && run != 15 { END_OF_BLOCK } else { run };
        Self { code_bits: code_bits as u8, value_bits, run }
    }

    /// Bits of code and value.
    pub(super) fn bits(self) -> u32 {
        u32::from(self.code_bits) + u32::from(self.value_bits)
    }

    /// Coefficients of zero before the value.
    #[inline(always)]
    pub(super) fn run(self) -> usize {
        usize::from(self.run)
    }

    /// The value, from bits of which the first belongs to the code. 0 where it has no bits.
    #[inline(always)]
    pub(super) fn value(self, ready: u64) -> i32 {
        let ready = ready << self.code_bits;
        let raw = (ready >> 1 >> (63 - self.value_bits)) as i32;
        // A first bit of 0 says that the value is negative: raw − (2^bits − 1) (T.81, F.2.2.1). As good as random: no branch.
        let negative = !((ready as i64 >> 63) as i32);
        raw + (negative & (1 - (1 << self.value_bits)))
    }
}

/// Carries any position out of the block.
const END_OF_BLOCK: u8 = 64;

/// What a lookup says of the symbols that it sees in whole, where their values don't matter. A word, from its lowest byte up: bits of
/// them all (0: the first one's code is longer than what a lookup sees); coefficients that must be left in the block for all of
/// them to belong to it; what they add to the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passage(u32);

impl Passage {
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 & 0xFF
    }

    #[inline(always)]
    pub(super) fn room(self) -> usize {
        (self.0 >> 8 & 0xFF) as usize
    }

    #[inline(always)]
    pub(super) fn step(self) -> usize {
        (self.0 >> 16) as usize
    }
}

const ENTRIES: usize = 1 << SEEN;

/// A table to decode with.
#[derive(Debug)]
pub(super) struct Table {
    declared: Declared,
    symbols: Box<[Symbol; ENTRIES]>,
    seen: Box<[Seen; ENTRIES]>,
    /// Made when the first block is passed over.
    passages: Option<Box<[Passage; ENTRIES]>>,
    /// Per length: the largest code, and what a code of it adds to be the number of its symbol.
    lengths: [(i32, i32); 17],
}

impl Table {
    /// None where `declared` holds more codes than its lengths have, or symbols that 8-bit samples don't need.
    pub(super) fn new(declared: &Declared) -> Option<Self> {
        let mut symbols = Box::new([Symbol::default(); ENTRIES]);
        let mut lengths = [(-1, 0); 17];
        let (mut code, mut number) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(declared.counts[length as usize - 1]);
            lengths[length as usize].1 = number as i32 - code as i32;
            for &symbol in declared.symbols.get(number..number + count)? {
                if symbol & 15 > MOST_VALUE_BITS || code >= 1 << length {
                    return None;
                }
                if length <= SEEN {
                    let first = (code << (SEEN - length)) as usize;
                    symbols[first..first + (1 << (SEEN - length))].fill(Symbol::new(symbol, length));
                }
                lengths[length as usize].0 = code as i32;
                code += 1;
            }
            number += count;
            code <<= 1;
        }
        let seen = Box::new(std::array::from_fn(|ready| see(symbols[ready], ready)));
        Some(Self { declared: declared.clone(), symbols, seen, passages: None, lengths })
    }

    pub(super) fn is(&self, declared: &Declared) -> bool {
        self.declared == *declared
    }

    /// What a lookup sees; where it sees nothing, [`Self::longer`] must be asked.
    #[inline(always)]
    pub(super) fn seen(&self) -> &[Seen; ENTRIES] {
        &self.seen
    }

    /// The next symbol and its value, however long. None: no code starts like `ready`.
    #[cold]
    #[inline(never)]
    pub(super) fn longer(&self, ready: u64) -> Option<Seen> {
        self.value(ready).map(|(symbol, value)| Seen::new(symbol, value))
    }

    /// The next symbol and its value. None: no code starts like `ready`.
    #[inline(always)]
    pub(super) fn value(&self, ready: u64) -> Option<(Symbol, i32)> {
        self.symbol(ready).map(|symbol| (symbol, symbol.value(ready)))
    }

    /// The next symbol. None: no code starts like `ready`.
    #[inline(always)]
    pub(super) fn symbol(&self, ready: u64) -> Option<Symbol> {
        let symbol = self.symbols[index(ready)];
        if symbol.code_bits != 0 { Some(symbol) } else { self.walk(ready) }
    }

    #[cold]
    fn walk(&self, ready: u64) -> Option<Symbol> {
        (SEEN + 1..=16).find_map(|length| {
            let code = (ready >> (64 - length)) as i32;
            let (largest, add) = self.lengths[length as usize];
            if code > largest {
                return None;
            }
            let symbol = *self.declared.symbols.get((code + add) as usize)?;
            Some(Symbol::new(symbol, length))
        })
    }

    /// Makes what [`Self::passages`] gives.
    pub(super) fn prepare_passages(&mut self) {
        if self.passages.is_some() {
            return;
        }
        let mut passages = Box::new([Passage::default(); ENTRIES]);
        for (seen, passage) in passages.iter_mut().enumerate() {
            *passage = self.passage_of(seen);
        }
        self.passages = Some(passages);
    }

    fn passage_of(&self, seen: usize) -> Passage {
        let (mut bits, mut room, mut step) = (0, 0, 0);
        while bits < SEEN && step < u32::from(END_OF_BLOCK) {
            let next = self.symbols[(seen << bits) & (ENTRIES - 1)];
            // The bits behind what is seen are unknown: a code must end before them. Its value need not.
            if next.code_bits == 0 || bits + u32::from(next.code_bits) > SEEN {
                break;
            }
            bits += next.bits();
            let end = next.run == END_OF_BLOCK;
            room += if end { 1 } else { u32::from(next.run) + 1 };
            step += if end { u32::from(END_OF_BLOCK) } else { u32::from(next.run) + 1 };
        }
        Passage(bits | room << 8 | step << 16)
    }

    #[inline(always)]
    pub(super) fn passages(&self) -> &[Passage; ENTRIES] {
        self.passages.as_deref().unwrap_or(&UNPREPARED)
    }
}

static UNPREPARED: [Passage; ENTRIES] = [Passage(0); ENTRIES];

/// The symbol and value that `ready`, of [`SEEN`] bits, starts with.
fn see(symbol: Symbol, ready: usize) -> Seen {
    if symbol.code_bits == 0 || symbol.bits() > SEEN {
        return Seen::default();
    }
    Seen::new(symbol, symbol.value((ready as u64) << (64 - SEEN)))
}

/// Where a lookup of `ready` bits falls.
#[inline(always)]
pub(super) fn index(ready: u64) -> usize {
    (ready >> (64 - SEEN)) as usize
}
