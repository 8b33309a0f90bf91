//! `forebay_crop` and `forebay_crop_resize` against pixels computed one by one.

use forebay_kernels::{
    Channels, CropArgs, CropResizeArgs, Cut, Filter, Kernel, Launch, Output, Picture, Sample, Turn,
};
use proptest::prelude::*;

use crate::memory::Memory;
use crate::pictures::{finished, noise, outputs, placed};

#[derive(Clone, Debug)]
struct Source {
    /// Of the whole picture, x and y.
    size: [u32; 2],
    /// Bytes behind each row.
    gap: usize,
    cut: Cut,
    seed: u64,
}

fn axis(most: u32) -> impl Strategy<Value = (u32, u32, u32)> {
    (1..=most).prop_flat_map(|whole| {
        (0..whole).prop_flat_map(move |start| (Just(whole), Just(start), 1..=whole - start))
    })
}

/// Windows of the output's size in `scaled` pixels; often the whole.
fn sources(scaled: BoxedStrategy<Option<u32>>, size: [u32; 2]) -> impl Strategy<Value = Source> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let shown = prop_oneof![2 => Just(None), 1 => (-9i64..9).prop_map(Some)];
    let axes = [axis(24), axis(24)];
    (axes, [scaled.clone(), scaled], [shown.clone(), shown], flags, 0usize..5, any::<u64>()).prop_map(
        move |(axes, scaled, shown, (transpose, flip_x, flip_y, columns_first), gap, seed)| {
            let size = if transpose { [size[1], size[0]] } else { size };
            let crop = axes.map(|(_, start, length)| (start, length));
            let along = |axis: usize| match (shown[axis], scaled[axis]) {
                // All of the resized crop where it is resized; else as much of the crop as fits.
                (None, Some(_)) => (size[axis], 0),
                (Some(start), Some(scaled)) => (scaled, start),
                (start, None) => (crop[axis].1, start.unwrap_or(0)),
            };
            let [(wide, x), (high, y)] = [along(0), along(1)];
            Source {
                size: axes.map(|(whole, _, _)| whole),
                gap,
                cut: Cut {
                    crop,
                    scaled: [wide.max(1), high.max(1)],
                    window: [(x, size[0]), (y, size[1])],
                    turn: Turn { transpose, flip_x, flip_y },
                    columns_first,
                },
                seed,
            }
        },
    )
}

impl Source {
    fn bytes(&self, channels: usize) -> Vec<u8> {
        noise((self.size[0] as usize * channels + self.gap) * self.size[1] as usize, self.seed)
    }

    fn sample(&self, memory: &mut Memory, out: &Output) -> Sample {
        let address = memory.put(&self.bytes(out.channels as usize), 3);
        let stride = u64::from(self.size[0]) * out.channels as u64 + self.gap as u64;
        Sample::new(Picture { address, stride, channels: out.channels }, &self.cut)
    }

    /// The output's pixels, upright: `resized` gives a channel of a pixel of the resized crop.
    fn pixels(&self, out: &Output, resized: impl Fn(u32, u32, usize) -> f64) -> Vec<f64> {
        let Cut { scaled, window, turn, .. } = self.cut;
        let mut pixels = Vec::new();
        for y in 0..out.height {
            for x in 0..out.width {
                let x = if turn.flip_x { out.width - 1 - x } else { x };
                let y = if turn.flip_y { out.height - 1 - y } else { y };
                let (x, y) = if turn.transpose { (y, x) } else { (x, y) };
                let (x, y) = (i64::from(x) + window[0].0, i64::from(y) + window[1].0);
                let inside = (0..i64::from(scaled[0])).contains(&x) && (0..i64::from(scaled[1])).contains(&y);
                pixels.extend(
                    (0..out.channels as usize)
                        .map(|channel| if inside { resized(x as u32, y as u32, channel) } else { 0.0 }),
                );
            }
        }
        pixels
    }
}

fn table(memory: &mut Memory, samples: &[Sample]) -> u64 {
    let bytes: Vec<u8> = samples.iter().flat_map(Sample::to_bytes).collect();
    memory.put(&bytes, 8)
}

