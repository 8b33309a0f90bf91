//! Gzip, as a stream: compressed bytes in, the tar stream out.
//!
//! Reads any number of gzip members one after the other, and zeros between and behind them, as `gzip` and Python do. Lengths and
//! checksums are verified; whatever else follows is an error. Writes only into the slice that it is given, so that how much a shard
//! may grow to is the caller's decision.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::Malformed;

/// True for bytes that begin a gzip stream: the magic and the only method there is. Names are not looked at, since `.tar` files are
/// found compressed and `.gz` files served decompressed.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b, 8])
}

/// Decompresses piece by piece.
#[derive(Debug)]
pub struct GzipDecoder {
    state: State,
    inflate: Decompress,
    crc: Crc,
    /// Bytes of this member's data, modulo 2³², as its trailer counts them.
    size: u32,
    position: u64,
    written: u64,
}

#[derive(Clone, Debug)]
enum State {
    /// Before a member: zeros, or the first byte of a header.
    Between,
    /// The header's ten fixed bytes.
    Fixed {
        bytes: [u8; 10],
        have: usize,
    },
    /// The length of the extra field; `flags` are the optional parts that are still to come.
    ExtraLength {
        flags: u8,
        low: Option<u8>,
    },
    /// Bytes to pass over.
    Pass {
        flags: u8,
        left: u16,
    },
    /// A name or comment, up to its NUL.
    Text {
        flags: u8,
    },
    Deflate,
    Trailer {
        bytes: [u8; 8],
        have: usize,
    },
    Failed(Malformed),
}

const HAS_HEADER_CRC: u8 = 2;
const HAS_EXTRA: u8 = 4;
const HAS_NAME: u8 = 8;
const HAS_COMMENT: u8 = 16;

