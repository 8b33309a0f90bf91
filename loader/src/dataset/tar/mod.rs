//! An incremental tar scanner: bytes in, members out.
//!
//! Reads v7, ustar, GNU (long names, sparse, base-256) and pax archives. Promises: the same events however the bytes are cut; bounded
//! memory (one header, and at most [`LONGEST_EXTENDED`] of an extended one); every byte sequence ends in events or in one error that
//! names an offset. Names are given as bytes, as they are stored. Like Python's tarfile, it stops at the first block of zeros, takes
//! the end of the bytes at a member's boundary for the end of the archive, and ignores what follows the end. Unlike it, a header
//! that is corrupt or cut is an error at every place: tarfile takes all but the first for the end, which loses samples silently.
//!
//! What members mean is left to [`super::webdataset`].

use super::{Malformed, shown};
use header::Header;
use pax::{Extended, without_slashes};

mod header;
mod pax;

pub use header::check_member;

/// Bytes of a tar block: headers are one, data is padded to a whole number of them.
pub const BLOCK: usize = 512;

/// The longest extended header (pax records, a GNU long name) that is read. Linux has names of up to 4,096 bytes; 1 MiB leaves room
/// for attributes and keeps memory bounded.
pub const LONGEST_EXTENDED: u64 = 1 << 20;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: its data lies at `data_offset`, whole.
    File,
    /// A GNU sparse file, in any of its formats: its data has holes, and is not the file's bytes.
    Sparse,
    /// A directory.
    Directory,
    /// A hard or symbolic link; without data.
    Link,
    /// A device or pipe; without data.
    Special,
    /// Another type: skipped by its size.
    Other(u8),
}

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where its first header starts, extended ones included.
    pub header_offset: u64,
    /// Where its data starts.
    pub data_offset: u64,
    /// Bytes of its data as stored; 0 where it can have none.
    pub size: u64,
    /// Its name: any bytes, of any length up to [`LONGEST_EXTENDED`].
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
}

/// What the scanner found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member's header; its data follows.
    Member(Member),
    /// The end of the archive.
    End {
        /// Where the members end.
        offset: u64,
    },
}

/// Reads an archive piece by piece.
///
/// ```
/// # use forebay_loader::dataset::tar::{Event, TarScanner};
/// # fn names(mut next_chunk: impl FnMut() -> Option<Vec<u8>>) -> Result<Vec<String>, forebay_loader::dataset::Malformed> {
/// let mut scanner = TarScanner::new(None);
/// let mut names = Vec::new();
/// while let Some(chunk) = next_chunk() {
///     let mut input = chunk.as_slice();
///     while let Some(event) = scanner.scan(&mut input)? {
///         if let Event::Member(member) = event {
///             names.push(String::from_utf8_lossy(&member.path).into_owned());
///         }
///     }
/// }
/// scanner.finish()?;
/// # Ok(names)
/// # }
/// ```
#[derive(Debug)]
pub struct TarScanner {
    length: Option<u64>,
    position: u64,
    skip_until: u64,
    block: [u8; BLOCK],
    filled: usize,
    state: State,
    /// Where the headers of the member that is being read began, and what the extended ones said.
    pending: Option<(u64, Extended)>,
    global: Extended,
    /// Where the last member's headers begin and its name: for an error about its data.
    last: (u64, Vec<u8>),
}

#[derive(Debug)]
enum State {
    Header,
    /// In an extended header's payload.
    Payload {
        flag: u8,
        at: u64,
        size: usize,
        bytes: Vec<u8>,
    },
    /// In the blocks that continue an old GNU sparse header.
    SparseMap(Member),
    Done,
    Failed(Malformed),
}

impl TarScanner {
    /// A scanner at the start of an archive. With its `length` in bytes, members that reach behind its end are found at their header.
    pub fn new(length: Option<u64>) -> Self {
        Self {
            length,
            position: 0,
            skip_until: 0,
            block: [0; BLOCK],
            filled: 0,
            state: State::Header,
            pending: None,
            global: Extended::default(),
            last: (0, Vec::new()),
        }
    }

    /// The offset of the next byte to feed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The offset of the next byte that matters: everything before it is a member's data or padding, and may be left out by
    /// [`Self::skip_to`].
    pub fn wanted(&self) -> u64 {
        self.skip_until.max(self.position)
    }

