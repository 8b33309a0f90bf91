//! WebDataset's convention: neighbours in a tar archive that share a key are a sample.
//!
//! The rules are WebDataset's own (`group_by_keys`): the key is the directory and the base name up to its first dot, the suffix is
//! what follows, compared in lower case; members without a dot, special ones (`__name__`, or below `__name__/`), directories and links
//! don't count; a suffix twice in one sample is an error; a key that comes back later in the shard is another sample, and so is the same
//! key in another shard, since a sample is told apart by its shard and number, not by its key.
//!
//! Two rules differ, and docs/shards.md says so: hidden files (`.name`, `._name`) don't count at any depth, as in DALI (WebDataset skips
//! them at the top only, and below makes samples of them); a sparse member of a sample is an error instead of being expanded.

use std::collections::{HashMap, HashSet};

use super::sample::{MemberEntry, SampleEntry, Suffix};
use super::tar::{Kind, Member};
use super::{Malformed, shown};

/// Suffixes that are kept to be shared between samples. Datasets have a handful; names with running numbers behind the first dot
/// have one each, which are not worth keeping.
const SHARED_SUFFIXES: usize = 1024;

/// Splits a member's name in key and suffix; `None` where it belongs to no sample.
pub fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let first_component = path.split(|&byte| byte == b'/').next().unwrap_or_default();
    if first_component.len() >= 4 && first_component.starts_with(b"__") && first_component.ends_with(b"__") {
        return None;
    }
    let base = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    match path[base..].iter().position(|&byte| byte == b'.') {
        None | Some(0) => None,
        Some(dot) => Some((&path[..base + dot], &path[base + dot + 1..])),
    }
}

/// Makes samples of members, in the archive's order.
#[derive(Debug, Default)]
pub struct Grouper {
    current: Option<Current>,
    suffixes: HashMap<Vec<u8>, Suffix>,
    ignored: u64,
}

#[derive(Debug)]
struct Current {
    sample: SampleEntry,
    /// What it has, once looking through the members would take long.
    has: HashSet<String>,
}

/// Members of a sample among which a suffix is looked for one by one.
const FEW: usize = 16;

impl Grouper {
    /// For one shard: samples never reach from one shard into the next.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a member; gives the sample that it ends, if any.
    ///
    /// Fails on a second member of the same suffix, and on a sparse file.
    pub fn push(&mut self, member: &Member) -> Result<Option<SampleEntry>, Malformed> {
        let Some((key, suffix)) = split_name(&member.path).filter(|_| is_file(member.kind)) else {
            self.ignored += 1;
            return Ok(None);
        };
        if member.kind == Kind::Sparse {
            let what = format!(
                "member {} is a GNU sparse file, which can't be read in place; write the archive without --sparse",
                shown(&member.path)
            );
            return Err(Malformed::new(member.header_offset, what));
        }
        let same = self.current.as_ref().is_some_and(|current| current.sample.key_bytes() == key);
        let ended = if same { None } else { self.finish() };
        let suffix = self.suffix(suffix);
        let current = self.current.get_or_insert_with(|| Current {
            sample: SampleEntry::new(key, Vec::new()),
            has: HashSet::new(),
        });
        if !current.admit(&suffix) {
            let what = format!(
                "member {} is the second {:?} of sample {}; the key ends at the first dot of the base name: give every sample its own",
                shown(&member.path),
                suffix.as_str(),
                shown(key)
            );
            return Err(Malformed::new(member.header_offset, what));
        }
        let entry = MemberEntry { suffix, data_offset: member.data_offset, size: member.size };
        current.sample.members.push(entry);
        Ok(ended)
    }

    /// The last sample, at the end of the shard.
    pub fn finish(&mut self) -> Option<SampleEntry> {
        self.current.take().map(|current| current.sample)
    }

    /// Members that belong to no sample: directories, links, special and hidden ones, names without a dot.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn suffix(&mut self, raw: &[u8]) -> Suffix {
        if let Some(suffix) = self.suffixes.get(raw) {
            return suffix.clone();
        }
        let suffix = Suffix::new(raw);
        if self.suffixes.len() < SHARED_SUFFIXES {
            self.suffixes.insert(raw.to_vec(), suffix.clone());
        }
        suffix
    }
}

impl Current {
    /// False where the sample has this suffix already.
    fn admit(&mut self, suffix: &Suffix) -> bool {
        let members = &self.sample.members;
        if members.len() < FEW {
            return members.iter().all(|member| member.suffix.as_str() != suffix.as_str());
        }
        if self.has.is_empty() {
            self.has = members.iter().map(|member| member.suffix.as_str().to_owned()).collect();
        }
        self.has.insert(suffix.as_str().to_owned())
    }
}

fn is_file(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Sparse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(names: &[&str]) -> Result<Vec<(String, Vec<String>)>, Malformed> {
        let mut grouper = Grouper::new();
        let mut samples = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let offset = index as u64 * 1024;
            let path = name.as_bytes().to_vec();
            let kind = if name.ends_with('/') { Kind::Directory } else { Kind::File };
            let member = Member { header_offset: offset, data_offset: offset + 512, size: 1, path, kind };
            samples.extend(grouper.push(&member)?);
        }
        samples.extend(grouper.finish());
        let suffixes =
            |sample: &SampleEntry| sample.members.iter().map(|m| m.suffix.as_str().to_owned()).collect();
        Ok(samples.iter().map(|sample| (sample.key().into_owned(), suffixes(sample))).collect())
    }

    fn sample(key: &str, suffixes: &[&str]) -> (String, Vec<String>) {
        (key.into(), suffixes.iter().map(|&suffix| suffix.into()).collect())
    }

    #[test]
    fn the_key_ends_at_the_first_dot_of_the_base_name() {
        let got =
            group(&["d.1/", "d.1/a.JPG", "d.1/a.seg.png", "d.1/README", "d.1/b.jpg", "d.1/a.jpg"]).unwrap();
        let expected =
            [sample("d.1/a", &["jpg", "seg.png"]), sample("d.1/b", &["jpg"]), sample("d.1/a", &["jpg"])];
        assert_eq!(got, expected);
    }

    #[test]
    fn special_and_hidden_members_belong_to_no_sample() {
        let got = group(&[
            "__meta__/a.json",
            "__x.y__",
            "a.jpg",
            "._a.jpg",
            "d/.a.jpg",
            "a.cls",
            "d/__b__.txt",
            "__c.txt",
        ]);
        let expected = [sample("a", &["jpg", "cls"]), sample("d/__b__", &["txt"]), sample("__c", &["txt"])];
        assert_eq!(got.unwrap(), expected);
    }

    #[test]
    fn a_suffix_twice_in_a_sample_names_the_member_and_its_offset() {
        let error = group(&["a.jpg", "a.cls", "a.JPG"]).unwrap_err();
        assert_eq!(error.offset, 2048);
        assert!(error.what.contains("\"a.JPG\"") && error.what.contains("\"jpg\""), "{error}");
        let many: Vec<String> = (0..100).map(|n| format!("img.{n}.jpg")).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(group(&many).unwrap()[0].1.len(), 100);
        many.push("img.3.JPG");
        assert!(group(&many).is_err());
    }

    #[test]
    fn names_that_would_escape_are_labels() {
        let got = group(&["../../etc/a.txt", "/abs/b.txt", "./c.txt", "d\0e.txt"]).unwrap();
        let keys: Vec<_> = got.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["../../etc/a", "/abs/b", "./c", "d\0e"]);
    }
}
