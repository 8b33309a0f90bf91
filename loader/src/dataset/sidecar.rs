//! Sidecars: the index of a shard as text, in the format of DALI's wds2idx (v1.2).
//!
//! ```text
//! v1.2 SAMPLES
//! jpg 512 48213 train/0001.jpg cls 49664 1 train/0001.cls
//! ...
//! ```
//!
//! The first line counts the samples; each other line is a sample: for each member its suffix, where its data starts, its size, and its
//! name, separated by white space. Reading one gives the very index that scanning the shard gives: names are grouped again by the
//! rules of [`super::webdataset`], which skip members that wds2idx lists (special ones, names without a dot).
//!
//! A sidecar says nothing about the version of its shard. What can be checked without the shard is checked here; that a member really
//! lies where it says is checked by [`super::tar::check_member`] when it is read. For gzip shards there are none: DALI reads none.

use forebay_cache::{Location, ObjectId};

use super::index::{BLOCK_SAMPLES, ShardIndex, ShardIndexBuilder};
use super::tar::{Kind, Member};
use super::webdataset::{Grouper, split_name};
use super::{Malformed, shown};

/// Where the sidecar of a shard may be, most likely first: `a.b.idx` and `a.idx` for `a.b.tar` (the latter is wds2idx's own choice,
/// but several shards can share it).
pub fn candidates(shard: &Location) -> Vec<Location> {
    let (path, query) = shard.as_str().split_at(shard.without_query().len());
    let name_at = path.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, name) = path.split_at(name_at);
    let last = name.rfind('.').filter(|&dot| dot > 0);
    let first = name.get(1..).and_then(|rest| rest.find('.')).map(|dot| dot + 1);
    let mut stems: Vec<usize> = [last, first].into_iter().flatten().collect();
    stems.dedup();
    stems.iter().map(|&stem| Location::new(format!("{folder}{}.idx{query}", &name[..stem]))).collect()
}

/// Reads the sidecar of a shard of `shard_bytes` bytes.
///
/// Fails where the text is not a sidecar, or can't be that shard's; the error names line and byte.
pub fn read(text: &[u8], object: ObjectId, shard_bytes: u64) -> Result<ShardIndex, Malformed> {
    let mut lines = Lines { rest: text, offset: 0, number: 0 };
    let first = lines.next().ok_or_else(|| Malformed::new(0, "the sidecar is empty"))?;
    let samples = first_line(&first)?;
    let (mut grouper, mut builder) = (Grouper::new(), ShardIndexBuilder::new());
    let mut seen = 0u64;
    for line in &mut lines {
        if line.is_blank() {
            continue;
        }
        seen += 1;
        line_members(&line, shard_bytes, |member| match grouper.push(&member)? {
            Some(sample) => builder.push(&sample),
            None => Ok(()),
        })?;
    }
    if seen != samples {
        let what = format!(
            "its first line promises {samples} samples, {seen} lines follow: it is truncated or was edited, write it again"
        );
        return Err(first.error(what));
    }
    if let Some(sample) = grouper.finish() {
        builder.push(&sample).map_err(|error| lines.last_error(&error.what))?;
    }
    builder.finish(object, shard_bytes)
}

/// Writes the sidecar of a shard.
///
/// Fails where the format can't hold it: without samples, and for names with white space or a suffix of no characters.
pub fn write(index: &ShardIndex) -> Result<Vec<u8>, Malformed> {
    if index.is_empty() {
        return Err(Malformed::new(0, "the shard has no samples, and a sidecar must have one"));
    }
    let mut text = format!("v1.2 {}\n", index.len()).into_bytes();
    for start in (0..index.len()).step_by(usize::try_from(BLOCK_SAMPLES).unwrap_or(1)) {
        for sample in index.samples(start..(start + BLOCK_SAMPLES).min(index.len()))? {
            for (number, member) in sample.members.iter().enumerate() {
                let name = sample.name_bytes(member);
                if member.suffix.raw().is_empty()
                    || name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0x0b)
                {
                    let what = format!(
                        "member {} can't be written in a sidecar, which separates names by white space",
                        shown(&name)
                    );
                    return Err(Malformed::new(member.data_offset, what));
                }
                text.extend_from_slice(if number == 0 { b"" } else { b" " });
                text.extend_from_slice(member.suffix.raw());
                text.extend_from_slice(format!(" {} {} ", member.data_offset, member.size).as_bytes());
                text.extend_from_slice(&name);
            }
            text.push(b'\n');
        }
    }
    Ok(text)
}

struct Line<'a> {
    bytes: &'a [u8],
    offset: u64,
    number: u64,
}

struct Lines<'a> {
    rest: &'a [u8],
    offset: u64,
    number: u64,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|&byte| byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let (bytes, rest) = self.rest.split_at(end);
        self.number += 1;
        let line = Line { bytes, offset: self.offset, number: self.number };
        (self.rest, self.offset) = (rest, self.offset + end as u64);
        Some(line)
    }
}

impl Lines<'_> {
    fn last_error(&self, what: &str) -> Malformed {
        Malformed::new(self.offset, format!("line {}: {what}", self.number))
    }
}

impl<'a> Line<'a> {
    fn words(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // With the vertical tab, which C++'s streams and Python split at too.
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        self.bytes.split(is_space).filter(|word| !word.is_empty())
    }

    fn is_blank(&self) -> bool {
        self.words().next().is_none()
    }

    fn error(&self, what: impl AsRef<str>) -> Malformed {
        Malformed::new(self.offset, format!("line {}: {}", self.number, what.as_ref()))
    }
}

