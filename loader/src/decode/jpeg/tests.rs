use proptest::prelude::*;

use super::alone::{Alone, Huffman};
use super::*;
use crate::decode::testing::{Encoded, Subsampling, jpeg, photo};

const ALL: [Subsampling; 6] = [
    Subsampling::S444,
    Subsampling::S422,
    Subsampling::S420,
    Subsampling::S440,
    Subsampling::S411,
    Subsampling::Grey,
];

fn whole(bytes: &[u8], denominator: u32) -> (Size, Vec<u8>) {
    let mut decompressor = Decompressor::new().unwrap();
    let open = decompressor.open(bytes, &Limits::default()).unwrap();
    let scaled = open.scaled(denominator);
    let mut out = Vec::new();
    let held = open.decode(Rect::all(scaled), denominator, &Limits::default(), &mut out).unwrap();
    assert_eq!(held, Rect::all(scaled));
    out.truncate(scaled.pixels() as usize * 3);
    (scaled, out)
}

/// Rows of `region` in pixels that hold `held` of an image.
fn rows(pixels: &[u8], held: Rect, region: Rect) -> Vec<&[u8]> {
    (region.y..region.y + region.height)
        .map(|y| {
            let start = ((y - held.y) * held.width + region.x - held.x) as usize * 3;
            &pixels[start..start + region.width as usize * 3]
        })
        .collect()
}

fn region(size: Size, part: [f64; 4]) -> Rect {
    let along = |start: f64, length: f64, whole: u32| {
        let first = ((f64::from(whole) * start) as u32).min(whole - 1);
        (first, ((f64::from(whole - first) * length) as u32).max(1))
    };
    let (x, width) = along(part[0], part[1], size.width);
    let (y, height) = along(part[2], part[3], size.height);
    Rect { x, y, width, height }
}

fn assert_region_equals_whole(bytes: &[u8], part: [f64; 4], denominator: u32) {
    let (size, full) = whole(bytes, denominator);
    let region = region(size, part);
    let mut decompressor = Decompressor::new().unwrap();
    let mut out = Vec::new();
    let open = decompressor.open(bytes, &Limits::default()).unwrap();
    let held = open.decode(region, denominator, &Limits::default(), &mut out).unwrap();
    assert_eq!(rows(&out, held, region), rows(&full, Rect::all(size), region), "{region:?} of {size}");
}