fn with_weights(memory: &mut Memory, samples: &[Sample], filter: Filter) -> u64 {
    let room = |sample: &Sample| {
        let bytes = sample.resized(filter, 0).weight_bytes();
        sample.resized(filter, memory.take(bytes as usize, 8))
    };
    let samples: Vec<Sample> = samples.iter().map(room).collect();
    table(memory, &samples)
}

type Case = (Output, [u32; 2], Vec<Source>, Option<Launch>);

fn cases(scaled: impl Strategy<Value = Option<u32>> + Clone + 'static) -> impl Strategy<Value = Case> {
    let launch = (1u32..3, 1u32..3, 1u32..3, 1u32..4, 1u32..4);
    let launch = launch.prop_map(|(x, y, z, wide, high)| Launch { grid: [x, y, z], block: [wide, high, 1] });
    let scaled = scaled.boxed();
    (outputs(), [0u32..12, 0u32..12], prop::option::of(launch)).prop_flat_map(move |(out, size, launch)| {
        let sources = prop::collection::vec(sources(scaled.clone(), size), 0..4);
        (Just(out), Just(size), sources, Just(launch))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn cuts_are_the_pictures_pixels_turned_and_padded((out, size, sources, launch) in cases(Just(None)), past in 0u64..4) {
        let mut memory = Memory::new(40_000);
        let images = sources.len() as u64;
        let out = placed(&mut memory, out, (size[1], size[0]), images, past);
        let samples: Vec<Sample> = sources.iter().map(|source| source.sample(&mut memory, &out)).collect();
        prop_assert!(samples.iter().all(Sample::is_plain));
        let args = CropArgs { out, samples: table(&mut memory, &samples), images };
        memory.run_as(&args, launch.unwrap_or_else(|| args.launch()));
        let mut wanted = Vec::new();
        for source in &sources {
            let (bytes, channels) = (source.bytes(out.channels as usize), out.channels as usize);
            let stride = source.size[0] as usize * channels + source.gap;
            let [(left, _), (top, _)] = source.cut.crop;
            let pixel = |x: u32, y: u32, channel: usize| {
                f64::from(bytes[(top + y) as usize * stride + (left + x) as usize * channels + channel])
            };
            wanted.extend(source.pixels(&out, pixel).iter().map(|value| *value as u8));
        }
        let wanted = finished(&out, &wanted);
        prop_assert_eq!(memory.get(out.pixels, wanted.len()), &wanted);

        // A resize to the same size is none.
        let samples = with_weights(&mut memory, &samples, Filter::Bilinear);
        let resize = CropResizeArgs { out, samples, images, filter: Filter::Bilinear };
        memory.run(&resize.weights());
        memory.run(&resize);
        prop_assert_eq!(memory.get(out.pixels, wanted.len()), &wanted);
    }

    #[test]
    fn resized_pixels_are_within_a_level_of_pillows_kernels(
        (out, size, sources, launch) in cases(prop_oneof![Just(None), (1u32..40).prop_map(Some)]),
        cubic in any::<bool>(),
    ) {
        let mut memory = Memory::new(40_000);
        let images = sources.len() as u64;
        // Levels, to be compared.
        let out = Output::new(0, 0, 0, out.channels);
        let out = placed(&mut memory, out, (size[1], size[0]), images, 0);
        let samples: Vec<Sample> = sources.iter().map(|source| source.sample(&mut memory, &out)).collect();
        let filter = if cubic { Filter::Bicubic } else { Filter::Bilinear };
        let args = CropResizeArgs { out, samples: with_weights(&mut memory, &samples, filter), images, filter };
        memory.run_as(&args.weights(), launch.unwrap_or_else(|| args.weights().launch()));
        memory.run_as(&args, launch.unwrap_or_else(|| args.launch()));
        let mut wanted = Vec::new();
        for source in &sources {
            wanted.extend(source.pixels(&out, |x, y, channel| resized(source, &out, filter, [x, y], channel)));
        }
        for (at, (got, wanted)) in memory.get(out.pixels, wanted.len()).iter().zip(&wanted).enumerate() {
            // Half a level of the last rounding, as much of the one in between (the cubic kernel may enlarge it), and what the weights' rounding adds.
            let most = if cubic { 1.4 } else { 1.1 };
            prop_assert!((f64::from(*got) - wanted).abs() < most, "number {}: {}, not {}", at, got, wanted);
        }
    }
}

/// Row 8 Gi of a picture that is stored from the bottom up: 32 bits of any number on the way to its address would be too few.
#[test]
fn pixels_beyond_4_gi_rows_and_columns_are_found() {
    let (far, channels) = (1u64 << 33, Channels::Three);
    let mut memory = Memory::new(4096);
    let pixels = noise(4 * 5 * 3, 7);
    let last_row = memory.put(&pixels, 1) + 4 * 5 * 3 - 15;
    let cut = Cut {
        crop: [(0, 5), (0, 4)],
        scaled: [5, 4],
        window: [(0, 5), (0, 4)],
        turn: Turn::default(),
        columns_first: false,
    };
    let stride = 0u64.wrapping_sub(15);
    let address = last_row.wrapping_sub(far.wrapping_mul(stride)).wrapping_sub(far * 3);
    let sample =
        Sample { start: [far as f64; 2], ..Sample::new(Picture { address, stride, channels }, &cut) };
    let out = placed(&mut memory, Output::new(0, 0, 0, channels), (4, 5), 1, 0);
    let args = CropArgs { out, samples: table(&mut memory, &[sample]), images: 1 };
    memory.run(&args);
    let wanted: Vec<u8> = pixels.chunks_exact(15).rev().flatten().copied().collect();
    assert_eq!(memory.get(out.pixels, 60), wanted);

    // A resize has 32 bits for places in a region, and 64 for their bytes.
    let region = Sample { pixels: last_row, start: [0.0; 2], ..sample };
    let samples = with_weights(&mut memory, &[region], Filter::Bilinear);
    let args = CropResizeArgs { out, samples, images: 1, filter: Filter::Bilinear };
    memory.run(&args.weights());
    memory.run(&args);
    assert_eq!(memory.get(out.pixels, 60), wanted);
}

/// A resized pixel in real numbers, but cut to bytes' range between the passes.
fn resized(source: &Source, out: &Output, filter: Filter, at: [u32; 2], channel: usize) -> f64 {
    let channels = out.channels as usize;
    let bytes = source.bytes(channels);
    let stride = source.size[0] as usize * channels + source.gap;
    let weights = [0, 1].map(|axis| {
        let (start, length) = source.cut.crop[axis];
        let step = f64::from(length) / f64::from(source.cut.scaled[axis]);
        let (stretch, centre) = (step.max(1.0), (f64::from(at[axis]) + 0.5) * step);
        let all = (0..length).map(|pixel| kernel(filter, (f64::from(pixel) + 0.5 - centre) / stretch));
        let all: Vec<f64> = all.collect();
        let total: f64 = all.iter().sum();
        let pixels = (start..).zip(all).map(|(pixel, weight)| (pixel as usize, weight / total));
        pixels.filter(|(_, weight)| *weight != 0.0).collect::<Vec<_>>()
    });
    let first = usize::from(!source.cut.columns_first);
    let second = 1 - first;
    let mix = weights[second].iter().map(|(far, weight)| {
        let between = weights[first].iter().map(|(near, weight)| {
            let (x, y) = if first == 0 { (near, far) } else { (far, near) };
            weight * f64::from(bytes[y * stride + x * channels + channel])
        });
        weight * between.sum::<f64>().clamp(0.0, 255.0)
    });
    mix.sum::<f64>().clamp(0.0, 255.0)
}

fn kernel(filter: Filter, distance: f64) -> f64 {
    let x = distance.abs();
    match filter {
        Filter::Bilinear => (1.0 - x).max(0.0),
        Filter::Bicubic if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
        Filter::Bicubic if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
        Filter::Bicubic => 0.0,
    }
}
