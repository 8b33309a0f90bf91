use proptest::prelude::*;

use super::*;
use crate::field::{Normalize, PixelLayout};

const KINDS: [PixelType; 4] = [PixelType::UInt8, PixelType::Float16, PixelType::BFloat16, PixelType::Float32];
const IMAGENET: Normalize = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

/// The numbers of an image, one by one, as the definition says.
fn expected(convert: &Convert, pixels: &[u8]) -> Vec<u8> {
    let affine = convert.affine();
    let (scale, bias) = (affine.scale, affine.bias);
    let count = pixels.len() / 3;
    let mut out = Vec::new();
    for place in 0..pixels.len() {
        let (pixel, channel) = match convert.layout {
            PixelLayout::Nchw => (place % count, place / count),
            _ => (place / 3, place % 3),
        };
        let level = pixels[pixel * 3 + channel];
        let product = f32::from(level) * scale[channel];
        let number = product + bias[channel];
        match convert.dtype {
            PixelType::UInt8 => out.push(level),
            PixelType::Float16 => out.extend(numbers::float16(number).to_ne_bytes()),
            PixelType::BFloat16 => out.extend(numbers::bfloat16(number).to_ne_bytes()),
            PixelType::Float32 => out.extend(number.to_ne_bytes()),
        }
    }
    out
}

fn check(convert: &Convert, pixels: &[u8]) {
    let converter = Converter::new(convert);
    let expected = expected(convert, pixels);
    // One byte off, since slots need not be aligned for vectors.
    let mut memory = vec![0xAA; expected.len() + 2];
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    levels.extend(avx2::Token::new().map(Level::Avx2));
    for level in levels {
        memory.fill(0xAA);
        converter.convert_at(level, pixels, &mut memory[1..=expected.len()]);
        assert_eq!(memory[1..=expected.len()], expected, "{level:?} {convert:?}");
        assert_eq!(
            (memory[0], memory[expected.len() + 1]),
            (0xAA, 0xAA),
            "{level:?} writes beyond {convert:?}"
        );
    }
}

fn converts(normalize: Option<Normalize>) -> impl Iterator<Item = Convert> {
    let layouts = [PixelLayout::Nhwc, PixelLayout::Nchw, PixelLayout::ChannelsLast];
    let all = KINDS.into_iter().flat_map(move |dtype| layouts.map(|layout| (dtype, layout)));
    let all = all.map(move |(dtype, layout)| Convert { normalize, dtype, layout });
    all.filter(|convert| convert.check().is_ok())
}

#[test]
fn every_level_of_every_channel_has_the_defined_bits_on_every_processor() {
    let pixels: Vec<u8> =
        (0..=255).flat_map(|level: u8| [level, 255 - level, level.wrapping_mul(7)]).collect();
    for convert in converts(None).chain(converts(Some(IMAGENET))) {
        check(&convert, &pixels);
    }
}

#[test]
fn levels_are_exact_in_every_type_without_normalize() {
    for (kind, decode) in [
        (PixelType::Float16, (|bits| if bits == 0 { 0.0 } else { half(bits) }) as fn(u16) -> f32),
        (PixelType::BFloat16, |bits| f32::from_bits(u32::from(bits) << 16)),
    ] {
        let converter = Converter::new(&Convert { dtype: kind, ..Convert::default() });
        let mut out = [0; 6];
        for level in 0..=255u8 {
            converter.convert(&[level; 3], &mut out);
            assert_eq!(decode(u16::from_ne_bytes([out[0], out[1]])), f32::from(level), "{kind:?}");
        }
    }
}

/// A normal float16's value.
fn half(bits: u16) -> f32 {
    f32::from(bits & 0x3ff | 0x400) * 2f32.powi(i32::from(bits >> 10 & 31) - 25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_image_and_normalisation_has_the_defined_bits(
        pixels in prop::collection::vec(any::<[u8; 3]>(), 0..90),
        mean in prop::array::uniform3(-3.0f64..3.0),
        // From what makes float16 infinite to what makes it subnormal.
        std in prop::array::uniform3((-25f64..25.0).prop_map(f64::exp2)),
    ) {
        for convert in converts(Some(Normalize { mean, std })) {
            check(&convert, pixels.as_flattened());
        }
    }

    #[test]
    fn numbers_arrive_as_they_were_written(
        mean in prop::array::uniform3(prop::num::f64::NORMAL),
        std in prop::array::uniform3(0.0f64..1.0),
    ) {
        let convert = Convert { normalize: Some(Normalize { mean, std }), ..Convert::default() };
        let text = serde_json::to_string(&convert).unwrap();
        prop_assert_eq!(serde_json::from_str::<Convert>(&text).unwrap(), convert);
    }
}

#[test]
#[should_panic(expected = "left == right")]
fn a_slot_of_another_size_is_not_written_to() {
    let convert = Convert { dtype: PixelType::Float32, ..Convert::default() };
    Converter::new(&convert).convert(&[0; 24], &mut [0; 24 * 2]);
}

#[test]
fn what_has_no_numbers_is_refused() {
    let bad = |mean: f64, std: f64| {
        let normalize = Some(Normalize { mean: [0.5, mean, 0.5], std: [0.5, 0.5, std] });
        Convert { normalize, dtype: PixelType::Float32, ..Convert::default() }.check().is_err()
    };
    assert!(!bad(0.5, 0.5));
    for (mean, std) in
        [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, f64::NAN), (0.0, 1e-300)]
    {
        assert!(bad(mean, std), "{mean} {std}");
    }
    let uint8 = Convert { normalize: Some(IMAGENET), ..Convert::default() };
    assert!(uint8.check().unwrap_err().contains("float32"));
}
