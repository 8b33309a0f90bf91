//! Fields that are text: numbers, strings, JSON documents.

use super::error::{DecodeError, Result};

/// Bytes of a faulty value that an error shows.
const SHOWN: usize = 40;

/// An integer in decimal digits with an optional sign; white space around it does not matter.
///
/// # Errors
/// Anything else, and what exceeds 64 bits.
pub fn int(bytes: &[u8]) -> Result<i64> {
    number(bytes, "an integer in decimal digits, from -9223372036854775808 to 9223372036854775807")
}

/// A number as 64-bit floating point; white space around it does not matter.
///
/// # Errors
/// Text that is no number.
pub fn float(bytes: &[u8]) -> Result<f64> {
    number(bytes, "a decimal number")
}

fn number<T: std::str::FromStr>(bytes: &[u8], wanted: &str) -> Result<T> {
    let trimmed = bytes.trim_ascii();
    std::str::from_utf8(trimmed).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let dots = if trimmed.len() > SHOWN { "…" } else { "" };
        let shown = trimmed[..trimmed.len().min(SHOWN)].escape_ascii();
        let offset = bytes.len() - bytes.trim_ascii_start().len();
        DecodeError::at(format!("\"{shown}{dots}\" is not {wanted}"), offset as u64)
    })
}

/// Text in UTF-8, as it is.
///
/// # Errors
/// Bytes that are not UTF-8, with the first of them.
pub fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        DecodeError::at(format!("not UTF-8: byte 0x{:02x}", bytes[offset]), offset as u64)
    })
}

/// A JSON document: checked, and kept as its text.
///
/// # Errors
/// Bytes that are not UTF-8 or no single JSON document, with the place of the first fault.
pub fn json(bytes: &[u8]) -> Result<&str> {
    let document = text(bytes)?;
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(document) {
        let line_start: usize =
            document.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let offset = (line_start + error.column().saturating_sub(1)).min(bytes.len());
        return Err(DecodeError::at(format!("not JSON: {error}"), offset as u64));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_have_white_space_around_them() {
        assert_eq!(int(b" 42\n"), Ok(42));
        assert_eq!(int(b"-7"), Ok(-7));
        assert_eq!(int(b"9223372036854775807"), Ok(i64::MAX));
        assert_eq!(float(b"\t1.5e3 "), Ok(1500.0));
    }

    #[test]
    fn text_in_a_number_is_shown_with_its_place() {
        assert_eq!(
            int(b" abc\n").unwrap_err().to_string(),
            "\"abc\" is not an integer in decimal digits, from -9223372036854775808 to 9223372036854775807 \
             (at byte 1 of the member)"
        );
        for wrong in [&b""[..], b"1 2", b"1.5", b"9223372036854775808", b"\xff\xfe", b"0x10", b"1_000"] {
            assert!(int(wrong).is_err(), "{wrong:?}");
        }
        assert!(float(b"one").unwrap_err().what.starts_with("\"one\" is not"));
        assert!(int(&[b'x'; 100_000]).unwrap_err().what.len() < 200);
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_named() {
        assert_eq!(text("später".as_bytes()), Ok("später"));
        let error = text(b"sp\xe4ter").unwrap_err();
        assert_eq!((error.what.as_str(), error.offset), ("not UTF-8: byte 0xe4", Some(2)));
    }

    #[test]
    fn json_is_checked_whole() {
        assert_eq!(json(br#"{"a": [1, 2]}"#), Ok(r#"{"a": [1, 2]}"#));
        assert_eq!(json(b"{\"a\":\n 1,\n x}").unwrap_err().offset, Some(11));
        assert!(json(b"{} {}").is_err());
        assert!(json(b"").is_err());
        assert!(json("[".repeat(100_000).as_bytes()).is_err());
    }
}
