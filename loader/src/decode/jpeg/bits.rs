//! The coded data of a scan, ready to be read by the bit.

use memchr::memchr;

/// The coded bytes of a scan without what only frames them: the zero behind every 0xFF, fill bytes, restart markers.
///
/// Taking them out first costs a tenth of a nanosecond a byte and leaves a reader that refills without a look at the bytes.
#[derive(Debug, Default)]
pub(super) struct Coded {
    bytes: Vec<u8>,
    /// Where each restart marker stood, in `bytes`, and its number (0 to 7).
    restarts: Vec<(usize, u8)>,
}

impl Coded {
    /// Bytes of memory held.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.restarts.capacity() * size_of::<(usize, u8)>()
    }

    /// Takes in `data`, which starts at the scan's first coded byte, up to the first marker that ends it. Where the scan has no
    /// restart interval, a restart marker ends it too.
    pub(super) fn take(&mut self, data: &[u8], restarts: bool) {
        self.bytes.clear();
        self.restarts.clear();
        self.bytes.reserve(data.len());
        let mut rest = data;
        while let Some(at) = memchr(0xFF, rest) {
            self.bytes.extend_from_slice(&rest[..at]);
            // Any number of 0xFF may stand before a marker's code.
            let Some(code) = rest[at..].iter().position(|&byte| byte != 0xFF) else { return };
            match rest[at + code] {
                0 => self.bytes.push(0xFF),
                marker @ 0xD0..=0xD7 if restarts => self.restarts.push((self.bytes.len(), marker - 0xD0)),
                _ => return,
            }
            rest = &rest[at + code + 1..];
        }
        self.bytes.extend_from_slice(rest);
    }

    /// Part `number` of the scan: coded bytes between two restart markers. None where the markers don't count up.
    pub(super) fn part(&self, number: usize) -> Option<(usize, usize)> {
        let start = match number.checked_sub(1) {
            None => 0,
            Some(before) => match self.restarts.get(before)? {
                (at, marker) if usize::from(*marker) == before % 8 => *at,
                _ => return None,
            },
        };
        Some((start, self.restarts.get(number).map_or(self.bytes.len(), |(at, _)| *at)))
    }

    /// A reader of the bytes from `start` on. It also reads what lies behind the part; [`Bits::position`] tells.
    pub(super) fn bits(&self, at: Place) -> Bits<'_> {
        Bits { bytes: &self.bytes, place: at }
    }

    /// Where byte `at` of these stands in `data`, from which they were taken.
    pub(super) fn origin(data: &[u8], at: usize) -> usize {
        let (mut before, mut left) = (0, at);
        while let Some(found) = memchr(0xFF, &data[before..]).filter(|found| *found <= left) {
            left -= found;
            before += found;
            match data.get(before + 1) {
                Some(0) if left > 0 => (before, left) = (before + 2, left - 1),
                Some(0xD0..=0xD7) => before += 2,
                Some(0xFF) => before += 1,
                _ => return before,
            }
        }
        (before + left).min(data.len())
    }
}

/// Where a reader stands, kept from unit to unit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// The next bits, from the top down.
    buffer: u64,
    /// How many of them are real.
    count: u32,
    /// The byte that the next refill starts from.
    next: usize,
}

impl Place {
    /// At the first bit of byte `start`.
    pub(super) fn start(start: usize) -> Self {
        Self { buffer: 0, count: 0, next: start }
    }

    /// Bits read so far, counted from the first byte.
    pub(super) fn position(&self) -> usize {
        self.next * 8 - self.count as usize
    }
}

/// Bits that a refill leaves at least.
pub(super) const REFILLED: u32 = 56;

/// Reads bits from the most significant one down; zeros behind the end. Passed by value, so that it stays in registers.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    pub(super) place: Place,
}

impl Bits<'_> {
    /// Makes at least [`REFILLED`] bits ready. Bits that are ready already are loaded once more, which changes nothing: no branch
    /// on how many there are (F. Giesen, "Reading bits in far too many ways", variant 4).
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let Place { buffer, count, next } = &mut self.place;
        let word = match self.bytes.get(*next..*next + 8) {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().unwrap_or_default()),
            None => last_word(self.bytes, *next),
        };
        *buffer |= word >> *count;
        *next += (63 - *count as usize) >> 3;
        *count |= REFILLED;
    }

    /// All that is ready, from the top down.
    #[inline(always)]
    pub(super) fn ready(&self) -> u64 {
        self.place.buffer
    }

    #[inline(always)]
    pub(super) fn consume(&mut self, bits: u32) {
        self.place.buffer <<= bits;
        self.place.count -= bits;
    }
}

#[cold]
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let left = bytes.get(at..).unwrap_or_default();
    word[..left.len()].copy_from_slice(left);
    u64::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(data: &[u8], restarts: bool) -> Coded {
        let mut coded = Coded::default();
        coded.take(data, restarts);
        coded
    }

    #[test]
    fn framing_is_taken_out() {
        let data = [1, 0xFF, 0, 2, 0xFF, 0xFF, 0, 3, 0xFF, 0xD9, 4];
        assert_eq!(taken(&data, false).bytes, [1, 0xFF, 2, 0xFF, 3]);
        assert_eq!(taken(&data[..5], false).bytes, [1, 0xFF, 2], "a lone 0xFF at the end says nothing");
    }

    #[test]
    fn restart_markers_part_the_data_where_an_interval_is_declared() {
        let data = [1, 2, 0xFF, 0xD0, 3, 0xFF, 0xD1, 0xFF, 0xD5, 4];
        assert_eq!(taken(&data, false).bytes, [1, 2]);
        let coded = taken(&data, true);
        assert_eq!(coded.bytes, [1, 2, 3, 4]);
        let parts: Vec<_> = (0..5).map(|number| coded.part(number)).collect();
        assert_eq!(parts, [Some((0, 2)), Some((2, 3)), Some((3, 3)), None, None], "5 does not follow 1");
    }

    #[test]
    fn a_byte_is_found_again_in_the_file() {
        let data = [1, 0xFF, 0, 2, 0xFF, 0xD0, 3, 0xFF, 0xFF, 0, 4];
        let coded = taken(&data, true);
        assert_eq!(coded.bytes, [1, 0xFF, 2, 3, 0xFF, 4]);
        let found: Vec<_> = (0..6).map(|at| Coded::origin(&data, at)).collect();
        assert_eq!(found, [0, 1, 3, 6, 8, 10]);
        assert_eq!(Coded::origin(&data, 99), data.len());
    }

    #[test]
    fn bits_come_from_the_top_and_end_in_zeros() {
        let coded = taken(&[0b1010_0000, 0xF0, 1, 2, 3, 4, 5, 6, 7, 8], false);
        let mut bits = coded.bits(Place::start(0));
        bits.refill();
        assert_eq!(bits.ready() >> 61, 0b101);
        bits.consume(8);
        assert_eq!((bits.ready() >> 60, bits.place.position()), (0xF, 8));
        for _ in 0..9 {
            bits.consume(8);
            bits.refill();
        }
        assert_eq!((bits.ready() >> 48, bits.place.position()), (0, 80));
    }
}
