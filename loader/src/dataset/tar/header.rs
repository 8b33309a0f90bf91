//! One 512-byte tar header: the fields that a reader of samples needs.
//!
//! Reads v7, ustar, GNU and star headers. Numbers are octal text or GNU's base-256; the checksum may have been summed with
//! signed or unsigned bytes, since old writers did either.

use super::{BLOCK, Kind};

/// What a header says, extended headers not yet applied.
#[derive(Debug)]
pub(super) struct Header {
    /// Name, with the ustar prefix in front.
    pub(super) path: Vec<u8>,
    /// The size field.
    pub(super) size: u64,
    /// The type byte.
    pub(super) type_flag: u8,
    /// What the member is.
    pub(super) kind: Kind,
    /// An old GNU sparse header that goes on in another block.
    pub(super) sparse_continues: bool,
}

/// Where a GNU sparse header says that another block of its map follows.
const SPARSE_CONTINUES: usize = 482;

impl Header {
    /// Reads a block; `None` for one of zeros.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Option<Self>, String> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        check_sum(block)?;
        let type_flag = block[156];
        let name = text(&block[..100]);
        let kind = match type_flag {
            0 | b'0' | b'7' => Kind::File,
            b'S' => Kind::Sparse,
            b'5' => Kind::Directory,
            b'1' | b'2' => Kind::Link,
            b'3' | b'4' | b'6' => Kind::Special,
            other => Kind::Other(other),
        };
        let mut path = Vec::new();
        // GNU's own format keeps times, not a prefix, in these bytes.
        let prefix = text(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            path.extend_from_slice(prefix);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let size = size(&block[124..136])?;
        let sparse_continues = kind == Kind::Sparse && block[SPARSE_CONTINUES] != 0;
        Ok(Some(Self { path, size, type_flag, kind, sparse_continues }))
    }
}

/// Checks that the block before a member's data is the header of that member, as an index from elsewhere claims: a stale sidecar
/// is found before a wrong byte is used.
///
/// Fails where the block is no header of a regular file, or names another size, or (for names that every format stores whole)
/// another name.
pub fn check_member(block: &[u8; BLOCK], name: &[u8], size: u64) -> Result<(), String> {
    let header = Header::parse(block)?.ok_or("there are zeros where its header should be")?;
    if header.kind != Kind::File {
        return Err(format!("the header before it is of type {:?}, not a file's", header.type_flag as char));
    }
    // A pax record may stand in for both fields: then the header keeps 0 and a shortened name.
    if header.size != size && header.size != 0 {
        return Err(format!("its header says {} bytes, the index says {size}", header.size));
    }
    if name.is_ascii() && name.len() <= 100 && header.path != name {
        return Err(format!("its header names {}", crate::dataset::shown(&header.path)));
    }
    Ok(())
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), String> {
    let field = number(&block[148..156]).ok();
    let rest = || block[..148].iter().chain(&block[156..]);
    let unsigned = 256 + rest().map(|&byte| i128::from(byte)).sum::<i128>();
    let signed = 256 + rest().map(|&byte| i128::from(byte.cast_signed())).sum::<i128>();
    if field == Some(unsigned) || field == Some(signed) {
        return Ok(());
    }
    Err("no tar header: its checksum is wrong; the shard is corrupt here, or it is no tar archive".into())
}

fn size(field: &[u8]) -> Result<u64, String> {
    let value = number(field)?;
    if value < 0 {
        return Err(format!("the header claims {value} bytes; the shard is corrupt here"));
    }
    match i64::try_from(value) {
        Ok(value) => Ok(value.cast_unsigned()),
        Err(_) => {
            Err(format!("the header claims {value} bytes, more than any file holds; the shard is corrupt"))
        }
    }
}

/// Octal text, or GNU's base-256: at most 12 bytes, which fit i128.
fn number(field: &[u8]) -> Result<i128, String> {
    let (first, rest) = field.split_first().ok_or("an empty number field")?;
    if first & 0x80 != 0 {
        let start = if *first == 0xff { -1 } else { i128::from(first & 0x7f) };
        return Ok(rest.iter().fold(start, |value, &byte| (value << 8) | i128::from(byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i128, |value, &digit| match digit {
        b'0'..=b'7' => Ok(value * 8 + i128::from(digit - b'0')),
        _ => Err(format!(
            "{} where an octal number should be; the shard is corrupt here",
            super::shown(digits)
        )),
    })
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"00000000017\0"), Ok(15));
        assert_eq!(number(b"  17 \0      "), Ok(15));
        assert_eq!(number(&[0; 12]), Ok(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]), Ok(258));
        assert_eq!(number(&[0xff; 12]), Ok(-1));
        assert!(number(b"00000000018\0").is_err());
        assert!(number(b"-0000000001\0").is_err());
    }

    #[test]
    fn a_size_that_no_file_has_is_refused() {
        let mut field = [0u8; 12];
        field[0] = 0x80;
        field[4] = 0x80;
        assert!(size(&field).unwrap_err().contains("9223372036854775808 bytes"));
        assert!(size(&[0xff; 12]).unwrap_err().contains("-1 bytes"));
    }
}
