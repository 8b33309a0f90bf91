//! The coefficients of a baseline scan, in place of libjpeg-turbo's own Huffman decoder, where half of a crop's time went.
//!
//! What makes it faster: the coded bytes are freed of their framing beforehand, so that a refill is one load; one lookup gives a
//! symbol's whole length, and the value is computed beside the chain of lookups that everything waits for; blocks that the crop
//! doesn't need are passed over several symbols at a time. libjpeg-turbo keeps all else, and calls [`forebay_jpeg_unit`] for each
//! unit (MCU) of the scan. Progressive, arithmetic and multi-scan files stay with its own decoders.

use std::ptr::NonNull;

use super::bits::{Bits, Coded, MOST_READ, Place};
use super::huffman::{Declared, LOOKUPS_PER_REFILL, MOST_SYMBOL_BITS, SYMBOLS_PER_REFILL, Table, index};

/// Most blocks that a unit may have (T.81, B.2.3).
const MOST_BLOCKS: usize = 10;
/// Most components of a scan.
const MOST_COMPONENTS: usize = 4;

/// A unit's blocks have a coefficient a symbol at most: one reader serves a unit.
const _: () = assert!(MOST_BLOCKS * 64 * MOST_SYMBOL_BITS as usize <= MOST_READ);

/// 64 coefficients in natural order.
type Block = [i16; 64];

/// Where the coefficient of each zigzag position lies; positions that a damaged block runs to lie on the last one, as in libjpeg.
static NATURAL: [u8; 256] = natural();

const fn natural() -> [u8; 256] {
    let mut order = [63; 256];
    let (mut at, mut row, mut column) = (0, 0i32, 0i32);
    while at < 64 {
        order[at] = (row * 8 + column) as u8;
        let up = (row + column) % 2 == 0;
        (row, column) = match (up, row, column) {
            (true, _, 7) => (row + 1, 7),
            (true, 0, _) => (0, column + 1),
            (true, _, _) => (row - 1, column + 1),
            (false, 7, _) => (7, column + 1),
            (false, _, 0) => (row + 1, 0),
            (false, _, _) => (row + 1, column - 1),
        };
        at += 1;
    }
    order
}

/// forebay_jpeg_scan: what the shim says of the scan that begins.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Layout {
    /// Blocks of a unit.
    blocks: u32,
    /// Of each block.
    component: [u8; MOST_BLOCKS],
    dc_table: [u8; MOST_BLOCKS],
    ac_table: [u8; MOST_BLOCKS],
    /// 0 where only the mean of the block is used.
    ac_needed: [u8; MOST_BLOCKS],
    /// Units between restart markers; 0: none.
    restart_interval: u32,
    units_per_row: u32,
    /// Of the whole scan.
    units: u64,
    /// Columns of units that the crop needs.
    first_column: u32,
    last_column: u32,
    /// From the scan's first coded byte to the file's end.
    data: *const u8,
    length: usize,
    /// As declared, per table: 16 counts behind one unused byte, 256 symbols. Null where the file has none.
    dc_counts: [*const u8; 4],
    dc_symbols: [*const u8; 4],
    ac_counts: [*const u8; 4],
    ac_symbols: [*const u8; 4],
}

/// What was wrong with the coded data; the shim knows the numbers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    BadCode = 1,
    Ended = 2,
    Restart = 3,
}

/// The decoder's state; one per thread, its memory and tables kept from image to image.
#[derive(Debug, Default)]
pub(super) struct Scan {
    coded: Coded,
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    blocks: Vec<BlockOf>,
    restart_interval: u32,
    units_per_row: u32,
    columns: (u32, u32),
    at: Place,
    /// Bit behind the last one of this part.
    end: usize,
    part: usize,
    left_in_part: u32,
    column: u32,
    /// Last mean of each component.
    means: [i32; MOST_COMPONENTS],
}

#[derive(Clone, Copy, Debug)]
struct BlockOf {
    component: usize,
    dc: usize,
    ac: usize,
    ac_needed: bool,
}