fn first_line(line: &Line<'_>) -> Result<u64, Malformed> {
    let mut words = line.words();
    match words.next() {
        Some(b"v1.2") => {}
        Some(b"v1.1") => {
            return Err(line.error("a sidecar of format v1.1 has no names, so no keys; write it again with wds2idx (v1.2) or `forebay index --write-sidecars`"));
        }
        other => {
            let found = shown(other.unwrap_or_default());
            return Err(
                line.error(format!("{found} where a sidecar says v1.2; is this the output of wds2idx?"))
            );
        }
    }
    let count = words.next().and_then(number).filter(|&count| count > 0);
    count
        .filter(|_| words.next().is_none())
        .ok_or_else(|| line.error("no count of samples behind the version"))
}

fn line_members(
    line: &Line<'_>,
    shard_bytes: u64,
    mut take: impl FnMut(Member) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut words = line.words();
    while let Some(suffix) = words.next() {
        let (offset, size, name) =
            (words.next().and_then(number), words.next().and_then(number), words.next());
        let (Some(data_offset), Some(size), Some(name)) = (offset, size, name) else {
            return Err(line.error(format!(
                "after {} there should be an offset, a size and a name; names with white space can't be in a sidecar",
                shown(suffix)
            )));
        };
        let end = data_offset.checked_add(size).filter(|&end| end <= shard_bytes);
        if end.is_none() || data_offset < 512 {
            return Err(line.error(format!(
                "member {} is said to have {size} bytes at byte {data_offset}, but the shard has {shard_bytes}: the sidecar is another shard's, or of an older version; write it again",
                shown(name)
            )));
        }
        match split_name(name) {
            Some((_, found)) if found != suffix => {
                return Err(line.error(format!(
                    "{} is said to end in {}; write the sidecar again",
                    shown(name),
                    shown(suffix)
                )));
            }
            Some(_) => {
                let header_offset = data_offset - 512;
                let member =
                    Member { header_offset, data_offset, size, path: name.to_vec(), kind: Kind::File };
                take(member).map_err(|error| line.error(&error.what))?;
            }
            None => {}
        }
    }
    Ok(())
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse::<i64>().ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ObjectId {
        ObjectId::from_bytes([1; 16])
    }

    const TEXT: &str = "v1.2 2\njpg 512 1000 d/a.jpg cls 2048 1 d/a.cls\nJPG 3072 5 d/b.JPG\n";

    #[test]
    fn what_was_read_is_written_again() {
        let index = read(TEXT.as_bytes(), id(), 10_240).unwrap();
        let samples = index.samples(0..2).unwrap();
        assert_eq!((samples[0].key().as_ref(), samples[0].members.len()), ("d/a", 2));
        assert_eq!(samples[1].member(&["jpg"]).unwrap().data_offset, 3072);
        assert_eq!(String::from_utf8(write(&index).unwrap()).unwrap(), TEXT);
    }

    #[test]
    fn members_that_are_no_samples_are_left_out() {
        let text =
            "v1.2 4\njson 512 1 __meta__/a.json\nREADME 1536 1 README\njpg 2560 1 a.jpg\ncls 4608 1 a.cls\n";
        let index = read(text.as_bytes(), id(), 10_240).unwrap();
        assert_eq!((index.len(), index.members()), (1, 2));
    }

    #[test]
    fn a_broken_sidecar_names_its_line() {
        let cases = [
            ("", "empty", 0),
            ("v1.1 1\njpg 512 1\n", "v1.1", 0),
            ("index\n", "wds2idx", 0),
            ("v1.2 -1\n", "count", 0),
            ("v1.2 2\njpg 512 1 a.jpg\n", "line 1: its first line promises 2 samples, 1 lines", 0),
            ("v1.2 1\njpg 512 1\n", "line 2", 7),
            ("v1.2 1\njpg 512 1 my a.jpg\n", "line 2", 7),
            ("v1.2 1\njpg 513 1 a.jpg\n", "multiple of 512", 7),
            ("v1.2 1\njpg 512 99999 a.jpg\n", "the shard has 10240", 7),
            ("v1.2 1\njpg 512 -5 a.jpg\n", "line 2", 7),
            ("v1.2 1\npng 512 1 a.jpg\n", "line 2", 7),
            ("v1.2 1\njpg 512 600 a.jpg cls 1024 1 a.cls\n", "can't have its data at byte 1024", 7),
            ("v1.2 1\njpg 512 1 a.jpg jpg 1536 1 a.jpg\n", "second", 7),
        ];
        for (text, wanted, offset) in cases {
            let error = read(text.as_bytes(), id(), 10_240).unwrap_err();
            assert!(error.what.contains(wanted), "{text:?}: {error}");
            assert!(error.offset >= offset, "{text:?}: {error}");
        }
    }

    #[test]
    fn a_sidecar_lies_beside_its_shard() {
        let names = |url: &str| -> Vec<String> {
            candidates(&Location::new(url)).iter().map(|found| found.as_str().to_owned()).collect()
        };
        assert_eq!(names("s3://b/d.x/a-0.tar"), ["s3://b/d.x/a-0.idx"]);
        assert_eq!(names("https://b/a-0.5.tar?v=1"), ["https://b/a-0.5.idx?v=1", "https://b/a-0.idx?v=1"]);
        assert_eq!(names("s3://b/what?/a-0.tar"), ["s3://b/what?/a-0.idx"], "keys have no queries");
        assert!(names("s3://b/train").is_empty());
    }
}
