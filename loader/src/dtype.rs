//! Types of array elements, and what others call them.

use std::fmt;

use crate::numbers;

/// The type of an array's elements, in this machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE half precision.
    F16,
    /// The upper half of an F32. numpy has none.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Two F32: real, imaginary.
    C64,
    /// Two F64: real, imaginary.
    C128,
}

impl DType {
    /// Every type.
    pub const ALL: [Self; 15] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
        Self::C64,
        Self::C128,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 8,
            Self::C128 => 16,
        }
    }

    /// Bytes that change places when the byte order changes: a complex number is two of them.
    pub const fn swap_size(self) -> usize {
        match self {
            Self::C64 | Self::C128 => self.size() / 2,
            other => other.size(),
        }
    }

    /// numpy's code without byte order: kind and bytes, as in `<f4`; `None` where it has none (bfloat16).
    pub const fn numpy_code(self) -> Option<&'static str> {
        Some(match self {
            Self::Bool => "b1",
            Self::U8 => "u1",
            Self::I8 => "i1",
            Self::U16 => "u2",
            Self::I16 => "i2",
            Self::U32 => "u4",
            Self::I32 => "i4",
            Self::U64 => "u8",
            Self::I64 => "i8",
            Self::F16 => "f2",
            Self::F32 => "f4",
            Self::F64 => "f8",
            Self::C64 => "c8",
            Self::C128 => "c16",
            Self::BF16 => return None,
        })
    }

    /// The type with this numpy code.
    pub fn from_numpy_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.numpy_code() == Some(code))
    }

    /// The `typestr` of numpy's array interface, in this machine's byte order: `|u1`, `<f4`; `None` as for
    /// [`Self::numpy_code`].
    pub fn typestr(self) -> Option<String> {
        let order = match (self.size(), cfg!(target_endian = "little")) {
            (1, _) => '|',
            (_, true) => '<',
            (_, false) => '>',
        };
        self.numpy_code().map(|code| format!("{order}{code}"))
    }

    /// DLPack's (type code, bits); lanes are 1.
    pub const fn dlpack(self) -> (u8, u8) {
        let code = match self {
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => 0,
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => 1,
            Self::F16 | Self::F32 | Self::F64 => 2,
            Self::BF16 => 4,
            Self::C64 | Self::C128 => 5,
            Self::Bool => 6,
        };
        (code, (self.size() * 8) as u8)
    }

    /// numpy's name: `float32`. `bfloat16` is what everybody else calls it.
    pub const fn name(self) -> &'static str {
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
            Self::BF16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::C64 => "complex64",
            Self::C128 => "complex128",
        }
    }

    /// The struct module's format character, for the buffer protocol; `None` where it has none (bfloat16, complex).
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
            Self::BF16 | Self::C64 | Self::C128 => return None,
        })
    }

    /// One element of this type with the value `value`, in native byte order: for a float the nearest that it has. `None` where the type
    /// can't hold it.
    pub fn encode(self, value: f64) -> Option<Vec<u8>> {
        macro_rules! whole {
            ($int:ty) => {
                (value.fract() == 0.0 && value >= <$int>::MIN as f64 && value <= <$int>::MAX as f64)
                    .then(|| (value as $int).to_ne_bytes().to_vec())
            };
        }
        // What is finite must not become infinite.
        let near = |bits: u16, infinite: u16| {
            (value.is_infinite() || bits & 0x7fff != infinite).then(|| bits.to_ne_bytes().to_vec())
        };
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
            Self::F16 => near(numbers::float16(value as f32), 0x7c00),
            Self::BF16 => near(numbers::bfloat16(value as f32), 0x7f80),
            Self::F32 => Some((value as f32).to_ne_bytes().to_vec()),
            Self::F64 => Some(value.to_ne_bytes().to_vec()),
            Self::C64 => Some([(value as f32).to_ne_bytes(), 0f32.to_ne_bytes()].concat()),
            Self::C128 => Some([value.to_ne_bytes(), 0f64.to_ne_bytes()].concat()),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_agree_with_sizes() {
        for dtype in DType::ALL {
            assert_eq!(usize::from(dtype.dlpack().1), dtype.size() * 8);
            let Some(code) = dtype.numpy_code() else {
                assert_eq!((dtype, dtype.typestr()), (DType::BF16, None));
                continue;
            };
            assert_eq!(DType::from_numpy_code(code), Some(dtype));
            assert_eq!(code[1..].parse::<usize>().unwrap(), dtype.size());
            assert!(dtype.typestr().unwrap().ends_with(code));
        }
        assert_eq!(DType::from_numpy_code("O"), None);
    }

    #[test]
    fn short_floats_are_the_nearest_and_finite_values_stay_finite() {
        let bits =
            |dtype: DType, value| dtype.encode(value).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        let cases =
            [(0.0, 0), (1.0, 0x3c00), (-2.0, 0xc000), (65504.0, 0x7bff), (2f64.powi(-24), 1), (0.1, 0x2e66)];
        for (value, expected) in cases {
            assert_eq!(bits(DType::F16, value), Some(expected), "{value}");
        }
        assert_eq!(bits(DType::F16, 65520.0), None);
        assert_eq!(bits(DType::F16, f64::NEG_INFINITY), Some(0xfc00));
        assert_eq!(bits(DType::BF16, 0.1), Some(0x3dcd));
        assert_eq!(bits(DType::BF16, 1e39), None);
        assert_eq!(bits(DType::BF16, f64::INFINITY), Some(0x7f80));
    }

    #[test]
    fn a_value_outside_the_type_is_refused() {
        assert_eq!(DType::U8.encode(256.0), None);
        assert_eq!(DType::U8.encode(255.0), Some(vec![255]));
        assert_eq!(DType::I64.encode(0.5), None);
    }
}
