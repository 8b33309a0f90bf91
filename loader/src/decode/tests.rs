use proptest::prelude::*;

use super::testing::{Encoded, Subsampling, jpeg, photo, with_exif};
use super::*;
use crate::field::{Convert, Interpolation, PixelLayout, PixelType, ResizeTo};

fn half(_: u32, _: u32) -> f64 {
    0.5
}

fn size(width: u32, height: u32) -> Size {
    Size { width, height }
}

fn crop_to(side: u32) -> Transform {
    Transform::RandomResizedCrop {
        size: (side, side),
        scale: (0.08, 1.0),
        ratio: (0.75, 4.0 / 3.0),
        interpolation: Interpolation::Bilinear,
        antialias: true,
    }
}

fn image(bytes: &[u8], transforms: &[Transform]) -> Result<Decoded> {
    Decoder::new(Limits::default()).image(bytes, transforms, DecodeMode::Exact, &half, ImageOut::New)
}

fn what(result: Result<Decoded>) -> String {
    result.unwrap_err().to_string()
}

fn png(
    size: Size,
    color: png::ColorType,
    depth: png::BitDepth,
    palette: Option<&[u8]>,
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.width, size.height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if let Some(palette) = palette {
        encoder.set_palette(palette);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

/// A JPEG's header rewritten to claim another size.
fn claiming(mut bytes: Vec<u8>, width: u16, height: u16) -> Vec<u8> {
    let frame = bytes.windows(2).position(|pair| matches!(pair, [0xFF, 0xC0..=0xC2])).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn a_decoder_may_move_to_its_thread() {
    fn movable<T: Send>(_: T) {}
    movable(Decoder::new(Limits::default()));
}

#[test]
fn without_transforms_an_image_comes_whole() {
    let decoded = image(&jpeg(&photo(33, 21), &Encoded::default()), &[]).unwrap();
    assert_eq!((decoded.size(), decoded.pixels.unwrap().len()), (size(33, 21), 33 * 21 * 3));
}

#[test]
fn a_slot_takes_the_pixels_without_a_copy_and_must_have_their_size() {
    let bytes = jpeg(&photo(100, 80), &Encoded::default());
    let mut decoder = Decoder::new(Limits::default());
    let mut slot = vec![7; 32 * 32 * 3];
    let decoded =
        decoder.image(&bytes, &[crop_to(32)], DecodeMode::Exact, &half, ImageOut::Slot(&mut slot)).unwrap();
    assert!(decoded.pixels.is_none());
    assert_eq!(slot, image(&bytes, &[crop_to(32)]).unwrap().pixels.unwrap());
    let wrong = decoder.image(&bytes, &[], DecodeMode::Exact, &half, ImageOut::Slot(&mut slot));
    assert!(what(wrong).contains("24000 bytes, and its slot has 3072"));
}

#[test]
fn converted_pixels_are_those_of_the_image_and_count_against_the_limit() {
    let bytes = jpeg(&photo(100, 80), &Encoded::default());
    let convert = Convert { dtype: PixelType::Float32, layout: PixelLayout::Nchw, ..Convert::default() };
    let converter = Converter::new(&convert);
    let pixels = image(&bytes, &[crop_to(32)]).unwrap().pixels.unwrap();
    let mut expected = vec![0; pixels.len() * 4];
    converter.convert(&pixels, &mut expected);
    let mut decoder = Decoder::new(Limits::default());
    let converted = |decoder: &mut Decoder, slot: &mut [u8]| {
        decoder.converted(&bytes, &[crop_to(32)], DecodeMode::Exact, &half, &converter, slot)
    };
    let mut slot = vec![7; expected.len()];
    assert!(converted(&mut decoder, &mut slot).unwrap().pixels.is_none());
    assert_eq!(slot, expected);
    let held = decoder.scratch_bytes();
    converted(&mut decoder, &mut slot).unwrap();
    assert_eq!(decoder.scratch_bytes(), held, "nothing more is allocated for the next image");
    assert!(what(converted(&mut decoder, &mut [0; 48])).contains("3072 bytes, and its slot has 12"));

    // An image that needs just what it may have.
    let needed = |decoder: &mut Decoder, slot: Option<&mut [u8]>| {
        decoder.set_max_decode_bytes(4000);
        let result = match slot {
            Some(slot) => converted(decoder, slot),
            None => decoder.image(&bytes, &[crop_to(32)], DecodeMode::Exact, &half, ImageOut::New),
        };
        result.unwrap_err().needs_bytes.unwrap()
    };
    let plain = needed(&mut decoder, None);
    assert_eq!(needed(&mut decoder, Some(&mut slot)), plain + pixels.len() as u64);
    decoder.set_max_decode_bytes(plain + pixels.len() as u64);
    converted(&mut decoder, &mut slot).unwrap();
}

#[test]
fn bytes_that_are_no_image_are_named() {
    assert!(what(image(b"", &[])).contains("empty"));
    assert!(what(image(b"<html>not found", &[])).contains("starts with \"<html>not fo\""));
}

#[test]
fn a_png_is_a_png_whatever_it_is_called() {
    let picture = photo(9, 5);
    let bytes = png(picture.size, png::ColorType::Rgb, png::BitDepth::Eight, None, &picture.pixels);
    assert_eq!(image(&bytes, &[]).unwrap().pixels.unwrap(), picture.pixels);
}

#[test]
fn a_truncated_jpeg_is_an_error_wherever_the_crop_lies() {
    let bytes = jpeg(&photo(200, 200), &Encoded::default());
    for length in [bytes.len() - 1, bytes.len() - 2, bytes.len() / 2, 700, 20, 3] {
        let error = image(&bytes[..length], &[crop_to(8)]).unwrap_err();
        assert!(error.offset.is_some(), "{length}: {error}");
    }
    assert!(what(image(&bytes[..bytes.len() / 2], &[crop_to(8)])).contains("truncated"));
}

#[test]
fn a_header_that_claims_too_much_allocates_nothing() {
    for progressive in [false, true] {
        let small = jpeg(&photo(16, 16), &Encoded { progressive, ..Encoded::default() });
        let mut decoder = Decoder::new(Limits::default());
        let huge = claiming(small.clone(), 65_535, 65_535);
        let error = decoder.image(&huge, &[crop_to(8)], DecodeMode::Exact, &half, ImageOut::New).unwrap_err();
        assert!(error.what.contains("Maximum supported image dimension is 65500 pixels"), "{error}");
        assert_eq!(decoder.scratch_bytes(), 0);
        let error = image(&claiming(small.clone(), 65_500, 65_500), &[]).unwrap_err();
        assert!(error.what.contains("65500x65500 = 4290250000 pixels, the limit is 178956970"), "{error}");
        assert!(image(&claiming(small, 0, 0), &[]).is_err());
    }
}

#[test]
fn scratch_memory_is_kept_small_after_a_large_image() {
    let limits = Limits { max_scratch_bytes: 1 << 20, ..Limits::default() };
    let mut decoder = Decoder::new(limits);
    let run = |side: u32, decoder: &mut Decoder| {
        let bytes = jpeg(&photo(side, side), &Encoded::default());
        decoder.image(&bytes, &[crop_to(32)], DecodeMode::Exact, &half, ImageOut::New).unwrap();
        decoder.scratch_bytes()
    };
    let small = run(200, &mut decoder);
    assert!(small > 0 && small <= 1 << 20);
    assert!(run(2000, &mut decoder) <= 1 << 20);
    assert!(run(200, &mut decoder) > 0);
}

/// What orientation 1..=8 does to upright rows, by moving one pixel at a time.
fn turned(pixels: &[u8], stored: Size, exif: u8) -> Vec<u8> {
    let orientation = Orientation::from_exif(exif).unwrap();
    let upright = orientation.size(stored);
    let mut out = Vec::new();
    for y in 0..upright.height {
        for x in 0..upright.width {
            let window = orientation::Window { x: i64::from(x), y: i64::from(y), size: size(1, 1) };
            let from = orientation.to_stored(window, upright);
            let at = (from.y as u32 * stored.width + from.x as u32) as usize * 3;
            out.extend_from_slice(&pixels[at..at + 3]);
        }
    }
    out
}

#[test]
fn every_orientation_is_turned_upright_before_anything_else() {
    let stored = size(90, 61);
    let plain = jpeg(&photo(90, 61), &Encoded::default());
    let whole = image(&plain, &[]).unwrap().pixels.unwrap();
    let transforms = [crop_to(24), Transform::RandomHorizontalFlip { p: 1.0 }];
    for exif in 1..=8 {
        let bytes = with_exif(&plain, exif);
        let upright = turned(&whole, stored, exif);
        assert_eq!(image(&bytes, &[]).unwrap().pixels.unwrap(), upright, "orientation {exif}");
        // The same picture, stored upright and without loss.
        let size = Orientation::from_exif(exif).unwrap().size(stored);
        let upright = png(size, png::ColorType::Rgb, png::BitDepth::Eight, None, &upright);
        let one = image(&bytes, &transforms).unwrap();
        let other = image(&upright, &transforms).unwrap();
        assert_eq!(one.geometry, other.geometry);
        let (one, other) = (one.pixels.unwrap(), other.pixels.unwrap());
        let most = one.iter().zip(&other).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 1, "orientation {exif}: {most}");
    }
}

#[test]
fn fast_decoding_scales_down_only_crops_of_twice_the_output() {
    let bytes = jpeg(&photo(400, 400), &Encoded::default());
    let resize = |side| {
        let size = ResizeTo::Exactly(side, side);
        [Transform::Resize { size, interpolation: Interpolation::Bilinear, antialias: true }]
    };
    let mut decoder = Decoder::new(Limits::default());
    let mut run = |side, mode| decoder.image(&bytes, &resize(side), mode, &half, ImageOut::New).unwrap();
    for (side, denominator) in [(300, 1), (201, 1), (200, 2), (100, 4), (50, 8), (10, 8)] {
        let fast = run(side, DecodeMode::Fast);
        assert_eq!(fast.denominator, denominator, "side {side}");
        assert_eq!(fast.pixels.unwrap().len(), (side * side * 3) as usize);
        assert_eq!(run(side, DecodeMode::Exact).denominator, 1);
    }
}

#[test]
fn a_mask_takes_the_crop_and_flip_of_its_image() {
    // Each pixel of the image says where it is, and so does the mask: 4 x 4 cells of class x + 4 y.
    let (width, height) = (64, 48);
    let class = |x: u32, y: u32| (x / 16 + 4 * (y / 12)) as u8;
    let indexes: Vec<u8> = (0..height).flat_map(|y| (0..width).map(move |x| class(x, y))).collect();
    let colors: Vec<u8> = indexes.iter().flat_map(|&class| [class * 16; 3]).collect();
    let bytes = png(size(width, height), png::ColorType::Rgb, png::BitDepth::Eight, None, &colors);
    let palette: Vec<u8> = (0..16).rev().flat_map(|class| [class * 16; 3]).collect();
    let packed: Vec<u8> = indexes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let mask =
        png(size(width, height), png::ColorType::Indexed, png::BitDepth::Four, Some(&palette), &packed);
    let mut decoder = Decoder::new(Limits::default());
    for flip in [0.0, 1.0] {
        let transforms = [crop_to(20), Transform::RandomHorizontalFlip { p: flip }];
        let decoded = decoder.image(&bytes, &transforms, DecodeMode::Exact, &half, ImageOut::New).unwrap();
        let mut slot = vec![99; 400];
        decoder.mask(&mask, &decoded.geometry, ImageOut::Slot(&mut slot)).unwrap();
        let image = decoded.pixels.unwrap();
        let equal =
            slot.iter().zip(image.chunks(3)).filter(|(class, pixel)| **class * 16 == pixel[0]).count();
        // Colours mix where cells meet; classes never do.
        assert!(equal > 250, "{equal} of 400");
        assert!(slot.iter().all(|class| *class < 16));
    }
    let other = decoder.image(
        &jpeg(&photo(10, 10), &Encoded::default()),
        &[],
        DecodeMode::Exact,
        &half,
        ImageOut::New,
    );
    assert!(
        what(decoder.mask(&mask, &other.unwrap().geometry, ImageOut::New))
            .contains("64x48, its image is 10x10")
    );
    let geometry = image(&bytes, &[]).unwrap_or_else(|error| panic!("{error}")).geometry;
    assert!(what(decoder.mask(&bytes, &geometry, ImageOut::New)).contains("as a mask"));
}

fn image_of(bytes: &[u8], geometry: &Geometry) -> Result<Decoded> {
    Decoder::new(Limits::default()).mask(bytes, geometry, ImageOut::New)
}

#[test]
fn grey_samples_of_a_mask_are_not_scaled() {
    let geometry = resolve(&[], size(8, 1), &half, &Limits::default()).unwrap();
    let one = png(size(8, 1), png::ColorType::Grayscale, png::BitDepth::One, None, &[0b0110_0001]);
    assert_eq!(image_of(&one, &geometry).unwrap().pixels.unwrap(), [0, 1, 1, 0, 0, 0, 0, 1]);
    let two =
        png(size(8, 1), png::ColorType::Grayscale, png::BitDepth::Two, None, &[0b0001_1011, 0b1110_0100]);
    assert_eq!(image_of(&two, &geometry).unwrap().pixels.unwrap(), [0, 1, 2, 3, 3, 2, 1, 0]);
    let grey = Encoded { subsampling: Subsampling::Grey, quality: 100, ..Encoded::default() };
    assert_eq!(image_of(&jpeg(&photo(8, 1), &grey), &geometry).unwrap().pixels.unwrap().len(), 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_files_give_pixels_or_an_error(
        kind in 0usize..8,
        changes in prop::collection::vec((0.0f64..1.0, any::<u8>()), 0..12),
        cut in prop::option::of(0.0f64..1.0),
        fast in any::<bool>(),
    ) {
        let picture = photo(61, 47);
        let mut bytes = match kind {
            0 => jpeg(&picture, &Encoded::default()),
            1 => jpeg(&picture, &Encoded { progressive: true, ..Encoded::default() }),
            2 => with_exif(&jpeg(&picture, &Encoded { cmyk: true, ..Encoded::default() }), 6),
            3 => png(picture.size, png::ColorType::Rgb, png::BitDepth::Eight, None, &picture.pixels),
            4 => encoded(&picture, image::ImageFormat::Tiff),
            5 => encoded(&picture, image::ImageFormat::WebP),
            6 => encoded(&picture, image::ImageFormat::Gif),
            _ => encoded(&picture, image::ImageFormat::Bmp),
        };
        for (place, value) in changes {
            let at = (bytes.len() as f64 * place) as usize;
            bytes[at] = value;
        }
        if let Some(part) = cut {
            bytes.truncate((bytes.len() as f64 * part) as usize);
        }
        let limits = Limits { max_pixels: 1 << 22, max_decode_bytes: 1 << 25, ..Limits::default() };
        let mode = if fast { DecodeMode::Fast } else { DecodeMode::Exact };
        let mut decoder = Decoder::new(limits);
        let decoded = decoder.image(&bytes, &[crop_to(16)], mode, &half, ImageOut::New);
        prop_assert!(decoded.is_err() || decoded.unwrap().pixels.unwrap().len() == 16 * 16 * 3);
        let geometry = resolve(&[crop_to(16)], picture.size, &half, &limits).unwrap();
        let _ = decoder.mask(&bytes, &geometry, ImageOut::New);
    }
}

fn encoded(picture: &testing::Picture, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let Size { width, height } = picture.size;
    image::write_buffer_with_format(
        &mut bytes,
        &picture.pixels,
        width,
        height,
        image::ExtendedColorType::Rgb8,
        format,
    )
    .unwrap();
    bytes.into_inner()
}
