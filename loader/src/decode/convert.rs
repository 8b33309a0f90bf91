//! Finished pixels → the numbers that a batch holds: normalised, cast, and by channel where that is asked for.
//!
//! A number depends on nothing but its level and channel, so [`numbers`] computes each once, and the portable path reads them from a table.
//! Where the processor has AVX2 they are computed anew, which is faster, to the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;

use crate::field::{Convert, PixelType};
use crate::numbers::{self, Affine};

/// A number of up to four bytes, in front.
type Number = [u8; 4];

/// What becomes of the pixels of an image field.
#[derive(Clone, Debug)]
pub struct Converter {
    affine: Affine,
    kind: PixelType,
    planar: bool,
    /// Of each channel and level.
    table: Box<[[Number; 256]; 3]>,
}

impl Converter {
    /// For what [`Convert::check`] lets through.
    pub fn new(convert: &Convert) -> Self {
        let (affine, kind) = (convert.affine(), convert.dtype);
        let mut table = Box::new([[[0; 4]; 256]; 3]);
        for (channel, numbers) in table.iter_mut().enumerate() {
            for (level, number) in (0..=u8::MAX).zip(numbers) {
                *number = encoded(kind, level, affine.of(level, channel));
            }
        }
        Self { affine, kind, planar: convert.is_planar(), table }
    }

    /// Bytes of what becomes of one channel of a pixel.
    pub fn number_bytes(&self) -> usize {
        self.kind.dtype().size()
    }

    /// Converts `pixels`, RGB without gaps, into `out`, which has [`Self::number_bytes`] for each of their bytes.
    pub fn convert(&self, pixels: &[u8], out: &mut [u8]) {
        self.convert_at(Level::here(), pixels, out);
    }

    fn convert_at(&self, level: Level, pixels: &[u8], out: &mut [u8]) {
        assert_eq!(pixels.len() * self.number_bytes(), out.len());
        if self.kind == PixelType::UInt8 && !self.planar {
            out.copy_from_slice(pixels);
            return;
        }
        let (pixels, rest) = pixels.as_chunks::<3>();
        assert!(rest.is_empty(), "pixels have three channels");
        let done = match level {
            Level::Portable => 0,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => token.convert(self, pixels, out),
        };
        match self.number_bytes() {
            1 => self.look_up::<1>(done, pixels, out),
            2 => self.look_up::<2>(done, pixels, out),
            _ => self.look_up::<4>(done, pixels, out),
        }
    }

    /// Converts the pixels from `first` on.
    fn look_up<const BYTES: usize>(&self, first: usize, pixels: &[[u8; 3]], out: &mut [u8]) {
        let number = |channel: usize, level: u8| {
            let number = &self.table[channel][usize::from(level)];
            std::array::from_fn::<u8, BYTES, _>(|byte| number[byte])
        };
        let out = out.as_chunks_mut::<BYTES>().0;
        if self.planar {
            for channel in 0..3 {
                let plane = &mut out[channel * pixels.len()..][..pixels.len()];
                for (pixel, to) in pixels[first..].iter().zip(&mut plane[first..]) {
                    *to = number(channel, pixel[channel]);
                }
            }
        } else {
            for (pixel, to) in pixels[first..].iter().zip(&mut out.as_chunks_mut::<3>().0[first..]) {
                *to = std::array::from_fn(|channel| number(channel, pixel[channel]));
            }
        }
    }
}

fn encoded(kind: PixelType, level: u8, number: f32) -> Number {
    let [first, second] = match kind {
        PixelType::UInt8 => [level, 0],
        PixelType::Float16 => numbers::float16(number).to_ne_bytes(),
        PixelType::BFloat16 => numbers::bfloat16(number).to_ne_bytes(),
        PixelType::Float32 => return number.to_ne_bytes(),
    };
    [first, second, 0, 0]
}

/// How this processor converts. All give the same bits.
#[derive(Clone, Copy, Debug)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Token),
}

impl Level {
    fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = avx2::Token::new() {
            return Self::Avx2(token);
        }
        Self::Portable
    }
}

#[cfg(test)]
mod tests;