/// Takes over the scan that `layout` describes. 0: libjpeg-turbo's own decoder must do it.
///
/// # Safety
/// `scan` is valid and not in use elsewhere; `layout`'s pointers are valid for their lengths.
#[unsafe(no_mangle)]
unsafe extern "C" fn forebay_jpeg_begin(mut scan: NonNull<Scan>, layout: &Layout) -> u32 {
    // SAFETY: as the caller promises.
    let (scan, data) = unsafe { (scan.as_mut(), std::slice::from_raw_parts(layout.data, layout.length)) };
    let declared = |counts: *const u8, symbols: *const u8| {
        // SAFETY: libjpeg's JHUFF_TBL: 17 counts, 256 symbols.
        (!counts.is_null() && !symbols.is_null())
            .then(|| unsafe { Declared { counts: *counts.add(1).cast(), symbols: *symbols.cast() } })
    };
    let tables = |at: usize| {
        [
            declared(layout.dc_counts[at], layout.dc_symbols[at]),
            declared(layout.ac_counts[at], layout.ac_symbols[at]),
        ]
    };
    u32::from(scan.begin(layout, data, std::array::from_fn(tables)).is_some())
}

/// Decodes the next unit into `blocks` (zeroed, as many as the scan's units have), or passes over it where `blocks` is null or the
/// crop does not need its column. 0, or the number of a [`Fault`].
///
/// # Safety
/// `scan` is valid, begun, and not in use elsewhere; `blocks` is null or as said.
#[unsafe(no_mangle)]
unsafe extern "C" fn forebay_jpeg_unit(mut scan: NonNull<Scan>, blocks: *mut Block) -> u32 {
    // SAFETY: as the caller promises.
    let scan = unsafe { scan.as_mut() };
    let blocks = (!blocks.is_null()).then(|| {
        // SAFETY: as the caller promises; scan.blocks has one element per block of a unit.
        unsafe { std::slice::from_raw_parts_mut(blocks, scan.blocks.len()) }
    });
    match scan.unit(blocks) {
        Ok(()) => 0,
        Err(fault) => fault as u32,
    }
}

/// Byte of the scan's data, framing included, that the decoder has come to.
///
/// # Safety
/// `scan` is valid and begun with `data` of this length.
#[unsafe(no_mangle)]
unsafe extern "C" fn forebay_jpeg_position(scan: NonNull<Scan>, data: *const u8, length: usize) -> usize {
    // SAFETY: as the caller promises.
    let (scan, data) = unsafe { (scan.as_ref(), std::slice::from_raw_parts(data, length)) };
    Coded::origin(data, scan.at.position().min(scan.end) / 8)
}

impl Scan {
    /// Bytes of memory held between images.
    pub(super) fn memory_bytes(&self) -> usize {
        self.coded.capacity()
    }

    /// Frees what grew with the images.
    pub(super) fn forget(&mut self) {
        self.coded = Coded::default();
    }

    fn begin(&mut self, layout: &Layout, data: &[u8], declared: [[Option<Declared>; 2]; 4]) -> Option<()> {
        self.blocks.clear();
        for block in 0..(layout.blocks as usize).min(MOST_BLOCKS) {
            let component = usize::from(layout.component[block]);
            let (dc, ac) = (usize::from(layout.dc_table[block]), usize::from(layout.ac_table[block]));
            if component >= MOST_COMPONENTS {
                return None;
            }
            renew(self.dc.get_mut(dc)?, declared[dc][0].as_ref()?)?;
            renew(self.ac.get_mut(ac)?, declared[ac][1].as_ref()?)?;
            self.blocks.push(BlockOf { component, dc, ac, ac_needed: layout.ac_needed[block] != 0 });
        }
        let parts = layout.units.checked_div(layout.restart_interval.into()).unwrap_or(0);
        self.coded.take(data, parts);
        self.restart_interval = layout.restart_interval;
        self.units_per_row = layout.units_per_row;
        self.columns = (layout.first_column, layout.last_column);
        (self.column, self.part) = (0, 0);
        self.start_part().ok()
    }

    fn start_part(&mut self) -> Result<(), Fault> {
        let (start, end) = self.coded.part(self.part).ok_or(Fault::Restart)?;
        (self.at, self.end) = (Place::start(start), end * 8);
        self.left_in_part = self.restart_interval;
        self.means = [0; MOST_COMPONENTS];
        Ok(())
    }