    /// Leaves out bytes up to `offset`, but never one that matters; gives the position that was reached, where feeding goes on.
    pub fn skip_to(&mut self, offset: u64) -> u64 {
        self.position = offset.clamp(self.position, self.wanted());
        self.position
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: it took all of them, and needs more (or has ended, and
    /// ignores them).
    pub fn scan(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Malformed> {
        match self.advance(input) {
            Ok(event) => Ok(event),
            Err(error) => {
                self.state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    /// Says that there are no more bytes. Gives the end where the archive has no end marker, `None` where it was given already.
    ///
    /// Fails where the bytes end inside a header or a member.
    pub fn finish(&mut self) -> Result<Option<Event>, Malformed> {
        let result = self.end_of_bytes();
        self.state = match &result {
            Ok(_) => State::Done,
            Err(error) => State::Failed(error.clone()),
        };
        result
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Malformed> {
        loop {
            match &self.state {
                State::Done => {
                    self.take(input, usize::MAX);
                    return Ok(None);
                }
                State::Failed(error) => return Err(error.clone()),
                _ => {}
            }
            let skip = self.skip_until.saturating_sub(self.position);
            self.take(input, usize::try_from(skip).unwrap_or(usize::MAX));
            if self.position < self.skip_until || input.is_empty() {
                return Ok(None);
            }
            if let Some(event) = self.step(input)? {
                return Ok(Some(event));
            }
        }
    }

    /// Takes a part of a header, and looks at it where it is whole.
    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Malformed> {
        if let State::Payload { size, bytes, .. } = &mut self.state {
            let take = (*size - bytes.len()).min(input.len());
            bytes.extend_from_slice(&input[..take]);
            let whole = bytes.len() == *size;
            self.take(input, take);
            return if whole { self.payload().map(|()| None) } else { Ok(None) };
        }
        let take = (BLOCK - self.filled).min(input.len());
        self.block[self.filled..self.filled + take].copy_from_slice(&input[..take]);
        self.filled += take;
        self.take(input, take);
        if self.filled < BLOCK {
            return Ok(None);
        }
        self.filled = 0;
        match std::mem::replace(&mut self.state, State::Header) {
            State::SparseMap(member) => self.sparse_map(member),
            _ => self.header(),
        }
    }

    fn take(&mut self, input: &mut &[u8], bytes: usize) {
        let bytes = bytes.min(input.len());
        *input = &input[bytes..];
        self.position += bytes as u64;
    }

    fn header(&mut self) -> Result<Option<Event>, Malformed> {
        let offset = self.position - BLOCK as u64;
        let header = Header::parse(&self.block).map_err(|what| Malformed::new(offset, what))?;
        let Some(header) = header else { return self.end(offset).map(Some) };
        if matches!(header.type_flag, b'x' | b'X' | b'g' | b'L' | b'K') {
            return self.extended(&header, offset).map(|()| None);
        }
        let (header_offset, mut extended) = self.pending.take().unwrap_or((offset, Extended::default()));
        extended.or(&self.global);
        let mut path = extended.sparse_path.or(extended.path).unwrap_or(header.path);
        let kind = match (header.type_flag, header.kind) {
            // Before POSIX, a directory was a file whose name ends in a slash: the whole name, not what a header has room for.
            (0, _) if path.ends_with(b"/") => Kind::Directory,
            (_, Kind::File) if extended.sparse => Kind::Sparse,
            (_, kind) => kind,
        };
        if kind == Kind::Directory {
            path.truncate(without_slashes(&path).len());
        }
        let has_data = matches!(kind, Kind::File | Kind::Sparse | Kind::Other(_));
        let size = if has_data { extended.size.unwrap_or(header.size) } else { 0 };
        let member = Member { header_offset, data_offset: self.position, size, path, kind };
        if header.sparse_continues {
            self.state = State::SparseMap(member);
            return Ok(None);
        }
        self.member(member).map(Some)
    }

    fn sparse_map(&mut self, member: Member) -> Result<Option<Event>, Malformed> {
        const CONTINUES: usize = 504;
        if self.block[CONTINUES] != 0 {
            self.state = State::SparseMap(member);
            return Ok(None);
        }
        self.member(Member { data_offset: self.position, ..member }).map(Some)
    }

    fn member(&mut self, member: Member) -> Result<Event, Malformed> {
        let end = self.data_end(member.header_offset, &member.path, member.size)?;
        self.last = (member.header_offset, member.path.clone());
        self.skip_until = end;
        Ok(Event::Member(member))
    }

    /// Where data of `size` bytes that starts here ends, padding included.
    fn data_end(&self, header_offset: u64, path: &[u8], size: u64) -> Result<u64, Malformed> {
        let end =
            size.checked_next_multiple_of(BLOCK as u64).and_then(|padded| self.position.checked_add(padded));
        match (end, self.length) {
            (Some(end), Some(length)) if end > length => {}
            (Some(end), _) => return Ok(end),
            (None, _) => {}
        }
        let name = shown(path);
        let of = self.length.map_or(String::new(), |length| format!("; the shard has {length}"));
        Err(Malformed::new(
            header_offset,
            format!(
                "member {name} claims {size} bytes of data from byte {}{of}: the shard is truncated or corrupt, fetch or write it again",
                self.position
            ),
        ))
    }

    fn extended(&mut self, header: &Header, offset: u64) -> Result<(), Malformed> {
        let limit = LONGEST_EXTENDED;
        if header.size > limit {
            let what = format!(
                "an extended header (type {:?}) claims {} bytes, more than the {limit} that are read; the shard is corrupt here",
                header.type_flag as char, header.size
            );
            return Err(Malformed::new(offset, what));
        }
        self.data_end(offset, &header.path, header.size)?;
        if header.type_flag != b'g' && self.pending.is_none() {
            self.pending = Some((offset, Extended::default()));
        }
        let size = usize::try_from(header.size).unwrap_or(usize::MAX);
        self.state = State::Payload { flag: header.type_flag, at: self.position, size, bytes: Vec::new() };
        if size == 0 { self.payload() } else { Ok(()) }
    }

    fn payload(&mut self) -> Result<(), Malformed> {
        let State::Payload { flag, at, bytes, .. } = std::mem::replace(&mut self.state, State::Header) else {
            return Ok(());
        };
        self.skip_until = self.position.next_multiple_of(BLOCK as u64);
        let name = || {
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            Extended { path: Some(bytes[..end].to_vec()), ..Extended::default() }
        };
        let said = match flag {
            // The target of a link: links hold no samples.
            b'K' => return Ok(()),
            b'L' => name(),
            _ => Extended::parse(&bytes, at)?,
        };
        match (flag, &mut self.pending) {
            (b'g', _) => {
                let before = std::mem::replace(&mut self.global, said);
                self.global.or(&before);
            }
            (_, Some((_, pending))) => pending.or(&said),
            (_, None) => {}
        }
        Ok(())
    }

    fn end(&mut self, offset: u64) -> Result<Event, Malformed> {
        if let Some((at, _)) = self.pending {
            return Err(Malformed::new(
                at,
                "an extended header without a member behind it: the shard is truncated or corrupt, fetch or write it again",
            ));
        }
        self.state = State::Done;
        Ok(Event::End { offset })
    }

    fn end_of_bytes(&mut self) -> Result<Option<Event>, Malformed> {
        let position = self.position;
        match &self.state {
            State::Done => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
            State::Payload { .. } | State::SparseMap(_) => {
                return Err(Malformed::new(
                    position,
                    "the shard ends inside an extended header: it is truncated, fetch or write it again",
                ));
            }
            State::Header => {}
        }
        if position == 0 {
            return Err(Malformed::new(0, "the shard has no bytes: fetch or write it again"));
        }
        if position < self.skip_until {
            let (header_offset, name) = (self.last.0, shown(&self.last.1));
            let what = format!(
                "the shard ends inside member {name}, whose header is at byte {header_offset} and whose data ends at byte {}: it is truncated, fetch or write it again",
                self.skip_until
            );
            return Err(Malformed::new(position, what));
        }
        if self.block[..self.filled].iter().any(|&byte| byte != 0) {
            return Err(Malformed::new(
                position,
                format!(
                    "the shard ends inside a header, {} bytes after its start: it is truncated, fetch or write it again",
                    self.filled
                ),
            ));
        }
        self.end(position - self.filled as u64).map(Some)
    }
}

#[cfg(test)]
mod tests;
