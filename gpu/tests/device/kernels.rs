//! Each kernel on the device against its host build, on the same memory with the same arguments: equal to the bit.

use std::sync::Arc;

use forebay_gpu::kernels::{
    CastArgs, Channels, ConvertArgs, CropArgs, CropResizeArgs, Cut, Element, Filter, GatherArgs, Kernel,
    Launch, Layout, Output, Picture, PixelType, Sample, Turn, host, normalising,
};
use forebay_gpu::{Device, Error, launch};

use crate::place::{Place, noise};

/// The device's memory as the host knows it: what is put there is put on both sides.
struct Twin {
    place: Place,
    /// Of 16 bytes, so that it is aligned as the device's.
    bytes: Vec<u128>,
    used: usize,
}

impl Twin {
    fn new(device: &Arc<dyn Device>, bytes: usize) -> Self {
        let place = Place::new(device, bytes as u64);
        assert_eq!(place.at.0 % 16, 0);
        Self { place, bytes: vec![0; bytes / 16], used: 0 }
    }

    fn all(&mut self) -> &mut [u8] {
        // SAFETY: bytes of integers.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), self.bytes.len() * 16) }
    }

    /// These bytes, `past` bytes behind a multiple of 16; their address on the device.
    fn put(&mut self, bytes: &[u8], past: usize) -> u64 {
        let start = self.used.next_multiple_of(16) + past;
        self.used = start + bytes.len();
        self.all()[start..start + bytes.len()].copy_from_slice(bytes);
        self.place.at.0 + start as u64
    }

    fn put_words(&mut self, words: &[u64]) -> u64 {
        self.put(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>(), 0)
    }

    fn put_table(&mut self, samples: &[Sample]) -> u64 {
        self.put(&samples.iter().flat_map(Sample::to_bytes).collect::<Vec<_>>(), 0)
    }

    /// Room that only a kernel writes.
    fn room(&mut self, bytes: u64, past: usize) -> u64 {
        self.put(&vec![0xA5; bytes as usize], past)
    }

    /// Copies all of it to the device.
    fn send(&mut self) {
        let (at, used) = (self.place.at, self.used);
        let bytes = self.all()[..used].to_vec();
        self.place.put(at, &bytes);
    }

    /// Runs a kernel on both sides.
    fn run<K: Kernel>(&mut self, args: &K) {
        let stream = self.place.stream();
        // SAFETY: what the arguments name lies in the place's memory.
        unsafe { launch(&self.place.device, args, stream).unwrap() };
        self.place.wait(stream);
        let kernel = host::find(K::NAME).unwrap();
        let (Launch { grid, block }, shift) =
            (args.launch(), (self.bytes.as_ptr() as isize).wrapping_sub(self.place.at.0 as isize));
        // SAFETY: the same memory, so many bytes from there.
        unsafe { kernel.run(std::ptr::from_ref(args).cast(), grid, block, shift) };
    }

    /// All memory is the same on both sides.
    fn agree(&mut self, what: &str) {
        let there = self.place.get(self.place.at, self.used);
        let differs = self.all().iter().zip(&there).position(|(here, there)| here != there);
        assert_eq!(differs, None, "{what}: this byte of the memory differs from the host build's");
    }
}

pub(crate) fn rows_are_gathered_as_on_the_host(device: &Arc<dyn Device>) {
    for (row_bytes, past) in [(1, 0), (15, 1), (16, 0), (64, 4), (1000, 0), (3001, 7)] {
        let mut twin = Twin::new(device, 1 << 20);
        let rows: Vec<u64> =
            (0..33).map(|row| twin.put(&noise(row_bytes, row), (row as usize * past) % 16)).collect();
        let args = GatherArgs {
            samples: twin.put_words(&rows),
            out: twin.room((rows.len() * row_bytes) as u64, past),
            rows: rows.len() as u64,
            row_bytes: row_bytes as u64,
        };
        twin.send();
        twin.run(&args);
        twin.agree(&format!("{row_bytes} bytes, {past} past"));
    }
}

pub(crate) fn every_number_becomes_every_other_as_on_the_host(device: &Arc<dyn Device>) {
    let elements = 300;
    let mut twin = Twin::new(device, 4 << 20);
    let mut all = Vec::new();
    for from in Element::ALL {
        let bytes = elements * from.size() as usize;
        let rows: Vec<u64> = (0..2).map(|row| twin.put(&noise(bytes, row + from as u64), 3)).collect();
        let samples = twin.put_words(&rows);
        for to in Element::ALL {
            let out = twin.room(2 * elements as u64 * to.size(), 0);
            all.push(CastArgs { samples, out, rows: 2, elements: elements as u64, from, to });
        }
    }
    twin.send();
    all.iter().for_each(|args| twin.run(args));
    twin.agree("cast");
}

