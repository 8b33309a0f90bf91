//! Pixels as numbers: the arithmetic behind Normalize and Cast, to the bit.
//!
//! This definition is shared with the kernels in gpu/kernels, which give the same bits on a device:
//!
//! - a level x of channel c becomes `x · scale[c] + bias[c]` in float32, rounded after the product and after the sum, never fused;
//! - `scale = 1 / (255 · std)` and `bias = −mean / std` are computed in float64 and rounded once; without Normalize they are 1 and 0;
//! - float16 and bfloat16 are rounded from that float32, to the nearest, ties to even; a NaN becomes the positive quiet one.

/// What a level is multiplied by, and what is added, for each channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// First.
    pub scale: [f32; 3],
    /// Second.
    pub bias: [f32; 3],
}

impl Affine {
    /// Levels as they are.
    pub const UNIT: Self = Self { scale: [1.0; 3], bias: [0.0; 3] };

    /// (level / 255 − mean) / std.
    pub fn normalizing(mean: [f64; 3], std: [f64; 3]) -> Self {
        Self {
            scale: std.map(|std| (1.0 / (255.0 * std)) as f32),
            bias: std::array::from_fn(|channel| (-mean[channel] / std[channel]) as f32),
        }
    }

    /// Whether no level of any channel becomes infinite or no number.
    pub fn is_finite(&self) -> bool {
        (0..3).all(|channel| self.of(255, channel).is_finite() && self.of(0, channel).is_finite())
    }

    /// What a level of a channel becomes.
    pub fn of(&self, level: u8, channel: usize) -> f32 {
        f32::from(level) * self.scale[channel] + self.bias[channel]
    }
}

/// The bits of the nearest float16, ties to even; what is too large is infinite.
pub fn float16(number: f32) -> u16 {
    if number.is_nan() {
        return 0x7e00;
    }
    let bits = number.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let size = bits & 0x7fff_ffff;
    // From 65520 on, the middle between the largest and what would follow, everything rounds up.
    if size >= 65520f32.to_bits() {
        return sign | 0x7c00;
    }
    // Below 2⁻¹⁴ float16 has steps of 2⁻²⁴, and float32 has the same around 0.5: the sum rounds.
    if size < 0x3880_0000 {
        let steps = f32::from_bits(size) + 0.5;
        return sign | (steps.to_bits() - 0.5f32.to_bits()) as u16;
    }
    // The exponent is biased by 15, no longer by 127; 13 bits of the mantissa go. A carry rightly reaches the exponent.
    let odd = size >> 13 & 1;
    sign | ((size - (112 << 23) + 0xfff + odd) >> 13) as u16
}

/// The bits of the nearest bfloat16, ties to even; what is too large is infinite.
pub fn bfloat16(number: f32) -> u16 {
    if number.is_nan() {
        return 0x7fc0;
    }
    let bits = number.to_bits();
    // A carry rightly reaches the exponent, and makes the largest numbers infinite.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests;