impl Default for GzipDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl GzipDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self {
            state: State::Between,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            size: 0,
            position: 0,
            written: 0,
        }
    }

    /// Compressed bytes taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Decompressed bytes given so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes bytes off the front of `input` and writes what they decompress to; gives the number of bytes written. Where `output`
    /// came back full there may be more: call again, even with no input.
    pub fn decode(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, Malformed> {
        let mut written = 0;
        loop {
            let before = (input.len(), written);
            let result = match &self.state {
                State::Failed(error) => return Err(error.clone()),
                State::Deflate => self.deflate(input, &mut output[written..]).map(|more| written += more),
                _ => match take_byte(input) {
                    Some(byte) => {
                        self.position += 1;
                        self.frame(byte)
                    }
                    None => return Ok(written),
                },
            };
            if let Err(error) = result {
                self.state = State::Failed(error.clone());
                return Err(error);
            }
            if before == (input.len(), written) {
                return Ok(written);
            }
        }
    }

    /// Says that there are no more bytes; fails where the stream ends in the middle.
    pub fn finish(&self) -> Result<(), Malformed> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            State::Between if self.position > 0 => Ok(()),
            _ => Err(Malformed::new(
                self.position,
                format!(
                    "the gzip stream ends early, after {} decompressed bytes: the shard is truncated, fetch or write it again",
                    self.written
                ),
            )),
        }
    }

    fn deflate(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, Malformed> {
        let (total_in, total_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, output, FlushDecompress::None);
        let taken = usize::try_from(self.inflate.total_in() - total_in).unwrap_or(usize::MAX);
        let given = usize::try_from(self.inflate.total_out() - total_out).unwrap_or(usize::MAX);
        self.position += taken as u64;
        let status = status.map_err(|error| {
            let why = error.message().unwrap_or("invalid data").to_owned();
            self.corrupt(&format!("corrupt compressed data ({why})"))
        })?;
        *input = &input[taken.min(input.len())..];
        self.crc.update(&output[..given]);
        // The trailer counts modulo 2³².
        self.size = self.size.wrapping_add(given as u32);
        self.written += given as u64;
        if status == Status::StreamEnd {
            self.state = State::Trailer { bytes: [0; 8], have: 0 };
        }
        Ok(given)
    }

    /// One byte of a header or trailer.
    fn frame(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match self.state.clone() {
            State::Between if byte == 0 && self.position > 1 => State::Between,
            State::Between => return self.fixed([0; 10], 0, byte),
            State::Fixed { bytes, have } => return self.fixed(bytes, have, byte),
            State::ExtraLength { flags, low: None } => State::ExtraLength { flags, low: Some(byte) },
            State::ExtraLength { flags, low: Some(low) } => {
                self.pass(flags, u16::from_le_bytes([low, byte]));
                return Ok(());
            }
            State::Pass { flags, left } => {
                self.pass(flags, left - 1);
                return Ok(());
            }
            State::Text { flags } if byte == 0 => {
                self.optional(flags);
                return Ok(());
            }
            State::Trailer { mut bytes, have } => {
                bytes[have] = byte;
                if have + 1 == bytes.len() {
                    self.check(bytes)?;
                    State::Between
                } else {
                    State::Trailer { bytes, have: have + 1 }
                }
            }
            same => same,
        };
        Ok(())
    }

    fn fixed(&mut self, mut bytes: [u8; 10], have: usize, byte: u8) -> Result<(), Malformed> {
        bytes[have] = byte;
        let have = have + 1;
        let magic = [0x1f, 0x8b, 8];
        if bytes[..have.min(3)] != magic[..have.min(3)] {
            return Err(self.corrupt("bytes that are no gzip header"));
        }
        if have < bytes.len() {
            self.state = State::Fixed { bytes, have };
            return Ok(());
        }
        if bytes[3] & 0xe0 != 0 {
            return Err(self.corrupt("a gzip header with reserved flags"));
        }
        self.inflate.reset(false);
        self.crc.reset();
        self.size = 0;
        self.optional(bytes[3]);
        Ok(())
    }

    /// Goes on to the next optional part of the header.
    fn optional(&mut self, flags: u8) {
        self.state = if flags & HAS_EXTRA != 0 {
            State::ExtraLength { flags: flags & !HAS_EXTRA, low: None }
        } else if flags & HAS_NAME != 0 {
            State::Text { flags: flags & !HAS_NAME }
        } else if flags & HAS_COMMENT != 0 {
            State::Text { flags: flags & !HAS_COMMENT }
        } else if flags & HAS_HEADER_CRC != 0 {
            State::Pass { flags: flags & !HAS_HEADER_CRC, left: 2 }
        } else {
            State::Deflate
        };
    }

    fn pass(&mut self, flags: u8, left: u16) {
        match left {
            0 => self.optional(flags),
            left => self.state = State::Pass { flags, left },
        }
    }

    fn check(&self, trailer: [u8; 8]) -> Result<(), Malformed> {
        let [a, b, c, d, size @ ..] = trailer;
        if u32::from_le_bytes([a, b, c, d]) != self.crc.sum() {
            return Err(self.corrupt("the checksum of the decompressed data is wrong"));
        }
        if u32::from_le_bytes(size) != self.size {
            return Err(self.corrupt("the length of the decompressed data is wrong"));
        }
        Ok(())
    }

    fn corrupt(&self, what: &str) -> Malformed {
        Malformed::new(
            self.position,
            format!(
                "{what}, after {} decompressed bytes: the gzip stream is corrupt, fetch or write it again",
                self.written
            ),
        )
    }
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzBuilder::new()
            .filename("a.tar")
            .comment("a comment")
            .extra([1, 2, 3])
            .write(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(compressed: &[u8], input_step: usize, output_step: usize) -> Result<Vec<u8>, Malformed> {
        let (mut decoder, mut all) = (GzipDecoder::new(), Vec::new());
        let mut output = vec![0; output_step];
        for mut chunk in compressed.chunks(input_step) {
            loop {
                let written = decoder.decode(&mut chunk, &mut output)?;
                all.extend_from_slice(&output[..written]);
                if written < output.len() {
                    break;
                }
            }
            assert!(chunk.is_empty());
        }
        decoder.finish().map(|()| all)
    }

    #[test]
    fn members_follow_each_other_and_zeros_are_padding() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let stream = [gzip(&data), gzip(b""), vec![0; 100], gzip(b"end"), vec![0; 3]].concat();
        for (input, output) in [(1, 7), (13, 1), (4096, 65_536), (usize::MAX, 100)] {
            let got = decode(&stream, input.min(stream.len()), output).unwrap();
            assert_eq!(got, [&data[..], b"end"].concat());
        }
    }

    #[test]
    fn every_truncation_is_an_error_that_names_the_offset() {
        let stream = gzip(b"some data, and some more data");
        for length in 0..stream.len() {
            let error = decode(&stream[..length], 5, 100).unwrap_err();
            assert_eq!(error.offset, length as u64, "{error}");
        }
    }

    #[test]
    fn a_changed_byte_is_never_taken_for_data() {
        let data = b"some data, and some more data".repeat(20);
        let stream = gzip(&data);
        for index in 0..stream.len() {
            let mut changed = stream.clone();
            changed[index] ^= 0x10;
            match decode(&changed, changed.len(), 50) {
                Ok(got) => assert_eq!(got, data, "byte {index}"),
                Err(error) => assert!(error.offset <= stream.len() as u64),
            }
        }
    }

    #[test]
    fn garbage_behind_the_stream_is_named() {
        let stream = [gzip(b"data"), b"xyz".to_vec()].concat();
        let error = decode(&stream, 1000, 1000).unwrap_err();
        assert!(error.what.contains("no gzip header"), "{error}");
        assert!(is_gzip(&stream) && !is_gzip(b"\x1f\x8b"));
    }
}