/// Every kind of output, of one size.
fn outputs(height: u32, width: u32) -> Vec<Output> {
    let mut all = Vec::new();
    for channels in [Channels::One, Channels::Three] {
        for element in [PixelType::U8, PixelType::F16, PixelType::BF16, PixelType::F32] {
            for layout in [Layout::Nhwc, Layout::Nchw] {
                let mut out = Output::new(0, height, width, channels);
                (out.element, out.layout) = (element, layout);
                for (channel, (mean, std)) in
                    [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate()
                {
                    (out.scale[channel], out.bias[channel]) = normalising(mean, std);
                }
                all.push(out);
            }
        }
    }
    all
}

pub(crate) fn pictures_are_converted_as_on_the_host(device: &Arc<dyn Device>) {
    let (images, height, width) = (3, 17, 23);
    let mut twin = Twin::new(device, 4 << 20);
    let mut all = Vec::new();
    for mut out in outputs(height, width) {
        let pixels = twin.put(&noise((images * out.area()) as usize * out.channels as usize, 5), 1);
        out.pixels = twin.room(out.bytes(images), out.element.size() as usize);
        all.push(ConvertArgs { out, pixels, images });
    }
    twin.send();
    all.iter().for_each(|args| twin.run(args));
    twin.agree("convert");
}

/// Cuts of a picture of 40 × 30, each turned another way; `scaled` as the crop, or as the output.
fn cuts(width: u32, height: u32, resized: bool) -> Vec<Cut> {
    let turns = [(false, false, false), (false, true, false), (true, false, true), (true, true, true)];
    let cut = |(at, (transpose, flip_x, flip_y)): (usize, (bool, bool, bool))| {
        let at = at as u32;
        let shown = if transpose { [height, width] } else { [width, height] };
        let (crop, scaled) = match resized {
            true => ([(at, 37 - at), (2 * at, 21)], shown),
            false => (
                [(at, shown[0].min(40 - at)), (at, shown[1].min(30 - at))],
                [shown[0].min(40 - at), shown[1].min(30 - at)],
            ),
        };
        // One is padded: it begins before the picture.
        let before = -i64::from(at % 2) * 2;
        Cut {
            crop,
            scaled,
            window: [(before, shown[0]), (before, shown[1])],
            turn: Turn { transpose, flip_x, flip_y },
            columns_first: at >= 2,
        }
    };
    turns.into_iter().enumerate().map(cut).collect()
}

fn cut_on_both_sides(device: &Arc<dyn Device>, filter: Option<Filter>) {
    let (height, width) = (19, 25);
    let mut twin = Twin::new(device, 4 << 20);
    let mut all = Vec::new();
    for mut out in outputs(height, width) {
        let channels = out.channels;
        let stride = 40 * channels as u64 + 5;
        let samples = cuts(width, height, filter.is_some()).into_iter().enumerate().map(|(at, cut)| {
            let address = twin.put(&noise(stride as usize * 30, at as u64), at);
            let sample = Sample::new(Picture { address, stride, channels }, &cut);
            let Some(filter) = filter else { return sample };
            let room = sample.resized(filter, 0).weight_bytes();
            sample.resized(filter, twin.room(room, 0))
        });
        let samples: Vec<Sample> = samples.collect();
        out.pixels = twin.room(out.bytes(samples.len() as u64), 0);
        all.push((out, twin.put_table(&samples), samples.len() as u64));
    }
    twin.send();
    for (out, samples, images) in all {
        match filter {
            None => twin.run(&CropArgs { out, samples, images }),
            Some(filter) => {
                let args = CropResizeArgs { out, samples, images, filter };
                twin.run(&args.weights());
                twin.run(&args);
            }
        }
    }
    twin.agree(&format!("{filter:?}"));
}

pub(crate) fn pictures_are_cut_as_on_the_host(device: &Arc<dyn Device>) {
    cut_on_both_sides(device, None);
}

pub(crate) fn pictures_are_resized_as_on_the_host(device: &Arc<dyn Device>) {
    cut_on_both_sides(device, Some(Filter::Bilinear));
    cut_on_both_sides(device, Some(Filter::Bicubic));
}

pub(crate) fn a_kernel_that_there_is_none_of_is_an_error(device: &Arc<dyn Device>) {
    let how = Launch { grid: [1; 3], block: [1; 3] };
    // SAFETY: nothing is launched.
    let refused = unsafe { device.launch("forebay_nothing", how, &[], forebay_gpu::RawStream::LEGACY) };
    let error = refused.unwrap_err();
    assert!(matches!(&error, Error::Kernels { log, .. } if log.contains("forebay_nothing")), "{error}");
}
