//! A keyed bijection of `0..n`: one element in O(1), without a table of n.
//!
//! Part of the order's definition to the bit: any change here is another [`ALGORITHM_VERSION`](super::ALGORITHM_VERSION).
//! It shuffles; it is no cipher.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Up to here a table is as cheap as the network, and uniform over all n! orders; above, it would cost memory per window.
const LARGEST_TABLE: u64 = 256;

/// Eight rounds: a Feistel network over few bits needs more than the four of the theory to look random.
const ROUNDS: usize = 8;

/// SplitMix64's finaliser with its increment (Steele, Lea and Flood, 2014).
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(GOLDEN);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A bijection of `0..n`, chosen by a key.
#[derive(Clone, Debug)]
pub struct Perm(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Identity(u64),
    Table(Box<[u8]>),
    Feistel(Feistel),
}

impl Perm {
    /// The bijection of `0..n` that `key` chooses. Costs O(min(n, 256)).
    pub fn new(n: u64, key: u64) -> Self {
        if n <= LARGEST_TABLE {
            Self(Kind::Table(shuffled(n as usize, key)))
        } else {
            Self(Kind::Feistel(Feistel::new(n, key)))
        }
    }

    /// The one that moves nothing.
    pub fn identity(n: u64) -> Self {
        Self(Kind::Identity(n))
    }

    /// How many numbers it permutes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Kind::Identity(n) => *n,
            Kind::Table(table) => table.len() as u64,
            Kind::Feistel(network) => network.n,
        }
    }

    /// True where there is nothing to permute.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The image of `x`.
    ///
    /// # Panics
    /// Where `x` is not below [`len`](Self::len).
    pub fn at(&self, x: u64) -> u64 {
        assert!(x < self.len(), "{x} is outside a permutation of {}", self.len());
        match &self.0 {
            Kind::Identity(_) => x,
            Kind::Table(table) => u64::from(table[x as usize]),
            Kind::Feistel(network) => network.at(x),
        }
    }

    /// The number whose image is `y`.
    ///
    /// # Panics
    /// Where `y` is not below [`len`](Self::len).
    pub fn inverse(&self, y: u64) -> u64 {
        assert!(y < self.len(), "{y} is outside a permutation of {}", self.len());
        match &self.0 {
            Kind::Identity(_) => y,
            Kind::Table(table) => table.iter().take_while(|&&image| u64::from(image) != y).count() as u64,
            Kind::Feistel(network) => network.inverse(y),
        }
    }
}

/// Fisher and Yates, with draws from SplitMix64 that are unbiased: the tail that `bound` does not divide is drawn again.
fn shuffled(n: usize, key: u64) -> Box<[u8]> {
    let mut table: Box<[u8]> = (0..n).map(|i| i as u8).collect();
    let mut state = key;
    for i in (1..n).rev() {
        let bound = i as u64 + 1;
        let tail = (u64::MAX % bound + 1) % bound;
        let draw = loop {
            let draw = mix(state);
            state = state.wrapping_add(GOLDEN);
            if draw <= u64::MAX - tail {
                break draw;
            }
        };
        table.swap(i, (draw % bound) as usize);
    }
    table
}

/// A balanced Feistel network over the smallest even number of bits that holds n, walked until it lands below n (fewer than
/// four times on average, and it ends since the network is a bijection).
#[derive(Clone, Debug)]
struct Feistel {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Feistel {
    fn new(n: u64, key: u64) -> Self {
        let bits = u64::BITS - (n - 1).leading_zeros();
        let keys = std::array::from_fn(|i| mix(key.wrapping_add(i as u64)));
        Self { n, half: bits.div_ceil(2), keys }
    }

    fn at(&self, mut x: u64) -> u64 {
        let low = (1u64 << self.half) - 1;
        loop {
            let (mut left, mut right) = (x >> self.half, x & low);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & low));
            }
            x = left << self.half | right;
            if x < self.n {
                return x;
            }
        }
    }

    /// The rounds backwards; a walk that lands below n came from below n.
    fn inverse(&self, mut y: u64) -> u64 {
        let low = (1u64 << self.half) - 1;
        loop {
            let (mut left, mut right) = (y >> self.half, y & low);
            for key in self.keys.iter().rev() {
                (left, right) = (right ^ (mix(left ^ key) & low), left);
            }
            y = left << self.half | right;
            if y < self.n {
                return y;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_bijection(n: u64, key: u64) -> bool {
        let perm = Perm::new(n, key);
        let mut seen = vec![false; n as usize];
        (0..n).for_each(|x| seen[perm.at(x) as usize] = true);
        seen.into_iter().all(|hit| hit) && (0..n).all(|x| perm.inverse(perm.at(x)) == x)
    }

    #[test]
    fn every_size_around_a_power_of_two_is_a_bijection() {
        for k in 1..=14 {
            for n in [(1 << k) - 1, 1 << k, (1 << k) + 1] {
                for key in [0, 1, u64::MAX, mix(k)] {
                    assert!(is_bijection(n, key), "n {n} key {key}");
                }
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn any_size_and_key_is_a_bijection(n in 1u64..3000, key: u64) {
            proptest::prop_assert!(is_bijection(n, key));
        }

        #[test]
        fn the_largest_sizes_stay_in_range_and_apart(n in (1u64 << 40)..=u64::MAX, key: u64, x: u64) {
            let perm = Perm::new(n, key);
            let (a, b) = (x % n, (x % n + 1) % n);
            proptest::prop_assert!(perm.at(a) < n);
            proptest::prop_assert_ne!(perm.at(a), perm.at(b));
            proptest::prop_assert_eq!(perm.inverse(perm.at(a)), a);
        }
    }

    #[test]
    fn nothing_to_permute_is_empty() {
        assert!(Perm::new(0, 1).is_empty());
        assert_eq!(Perm::new(1, 7).at(0), 0);
    }
}
