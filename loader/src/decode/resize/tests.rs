use proptest::prelude::*;

use super::*;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Extremes too: overshoot is cut there.
        match state >> 61 {
            0 => 0,
            1 => 255,
            _ => (state >> 40) as u8,
        }
    };
    (0..length).map(|_| next()).collect()
}

fn resized(
    level: Level,
    source: &[u8],
    (width, height): (u32, u32),
    to: Size,
    placed: &Placed,
    mirrored: Mirrored,
) -> Vec<u8> {
    let mut resampler = Resampler::default();
    let mut out = vec![0; to.pixels() as usize * 3];
    let region = Rect { x: 1, y: 2, width, height };
    let held = Rect { x: 0, y: 1, width: width + 3, height: height + 1 };
    resampler.resize_at(level, View { pixels: source, held }, region, placed, mirrored, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_level_gives_the_same_pixels_and_mirroring_is_last(
        from in (1u32..90, 1u32..60),
        to in (1u32..70, 1u32..50),
        cut in prop::array::uniform4(0.0f64..0.4),
        (cubic, columns_first, columns, rows) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) {
        let interpolation = if cubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
        let span = |length: u32, start: f64, end: f64| {
            let length = f64::from(length);
            Span { start: length * start, length: length * (1.0 - start - end) }
        };
        let to = Size { width: to.0, height: to.1 };
        let placed = Placed {
            columns: span(from.0, cut[0], cut[1]),
            rows: span(from.1, cut[2], cut[3]),
            to,
            filter: Filter { interpolation, antialias: true },
            columns_first,
        };
        let source = noise(((from.0 + 3) * (from.1 + 1)) as usize * 3, seed);
        let mirrored = Mirrored { columns, rows };
        let portable = resized(Level::Portable, &source, from, to, &placed, mirrored);
        prop_assert_eq!(&resized(Level::here(), &source, from, to, &placed, mirrored), &portable);
        let mut plain = resized(Level::here(), &source, from, to, &placed, Mirrored::default());
        mirror(&mut plain, to.width, mirrored);
        prop_assert_eq!(plain, portable);
    }
}

proptest! {
    #[test]
    fn every_level_copies_the_same_part_mirrored_or_not(
        (x, y, width, height) in (0u32..5, 0u32..5, 1u32..90, 1u32..9),
        mirrored: bool,
        seed: u64,
    ) {
        let held = Rect { x: 2, y: 1, width: width + 7, height: height + 6 };
        let pixels = noise(held.size().pixels() as usize * 3, seed);
        let part = Rect { x: x + 2, y: y + 1, width, height };
        let mut out = vec![0; part.size().pixels() as usize * 3];
        copy(View { pixels: &pixels, held }, part, mirrored, &mut out);
        for (at, pixel) in out.as_chunks::<3>().0.iter().enumerate() {
            let (row, column) = (at as u32 / width, at as u32 % width);
            let column = if mirrored { width - 1 - column } else { column };
            let from = ((y + row) * held.width + x + column) as usize * 3;
            prop_assert_eq!(pixel, &pixels[from..from + 3]);
        }
    }
}

#[test]
fn a_plain_picture_keeps_its_colour() {
    let filter = |interpolation| Filter { interpolation, antialias: true };
    for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
        for (from, to) in [(500, 224), (37, 224), (4000, 224), (1, 9), (9, 1), (8, 8)] {
            let span = Span { start: 0.0, length: f64::from(from) };
            let to = Size { width: to, height: to };
            let placed =
                Placed { columns: span, rows: span, to, filter: filter(interpolation), columns_first: true };
            let source = vec![201; (from as usize + 3) * (from as usize + 1) * 3];
            let out = resized(Level::here(), &source, (from, from), to, &placed, Mirrored::default());
            assert!(out.iter().all(|value| *value == 201), "{from} to {to}");
        }
    }
}
