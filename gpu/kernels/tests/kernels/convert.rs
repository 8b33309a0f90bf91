//! `forebay_convert` against the arithmetic by hand.

use forebay_kernels::{Channels, ConvertArgs, Kernel, Launch, Layout, Output, PixelType, normalising};
use proptest::prelude::*;

use crate::memory::Memory;
use crate::pictures::{finished, noise, outputs, placed};

proptest! {
    #[test]
    fn pictures_of_any_size_become_any_tensor(
        out in outputs(),
        size in (0u32..9, 0u32..9),
        images in 0u64..4,
        pasts in (0usize..8, 0u64..4),
        launch in prop::option::of((1u32..3, 1u32..3, 1u32..5, 1u32..3)),
        seed in any::<u64>(),
    ) {
        let mut memory = Memory::new(8192);
        let out = placed(&mut memory, out, size, images, pasts.1);
        let pixels = noise((images * out.area()) as usize * out.channels as usize, seed);
        let args = ConvertArgs { out, pixels: memory.put(&pixels, pasts.0), images };
        let launch = launch.map(|(x, y, wide, high)| Launch { grid: [x, y, 1], block: [wide, high, 1] });
        memory.run_as(&args, launch.unwrap_or_else(|| args.launch()));
        let wanted = finished(&out, &pixels);
        prop_assert_eq!(memory.get(out.pixels, wanted.len()), wanted);
    }
}

/// Every number alone, so that a failure names it.
#[test]
fn every_level_is_itself_in_every_type() {
    let mut memory = Memory::new(4096);
    let pixels: Vec<u8> = (0..=255).collect();
    let from = memory.put(&pixels, 0);
    let to = memory.take(1024, 0);
    for element in [PixelType::U8, PixelType::F16, PixelType::BF16, PixelType::F32] {
        let out = Output { element, ..Output::new(to, 16, 16, Channels::One) };
        memory.run(&ConvertArgs { out, pixels: from, images: 1 });
        for level in 0..=255u16 {
            let size = element.size() as usize;
            let bytes = memory.get(to + u64::from(level) * element.size(), size).to_vec();
            let bits = bytes.iter().rev().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
            let value = match element {
                PixelType::U8 => bits as f32,
                PixelType::F16 => crate::number::half_value(bits as u16) as f32,
                PixelType::BF16 => f32::from_bits(bits << 16),
                PixelType::F32 => f32::from_bits(bits),
            };
            assert_eq!(value, f32::from(level), "{element:?}");
        }
    }
}

#[test]
fn normalising_is_what_frameworks_compute_to_the_last_places() {
    let (scale, bias) = normalising(0.485, 0.229);
    for level in 0..=255 {
        let wanted = (f64::from(level) / 255.0 - 0.485) / 0.229;
        let got = level as f32 * scale + bias;
        assert!((f64::from(got) - wanted).abs() < 1e-6, "{level}: {got}, not {wanted}");
    }
}

#[test]
fn a_picture_of_more_than_four_gibi_pixels_is_declared_whole() {
    let kernel = forebay_kernels::host::find(ConvertArgs::NAME).unwrap();
    let mut out = Output::new(1 << 50, u32::MAX, u32::MAX, Channels::Three);
    (out.element, out.layout) = (PixelType::F16, Layout::Nchw);
    let args = ConvertArgs { out, pixels: 1 << 40, images: 1 };
    let area = u64::from(u32::MAX) * u64::from(u32::MAX);
    let mut told = Vec::new();
    // SAFETY: this kernel's effects read nothing.
    #[allow(unsafe_code)]
    unsafe {
        kernel.effects(std::ptr::from_ref(&args).cast(), 0, &mut |access| {
            told.push((access.bytes, access.writes))
        });
    }
    assert_eq!(told, [(area.wrapping_mul(3), false), (area.wrapping_mul(6), true)]);
}
