//! Tar headers, as GNU tar writes them: the same bytes for the same name and size, whoever packs and when.

/// Bytes of a tar block.
pub(crate) const BLOCK: u64 = 512;

/// Two blocks of zeros end an archive.
pub(crate) const END_BYTES: u64 = 2 * BLOCK;

/// The longest name that a header holds; longer ones go in front, as a member of their own.
const LONGEST_NAME: usize = 100;

/// Sizes from here on don't fit eleven octal digits (8 GiB).
const FIRST_BINARY: u64 = 1 << 33;

/// What stands before a file's data.
pub(crate) fn header(name: &[u8], size: u64) -> Vec<u8> {
    if name.len() <= LONGEST_NAME {
        return block(name, size, b'0').to_vec();
    }
    let long = name.len() as u64 + 1;
    let mut header = block(b"././@LongLink", long, b'L').to_vec();
    header.extend_from_slice(name);
    header.push(0);
    header.extend_from_slice(padding(long));
    header.extend_from_slice(&block(&name[..LONGEST_NAME], size, b'0'));
    header
}

/// Bytes of [`header`].
pub(super) fn header_bytes(name_bytes: usize) -> u64 {
    match name_bytes {
        0..=LONGEST_NAME => BLOCK,
        long => 2 * BLOCK + (long as u64 + 1).next_multiple_of(BLOCK),
    }
}

/// The zeros between data of `size` bytes and the next header.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
    &ZEROS[..(size.next_multiple_of(BLOCK) - size) as usize]
}

fn block(name: &[u8], size: u64, kind: u8) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, b"0000644\0");
    // User, group and time are zero: they would make equal data differ.
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, &number(size));
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar  \0");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn number(size: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if size < FIRST_BINARY {
        field[..11].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&size.to_be_bytes());
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::TarScanner;
    use crate::dataset::tar::Event;

    #[test]
    fn headers_are_read_back_whatever_the_name_and_size() {
        let names: [&[u8]; 4] = [b"a.jpg", &[b'x'; 100], &[b'y'; 101], &[0xff; 5000]];
        for name in names {
            for size in [0, 1, 511, FIRST_BINARY - 1, FIRST_BINARY, 1 << 40] {
                let bytes = header(name, size);
                assert_eq!(bytes.len() as u64, header_bytes(name.len()));
                let mut scanner = TarScanner::new(None);
                let event = scanner.scan(&mut &bytes[..]).unwrap();
                let Some(Event::Member(member)) = event else { panic!("{event:?}") };
                assert_eq!((&member.path[..], member.size), (name, size));
                assert_eq!(member.data_offset, bytes.len() as u64);
            }
        }
    }
}
