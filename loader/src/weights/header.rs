//! A safetensors file's header: where each tensor lies, and proof that they lie one behind the other from the header's end to the file's.
//!
//! The file: eight bytes, little-endian, the header's length; the header, a JSON object of tensors by name, with strings by name as
//! `__metadata__`; the tensors' bytes, in C order, little-endian. (<https://github.com/huggingface/safetensors#format>)
//!
//! What safetensors refuses is refused here, by the same class of error, and what it lets through although it can't be meant: names that stand
//! twice.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::Dtype;

/// Bytes of the length before the header.
pub const LENGTH_BYTES: u64 = 8;
/// A header's length at most, as safetensors has it.
pub const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Why a header is refused. Texts begin as safetensors' own errors do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// A file of fewer bytes than the header's length takes.
    #[error(
        "header too small: the file has {bytes} bytes, and a safetensors file begins with 8 for the header's length"
    )]
    TooSmall {
        /// Of the file.
        bytes: u64,
    },
    /// A longer header than any reader takes.
    #[error(
        "header too large: its length is said to be {bytes} bytes at byte 0, and {MOST_HEADER_BYTES} is the most; is this a safetensors file?"
    )]
    TooLarge {
        /// As the file says.
        bytes: u64,
    },
    /// A header that is said to end behind the file.
    #[error(
        "invalid header length: it is said to be {bytes} bytes at byte 0, and the file has {file_bytes} in all; it is no safetensors file, or cut short"
    )]
    Length {
        /// As the file says.
        bytes: u64,
        /// Of the file.
        file_bytes: u64,
    },
    /// A header that isn't UTF-8.
    #[error("invalid UTF-8 in header at byte {offset}")]
    Utf8 {
        /// In the file.
        offset: u64,
    },
    /// A header that doesn't begin with `{`.
    #[error("invalid start character in header: 0x{found:02x} at byte 8, not '{{'")]
    Start {
        /// What stands there.
        found: u8,
    },
    /// A header that is no JSON of this form.
    #[error("invalid JSON in header: {what}")]
    Json {
        /// What and where, by line and column of the header.
        what: String,
    },
    /// A name that stands twice.
    #[error(
        "duplicate tensor {name:?} in header: which of them is meant nobody can tell; write the file again"
    )]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A tensor that doesn't begin where the one before it ends, or ends before it begins.
    #[error(
        "invalid offset for tensor `{name}`: bytes {start} to {end} of the data, and {expected} is where it must begin"
    )]
    Offset {
        /// Its name.
        name: String,
        /// As the header says.
        start: u64,
        /// As the header says.
        end: u64,
        /// Where the one before it ends.
        expected: u64,
    },
    /// A tensor whose shape and type take other bytes than its offsets span.
    #[error(
        "invalid shape, data type, or offset for tensor `{name}`: {dtype} {shape:?} takes {wanted} bits, and {bytes} bytes are set aside"
    )]
    Size {
        /// Its name.
        name: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
        /// Bits of its elements.
        wanted: u64,
        /// Of its offsets.
        bytes: u64,
    },
    /// A shape of more elements than can be counted.
    #[error(
        "overflow computing buffer size from shape and/or element type: tensor `{name}` is {dtype} {shape:?}"
    )]
    Overflow {
        /// Its name.
        name: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// Tensors that end before the file does, or behind it.
    #[error(
        "incomplete metadata, file not fully covered: tensors end at byte {end}, the file at {file_bytes}; it is cut short, or still being written"
    )]
    Incomplete {
        /// Of the last tensor, in the file.
        end: u64,
        /// Of the file.
        file_bytes: u64,
    },
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Sizes of its dimensions, outermost first; none for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes, in the file.
    pub range: Range<u64>,
}

/// A file's tensors, and what stands beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// In the order in which they lie in the file.
    pub tensors: Vec<Tensor>,
    /// `__metadata__`; none where there is none.
    pub metadata: Option<BTreeMap<String, String>>,
}

impl Header {
    /// Where the header lies in a file of so many bytes that begins with `first`.
    ///
    /// # Errors
    /// [`HeaderError::TooSmall`], [`HeaderError::TooLarge`], [`HeaderError::Length`].
    pub fn range(first: &[u8], file_bytes: u64) -> Result<Range<u64>, HeaderError> {
        let length = first.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
        let length = length.ok_or(HeaderError::TooSmall { bytes: file_bytes.min(first.len() as u64) })?;
        if length > MOST_HEADER_BYTES {
            return Err(HeaderError::TooLarge { bytes: length });
        }
        let end = LENGTH_BYTES + length;
        if end > file_bytes {
            return Err(HeaderError::Length { bytes: length, file_bytes });
        }
        Ok(LENGTH_BYTES..end)
    }

