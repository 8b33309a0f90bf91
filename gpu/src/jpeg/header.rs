//! What the markers of a JPEG say before any of it is decoded.
//!
//! Devices' decoders are looser than training can be: they take an image that ends early and leave the rest of it grey, and colours that are no
//! YCbCr for YCbCr. What they would get wrong without a word is refused here, and goes to the CPU, which knows.

use super::Refusal;

/// How an image is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 1 (grey) or 3 (YCbCr).
    pub components: u8,
    /// Horizontal and vertical sampling factors of each component.
    pub sampling: [(u8, u8); 3],
    /// In scans that each refine the image, rather than one after the other.
    pub progressive: bool,
    /// All components in one scan.
    pub single_scan: bool,
}

// Markers, by ITU T.81, table B.1.
const SOF0: u8 = 0xC0;
const DHT: u8 = 0xC4;
const JPG: u8 = 0xC8;
const SOF9: u8 = 0xC9;
const DAC: u8 = 0xCC;
const SOF15: u8 = 0xCF;
const RST0: u8 = 0xD0;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const APP0: u8 = 0xE0;
const APP14: u8 = 0xEE;
const TEM: u8 = 0x01;

/// Reads the markers up to the first scan, and looks for the image's end.
///
/// # Errors
/// Whatever no device decodes as the CPU does: arithmetic coding, more than 8 bits, lossless, four components, RGB, an image that ends early.
pub fn read(bytes: &[u8]) -> Result<Header, Refusal> {
    if bytes.len() < 2 || bytes[0] != 0xFF || bytes[1] != SOI {
        return Err(Refusal::corrupt("it doesn't begin as one"));
    }
    let (mut at, mut frame, mut jfif, mut adobe) = (2, None, false, None);
    loop {
        let (marker, body, next) = segment(bytes, at)?;
        match marker {
            APP0 => jfif |= body.starts_with(b"JFIF\0"),
            APP14 if body.starts_with(b"Adobe") => adobe = body.get(11).copied().or(adobe),
            SOF0..=SOF15 if !matches!(marker, DHT | JPG | DAC) => {
                if frame.is_some() {
                    return Err(Refusal::corrupt("it has two frames"));
                }
                frame = Some(Frame::read(marker, body)?);
            }
            SOS => {
                let frame = frame.ok_or_else(|| Refusal::corrupt("it has a scan, but no frame"))?;
                let scanned = body.first().copied().unwrap_or(0);
                return frame.finish(jfif, adobe, scanned, &bytes[next..]);
            }
            EOI => return Err(Refusal::corrupt("it has no scan")),
            _ => {}
        }
        at = next;
    }
}

/// The segment at `at`: its marker, what is in it, and where the next one begins.
fn segment(bytes: &[u8], at: usize) -> Result<(u8, &[u8], usize), Refusal> {
    let ends = || Refusal::corrupt("it ends in its header");
    if *bytes.get(at).ok_or_else(ends)? != 0xFF {
        return Err(Refusal::corrupt(format!("there is no marker at byte {at}")));
    }
    // Any number of 0xFF may stand before a marker.
    let mut at = at + 1;
    while *bytes.get(at).ok_or_else(ends)? == 0xFF {
        at += 1;
    }
    let marker = bytes[at];
    if matches!(marker, TEM | RST0..=EOI) {
        return Ok((marker, &[], at + 1));
    }
    let length = bytes.get(at + 1..at + 3).ok_or_else(ends)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let body = bytes.get(at + 3..at + 1 + length.max(2)).ok_or_else(ends)?;
    Ok((marker, body, at + 1 + length.max(2)))
}

struct Frame {
    header: Header,
    ids: [u8; 3],
}

impl Frame {
    fn read(marker: u8, body: &[u8]) -> Result<Self, Refusal> {
        match marker {
            SOF9..=SOF15 => return Err(Refusal::unsupported("arithmetic coding")),
            0xC3 | 0xC5..=0xC7 => return Err(Refusal::unsupported("lossless or hierarchical coding")),
            _ => {}
        }
        let [precision, high, low, wide, narrow, count, parts @ ..] = body else {
            return Err(Refusal::corrupt("its frame is cut short"));
        };
        if *precision != 8 {
            return Err(Refusal::unsupported(format!("{precision} bits a sample")));
        }
        match count {
            1 | 3 => {}
            4 => return Err(Refusal::unsupported("four components (CMYK)")),
            _ => return Err(Refusal::unsupported(format!("{count} components"))),
        }
        let (height, width) = (u16::from_be_bytes([*high, *low]), u16::from_be_bytes([*wide, *narrow]));
        if width == 0 || height == 0 {
            return Err(Refusal::unsupported("a size that is said only behind the image"));
        }
        let (mut sampling, mut ids) = ([(1, 1); 3], [0; 3]);
        let (parts, _) = parts.as_chunks::<3>();
        if parts.len() < usize::from(*count) {
            return Err(Refusal::corrupt("its frame is cut short"));
        }
        for ((part, sampling), id) in parts[..usize::from(*count)].iter().zip(&mut sampling).zip(&mut ids) {
            *id = part[0];
            *sampling = (part[1] >> 4, part[1] & 15);
            if !(1..=4).contains(&sampling.0) || !(1..=4).contains(&sampling.1) {
                return Err(Refusal::corrupt("its sampling factors are none"));
            }
        }
        let header = Header {
            width: width.into(),
            height: height.into(),
            components: *count,
            sampling,
            progressive: marker == 0xC2,
            single_scan: false,
        };
        Ok(Self { header, ids })
    }

    /// With what is known at the first scan: of the colours by the rules of libjpeg, and of the end.
    fn finish(self, jfif: bool, adobe: Option<u8>, scanned: u8, rest: &[u8]) -> Result<Header, Refusal> {
        let Self { mut header, ids } = self;
        let rgb = match (jfif, adobe) {
            (true, _) => false,
            (false, Some(transform)) => transform == 0,
            (false, None) => ids == *b"RGB",
        };
        if header.components == 3 && rgb {
            return Err(Refusal::unsupported("RGB, rather than YCbCr"));
        }
        // Inside of coded data 0xFF is followed by 0 or a restart: this is the end, wherever bytes follow it.
        if !rest.windows(2).rev().any(|pair| *pair == [0xFF, EOI]) {
            return Err(Refusal::corrupt("it ends early: there is no end marker"));
        }
        header.single_scan = !header.progressive && scanned == header.components;
        Ok(header)
    }
}
