use proptest::prelude::*;

use super::*;

/// The nearest of all finite numbers of a format, the even one of two as near; the next beyond the largest stands for infinity.
fn nearest(number: f32, bits_of_mantissa: i32, least_exponent: i32, infinite: u16) -> u16 {
    let sign = if number.is_sign_negative() { 0x8000 } else { 0 };
    let size = f64::from(number.abs());
    if size.is_infinite() {
        return sign | infinite;
    }
    let exponent =
        if size == 0.0 { least_exponent } else { (size.log2().floor() as i32).max(least_exponent) };
    // Exact: a power of two, and float64 has more digits than float32.
    let steps = size / 2f64.powi(exponent - bits_of_mantissa);
    let whole = steps.round_ties_even() as i64;
    // Subnormal numbers have no hidden bit, and a carry makes the next exponent.
    let bits = (i64::from(exponent - least_exponent) << bits_of_mantissa) + whole;
    sign | bits.min(i64::from(infinite)) as u16
}

fn check(number: f32) {
    assert_eq!(float16(number), nearest(number, 10, -14, 0x7c00), "float16 of {number:e}");
    assert_eq!(bfloat16(number), nearest(number, 7, -126, 0x7f80), "bfloat16 of {number:e}");
}

#[test]
fn rounding_is_to_the_nearest_and_to_even_everywhere() {
    // Every pattern of the upper half, with lower halves around the ties of both formats.
    for upper in 0..=u16::MAX {
        for lower in [0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let number = f32::from_bits(u32::from(upper) << 16 | lower);
            if !number.is_nan() {
                check(number);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_number_is_rounded_to_the_nearest(bits in any::<u32>()) {
        let number = f32::from_bits(bits);
        prop_assume!(!number.is_nan());
        check(number);
    }
}

#[test]
fn edges_have_known_bits() {
    let cases = [
        (0.0, 0, 0),
        (-0.0, 0x8000, 0x8000),
        (1.0, 0x3c00, 0x3f80),
        (65504.0, 0x7bff, 0x4780),
        (65519.996, 0x7bff, 0x4780),
        (65520.0, 0x7c00, 0x4780),
        (f32::MAX, 0x7c00, 0x7f80),
        (f32::INFINITY, 0x7c00, 0x7f80),
        (f32::NEG_INFINITY, 0xfc00, 0xff80),
        // The least subnormal float16, its half (to even: 0), and a little more.
        (2f32.powi(-24), 1, 0x3380),
        (2f32.powi(-25), 0, 0x3300),
        (2f32.powi(-25) * 1.01, 1, 0x3301),
        // The largest subnormal float16, and what rounds to the least normal one.
        (2f32.powi(-14) - 2f32.powi(-24), 0x3ff, 0x3880),
        (2f32.powi(-14) - 2f32.powi(-26), 0x400, 0x3880),
        // The least subnormal float32.
        (f32::from_bits(1), 0, 0),
    ];
    for (number, half, brain) in cases {
        assert_eq!((float16(number), bfloat16(number)), (half, brain), "{number:e}");
    }
}

#[test]
fn every_nan_is_the_same_one() {
    for bits in [0x7fc0_0000u32, 0x7f80_0001, 0xffff_ffff, 0xff80_0001] {
        let number = f32::from_bits(bits);
        assert_eq!((float16(number), bfloat16(number)), (0x7e00, 0x7fc0), "{bits:x}");
    }
}

#[test]
fn the_affine_is_computed_in_float64_and_rounded_once() {
    let affine = Affine::normalizing([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    // numpy: np.float32(1 / (255 * np.float64(std))), np.float32(-np.float64(mean) / std)
    assert_eq!(affine.scale, [0.017124753, 0.017507004, 0.017429193]);
    assert_eq!(affine.bias, [-2.117904, -2.0357144, -1.8044444]);
    assert_eq!(affine.of(255, 0), 255f32 * 0.017124753 + -2.117904);
    assert_eq!((0..3).map(|channel| Affine::UNIT.of(77, channel)).collect::<Vec<_>>(), [77.0; 3]);
}
