//! The text of a .npy header: a Python dict of three entries, and nothing more general than that.

use super::super::error::{DecodeError, Result};
use crate::dtype::DType;

pub(super) struct Described {
    pub(super) dtype: DType,
    pub(super) big_endian: bool,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

/// Parses `text`, which begins at `start` of the file.
pub(super) fn parse(text: &[u8], start: usize) -> Result<Described> {
    let mut parser = Parser { text, at: 0, start };
    let (mut descr, mut order, mut shape) = (None, None, None);
    parser.expect(b"{")?;
    while !parser.take(b"}") {
        let key = parser.string()?;
        parser.expect(b":")?;
        match key {
            b"descr" => descr = Some(parser.descr()?),
            b"fortran_order" => order = Some(parser.boolean()?),
            b"shape" => shape = Some(parser.shape()?),
            _ => return Err(parser.error("an entry other than descr, fortran_order and shape")),
        }
        if !parser.take(b",") {
            parser.expect(b"}")?;
            break;
        }
    }
    match (descr, order, shape) {
        (Some((dtype, big_endian)), Some(fortran_order), Some(shape)) => {
            Ok(Described { dtype, big_endian, fortran_order, shape })
        }
        _ => Err(parser.error("descr, fortran_order or shape is missing")),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    start: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, what: &str) -> DecodeError {
        DecodeError::at(format!("the .npy header can't be read: {what}"), (self.start + self.at) as u64)
    }

    fn rest(&mut self) -> &'a [u8] {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_ascii_start().len();
        &self.text[self.at..]
    }

    fn take(&mut self, token: &[u8]) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &[u8]) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(self.error(&format!("{} expected", token.escape_ascii()))) }
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let rest = self.rest();
        let quote = rest.first().copied().filter(|byte| matches!(byte, b'\'' | b'"'));
        let quote = quote.ok_or_else(|| self.error("a quoted string expected"))?;
        let length = rest[1..].iter().position(|&byte| byte == quote);
        let length = length.ok_or_else(|| self.error("a string without end"))?;
        self.at += length + 2;
        Ok(&rest[1..=length])
    }

    fn boolean(&mut self) -> Result<bool> {
        if self.take(b"True") {
            Ok(true)
        } else if self.take(b"False") {
            Ok(false)
        } else {
            Err(self.error("True or False expected"))
        }
    }

    /// The dtype, and whether it is big-endian.
    fn descr(&mut self) -> Result<(DType, bool)> {
        if self.rest().starts_with(b"[") {
            return Err(self.error("records (structured dtypes) are not supported; save one array per field"));
        }
        let place = self.error("");
        let descr = String::from_utf8_lossy(self.string()?);
        let (order, code) = match descr.chars().next() {
            Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
            _ => ('=', descr.as_ref()),
        };
        let why = if code.starts_with('O') { "objects (pickles) are never loaded" } else { "not supported" };
        let dtype = DType::from_numpy_code(code).ok_or_else(|| {
            let what = format!("dtype {descr:?}: {why}; use a bool, integer, float or complex dtype");
            DecodeError { what, ..place }
        })?;
        Ok((dtype, order == '>' || (matches!(order, '=' | '|') && cfg!(target_endian = "big"))))
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        self.expect(b"(")?;
        let mut shape = Vec::new();
        while !self.take(b")") {
            let rest = self.rest();
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let length = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok());
            shape.push(length.ok_or_else(|| self.error("a length of at most 64 bits expected"))?);
            self.at += digits;
            // Python 2 wrote long integers so.
            self.take(b"L");
            if !self.take(b",") {
                self.expect(b")")?;
                break;
            }
        }
        Ok(shape)
    }
}
