//! A part of a tensor as bytes of its file: which runs, and where each goes.
//!
//! A part is one range of indexes for each dimension. Its bytes lie in C order in the file, in runs of equal length at equal distances
//! wherever only one dimension is cut, as tensor parallelism does.

use std::ops::Range;

use super::header::Tensor;

/// Runs of equal length at equal distances in a file, one behind the other where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// The first run's first byte, in the file.
    pub from: u64,
    /// Bytes from one run's start to the next one's.
    pub step: u64,
    /// Bytes of a run.
    pub len: u64,
    /// How many.
    pub count: u64,
    /// Where the first run goes, in bytes.
    pub to: u64,
}

impl Stripe {
    /// One behind the last byte, in the file.
    pub fn end(&self) -> u64 {
        self.from + self.step * (self.count - 1) + self.len
    }

    /// Bytes of all runs.
    pub fn bytes(&self) -> u64 {
        self.len * self.count
    }
}

/// Why a part can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// Not one range for each dimension, or one that leaves it.
    #[error("{part:?} is no part of a tensor of shape {shape:?}")]
    Shape {
        /// As it was asked for.
        part: Vec<Range<u64>>,
        /// The tensor's.
        shape: Vec<u64>,
    },
    /// A part of elements smaller than a byte that begins or ends inside one.
    #[error("{part:?} of a tensor of {bits}-bit elements begins or ends inside a byte")]
    Bits {
        /// As it was asked for.
        part: Vec<Range<u64>>,
        /// Bits of an element.
        bits: u64,
    },
}

/// Bytes of one part of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Sizes of its dimensions.
    pub shape: Vec<u64>,
    /// Bytes of it.
    pub bytes: u64,
    /// Dimensions in front of the stripe's: (indexes, bytes from one to the next), outermost first.
    outer: Vec<(u64, u64)>,
    stripe: Stripe,
}

impl Part {
    /// All of a tensor.
    pub fn whole(tensor: &Tensor) -> Self {
        let len = tensor.bytes();
        let stripe = Stripe { from: tensor.range.start, step: len, len, count: 1, to: 0 };
        Self { shape: tensor.shape.clone(), bytes: len, outer: Vec::new(), stripe }
    }

    /// One range of indexes for each dimension.
    ///
    /// # Errors
    /// Where that is no part, or begins or ends inside a byte.
    pub fn new(tensor: &Tensor, part: &[Range<u64>]) -> Result<Self, PartError> {
        let fits = |(range, &size): (&Range<u64>, &u64)| range.start <= range.end && range.end <= size;
        if part.len() != tensor.shape.len() || !part.iter().zip(&tensor.shape).all(fits) {
            return Err(PartError::Shape { part: part.to_vec(), shape: tensor.shape.clone() });
        }
        let bits = tensor.dtype.bits();
        let whole = |bits_of: u64| {
            let wrong = || PartError::Bits { part: part.to_vec(), bits };
            if bits_of.is_multiple_of(8) { Ok(bits_of / 8) } else { Err(wrong()) }
        };
        let shape: Vec<u64> = part.iter().map(|range| range.end - range.start).collect();
        if shape.contains(&0) {
            let stripe = Stripe { from: tensor.range.start, step: 0, len: 0, count: 1, to: 0 };
            return Ok(Self { shape, bytes: 0, outer: Vec::new(), stripe });
        }
        // From the innermost dimension on: what is taken whole belongs to the runs.
        let (mut step_bits, mut run_bits, mut start_bits, mut at) = (bits, bits, 0, part.len());
        while at > 0 {
            at -= 1;
            let (range, size) = (&part[at], tensor.shape[at]);
            start_bits += range.start * step_bits;
            run_bits = (range.end - range.start) * step_bits;
            step_bits *= size;
            if range.end - range.start < size {
                break;
            }
        }
        let mut stripe = Stripe { from: 0, step: whole(step_bits)?, len: whole(run_bits)?, count: 1, to: 0 };
        // The next dimensions repeat the run, as one as long as they are whole; those in front of them repeat the stripe.
        let mut outer = Vec::new();
        while at > 0 {
            at -= 1;
            let (range, size) = (&part[at], tensor.shape[at]);
            let taken = range.end - range.start;
            start_bits += range.start * step_bits;
            if outer.is_empty() && stripe.step * stripe.count * 8 == step_bits {
                stripe.count *= taken;
            } else if outer.is_empty() && stripe.count == 1 {
                (stripe.step, stripe.count) = (whole(step_bits)?, taken);
            } else {
                outer.push((taken, whole(step_bits)?));
            }
            step_bits *= size;
        }
        outer.reverse();
        stripe.from = tensor.range.start + whole(start_bits)?;
        let bytes = stripe.bytes() * outer.iter().map(|&(taken, _)| taken).product::<u64>();
        Ok(Self { shape, bytes, outer, stripe })
    }

    /// Its bytes in the file, if they follow each other without a gap.
    pub fn as_one(&self) -> Option<Range<u64>> {
        let follow = self.stripe.count == 1 || self.stripe.step == self.stripe.len;
        (self.outer.is_empty() && follow).then(|| self.stripe.from..self.stripe.from + self.bytes)
    }

