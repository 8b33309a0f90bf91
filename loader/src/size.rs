//! Sizes as people write them: "20GB", "500GiB", "1.5 TB", or bytes as a number.
//!
//! Read in one place, so that the program, Python and the operator take the same ones. A unit with an `i` counts in powers of 1,024,
//! one without in powers of 1,000; case, spaces and underscores don't matter, and the `B` may be left out.

/// Bytes of a size.
///
/// # Errors
/// A message with examples, where it is no size or 2⁶³ bytes and more.
///
/// ```
/// assert_eq!(forebay_loader::size::parse("1.5 GiB"), Ok(3 << 29));
/// ```
pub fn parse(text: &str) -> Result<u64, String> {
    bytes(text).ok_or_else(|| {
        format!(
            "{text:?} is no size: write bytes as a number, or a size such as \"20GB\" (10⁹ bytes each), \"500GiB\" (2³⁰ each) \
             or \"1.5 TB\""
        )
    })
}

/// A size for people, in powers of 1,000: "1.5 GB".
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value >= 99.5 => format!("{value:.0} {}", UNITS[unit]),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

fn bytes(text: &str) -> Option<u64> {
    let compact: String =
        text.chars().filter(|c| !c.is_whitespace() && *c != '_').collect::<String>().to_ascii_uppercase();
    let end = compact.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(compact.len());
    let (number, unit) = compact.split_at(end);
    let unit = unit_bytes(unit)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || part.contains('.') || part.len() > 18 {
        return None;
    }
    // Exact where a float would round: a limit of 9,007,199,254,740,993 bytes is one.
    let whole = whole.parse::<u64>().ok()?;
    let part = match part {
        "" => 0,
        digits => u128::from(digits.parse::<u64>().ok()?) * unit / 10u128.pow(digits.len() as u32),
    };
    let total = u128::from(whole).checked_mul(unit)?.checked_add(part)?;
    u64::try_from(total).ok().filter(|&total| total < 1 << 63)
}

fn unit_bytes(unit: &str) -> Option<u128> {
    let letters = unit.strip_suffix('B').unwrap_or(unit);
    let (letter, base) = match letters.strip_suffix('I') {
        Some(letter) => (letter, 1024u128),
        None => (letters, 1000),
    };
    // "i" means a power of 1,024 only with a letter before it and a "B" behind it.
    if base == 1024 && (letter.is_empty() || !unit.ends_with('B')) {
        return None;
    }
    let power = ["", "K", "M", "G", "T", "P"].iter().position(|known| *known == letter)?;
    Some(base.pow(power as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases: [(&str, u64); 13] = [
            ("0", 0),
            ("20_000_000", 20_000_000),
            ("9007199254740993", 9_007_199_254_740_993),
            ("512B", 512),
            ("20GB", 20_000_000_000),
            ("20g", 20_000_000_000),
            ("500GiB", 500 << 30),
            (" 1.5 TB ", 1_500_000_000_000),
            ("1.5gib", 3 << 29),
            ("0.1KiB", 102),
            ("1M", 1_000_000),
            ("8PiB", 8 << 50),
            ("3.", 3),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_gets_examples() {
        for text in ["", "GB", "-1", "1,5GB", "20XB", "1.2.3", "1iB", "20Gi", "9000PiB", "1e9", "nan", ".5"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("500GiB") && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_with_two_or_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_440, "99.4 kB"),
            (99_960, "100 kB"),
            (999_600, "1.0 MB"),
            (20_000_000_000, "20.0 GB"),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(show(bytes), wanted);
        }
    }
}
