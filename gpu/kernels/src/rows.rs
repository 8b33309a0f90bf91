//! Batches of rows of equal size.

use crate::{Element, Kernel, Launch};

/// Arguments of `forebay_gather`: copies rows of equal size from anywhere into one array.
///
/// As many bytes at a time as source and destination are aligned to (16, 4, 1); any alignment is allowed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherArgs {
    /// Address of `rows` addresses (8 bytes each, aligned), one per row.
    pub samples: u64,
    /// Where the rows go, one after the other.
    pub out: u64,
    /// How many.
    pub rows: u64,
    /// Of each.
    pub row_bytes: u64,
}

/// Arguments of `forebay_cast`: gathers rows of numbers from anywhere into one array of another type.
///
/// # What is written
/// - Whole numbers of another width or sign: their lowest bits, as `as` does in Rust and C.
/// - float16, bfloat16: the float32 that the number rounds to, rounded again. All roundings are to the nearest, ties to even; beyond the range
///   lies infinity.
/// - Whole numbers from floating ones: without their fraction, ended at the type's ends; 0 from a NaN.
/// - bool: whether it differs from 0, which a NaN does. From bool: 0 or 1.
/// - A NaN: the positive quiet one without payload.
///
/// So the result is the same on every device and processor, to the bit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CastArgs {
    /// Address of `rows` addresses (8 bytes each, aligned), one per row; these may have any alignment.
    pub samples: u64,
    /// Where the rows go, one after the other: a multiple of an element's size.
    pub out: u64,
    /// How many.
    pub rows: u64,
    /// Of each.
    pub elements: u64,
    /// What they are.
    pub from: Element,
    /// What they become.
    pub to: Element,
}

impl Kernel for GatherArgs {
    const NAME: &'static str = "forebay_gather";

    fn launch(&self) -> Launch {
        Launch::over([self.row_bytes.div_ceil(16), self.rows, 1])
    }
}

impl Kernel for CastArgs {
    const NAME: &'static str = "forebay_cast";

    fn launch(&self) -> Launch {
        Launch::over([self.elements, self.rows, 1])
    }
}