/// What a decompressor makes of a part of a file: the region held and its pixels.
fn part_of(
    decompressor: Option<Decompressor>,
    bytes: &[u8],
    region: Rect,
    denominator: u32,
) -> Option<(Rect, Vec<u8>)> {
    let mut decompressor = decompressor.unwrap();
    let open = decompressor.open(bytes, &Limits::default()).ok()?;
    let mut out = Vec::new();
    let held = open.decode(region, denominator, &Limits::default(), &mut out).ok()?;
    out.truncate(held.size().pixels() as usize * 3);
    Some((held, out))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn coefficients_are_those_of_libjpeg(
        (width, height) in (1u32..150, 1u32..150),
        subsampling in prop::sample::select(&ALL[..]),
        (cmyk, restarts, quality) in (any::<bool>(), any::<bool>(), 1i32..=100),
        denominator in prop::sample::select(&[1u32, 1, 2, 4, 8][..]),
        part in prop::array::uniform4(0.0f64..1.0),
        // Where in the coded data, and what to do there; half of the files stay whole.
        damage in prop::option::of((0.3f64..1.0, any::<u8>())),
    ) {
        let cmyk = cmyk && subsampling != Subsampling::Grey;
        let encoded = Encoded { subsampling, cmyk, restarts, quality, ..Encoded::default() };
        let mut bytes = jpeg(&photo(width, height), &encoded);
        let scaled = Size { width: width.div_ceil(denominator), height: height.div_ceil(denominator) };
        let region = region(scaled, part);
        if let Some((place, value)) = damage {
            let at = ((bytes.len() - 2) as f64 * place) as usize;
            bytes[at] = value;
        }
        let ours = part_of(Decompressor::new(), &bytes, region, denominator);
        let theirs = part_of(Decompressor::plain(), &bytes, region, denominator);
        // Of damaged data ours refuses more: codes that no table has are zeros to libjpeg's faster way of decoding.
        if ours.is_some() || damage.is_none() {
            prop_assert_eq!(ours, theirs);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn a_region_equals_the_same_part_of_the_whole(
        (width, height) in (1u32..150, 1u32..150),
        subsampling in prop::sample::select(&ALL[..]),
        (progressive, cmyk, restarts) in (any::<bool>(), any::<bool>(), any::<bool>()),
        denominator in prop::sample::select(&[1u32, 1, 2, 4, 8][..]),
        part in prop::array::uniform4(0.0f64..1.0),
    ) {
        let cmyk = cmyk && subsampling != Subsampling::Grey;
        let bytes = jpeg(&photo(width, height), &Encoded { subsampling, progressive, cmyk, restarts, quality: 90 });
        assert_region_equals_whole(&bytes, part, denominator);
    }
}

#[test]
fn the_header_says_what_the_file_is() {
    let mut decompressor = Decompressor::new().unwrap();
    let progressive = Encoded { subsampling: Subsampling::S422, progressive: true, ..Encoded::default() };
    let bytes = jpeg(&photo(33, 17), &progressive);
    let header = decompressor.open(&bytes, &Limits::default()).unwrap().header();
    assert_eq!((header.size, header.components), (Size { width: 33, height: 17 }, 3));
    assert_eq!((header.multiple_scans, header.sampling), (true, (2, 1)));
    assert_eq!(header.orientation, Orientation::default());
}

#[test]
fn a_decompressor_goes_on_after_an_error() {
    let good = jpeg(&photo(64, 64), &Encoded::default());
    let mut decompressor = Decompressor::new().unwrap();
    let mut out = Vec::new();
    for _ in 0..3 {
        assert!(decompressor.open(&good[..40], &Limits::default()).is_err());
        let mut damaged = good.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 2].copy_from_slice(&[0xFF, 0xD9]);
        let open = decompressor.open(&damaged, &Limits::default()).unwrap();
        let size = open.scaled(1);
        let error = open.decode(Rect::all(size), 1, &Limits::default(), &mut out).unwrap_err();
        // The entropy decoder reports its place from time to time, not at every byte.
        assert!(error.offset.is_some_and(|offset| offset.abs_diff(middle as u64) < 600), "{error}");
        let open = decompressor.open(&good, &Limits::default()).unwrap();
        open.decode(Rect::all(size), 1, &Limits::default(), &mut out).unwrap();
    }
}

#[test]
fn coefficients_of_a_progressive_file_count_against_the_limit() {
    let progressive = Encoded { progressive: true, ..Encoded::default() };
    let bytes = jpeg(&photo(640, 640), &progressive);
    let limits = Limits { max_decode_bytes: 1_000_000, ..Limits::default() };
    let mut decompressor = Decompressor::new().unwrap();
    let (corner, mut out) = (Rect { x: 0, y: 0, width: 16, height: 16 }, Vec::new());
    let open = decompressor.open(&bytes, &limits).unwrap();
    let error = open.decode(corner, 1, &limits, &mut out).unwrap_err();
    assert!(error.what.contains("the limit is 1000000"), "{error}");
    let enough = Limits { max_decode_bytes: error.needs_bytes.unwrap(), ..limits };
    decompressor.open(&bytes, &enough).unwrap().decode(corner, 1, &enough, &mut out).unwrap();
    let baseline = jpeg(&photo(640, 640), &Encoded::default());
    decompressor.open(&baseline, &limits).unwrap().decode(corner, 1, &limits, &mut out).unwrap();
}

#[test]
fn a_file_of_endless_scans_is_refused() {
    let progressive = Encoded { progressive: true, subsampling: Subsampling::Grey, ..Encoded::default() };
    let bytes = jpeg(&photo(64, 64), &progressive);
    // The last scan, again and again: from its start-of-scan marker to the end-of-image marker.
    let last = bytes.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).unwrap();
    let mut bomb = bytes[..bytes.len() - 2].to_vec();
    for _ in 0..500 {
        bomb.extend_from_slice(&bytes[last..bytes.len() - 2]);
    }
    bomb.extend_from_slice(&[0xFF, 0xD9]);
    let mut decompressor = Decompressor::new().unwrap();
    let open = decompressor.open(&bomb, &Limits::default()).unwrap();
    let size = open.scaled(1);
    let error = open.decode(Rect::all(size), 1, &Limits::default(), &mut Vec::new()).unwrap_err();
    assert!(error.what.contains("more than 100 scans"), "{error}");
}

#[test]
fn steps_alone_read_what_the_decoder_reads() {
    let image = photo(150, 90);
    let whole = jpeg(&image, &Encoded { restarts: true, ..Encoded::default() });
    let mut cut = whole.clone();
    let middle = cut.len() * 3 / 4;
    cut[middle..middle + 2].copy_from_slice(&[0xFF, 0xD9]);
    for huffman in [Huffman::Forebay, Huffman::LibjpegTurbo] {
        let mut alone = Alone::new(huffman, Limits::default()).unwrap();
        alone.coefficients(&whole).unwrap();
        assert!(alone.coefficients(&cut).is_err(), "{huffman:?}: all of the scan is read");
        alone.pixels(&whole, None).unwrap();
        alone.pixels(&whole, Some(Rect { x: 5, y: 6, width: 70, height: 80 })).unwrap();
        assert!(alone.pixels(&cut, None).is_err(), "{huffman:?}");
        let outside = Rect { x: 100, y: 0, width: 51, height: 10 };
        assert!(alone.pixels(&whole, Some(outside)).unwrap_err().what.contains("not inside"));
        let progressive = jpeg(&image, &Encoded { progressive: true, ..Encoded::default() });
        assert!(alone.coefficients(&progressive).unwrap_err().what.contains("not one baseline scan"));
        alone.coefficients(&whole).unwrap();
    }
}
