//! Random numbers for augmentation, keyed by (seed, epoch, sample, operation).
//!
//! Counter-based: a draw is a function of its key and its number, so that a sample gets the same pixels on any number of
//! threads, in any order, on any rank. Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as
//! 1, 2, 3" (SC 2011), here to the bit:
//!
//! - the key's words are the low and high half of the first 8 bytes, little-endian, of
//!   blake3("forebay-random-1" ‖ seed ‖ epoch), numbers as 8 bytes little-endian;
//! - block b is Philox of the counter (sample's low word, sample's high word, operation, b); its 4 words are drawn in order;
//! - a `u64` is two words, the first one low; a uniform number is its upper 53 bits times 2⁻⁵³.

use super::order::numbers;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// One block of Philox4x32-10.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [a, b] = [
            u64::from(MULTIPLIERS[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIERS[1]) * u64::from(counter[2]),
        ];
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The key of an epoch's draws, computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRng {
    key: [u32; 2],
}

impl EpochRng {
    /// The draws of an epoch.
    pub fn new(seed: u64, epoch: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"forebay-random-1");
        numbers(&mut hasher, [seed, epoch]);
        let key = first_u64(&hasher.finalize());
        Self { key: [key as u32, (key >> 32) as u32] }
    }

    /// The draws of one operation on one sample, which is named by its [number](super::Order::sample_number) in storage order.
    pub fn sample(self, sample: u64, operation: u32) -> SampleRng {
        SampleRng {
            key: self.key,
            counter: [sample as u32, (sample >> 32) as u32, operation, 0],
            block: [0; 4],
            used: 4,
        }
    }

    /// The draws of one sample, uniform in [0, 1), each by its operation and its number there, as decoders ask for them.
    pub fn draws(self, sample: u64) -> impl Fn(u32, u32) -> f64 {
        move |operation, draw| {
            let mut random = self.sample(sample, operation);
            (0..draw).fold(random.unit(), |_, _| random.unit())
        }
    }
}

/// The draws of one operation on one sample.
#[derive(Clone, Debug)]
pub struct SampleRng {
    key: [u32; 2],
    /// Of the next block.
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl SampleRng {
    /// Draws keyed by these four. For many samples of an epoch, keep an [`EpochRng`].
    pub fn new(seed: u64, epoch: u64, sample: u64, operation: u32) -> Self {
        EpochRng::new(seed, epoch).sample(sample, operation)
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.block.len() {
            self.block = philox(self.counter, self.key);
            self.counter[3] = self.counter[3].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next two words, the first one low.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³: two words.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// `low + (high - low) * unit`: two words. Rounding may give `high` itself.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with this probability: `unit < probability`, two words.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in `0..bound`, without bias: the upper half of `u64 × bound`, drawn again while the lower half is below
    /// 2⁶⁴ mod bound (Lemire, 2019). 0 where `bound` is 0 or 1, without a draw.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound <= 1 {
            return 0;
        }
        let biased = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= biased {
                return (product >> 64) as u64;
            }
        }
    }
}

/// The first 8 bytes of a digest, little-endian.
pub(super) fn first_u64(digest: &blake3::Hash) -> u64 {
    digest.as_bytes()[..8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with their library.
    #[test]
    fn philox_gives_the_published_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), answer);
    }

    fn words(seed: u64, epoch: u64, sample: u64, operation: u32) -> Vec<u32> {
        let mut rng = SampleRng::new(seed, epoch, sample, operation);
        (0..10).map(|_| rng.next_u32()).collect()
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let base = words(1, 0, 5, 2);
        assert_eq!(words(1, 0, 5, 2), base);
        let others = [
            words(0, 1, 5, 2),
            words(1, 1, 5, 2),
            words(1, 0, 6, 2),
            words(1, 0, 5 + (1 << 32), 2),
            words(1, 0, 5, 3),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn a_draw_is_defined_to_the_bit() {
        let key = EpochRng::new(7, 3);
        let block = |b| philox([9, 1, 4, b], key.key);
        let mut rng = key.sample(9 | 1 << 32, 4);
        let first = u64::from(block(0)[0]) | u64::from(block(0)[1]) << 32;
        assert_eq!(rng.unit(), (first >> 11) as f64 / 9_007_199_254_740_992.0);
        assert_eq!([rng.next_u32(), rng.next_u32(), rng.next_u32()], [block(0)[2], block(0)[3], block(1)[0]]);
    }

    #[test]
    fn draws_stay_in_range_and_fill_it() {
        let mut rng = SampleRng::new(0, 0, 0, 0);
        let mut hits = [0u32; 7];
        (0..7_000).for_each(|_| hits[rng.below(7) as usize] += 1);
        // 6 degrees of freedom: 27.9 is passed once in 10,000 keys; the key is fixed.
        let chi: f64 = hits.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 27.9, "{chi}");
        assert!((0..1000).map(|_| rng.unit()).all(|x| (0.0..1.0).contains(&x)));
        assert!((0..1000).map(|_| rng.uniform(-2.0, 3.0)).all(|x| (-2.0..=3.0).contains(&x)));
        assert!((0..100).all(|_| rng.chance(1.0) && !rng.chance(0.0)));
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
        assert!(rng.below(u64::MAX) < u64::MAX);
    }
}
