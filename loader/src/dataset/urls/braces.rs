//! Brace expansion as bash and WebDataset (the `braceexpand` package) know it.
//!
//! `{000..007}` (zero padding, both directions, a step: `{0..8..2}`), `{a..e}`, `{one,two}`, all nested at will; braces that are neither a
//! range nor a list stay as they are; a backslash takes the meaning from the character behind it, and is then dropped.

use std::fmt::Write as _;

/// Nesting deeper than this is no list of shards that somebody wrote.
const DEEPEST: usize = 50;

/// Why a pattern can't be expanded; a sentence's middle.
pub(super) type Problem = String;

/// Every string that `pattern` stands for, in order; an error where they are more than `limit`.
pub(super) fn expand(pattern: &str, limit: usize) -> Result<Vec<String>, Problem> {
    Ok(parts(pattern, limit, 0)?.iter().map(|text| without_escapes(text)).collect())
}

/// Expands a whole pattern: the product of its pieces. Backslashes stay.
fn parts(pattern: &str, limit: usize, depth: usize) -> Result<Vec<String>, Problem> {
    if depth > DEEPEST {
        return Err(format!("braces are nested more than {DEEPEST} deep"));
    }
    let mut all = vec![String::new()];
    let mut rest = pattern;
    while let Some(open) = find(rest, |byte| byte == b'{' || byte == b'}') {
        let close = (rest.as_bytes()[open] == b'{').then(|| closing(&rest[open..])).flatten();
        let close = open + close.ok_or("its braces are not balanced (\\{ and \\} stand for themselves)")?;
        let inner = &rest[open + 1..close];
        append(&mut all, &[rest[..open].to_owned()], limit)?;
        append(&mut all, &expression(inner, limit, depth)?, limit)?;
        rest = &rest[close + 1..];
    }
    append(&mut all, &[rest.to_owned()], limit)?;
    Ok(all)
}

/// What stands between two braces.
fn expression(inner: &str, limit: usize, depth: usize) -> Result<Vec<String>, Problem> {
    if let Some(range) = range(inner, limit) {
        return range;
    }
    let mut items = Vec::new();
    let mut rest = inner;
    while let Some(comma) = comma(rest) {
        items.extend(parts(&rest[..comma], limit, depth + 1)?);
        rest = &rest[comma + 1..];
    }
    if rest.len() == inner.len() {
        // Neither a range nor a list: the braces are part of the name.
        return Ok(parts(inner, limit, depth + 1)?.into_iter().map(|text| format!("{{{text}}}")).collect());
    }
    items.extend(parts(rest, limit, depth + 1)?);
    if items.len() > limit { Err(too_many(limit)) } else { Ok(items) }
}

/// `1..5`, `a..e`, with a step behind or without.
fn range(inner: &str, limit: usize) -> Option<Result<Vec<String>, Problem>> {
    let mut fields = inner.split("..");
    let (first, last, step) = (fields.next()?, fields.next()?, fields.next());
    let is_number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    if fields.next().is_some() || !step.is_none_or(is_number) {
        return None;
    }
    // Its sign doesn't matter, and a step of zero is one of one.
    let step = step.map_or(Some(1), |step| step.trim_start_matches('-').parse::<u64>().ok());
    let step = step.map(|step| step.max(1));
    if is_number(first) && is_number(last) {
        let padded = [first, last].iter().any(|text| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            digits.len() > 1 && digits.starts_with('0')
        });
        let width = if padded { first.len().max(last.len()) } else { 0 };
        return Some(match (first.parse(), last.parse(), step) {
            (Ok(first), Ok(last), Some(step)) => count(first, last, step, limit)
                .map(|numbers| numbers.iter().map(|n| pad(*n, width)).collect()),
            _ => Err(format!("{{{inner}}} has a number beyond 64 bits")),
        });
    }
    let letter = |text: &str| {
        let [letter] = text.as_bytes() else { return None };
        LETTERS.iter().position(|other| other == letter).and_then(|at| i64::try_from(at).ok())
    };
    let (first, last) = (letter(first)?, letter(last)?);
    Some(count(first, last, step.unwrap_or(u64::MAX), limit).map(|numbers| {
        let at = |n: &i64| usize::try_from(*n).ok().and_then(|n| LETTERS.get(n));
        numbers.iter().filter_map(at).map(|&letter| char::from(letter).to_string()).collect()
    }))
}

