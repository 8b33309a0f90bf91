//! Element types of arrays, with their names in numpy and DLPack.

/// The type of an array's elements, in native byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names say it.
pub enum DType {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    C64,
    C128,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 8,
            Self::C128 => 16,
        }
    }

    /// numpy's name: "uint8".
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::C64 => "complex64",
            Self::C128 => "complex128",
        }
    }

    /// numpy's kind character: `u` of `<u1`.
    pub fn kind(self) -> char {
        match self {
            Self::Bool => 'b',
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => 'u',
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => 'i',
            Self::F16 | Self::F32 | Self::F64 => 'f',
            Self::C64 | Self::C128 => 'c',
        }
    }

    /// DLPack's (type code, bits): kDLInt 0, kDLUInt 1, kDLFloat 2, kDLComplex 5, kDLBool 6.
    pub fn dlpack(self) -> (u8, u8) {
        let code = match self.kind() {
            'i' => 0,
            'u' => 1,
            'f' => 2,
            'c' => 5,
            _ => 6,
        };
        (code, (self.size() * 8) as u8)
    }

    /// The struct module's format character, for the buffer protocol; `None` where it has none (complex).
    pub fn buffer_format(self) -> Option<&'static str> {
        Some(match self {
            Self::Bool => "?",
            Self::U8 => "B",
            Self::I8 => "b",
            Self::U16 => "H",
            Self::I16 => "h",
            Self::U32 => "I",
            Self::I32 => "i",
            Self::U64 => "Q",
            Self::I64 => "q",
            Self::F16 => "e",
            Self::F32 => "f",
            Self::F64 => "d",
            Self::C64 | Self::C128 => return None,
        })
    }

    /// One element of this type with the value `value`, in native byte order; `None` where the type can't hold it.
    pub fn encode(self, value: f64) -> Option<Vec<u8>> {
        macro_rules! whole {
            ($int:ty) => {
                (value.fract() == 0.0 && value >= <$int>::MIN as f64 && value <= <$int>::MAX as f64)
                    .then(|| (value as $int).to_ne_bytes().to_vec())
            };
        }
        match self {
            Self::Bool => (value == 0.0 || value == 1.0).then(|| vec![value as u8]),
            Self::U8 => whole!(u8),
            Self::I8 => whole!(i8),
            Self::U16 => whole!(u16),
            Self::I16 => whole!(i16),
            Self::U32 => whole!(u32),
            Self::I32 => whole!(i32),
            Self::U64 => whole!(u64),
            Self::I64 => whole!(i64),
            Self::F16 => half(value).map(|bits| bits.to_ne_bytes().to_vec()),
            Self::F32 => Some((value as f32).to_ne_bytes().to_vec()),
            Self::F64 => Some(value.to_ne_bytes().to_vec()),
            Self::C64 => Some([(value as f32).to_ne_bytes(), 0f32.to_ne_bytes()].concat()),
            Self::C128 => Some([value.to_ne_bytes(), 0f64.to_ne_bytes()].concat()),
        }
    }
}

/// IEEE 754 binary16 bits of a value that it holds exactly; `None` for any other.
fn half(value: f64) -> Option<u16> {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let size = value.abs();
    if value.is_nan() {
        return Some(0x7e00);
    }
    if size.is_infinite() {
        return Some(sign | 0x7c00);
    }
    // Every finite half is a multiple of 2^-24; normal ones have 11 significant bits.
    let exponent = if size < 2f64.powi(-14) { -14 } else { size.log2().floor() as i32 };
    let mantissa = size / 2f64.powi(exponent - 10);
    if exponent > 15 || mantissa.fract() != 0.0 || mantissa >= 2048.0 {
        return None;
    }
    let mantissa = mantissa as u16;
    let biased = if mantissa < 1024 { 0 } else { (exponent + 15) as u16 };
    Some(sign | biased << 10 | (mantissa & 0x3ff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact_or_refused() {
        let cases =
            [(0.0, 0), (1.0, 0x3c00), (-2.0, 0xc000), (65504.0, 0x7bff), (2f64.powi(-24), 1), (0.5, 0x3800)];
        for (value, bits) in cases {
            assert_eq!(half(value), Some(bits), "{value}");
        }
        assert_eq!(half(65536.0), None);
        assert_eq!(half(0.1), None);
    }

    #[test]
    fn a_value_outside_the_type_is_refused() {
        assert_eq!(DType::U8.encode(256.0), None);
        assert_eq!(DType::U8.encode(255.0), Some(vec![255]));
        assert_eq!(DType::I64.encode(0.5), None);
    }
}
