//! Headers. Decoding itself: `tests/jpeg`.

use proptest::prelude::*;

use super::Decoder;
use super::header::{Header, read};

/// A file of segments, each with its length, up to a scan of these components.
fn file(segments: &[(u8, &[u8])], scanned: u8, rest: &[u8]) -> Vec<u8> {
    let mut file = vec![0xFF, 0xD8];
    for (marker, body) in segments {
        file.extend([0xFF, *marker]);
        file.extend((body.len() as u16 + 2).to_be_bytes());
        file.extend(*body);
    }
    file.extend([0xFF, 0xDA, 0, 3, scanned]);
    file.extend(rest);
    file
}

/// Three components of 300 by 200, the first one sampled twice as often in both directions.
const FRAME: [u8; 15] = [8, 0, 200, 1, 44, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1];
const REST: [u8; 4] = [1, 2, 0xFF, 0xD9];

#[test]
fn a_decoder_may_go_to_another_thread() {
    fn goes<T: Send>() {}
    goes::<Decoder>();
}

#[test]
fn a_header_says_how_the_image_is_coded() {
    let sampling = [(2, 2), (1, 1), (1, 1)];
    let expected =
        Header { width: 300, height: 200, components: 3, sampling, progressive: false, single_scan: true };
    assert_eq!(read(&file(&[(0xC0, &FRAME)], 3, &REST)).unwrap(), expected);
    assert!(!read(&file(&[(0xC0, &FRAME)], 1, &REST)).unwrap().single_scan, "one component after the other");
    let progressive = read(&file(&[(0xC2, &FRAME)], 3, &REST)).unwrap();
    assert!(progressive.progressive && !progressive.single_scan);
    let grey = [8, 0, 200, 1, 44, 1, 1, 0x11, 0];
    assert_eq!(read(&file(&[(0xC0, &grey)], 1, &REST)).unwrap().components, 1);
}

#[test]
fn colours_are_those_that_libjpeg_sees() {
    let jfif: &[u8] = b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0";
    let adobe = |transform: u8| [b"Adobe\0\x64\0\0\0\0".as_slice(), &[transform]].concat();
    let mut letters = FRAME;
    [letters[6], letters[9], letters[12]] = *b"RGB";
    for (segments, is_rgb) in [
        (vec![(0xC0, FRAME.as_slice())], false),
        (vec![(0xC0, letters.as_slice())], true),
        (vec![(0xE0, jfif), (0xC0, letters.as_slice())], false),
        (vec![(0xEE, adobe(0).as_slice()), (0xC0, FRAME.as_slice())], true),
        (vec![(0xEE, adobe(1).as_slice()), (0xC0, letters.as_slice())], false),
        (vec![(0xE0, jfif), (0xEE, adobe(0).as_slice()), (0xC0, FRAME.as_slice())], false),
    ] {
        let refused = read(&file(&segments, 3, &REST)).err().map(|refusal| refusal.to_string());
        assert_eq!(refused.is_some_and(|refusal| refusal.contains("RGB")), is_rgb, "{segments:?}");
    }
}

#[test]
fn an_end_that_is_missing_or_only_a_thumbnails_is_noticed_and_bytes_behind_it_are_not() {
    let thumbnail: &[u8] = &[1, 0xFF, 0xD9, 2];
    let ends = |rest| read(&file(&[(0xE1, thumbnail), (0xC0, &FRAME)], 3, rest)).is_ok();
    assert!(!ends(&[1, 2, 3]) && !ends(&[]) && !ends(&[0xFF]));
    assert!(ends(&REST) && ends(&[0xFF, 0xD9, 0, 0, 0]));
}

#[test]
fn what_no_device_decodes_has_its_name() {
    let with = |at: usize, value| {
        let mut frame = FRAME;
        frame[at] = value;
        frame
    };
    for (marker, frame, words) in [
        (0xC9, FRAME, "arithmetic"),
        (0xC3, FRAME, "lossless"),
        (0xC0, with(0, 12), "12 bits"),
        (0xC0, with(5, 4), "CMYK"),
        (0xC0, with(5, 2), "2 components"),
        (0xC0, with(7, 0x05), "sampling"),
        (0xC0, with(2, 0), "only behind"),
    ] {
        let refusal = read(&file(&[(marker, &frame)], 3, &REST)).unwrap_err().to_string();
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
    assert!(read(&file(&[], 3, &REST)).unwrap_err().to_string().contains("no frame"));
    assert!(read(&file(&[(0xC0, &FRAME[..12])], 3, &REST)).is_err());
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..60usize) {
        let _ = read(&bytes);
        let mut good = file(&[(0xE0, &[7; 9]), (0xC4, &[0; 20]), (0xC0, &FRAME)], 3, &REST);
        good.truncate(good.len() - at.min(good.len()));
        let _ = read(&good);
        let start = at.min(good.len());
        good.splice(start.., bytes.drain(..));
        let _ = read(&good);
    }
}