    /// Reads a header: the bytes of [`Self::range`] of a file of so many bytes.
    ///
    /// # Errors
    /// Any other of [`HeaderError`].
    pub fn parse(json: &[u8], file_bytes: u64) -> Result<Self, HeaderError> {
        let data = LENGTH_BYTES + json.len() as u64;
        let text = std::str::from_utf8(json)
            .map_err(|error| HeaderError::Utf8 { offset: LENGTH_BYTES + error.valid_up_to() as u64 })?;
        match json.first() {
            Some(b'{') => {}
            Some(&found) => return Err(HeaderError::Start { found }),
            None => return Err(HeaderError::Json { what: "it is empty".into() }),
        }
        let Entries { mut tensors, metadata, duplicate } =
            serde_json::from_str(text).map_err(|error| HeaderError::Json { what: error.to_string() })?;
        if let Some(name) = duplicate {
            return Err(HeaderError::Duplicate { name });
        }
        tensors.sort_by(|(a_name, a), (b_name, b)| (a.data_offsets, a_name).cmp(&(b.data_offsets, b_name)));
        let mut end = 0;
        let mut read = Vec::with_capacity(tensors.len());
        for (name, entry) in tensors {
            let tensor = entry.checked(name, end, data)?;
            end = tensor.range.end - data;
            read.push(tensor);
        }
        if data + end != file_bytes {
            return Err(HeaderError::Incomplete { end: data + end, file_bytes });
        }
        Ok(Self { tensors: read, metadata })
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }
}

impl Tensor {
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A tensor as the header has it.
#[derive(Deserialize)]
struct Entry {
    dtype: Named,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    fn checked(self, name: String, expected: u64, data: u64) -> Result<Tensor, HeaderError> {
        let Self { dtype: Named(dtype), shape, data_offsets: (start, end) } = self;
        let bits = shape.iter().try_fold(1u64, |all, &length| all.checked_mul(length));
        let range = data.checked_add(start).zip(data.checked_add(end));
        let Some(((wanted, (first, last)), bytes)) = bits
            .and_then(|elements| elements.checked_mul(dtype.bits()))
            .zip(range)
            .filter(|_| start == expected)
            .zip(end.checked_sub(start))
        else {
            if start != expected || end < start || range.is_none() {
                return Err(HeaderError::Offset { name, start, end, expected });
            }
            return Err(HeaderError::Overflow { name, dtype, shape });
        };
        if bytes.checked_mul(8) != Some(wanted) {
            return Err(HeaderError::Size { name, dtype, shape, wanted, bytes });
        }
        Ok(Tensor { name, dtype, shape, range: first..last })
    }
}

struct Named(Dtype);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        let known = || Dtype::ALL.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", ");
        Dtype::named(&name)
            .map(Named)
            .ok_or_else(|| D::Error::custom(format!("unknown dtype {name:?}, known are {}", known())))
    }
}

/// The header's object, with the names that stand twice.
struct Entries {
    tensors: Vec<(String, Entry)>,
    metadata: Option<BTreeMap<String, String>>,
    duplicate: Option<String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries { tensors: Vec::new(), metadata: None, duplicate: None };
        let mut names = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                let metadata = map.next_value::<Option<Strings>>()?;
                if let Some(name) = metadata.as_ref().and_then(|strings| strings.duplicate.clone()) {
                    entries.duplicate.get_or_insert(format!("__metadata__.{name}"));
                }
                if entries.metadata.is_some() {
                    entries.duplicate.get_or_insert(name);
                }
                entries.metadata = metadata.map(|strings| strings.all);
                continue;
            }
            if !names.insert(name.clone()) {
                entries.duplicate.get_or_insert(name.clone());
            }
            let entry = map
                .next_value::<Entry>()
                .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
            entries.tensors.push((name, entry));
        }
        Ok(entries)
    }
}

