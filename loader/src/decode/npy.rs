//! Arrays in numpy's .npy format, versions 1 to 3: any dtype but objects and records.
//!
//! The header says dtype, shape and order; the bytes behind it must be exactly that many. What comes out is in C order and
//! this machine's byte order.

use super::error::{DecodeError, Result};
use crate::dtype::DType;

mod header;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Dimensions that numpy itself allows.
const MAX_DIMENSIONS: usize = 64;

/// What a .npy file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Npy {
    /// Type of the elements.
    pub dtype: DType,
    /// Length of each dimension; empty for a single number.
    pub shape: Vec<usize>,
    /// Whether the first index runs fastest in the file.
    pub fortran_order: bool,
    /// Whether the file's byte order is not this machine's.
    pub swapped: bool,
    /// Where the elements begin.
    pub data_offset: usize,
    /// Bytes of all elements.
    pub data_bytes: usize,
}

/// Reads the header of `bytes` and checks it against their number.
///
/// # Errors
/// No .npy file, objects or records, a shape that the bytes do not fill exactly.
pub fn parse(bytes: &[u8]) -> Result<Npy> {
    if !bytes.starts_with(MAGIC) {
        let start = bytes[..bytes.len().min(8)].escape_ascii();
        return Err(DecodeError::at(format!("no .npy file: it starts with \"{start}\""), 0));
    }
    let short = || DecodeError::at("the .npy header is cut off", bytes.len() as u64);
    let length_bytes = match bytes.get(6).ok_or_else(short)? {
        1 => 2,
        2 | 3 => 4,
        other => return Err(DecodeError::at(format!(".npy version {other}; 1, 2 and 3 are known"), 6)),
    };
    let field = bytes.get(8..8 + length_bytes).ok_or_else(short)?;
    let length = field.iter().rev().fold(0usize, |value, &byte| value << 8 | usize::from(byte));
    let start = 8 + length_bytes;
    let text = bytes.get(start..start + length).ok_or_else(short)?;
    let described = header::parse(text, start)?;
    let count = described.shape.iter().try_fold(1usize, |count, &length| count.checked_mul(length));
    let data_bytes = count.and_then(|count| count.checked_mul(described.dtype.size()));
    let data_offset = start + length;
    let present = bytes.len() - data_offset;
    if data_bytes != Some(present) || described.shape.len() > MAX_DIMENSIONS {
        return Err(DecodeError::at(
            format!(
                "the .npy header claims {} of shape {:?}, which does not fill the {present} bytes behind it",
                described.dtype, described.shape
            ),
            data_offset as u64,
        ));
    }
    Ok(Npy {
        dtype: described.dtype,
        shape: described.shape,
        fortran_order: described.fortran_order,
        swapped: described.big_endian != cfg!(target_endian = "big"),
        data_offset,
        data_bytes: present,
    })
}

impl Npy {
    /// Writes the elements of `bytes`, from which this was parsed, into `out`: C order, native byte order.
    ///
    /// # Errors
    /// An `out` of another length than [`Self::data_bytes`].
    pub fn read(&self, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        let data = bytes.get(self.data_offset..self.data_offset + self.data_bytes);
        let Some(data) = data.filter(|data| data.len() == out.len()) else {
            return Err(DecodeError::new(format!(
                "an array of {} bytes does not fit a slot of {}",
                self.data_bytes,
                out.len()
            )));
        };
        if self.fortran_order && self.shape.len() > 1 {
            self.reorder(data, out);
        } else {
            out.copy_from_slice(data);
        }
        let part = self.dtype.swap_size();
        if self.swapped && part > 1 {
            out.chunks_exact_mut(part).for_each(<[u8]>::reverse);
        }
        Ok(())
    }

    /// From the first index running fastest to the last one.
    fn reorder(&self, data: &[u8], out: &mut [u8]) {
        let size = self.dtype.size();
        let mut steps = Vec::with_capacity(self.shape.len());
        let mut step = 1;
        for &length in &self.shape {
            steps.push(step);
            step *= length;
        }
        let mut index = vec![0; self.shape.len()];
        let mut from = 0;
        for element in out.chunks_exact_mut(size) {
            element.copy_from_slice(&data[from * size..][..size]);
            for dimension in (0..index.len()).rev() {
                index[dimension] += 1;
                from += steps[dimension];
                if index[dimension] < self.shape[dimension] {
                    break;
                }
                from -= steps[dimension] * self.shape[dimension];
                index[dimension] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[version, 0]].concat();
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> (Npy, Vec<u8>) {
        let npy = parse(bytes).unwrap();
        let mut out = vec![0; npy.data_bytes];
        npy.read(bytes, &mut out).unwrap();
        (npy, out)
    }

    #[test]
    fn versions_1_to_3_are_read() {
        for version in 1..=3 {
            let header = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }      \n";
            let (npy, data) = read(&file(version, header, &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]));
            assert_eq!((npy.dtype, npy.shape), (DType::I16, vec![2, 3]));
            assert_eq!(data, [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
        }
    }

    #[test]
    fn fortran_order_and_foreign_byte_order_are_converted() {
        let header = "{'descr': '>u2', 'fortran_order': True, 'shape': (2, 3), }\n";
        let (_, data) = read(&file(1, header, &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6]));
        let values: Vec<u16> = data.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
        assert_eq!(values, [1, 2, 3, 4, 5, 6]);
        let header = "{'descr': '>c8', 'fortran_order': False, 'shape': (), }\n";
        let (npy, data) = read(&file(1, header, &[0, 1, 2, 3, 4, 5, 6, 7]));
        assert_eq!((npy.shape.len(), data), (0, vec![3, 2, 1, 0, 7, 6, 5, 4]));
    }

    #[test]
    fn an_empty_dimension_has_no_data() {
        let (npy, data) = read(&file(1, "{'descr': '|b1', 'fortran_order': True, 'shape': (3, 0, 2)}", &[]));
        assert_eq!((npy.dtype, npy.shape, data.len()), (DType::Bool, vec![3, 0, 2], 0));
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_a_place() {
        let shape = |shape: &str, data: &[u8]| {
            parse(&file(1, &format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"), data))
        };
        assert!(shape("(4,)", &[0; 4]).is_ok());
        assert!(shape("(5,)", &[0; 4]).unwrap_err().what.contains("claims uint8 of shape [5]"));
        assert!(shape("(3,)", &[0; 4]).is_err());
        assert!(shape("(4611686018427387904, 4, 2)", &[]).is_err());
        assert!(shape("(99999999999999999999,)", &[]).is_err());
        assert!(shape("(-1,)", &[0; 4]).is_err());
        let object = file(1, "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", &[0; 8]);
        let error = parse(&object).unwrap_err();
        assert!(error.what.contains("objects"), "{error}");
        assert_eq!(parse(b"PK\x03\x04").unwrap_err().offset, Some(0));
        assert!(parse(b"\x93NUMPY").is_err());
        assert!(parse(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").is_err());
        assert!(parse(b"\x93NUMPY\x09\x00\x00\x00").unwrap_err().what.contains("version 9"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(
            header in "\\{?('descr'|'shape'|'fortran_order'|: |True|False|'<f4'|\\(|\\)|[0-9]{1,22}|, |\\[|x){0,16}\\}?",
            data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let bytes = file(1, &header, &data);
            if let Ok(npy) = parse(&bytes) {
                proptest::prop_assert_eq!(npy.data_bytes, data.len());
            }
            let _ = parse(&data);
        }
    }
}