/// The order of `{Z..a}`, as WebDataset has it.
const LETTERS: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn pad(number: i64, width: usize) -> String {
    let mut text = String::new();
    // Writing to a string can't fail. The sign counts for the width.
    let _ = write!(text, "{number:0width$}");
    text
}

fn count(first: i64, last: i64, step: u64, limit: usize) -> Result<Vec<i64>, Problem> {
    let items = first.abs_diff(last) / step;
    if items >= limit as u64 {
        return Err(too_many(limit));
    }
    let sign = if first <= last { 1 } else { -1 };
    let value = |n: u64| i128::from(first) + sign * i128::from(n) * i128::from(step);
    Ok((0..=items).filter_map(|n| i64::try_from(value(n)).ok()).collect())
}

fn append(all: &mut Vec<String>, items: &[String], limit: usize) -> Result<(), Problem> {
    if all.len().saturating_mul(items.len()) > limit {
        return Err(too_many(limit));
    }
    if let [only] = items {
        all.iter_mut().for_each(|text| text.push_str(only));
    } else {
        *all = all.iter().flat_map(|text| items.iter().map(move |item| format!("{text}{item}"))).collect();
    }
    Ok(())
}

fn too_many(limit: usize) -> Problem {
    format!("it stands for more than {limit} shards")
}

/// The first byte that `wanted` takes and no backslash protects.
fn find(text: &str, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let found = !escaped && wanted(byte);
        escaped = !escaped && byte == b'\\';
        found
    })
}

/// Where the brace that `text` starts with is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    at_depth(text, &mut depth, |byte, depth| byte == b'}' && depth == 0)
}

/// The first comma outside of inner braces.
fn comma(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    at_depth(text, &mut depth, |byte, depth| byte == b',' && depth == 0)
}

fn at_depth(text: &str, depth: &mut usize, wanted: impl Fn(u8, usize) -> bool) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        if !escaped {
            match byte {
                b'{' => *depth += 1,
                b'}' => *depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        let found = !escaped && wanted(byte, *depth);
        escaped = !escaped && byte == b'\\';
        found
    })
}

fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.push(characters.next().unwrap_or('\\')),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(pattern: &str) -> Vec<String> {
        expand(pattern, 1000).unwrap()
    }

    /// The examples of WebDataset's and braceexpand's documentation.
    #[test]
    fn documented_examples_expand_as_documented() {
        let cases: &[(&str, &[&str])] = &[
            ("item{1..3}", &["item1", "item2", "item3"]),
            ("{a..c}", &["a", "b", "c"]),
            ("index.html{,.backup}", &["index.html", "index.html.backup"]),
            ("python{2.{5..7},3.{2,3}}", &["python2.5", "python2.6", "python2.7", "python3.2", "python3.3"]),
            ("{07..10}", &["07", "08", "09", "10"]),
            ("{a..g..2}", &["a", "c", "e", "g"]),
            ("{4..1}", &["4", "3", "2", "1"]),
            ("{2..-1}", &["2", "1", "0", "-1"]),
            (r"{1\{2,3}", &["1{2", "3"]),
            ("{Y..b}", &["Y", "Z", "a", "b"]),
            ("{c..A..20}", &["c", "I"]),
            ("{-01..1}", &["-01", "000", "001"]),
            ("{0..10..-5}", &["0", "5", "10"]),
            ("{x}", &["{x}"]),
            ("{{1,2}}", &["{1}", "{2}"]),
            ("a{}b", &["a{}b"]),
            ("{1..2}{a,b}", &["1a", "1b", "2a", "2b"]),
            ("{1...3}", &["{1...3}"]),
            ("plain", &["plain"]),
            ("", &[""]),
        ];
        for (pattern, wanted) in cases {
            assert_eq!(expanded(pattern), *wanted, "{pattern}");
        }
        let shards = expanded("train-{000000..000007}.tar");
        assert_eq!((shards.len(), shards[7].as_str()), (8, "train-000007.tar"));
    }

    #[test]
    fn a_pattern_that_can_not_be_meant_is_refused() {
        for pattern in
            ["{1{2,3}", "a}b", "}{", "{0..999999999999}", "{0..99999999999999999999}", "{0..99}{0..99}"]
        {
            assert!(expand(pattern, 1000).is_err(), "{pattern}");
        }
        assert!(expand(&"{".repeat(100_000), 1000).is_err());
        assert!(expand(&format!("{}{}", "{a,".repeat(1000), "}".repeat(1000)), 1000).is_err());
        assert!(expand("{-9223372036854775808..9223372036854775807}", 1000).is_err());
    }
}
