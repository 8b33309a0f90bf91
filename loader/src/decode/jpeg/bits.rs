//! The coded data of a scan, ready to be read by the bit.

use memchr::memchr;

/// The coded bytes of a scan without what only frames them: the zero behind every 0xFF, fill bytes, restart markers.
///
/// Taking them out first costs a tenth of a nanosecond a byte and leaves a reader that refills without a look at the bytes.
#[derive(Debug, Default)]
pub(super) struct Coded {
    /// With [`SLACK`] zeros behind them.
    bytes: Vec<u8>,
    /// Where each restart marker stood, in `bytes`.
    restarts: Vec<usize>,
}

impl Coded {
    /// Bytes of memory held.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.restarts.capacity() * size_of::<usize>()
    }

    /// Bytes, without the slack.
    fn length(&self) -> usize {
        self.bytes.len().saturating_sub(SLACK)
    }

    /// Takes in `data`, which starts at the scan's first coded byte, up to the first marker that ends it: a restart marker too,
    /// where it does not count up, or is one more than the scan has `restarts`.
    pub(super) fn take(&mut self, data: &[u8], restarts: u64) {
        self.bytes.clear();
        self.restarts.clear();
        self.bytes.reserve(data.len() + SLACK);
        self.take_bytes(data, restarts);
        self.bytes.resize(self.bytes.len() + SLACK, 0);
    }

    fn take_bytes(&mut self, data: &[u8], restarts: u64) {
        let mut rest = data;
        while let Some(at) = memchr(0xFF, rest) {
            self.bytes.extend_from_slice(&rest[..at]);
            // Any number of 0xFF may stand before a marker's code.
            let Some(code) = rest[at..].iter().position(|&byte| byte != 0xFF) else { return };
            match rest[at + code] {
                0 => self.bytes.push(0xFF),
                marker if (self.restarts.len() as u64) < restarts && marker == self.next_restart() => {
                    self.restarts.push(self.bytes.len());
                }
                _ => return,
            }
            rest = &rest[at + code + 1..];
        }
        self.bytes.extend_from_slice(rest);
    }

    /// The code of the restart marker that may come next: they count from 0 to 7 and over again.
    fn next_restart(&self) -> u8 {
        0xD0 + (self.restarts.len() % 8) as u8
    }

    /// Part `number` of the scan: coded bytes between two restart markers. None where there is none.
    pub(super) fn part(&self, number: usize) -> Option<(usize, usize)> {
        let start = match number.checked_sub(1) {
            None => 0,
            Some(before) => *self.restarts.get(before)?,
        };
        Some((start, self.restarts.get(number).copied().unwrap_or_else(|| self.length())))
    }

    /// A reader of the bytes from `at` on, good for [`MOST_READ`] bits. It also reads what lies behind the part, and zeros behind
    /// the end: [`Place::position`] tells. None where `at` is behind the end already.
    pub(super) fn bits(&self, at: Place) -> Option<Bits<'_>> {
        (at.position() <= self.length() * 8).then_some(Bits { bytes: &self.bytes, place: at })
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

/// Most bits that one reader gives.
pub(super) const MOST_READ: usize = 10 * 64 * 27;
/// What a reader may load behind the end: what it gives, what is ready and not given, and the rest of the last word.
const SLACK: usize = MOST_READ / 8 + 16;

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

/// Reads bits from the most significant one down. Passed by value, so that it stays in registers.
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
        debug_assert!(*next + 8 <= self.bytes.len());
        // SAFETY: a reader starts at most at the end, gives at most MOST_READ bits, and the slack covers those and this load.
        let word = u64::from_be(unsafe { self.bytes.as_ptr().add(*next).cast::<u64>().read_unaligned() });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(data: &[u8], restarts: u64) -> Coded {
        let mut coded = Coded::default();
        coded.take(data, restarts);
        coded
    }

    fn bytes(coded: &Coded) -> &[u8] {
        &coded.bytes[..coded.length()]
    }

    #[test]
    fn framing_is_taken_out() {
        let data = [1, 0xFF, 0, 2, 0xFF, 0xFF, 0, 3, 0xFF, 0xD9, 4];
        assert_eq!(bytes(&taken(&data, 0)), [1, 0xFF, 2, 0xFF, 3]);
        assert_eq!(bytes(&taken(&data[..5], 0)), [1, 0xFF, 2], "a lone 0xFF at the end says nothing");
    }

    #[test]
    fn restart_markers_part_the_data_where_an_interval_is_declared() {
        let data = [1, 2, 0xFF, 0xD0, 3, 0xFF, 0xD1, 0xFF, 0xD5, 4];
        assert_eq!(bytes(&taken(&data, 0)), [1, 2]);
        let coded = taken(&data, 9);
        assert_eq!(bytes(&coded), [1, 2, 3], "5 does not follow 1");
        let parts: Vec<_> = (0..4).map(|number| coded.part(number)).collect();
        assert_eq!(parts, [Some((0, 2)), Some((2, 3)), Some((3, 3)), None]);
        assert_eq!(bytes(&taken(&data, 1)), [1, 2, 3], "the scan has one");
    }

    #[test]
    fn markers_without_end_take_no_memory() {
        let data: Vec<u8> = (0..100_000).flat_map(|number: u32| [0xFF, 0xD0 + (number % 8) as u8]).collect();
        assert!(taken(&data, 12).capacity() < data.len() + 5_000);
    }

    #[test]
    fn a_byte_is_found_again_in_the_file() {
        let data = [1, 0xFF, 0, 2, 0xFF, 0xD0, 3, 0xFF, 0xFF, 0, 4];
        let coded = taken(&data, 9);
        assert_eq!(bytes(&coded), [1, 0xFF, 2, 3, 0xFF, 4]);
        let found: Vec<_> = (0..6).map(|at| Coded::origin(&data, at)).collect();
        assert_eq!(found, [0, 1, 3, 6, 8, 10]);
        assert_eq!(Coded::origin(&data, 99), data.len());
    }

    #[test]
    fn bits_come_from_the_top_and_end_in_zeros() {
        let coded = taken(&[0b1010_0000, 0xF0, 1, 2, 3, 4, 5, 6, 7, 8], 0);
        let mut bits = coded.bits(Place::start(0)).unwrap();
        bits.refill();
        assert_eq!(bits.ready() >> 61, 0b101);
        bits.consume(8);
        assert_eq!((bits.ready() >> 60, bits.place.position()), (0xF, 8));
        for _ in 0..9 {
            bits.consume(8);
            bits.refill();
        }
        assert_eq!((bits.ready() >> 48, bits.place.position()), (0, 80));
        assert!(coded.bits(bits.place).is_some());
        bits.consume(1);
        assert!(coded.bits(bits.place).is_none());
    }

    #[test]
    fn a_reader_at_the_end_gives_all_it_promises() {
        let coded = taken(&[0xAB; 3], 0);
        let mut bits = coded.bits(Place::start(3)).unwrap();
        for _ in 0..MOST_READ {
            bits.refill();
            assert_eq!(bits.ready(), 0);
            bits.consume(1);
        }
    }
}
