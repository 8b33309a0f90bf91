//! Types of array elements, and what others call them.

use std::fmt;

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
    pub const ALL: [Self; 14] = [
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
        Self::F32,
        Self::F64,
        Self::C64,
        Self::C128,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
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

    /// numpy's code without byte order: kind and bytes, as in `<f4`.
    pub const fn numpy_code(self) -> &'static str {
        match self {
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
        }
    }

    /// The type with this numpy code.
    pub fn from_numpy_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.numpy_code() == code)
    }

    /// The `typestr` of numpy's array interface, in this machine's byte order: `|u1`, `<f4`.
    pub fn typestr(self) -> String {
        let order = match (self.size(), cfg!(target_endian = "little")) {
            (1, _) => '|',
            (_, true) => '<',
            (_, false) => '>',
        };
        format!("{order}{}", self.numpy_code())
    }

    /// DLPack's (type code, bits); lanes are 1.
    pub const fn dlpack(self) -> (u8, u8) {
        let code = match self {
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => 0,
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => 1,
            Self::F16 | Self::F32 | Self::F64 => 2,
            Self::C64 | Self::C128 => 5,
            Self::Bool => 6,
        };
        (code, (self.size() * 8) as u8)
    }

    /// numpy's name: `float32`.
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
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::C64 => "complex64",
            Self::C128 => "complex128",
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
            assert_eq!(DType::from_numpy_code(dtype.numpy_code()), Some(dtype));
            assert_eq!(dtype.numpy_code()[1..].parse::<usize>().unwrap(), dtype.size());
            assert_eq!(usize::from(dtype.dlpack().1), dtype.size() * 8);
        }
        assert_eq!(DType::from_numpy_code("O"), None);
    }
}
