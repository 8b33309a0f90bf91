//! The device's resize against the CPU's, on the same picture with the same draws: the same pixels.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use forebay_kernels::{
    Channels, CropArgs, CropResizeArgs, Filter, Kernel, Launch, Output, Picture, Sample, host,
};
use forebay_loader::decode::geometry::Stage;
use forebay_loader::decode::orientation::Orientation;
use forebay_loader::decode::{Decoder, ImageOut, Limits, Size};
use forebay_loader::device::cut;
use forebay_loader::field::{DecodeMode, Interpolation, ResizeTo, Transform};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Stored {
    size: Size,
    pixels: Vec<u8>,
    /// 1 to 8.
    exif: u8,
}

impl Stored {
    fn png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.size.width, self.size.height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([self.exif, 0, 0, 0, 0, 0, 0, 0]);
        writer.write_chunk(png::chunk::ChunkType(*b"eXIf"), &exif).unwrap();
        writer.write_image_data(&self.pixels).unwrap();
        drop(writer);
        bytes
    }
}

/// Smooth, noisy, or of extremes alone.
fn pixels(size: Size, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let numbers = (0..size.pixels() * 3).map(|at| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match seed % 3 {
            0 => ((at * 7 / 3) as u8).wrapping_add((state >> 62) as u8),
            1 => (state >> 40) as u8,
            _ => ((state >> 63) * 255) as u8,
        }
    });
    numbers.collect()
}

fn stored() -> impl Strategy<Value = Stored> {
    let sides =
        prop_oneof![6 => (1u32..90, 1u32..90), 1 => (1u32..2500, 1u32..6), 1 => (1u32..6, 1u32..2500)];
    (sides, any::<u64>(), 1u8..=8).prop_map(|((width, height), seed, exif)| {
        let size = Size { width, height };
        Stored { size, pixels: pixels(size, seed), exif }
    })
}

/// Lists of transforms that are one stage: at most one resize.
fn transforms() -> impl Strategy<Value = Vec<Transform>> {
    let size = || (1u32..60, 1u32..60);
    let interpolation = || prop::sample::select(vec![Interpolation::Bilinear, Interpolation::Bicubic]);
    let antialias = true;
    let random = (size(), interpolation()).prop_map(move |(size, interpolation)| {
        let (scale, ratio) = ((0.08, 1.0), (0.5, 2.0));
        vec![Transform::RandomResizedCrop { size, scale, ratio, interpolation, antialias }]
    });
    let exactly = (size(), interpolation()).prop_map(move |((height, width), interpolation)| {
        vec![Transform::Resize { size: ResizeTo::Exactly(height, width), interpolation, antialias }]
    });
    let centre = (1u32..60, size(), interpolation()).prop_map(move |(side, size, interpolation)| {
        let shorter = ResizeTo::Shorter { side, max_size: Some(200) };
        vec![Transform::Resize { size: shorter, interpolation, antialias }, Transform::CenterCrop { size }]
    });
    let only_centre = size().prop_map(|size| vec![Transform::CenterCrop { size }]);
    let flip = || prop::option::of(Just(Transform::RandomHorizontalFlip { p: 0.5 }));
    let middle = prop_oneof![random, exactly, centre, only_centre];
    (flip(), middle, flip())
        .prop_map(|(before, middle, after)| before.into_iter().chain(middle).chain(after).collect())
}

/// Launches on this process's own memory.
fn run<K: Kernel>(args: &K) {
    let kernel = host::find(K::NAME).unwrap();
    assert_eq!(kernel.args_bytes, size_of::<K>());
    let Launch { grid, block } = args.launch();
    // SAFETY: the addresses in the arguments are those of vectors that are large enough, and alive.
    unsafe { kernel.run(std::ptr::from_ref(args).cast(), grid, block, 0) }
}

fn on_the_device(picture: &Stored, stage: &Stage, orientation: Orientation) -> Vec<u8> {
    let picture = Picture {
        address: picture.pixels.as_ptr() as u64,
        stride: u64::from(picture.size.width) * 3,
        channels: Channels::Three,
    };
    let sample = Sample::new(picture, &cut(stage, orientation));
    let size = stage.output();
    let mut pixels = vec![0; size.pixels() as usize * 3];
    let out = Output::new(pixels.as_mut_ptr() as u64, size.height, size.width, Channels::Three);
    match stage.filter {
        None => run(&CropArgs { out, samples: (&raw const sample) as u64, images: 1 }),
        Some(filter) => {
            let filter = match filter.interpolation {
                Interpolation::Bicubic => Filter::Bicubic,
                _ => Filter::Bilinear,
            };
            let mut weights = vec![0u64; sample.resized(filter, 0).weight_bytes() as usize / 8];
            let sample = sample.resized(filter, weights.as_mut_ptr() as u64);
            let args = CropResizeArgs { out, samples: (&raw const sample) as u64, images: 1, filter };
            run(&args.weights());
            run(&args);
        }
    }
    pixels
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn the_device_cuts_and_resizes_as_the_cpu_does(
        picture in stored(),
        transforms in transforms(),
        draws in prop::collection::vec(0.0f64..1.0, 24),
    ) {
        let draw = |operation: u32, number: u32| draws[(operation as usize * 11 + number as usize) % draws.len()];
        let mut decoder = Decoder::new(Limits::default());
        let decoded =
            decoder.image(&picture.png(), &transforms, DecodeMode::Exact, &draw, ImageOut::New).unwrap();
        let [stage] = &decoded.geometry.stages[..] else { panic!("{:?} is several stages", decoded.geometry) };
        let pixels = on_the_device(&picture, stage, Orientation::from_exif(picture.exif).unwrap());
        let wanted = decoded.pixels.unwrap();
        prop_assert_eq!(pixels.len(), wanted.len());
        let differs = pixels.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
        prop_assert_eq!(differs.map(|at| (at, pixels[at], wanted[at])), None, "{:?}", stage);
    }
}
