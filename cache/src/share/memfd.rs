//! Bytes that travel as a file of memory: what is longer than a packet.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// The longest that is taken from another process: an index of 10 million samples fits.
const LIMIT_BYTES: u64 = 1 << 30;

const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// A file of memory that holds `bytes` and can't change any more. Blocks for the time of a copy.
pub(crate) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create("forebay", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let file = File::from(fd);
    file.write_all_at(bytes, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// What a sealed file of memory holds. InvalidData where it is not one, or is longer than is sensible.
pub(crate) fn read(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if !fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SEALS.difference(SealFlags::SEAL))) {
        return Err(wrong("the descriptor is not a sealed file of memory"));
    }
    let file = File::from(fd);
    let len = file.metadata()?.len();
    if len > LIMIT_BYTES {
        return Err(wrong("the file of memory is longer than 1 GiB"));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_reads_the_same_and_anything_else_is_refused() {
        assert_eq!(read(sealed(b"index").unwrap()).unwrap(), b"index");
        let error = read(tempfile::tempfile().unwrap().into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
