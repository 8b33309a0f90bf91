//! Types of tensors' elements, as safetensors names them.

use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = ($name:literal, $bits:literal),)*) => {
        /// The type of a tensor's elements. Elements of fewer than 8 bits are packed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Dtype {
            $($(#[$doc])* $variant,)*
        }

        impl Dtype {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As headers name it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Bits of an element.
            pub const fn bits(self) -> u64 {
                match self {
                    $(Self::$variant => $bits,)*
                }
            }

            /// The type of this name.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = ("BOOL", 8),
    /// 4-bit float, E2M1 (OCP MX), two a byte.
    F4 = ("F4", 4),
    /// 6-bit float, E2M3 (OCP MX), four in three bytes.
    F6E2M3 = ("F6_E2M3", 6),
    /// 6-bit float, E3M2 (OCP MX), four in three bytes.
    F6E3M2 = ("F6_E3M2", 6),
    /// Unsigned, 8 bits.
    U8 = ("U8", 8),
    /// Signed, 8 bits.
    I8 = ("I8", 8),
    /// 8-bit float, E5M2.
    F8E5M2 = ("F8_E5M2", 8),
    /// 8-bit float, E4M3 without infinities.
    F8E4M3 = ("F8_E4M3", 8),
    /// 8-bit exponent, a scale of OCP MX.
    F8E8M0 = ("F8_E8M0", 8),
    /// 8-bit float, E4M3 with a bias of 8 and without negative zero.
    F8E4M3Fnuz = ("F8_E4M3FNUZ", 8),
    /// 8-bit float, E5M2 with a bias of 16 and without negative zero.
    F8E5M2Fnuz = ("F8_E5M2FNUZ", 8),
    /// Signed, 16 bits.
    I16 = ("I16", 16),
    /// Unsigned, 16 bits.
    U16 = ("U16", 16),
    /// IEEE half precision.
    F16 = ("F16", 16),
    /// The upper half of single precision.
    BF16 = ("BF16", 16),
    /// Signed, 32 bits.
    I32 = ("I32", 32),
    /// Unsigned, 32 bits.
    U32 = ("U32", 32),
    /// IEEE single precision.
    F32 = ("F32", 32),
    /// Two of single precision.
    C64 = ("C64", 64),
    /// IEEE double precision.
    F64 = ("F64", 64),
    /// Signed, 64 bits.
    I64 = ("I64", 64),
    /// Unsigned, 64 bits.
    U64 = ("U64", 64),
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