    /// Its first byte in the file.
    pub fn start(&self) -> u64 {
        self.stripe.from
    }

    /// Its bytes, in the file's order.
    pub fn stripes(&self) -> impl Iterator<Item = Stripe> + '_ {
        let times: u64 = self.outer.iter().map(|&(taken, _)| taken).product();
        let times = if self.bytes == 0 { 0 } else { times };
        (0..times).map(|number| {
            let (mut from, mut left) = (self.stripe.from, number);
            for &(taken, step) in self.outer.iter().rev() {
                from += left % taken * step;
                left /= taken;
            }
            Stripe { from, to: number * self.stripe.bytes(), ..self.stripe }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Dtype;
    use super::*;

    fn tensor(dtype: Dtype, shape: &[u64]) -> Tensor {
        let bytes = shape.iter().product::<u64>() * dtype.bits() / 8;
        Tensor { name: "w".into(), dtype, shape: shape.to_vec(), range: 100..100 + bytes }
    }

    /// The bytes of a part, one element at a time.
    fn slowly(tensor: &Tensor, part: &[Range<u64>]) -> Vec<u64> {
        let size = tensor.dtype.bits() / 8;
        let mut indexes = vec![0];
        for (range, &of) in part.iter().zip(&tensor.shape) {
            indexes = indexes.iter().flat_map(|index| range.clone().map(move |at| index * of + at)).collect();
        }
        indexes.iter().flat_map(|index| (0..size).map(move |byte| 100 + index * size + byte)).collect()
    }

    fn bytes_of(part: &Part) -> Vec<u64> {
        let mut bytes = vec![u64::MAX; usize::try_from(part.bytes).unwrap()];
        for stripe in part.stripes() {
            for run in 0..stripe.count {
                for byte in 0..stripe.len {
                    let to = usize::try_from(stripe.to + run * stripe.len + byte).unwrap();
                    bytes[to] = stripe.from + run * stripe.step + byte;
                }
            }
        }
        bytes
    }

    fn cut() -> impl Strategy<Value = (Vec<u64>, Vec<Range<u64>>)> {
        let dimension = (0u64..6).prop_flat_map(|size| {
            (Just(size), 0..=size)
                .prop_flat_map(|(size, end)| (Just(size), (0..=end).prop_map(move |start| start..end)))
        });
        prop::collection::vec(dimension, 0..5).prop_map(|all| all.into_iter().unzip())
    }

    proptest! {
        #[test]
        fn a_part_is_its_elements_in_order((shape, part) in cut(), dtype in prop::sample::select(vec![Dtype::U8, Dtype::BF16, Dtype::F32])) {
            let tensor = tensor(dtype, &shape);
            let cut = Part::new(&tensor, &part).unwrap();
            prop_assert_eq!(bytes_of(&cut), slowly(&tensor, &part));
            let mut last = 0;
            for stripe in cut.stripes() {
                prop_assert!(stripe.from >= last, "in the file's order");
                last = stripe.end();
            }
        }
    }

    #[test]
    fn one_cut_dimension_makes_one_stripe_and_rows_one_run() {
        let weight = tensor(Dtype::BF16, &[8, 6, 10]);
        let rows = Part::new(&weight, &[2..4, 0..6, 0..10]).unwrap();
        assert_eq!(rows.as_one(), Some(100 + 240..100 + 480));
        let columns = Part::new(&weight, &[0..8, 0..6, 5..10]).unwrap();
        let stripe = Stripe { from: 110, step: 20, len: 10, count: 48, to: 0 };
        assert_eq!((columns.as_one(), columns.stripes().collect::<Vec<_>>()), (None, vec![stripe]));
        let middle = Part::new(&weight, &[0..8, 3..6, 0..10]).unwrap();
        let stripe = Stripe { from: 160, step: 120, len: 60, count: 8, to: 0 };
        assert_eq!(middle.stripes().collect::<Vec<_>>(), [stripe]);
    }

    #[test]
    fn what_is_no_part_or_begins_inside_a_byte_is_refused() {
        let weight = tensor(Dtype::F4, &[4, 6]);
        assert_eq!(Part::new(&weight, &[1..2, 0..6]).unwrap().as_one(), Some(103..106));
        assert!(matches!(Part::new(&weight, &[0..4, 1..6]), Err(PartError::Bits { bits: 4, .. })));
        assert!(matches!(Part::new(&weight, &[0..5, 0..6]), Err(PartError::Shape { .. })));
        assert!(matches!(Part::new(&weight, std::slice::from_ref(&(0..4))), Err(PartError::Shape { .. })));
        let none = Part::new(&weight, &[2..2, 0..6]).unwrap();
        assert_eq!((none.bytes, none.shape.clone(), none.stripes().count()), (0, vec![0, 6], 0));
        assert!(Part::whole(&tensor(Dtype::F32, &[])).as_one() == Some(100..104));
    }
}