    fn unit(&mut self, blocks: Option<&mut [Block]>) -> Result<(), Fault> {
        if self.restart_interval > 0 {
            if self.left_in_part == 0 {
                self.part += 1;
                self.start_part()?;
            }
            self.left_in_part -= 1;
        }
        let needed = (self.columns.0..=self.columns.1).contains(&self.column);
        self.column = if self.column + 1 == self.units_per_row { 0 } else { self.column + 1 };
        match blocks.filter(|_| needed) {
            Some(blocks) => self.decode(blocks)?,
            None => self.pass_over()?,
        }
        // Bits behind the end were zeros, and what they gave is not in the file.
        if self.at.position() > self.end { Err(Fault::Ended) } else { Ok(()) }
    }

    fn decode(&mut self, blocks: &mut [Block]) -> Result<(), Fault> {
        let mut bits = self.coded.bits(self.at).ok_or(Fault::Ended)?;
        for (of, block) in self.blocks.iter().zip(blocks) {
            let (Some(dc), Some(ac)) = (&self.dc[of.dc], &self.ac[of.ac]) else { return Err(Fault::BadCode) };
            let mean_of = &mut self.means[of.component];
            bits = mean(bits, dc, mean_of)?;
            block[0] = *mean_of as i16;
            bits = if of.ac_needed { details(bits, ac, block)? } else { pass(bits, ac)? };
        }
        self.at = bits.place;
        Ok(())
    }

    fn pass_over(&mut self) -> Result<(), Fault> {
        for table in self.ac.iter_mut().flatten() {
            table.prepare_passages();
        }
        let mut bits = self.coded.bits(self.at).ok_or(Fault::Ended)?;
        for of in &self.blocks {
            let (Some(dc), Some(ac)) = (&self.dc[of.dc], &self.ac[of.ac]) else { return Err(Fault::BadCode) };
            bits = mean(bits, dc, &mut self.means[of.component])?;
            bits = pass(bits, ac)?;
        }
        self.at = bits.place;
        Ok(())
    }
}

/// Makes `table` the declared one. Most files of a dataset declare the same.
fn renew(table: &mut Option<Table>, declared: &Declared) -> Option<()> {
    if !table.as_ref().is_some_and(|table| table.is(declared)) {
        *table = Some(Table::new(declared)?);
    }
    Some(())
}

/// The first coefficient: its difference to the component's last one.
#[inline(always)]
fn mean<'a>(mut bits: Bits<'a>, table: &Table, last: &mut i32) -> Result<Bits<'a>, Fault> {
    bits.refill();
    let (symbol, value) = table.value(bits.ready()).ok_or(Fault::BadCode)?;
    *last = last.wrapping_add(value);
    bits.consume(symbol.bits());
    Ok(bits)
}

/// The other 63. A symbol without a value writes a zero where one is: ahead of what was written.
#[inline(always)]
fn details<'a>(mut bits: Bits<'a>, table: &Table, block: &mut Block) -> Result<Bits<'a>, Fault> {
    let seen = table.seen();
    let mut at = 1;
    loop {
        bits.refill();
        for _ in 0..LOOKUPS_PER_REFILL {
            let mut next = seen[index(bits.ready())];
            if next.bits() > 0 {
                bits.consume(next.bits());
            } else {
                bits.refill();
                next = table.longer(bits.ready()).ok_or(Fault::BadCode)?;
                bits.consume(next.bits());
                bits.refill();
            }
            at += next.run();
            block[usize::from(NATURAL[at & 0xFF] & 63)] = next.value();
            at += 1;
            if at >= 64 {
                return Ok(bits);
            }
        }
    }
}

/// The other 63, not wanted.
#[inline(always)]
fn pass<'a>(mut bits: Bits<'a>, table: &Table) -> Result<Bits<'a>, Fault> {
    let passages = table.passages();
    let mut at = 1;
    loop {
        bits.refill();
        for _ in 0..SYMBOLS_PER_REFILL {
            let passage = passages[index(bits.ready())];
            if passage.bits() > 0 && at + passage.room() <= 64 {
                at += passage.step();
                bits.consume(passage.bits());
            } else {
                let symbol = table.symbol(bits.ready()).ok_or(Fault::BadCode)?;
                at += symbol.run() + 1;
                bits.consume(symbol.bits());
            }
            if at >= 64 {
                return Ok(bits);
            }
        }
    }
}
