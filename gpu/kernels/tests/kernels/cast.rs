//! `forebay_cast` against Rust's own conversions.

use forebay_kernels::{CastArgs, Element, Kernel, Launch};
use proptest::prelude::*;

use crate::memory::Memory;
use crate::number::{brain, brain_value, half, half_value};

/// A number as it was read.
#[derive(Clone, Copy, Debug)]
enum Number {
    Whole(i128),
    Real(f64),
}

fn read(element: Element, bits: u64) -> Number {
    match element {
        Element::Bool => Number::Whole(i128::from(bits as u8 != 0)),
        Element::U8 => Number::Whole((bits as u8).into()),
        Element::I8 => Number::Whole((bits as i8).into()),
        Element::U16 => Number::Whole((bits as u16).into()),
        Element::I16 => Number::Whole((bits as i16).into()),
        Element::U32 => Number::Whole((bits as u32).into()),
        Element::I32 => Number::Whole((bits as i32).into()),
        Element::U64 => Number::Whole(bits.into()),
        Element::I64 => Number::Whole((bits as i64).into()),
        Element::F16 => Number::Real(half_value(bits as u16)),
        Element::BF16 => Number::Real(brain_value(bits as u16)),
        Element::F32 => Number::Real(f32::from_bits(bits as u32).into()),
        Element::F64 => Number::Real(f64::from_bits(bits)),
    }
}

/// The bits of `number` as this type.
fn written(element: Element, number: Number) -> u64 {
    macro_rules! whole {
        ($int:ty) => {
            match number {
                Number::Whole(whole) => whole as $int as u64,
                Number::Real(real) => real as $int as u64,
            }
        };
    }
    let single = match number {
        Number::Whole(whole) => whole as f32,
        Number::Real(real) => real as f32,
    };
    match element {
        Element::Bool => match number {
            Number::Whole(whole) => (whole != 0).into(),
            Number::Real(real) => (real != 0.0).into(),
        },
        Element::U8 => whole!(u8),
        Element::I8 => whole!(i8),
        Element::U16 => whole!(u16),
        Element::I16 => whole!(i16),
        Element::U32 => whole!(u32),
        Element::I32 => whole!(i32),
        Element::U64 => whole!(u64),
        Element::I64 => whole!(i64),
        Element::F16 => half(single).into(),
        Element::BF16 => brain(single).into(),
        Element::F32 if single.is_nan() => 0x7fc0_0000,
        Element::F32 => single.to_bits().into(),
        Element::F64 => match number {
            Number::Whole(whole) => (whole as f64).to_bits(),
            Number::Real(real) if real.is_nan() => 0x7ff8_0000_0000_0000,
            Number::Real(real) => real.to_bits(),
        },
    }
}

fn bytes(element: Element, bits: &[u64]) -> Vec<u8> {
    bits.iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(element.size() as usize)).collect()
}

/// Casts rows of these bits and compares.
fn check(from: Element, to: Element, rows: &[(Vec<u64>, usize)], past: usize, launch: Option<Launch>) {
    let elements = rows.first().map_or(0, |(row, _)| row.len());
    let mut memory = Memory::new((elements * 8 + 64) * (2 * rows.len() + 1) + 64);
    let samples: Vec<u64> = rows.iter().map(|(row, past)| memory.put(&bytes(from, row), *past)).collect();
    let args = CastArgs {
        samples: memory.put_words(&samples),
        out: memory.take(elements * rows.len() * to.size() as usize, past * to.size() as usize),
        rows: rows.len() as u64,
        elements: elements as u64,
        from,
        to,
    };
    memory.run_as(&args, launch.unwrap_or_else(|| args.launch()));
    for (at, &bits) in rows.iter().flat_map(|(row, _)| row).enumerate() {
        let mask = u64::MAX >> (64 - 8 * to.size());
        let wanted = written(to, read(from, bits)) & mask;
        let got = memory.get(args.out + at as u64 * to.size(), to.size() as usize);
        let got = got.iter().rev().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        assert_eq!(got, wanted, "{from:?} {bits:#x} to {to:?}: {got:#x}, not {wanted:#x}");
    }
}

/// Numbers of a type where conversions change: ends, halves, ties, powers of two and their neighbours.
fn interesting(element: Element) -> Vec<u64> {
    let mut numbers: Vec<f64> = vec![0.0, -0.0, 0.5, 0.999, 1.5, 2.5, -0.5, -1.5, f64::NAN, -f64::NAN];
    numbers.extend([
        f64::INFINITY,
        f64::NEG_INFINITY,
        65504.0,
        65519.0,
        65520.0,
        3.4e38,
        1e300,
        1e-300,
        2f64.powi(-25),
    ]);
    for power in [-149, -133, -126, -25, -24, -14, 7, 8, 15, 16, 24, 31, 32, 53, 63, 64] {
        let two = 2f64.powi(power);
        numbers.extend([
            two,
            two * 1.5,
            two.next_up(),
            two.next_down(),
            two - 1.0,
            two + 1.0,
            -two,
            -two - 1.0,
        ]);
    }
    let mut bits: Vec<u64> = match element {
        Element::F64 => numbers.iter().map(|number| number.to_bits()).collect(),
        Element::F32 => numbers.iter().map(|number| u64::from((*number as f32).to_bits())).collect(),
        Element::F16 | Element::BF16 => (0..=0xffff).step_by(7).chain(0x7bf0..=0x7c10).collect(),
        _ => numbers.iter().map(|number| *number as i128 as u64).collect(),
    };
    bits.extend((0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, !(1u64 << bit)]));
    bits
}

#[test]
fn every_pair_of_types_at_their_edges() {
    for from in Element::ALL {
        for to in Element::ALL {
            check(from, to, &[(interesting(from), 0)], 0, None);
        }
    }
}

#[test]
fn every_half_goes_through_single_precision_unchanged() {
    for half in [Element::F16, Element::BF16] {
        check(half, Element::F32, &[((0..=0xffff).collect(), 0)], 0, None);
        check(half, half, &[((0..=0xffff).collect(), 0)], 0, None);
    }
}

/// Between two neighbours lies the tie, and beside it what must not tie.
#[test]
fn single_precision_rounds_to_the_nearest_half_around_every_tie() {
    let ties = |value: fn(u16) -> f64, last: u16| -> Vec<u64> {
        let middle = |bits: u16| ((value(bits) + value(bits + 1)) / 2.0) as f32;
        let around =
            |tie: f32| [tie.next_down(), tie, tie.next_up(), -tie].map(|single| u64::from(single.to_bits()));
        (0..last).flat_map(|bits| around(middle(bits))).collect()
    };
    check(Element::F32, Element::F16, &[(ties(half_value, 0x7bff), 0)], 0, None);
    check(Element::F32, Element::BF16, &[(ties(brain_value, 0x7f7f), 0)], 0, None);
}

proptest! {
    #[test]
    fn rows_of_any_length_and_alignment(
        types in (prop::sample::select(Element::ALL.to_vec()), prop::sample::select(Element::ALL.to_vec())),
        rows in (0usize..20).prop_flat_map(|length| {
            prop::collection::vec((prop::collection::vec(any::<u64>(), length), 0usize..16), 0..5)
        }),
        past in 0usize..3,
        launch in prop::option::of((1u32..4, 1u32..4, 1u32..9, 1u32..4)),
    ) {
        let launch = launch.map(|(x, y, wide, high)| Launch { grid: [x, y, 1], block: [wide, high, 1] });
        check(types.0, types.1, &rows, past, launch);
    }
}
