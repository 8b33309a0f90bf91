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
}