/// Strings by name.
struct Strings {
    all: BTreeMap<String, String>,
    duplicate: Option<String>,
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor;
        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut strings = Strings { all: BTreeMap::new(), duplicate: None };
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if strings.all.insert(name.clone(), value).is_some() {
                        strings.duplicate.get_or_insert(name);
                    }
                }
                Ok(strings)
            }
        }
        deserializer.deserialize_map(StringsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str, data_bytes: u64) -> Result<Header, HeaderError> {
        Header::parse(json.as_bytes(), LENGTH_BYTES + json.len() as u64 + data_bytes)
    }

    fn refused(json: &str, data_bytes: u64) -> String {
        parse(json, data_bytes).unwrap_err().to_string()
    }

    #[test]
    fn tensors_lie_in_the_order_of_their_offsets() {
        let json = r#"{"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"__metadata__":{"format":"pt"},
            "a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"none":{"dtype":"F32","shape":[4,0],"data_offsets":[20,20]},
            "tiny":{"dtype":"F4","shape":[6],"data_offsets":[20,23]}}  "#;
        let header = parse(json, 23).unwrap();
        let data = LENGTH_BYTES + json.len() as u64;
        let listed: Vec<_> =
            header.tensors.iter().map(|tensor| (&*tensor.name, tensor.range.start - data)).collect();
        assert_eq!(listed, [("a", 0), ("b", 8), ("none", 20), ("tiny", 20)]);
        assert_eq!((header.tensors[1].dtype, header.tensors[1].bytes()), (Dtype::BF16, 12));
        assert_eq!(header.data_bytes(), 23);
        assert_eq!(header.metadata.unwrap()["format"], "pt");
        assert_eq!(parse("{}", 0).unwrap().tensors, []);
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_before_anything_is_read() {
        assert_eq!(Header::range(&[0; 7], 7), Err(HeaderError::TooSmall { bytes: 7 }));
        assert_eq!(Header::range(&[0xFF; 8], 50), Err(HeaderError::TooLarge { bytes: u64::MAX }));
        assert_eq!(
            Header::range(&100u64.to_le_bytes(), 107),
            Err(HeaderError::Length { bytes: 100, file_bytes: 107 })
        );
        assert_eq!(Header::range(&100u64.to_le_bytes(), 108), Ok(8..108));
    }

    #[test]
    fn headers_that_say_what_cannot_be_are_refused_by_name() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let huge = format!("[{},{}]", u64::MAX, u64::MAX);
        for (json, bytes, said) in [
            (one("F32", "[2]", "[0,8]"), 9, "incomplete metadata"),
            (one("F32", "[2]", "[0,8]"), 7, "incomplete metadata"),
            (one("F32", "[2]", "[4,12]"), 12, "invalid offset for tensor `w`"),
            (one("F32", "[2]", "[8,0]"), 8, "invalid offset for tensor `w`"),
            (one("F32", "[3]", "[0,8]"), 8, "invalid shape, data type, or offset for tensor `w`"),
            (one("F6_E2M3", "[3]", "[0,2]"), 2, "invalid shape, data type, or offset"),
            (one("F32", &huge, "[0,8]"), 8, "overflow computing buffer size"),
            (one("F64", &format!("[{}]", u64::MAX / 8), "[0,8]"), 8, "overflow computing buffer size"),
            (one("F32", "[2]", &format!("[{0},{0}]", u64::MAX)), 8, "invalid offset"),
            (one("Q4", "[2]", "[0,1]"), 1, "unknown dtype \"Q4\""),
            (one("F32", "[-1]", "[0,4]"), 4, "tensor `w`: "),
            (one("F32", "[1.5]", "[0,4]"), 4, "invalid JSON in header"),
            ("[]".into(), 0, "invalid start character in header: 0x5b"),
            (" {}".into(), 0, "invalid start character"),
            (String::new(), 0, "it is empty"),
            ("{\"a\":".into(), 0, "invalid JSON in header"),
            (r#"{"w":{"dtype":"F32","shape":[1]}}"#.into(), 4, "missing field `data_offsets`"),
            (r#"{"__metadata__":{"a":1}}"#.into(), 0, "invalid JSON in header"),
            (r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(), 0, "duplicate tensor \"__metadata__.a\""),
            (
                r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#.into(),
                2,
                "duplicate tensor \"w\"",
            ),
            (
                r#"{"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#.into(),
                3,
                "invalid offset for tensor `w`",
            ),
            (
                r#"{"v":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#.into(),
                3,
                "invalid offset for tensor `w`",
            ),
        ] {
            let found = refused(&json, bytes);
            assert!(found.contains(said), "{json}: {found}");
        }
        assert_eq!(Header::parse(b"{\"\xFF\":1}", 20), Err(HeaderError::Utf8 { offset: 10 }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), file_bytes: u64) {
            let _ = Header::range(&bytes, file_bytes);
            let _ = Header::parse(&bytes, file_bytes);
        }

        #[test]
        fn what_is_written_is_read(
            listed in proptest::collection::vec((0..Dtype::ALL.len(), proptest::collection::vec(0u64..5, 0..4)), 0..20),
        ) {
            let (mut end, mut entries) = (0, Vec::new());
            for (at, (dtype, shape)) in listed.into_iter().enumerate() {
                let (dtype, mut shape) = (Dtype::ALL[dtype], shape);
                // Packed elements end at a byte.
                shape.push(8);
                let bytes = shape.iter().product::<u64>() * dtype.bits() / 8;
                entries.push((format!("t{at}"), dtype, shape, end..end + bytes));
                end += bytes;
            }
            let entry = |(name, dtype, shape, range): &(String, Dtype, Vec<u64>, Range<u64>)| {
                format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{},{}]}}"#, range.start, range.end)
            };
            // In any order.
            let json = format!("{{{}}}", entries.iter().rev().map(entry).collect::<Vec<_>>().join(","));
            let header = parse(&json, end).unwrap();
            prop_assert_eq!(header.data_bytes(), end);
            for (name, dtype, shape, range) in entries {
                let tensor = header.tensors.iter().find(|tensor| tensor.name == name).unwrap();
                let data = LENGTH_BYTES + json.len() as u64;
                prop_assert_eq!((tensor.dtype, &tensor.shape, tensor.range.clone()), (dtype, &shape, data + range.start..data + range.end));
            }
        }
    }
}
