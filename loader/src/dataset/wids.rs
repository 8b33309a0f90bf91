//! wids: WebDataset's JSON list of shards, for the number of samples in each.
//!
//! It has no offsets: with it, an order can be planned before any shard was read, and offsets follow as shards are read. Its counts are
//! claims; whoever reads a shard compares.

use std::collections::HashMap;

use forebay_cache::Location;
use serde::Deserialize;

use super::Malformed;
use super::urls::{Pattern, Surroundings, resolve};

/// One shard of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WidsShard {
    /// The shard.
    pub location: Location,
    /// Samples that it is said to have.
    pub samples: u64,
    /// Bytes that it is said to have.
    pub bytes: Option<u64>,
}

/// A list of shards with their counts, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wids {
    /// The shards.
    pub shards: Vec<WidsShard>,
}

#[derive(Deserialize)]
struct Description {
    wids_version: u64,
    #[serde(default)]
    shardlist: Vec<Entry>,
    #[serde(default)]
    datasets: Vec<Part>,
    #[serde(alias = "base")]
    base_path: Option<String>,
}

#[derive(Deserialize)]
struct Part {
    source_url: Option<String>,
    #[serde(default)]
    shardlist: Vec<Entry>,
    #[serde(alias = "base_path")]
    base: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    url: String,
    nsamples: u64,
    filesize: Option<u64>,
}

impl Wids {
    /// Reads the list that lies at `location`; its shards' names are relative to it, or to the base path that it gives.
    ///
    /// Fails where it is no such list, is of another version, refers to other lists, or counts a shard twice with different results.
    pub fn read(json: &[u8], location: &Location) -> Result<Self, Malformed> {
        let bad = |what: String| Malformed::new(0, format!("the wids list: {what}"));
        let description: Description = serde_json::from_slice(json).map_err(|error| {
            bad(format!(
                "{error}; \"wids_version\" and a \"shardlist\" of \"url\" and \"nsamples\" were expected"
            ))
        })?;
        if description.wids_version != 1 {
            return Err(bad(format!("wids_version is {}, this program reads 1", description.wids_version)));
        }
        let base = description.base_path.as_deref();
        let mut listed: Vec<(Option<&str>, &Entry)> =
            description.shardlist.iter().map(|entry| (base, entry)).collect();
        for part in &description.datasets {
            if let Some(url) = &part.source_url {
                return Err(bad(format!("it refers to another list; give that one itself ({url:?})")));
            }
            let base = part.base.as_deref().or(base);
            listed.extend(part.shardlist.iter().map(|entry| (base, entry)));
        }
        if listed.is_empty() {
            return Err(bad("it lists no shards".into()));
        }
        let shard = |(base, entry): &(Option<&str>, &Entry)| {
            let location = place(location, *base, &entry.url).map_err(&bad)?;
            Ok(WidsShard { location, samples: entry.nsamples, bytes: entry.filesize })
        };
        let wids = Self { shards: listed.iter().map(shard).collect::<Result<_, _>>()? };
        wids.check().map_err(bad)?;
        Ok(wids)
    }

    /// Samples of every shard in the list.
    pub fn counts(&self) -> HashMap<&Location, u64> {
        self.shards.iter().map(|shard| (&shard.location, shard.samples)).collect()
    }

    fn check(&self) -> Result<(), String> {
        let mut counts = HashMap::new();
        for shard in &self.shards {
            let before = *counts.entry(&shard.location).or_insert(shard.samples);
            if before != shard.samples {
                return Err(format!(
                    "{} is said to have {before} samples, and {}",
                    shard.location, shard.samples
                ));
            }
        }
        Ok(())
    }
}

/// A name of the list as an absolute URL.
fn place(list: &Location, base: Option<&str>, url: &str) -> Result<Location, String> {
    let folder = folder_of(list.as_str());
    let folder = match base {
        None => folder,
        Some(base) => with_slash(&join(&folder, base)),
    };
    let whole = join(&folder, url);
    // Everything relative was joined: neither the working directory nor the environment is asked.
    let around = Surroundings { working_dir: "/".into(), variable: &|_| None, is_dir: &|_| false };
    let escaped: String =
        whole.chars().flat_map(|c| "{}\\".contains(c).then_some('\\').into_iter().chain([c])).collect();
    match resolve(&[escaped], &around).as_deref() {
        Ok([Pattern::Exact(location)]) => Ok(location.clone()),
        Ok(_) => Err(format!("{url:?} is not the name of one shard")),
        Err(error) => Err(error.to_string()),
    }
}

/// The folder of the list, as a source (a local one as a path).
fn folder_of(list: &str) -> String {
    let list = list.split(['?', '#']).next().unwrap_or(list);
    let folder = &list[..list.rfind('/').map_or(0, |slash| slash + 1)];
    let decoded = || percent_encoding::percent_decode_str(folder).decode_utf8_lossy().into_owned();
    match folder.strip_prefix("file://") {
        Some(_) => decoded()["file://".len()..].to_owned(),
        None if folder.starts_with("http") => folder.to_owned(),
        None => decoded(),
    }
}

fn join(folder: &str, name: &str) -> String {
    if name.contains("://") {
        return name.to_owned();
    }
    if !name.starts_with('/') {
        return format!("{folder}{name}");
    }
    match folder.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}{name}", rest.split('/').next().unwrap_or(rest)),
        None => name.to_owned(),
    }
}

fn with_slash(folder: &str) -> String {
    if folder.ends_with('/') { folder.to_owned() } else { format!("{folder}/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, at: &str) -> Result<Vec<(String, u64)>, String> {
        let wids = Wids::read(json.as_bytes(), &Location::new(at)).map_err(|error| error.to_string())?;
        Ok(wids.shards.iter().map(|shard| (shard.location.as_str().to_owned(), shard.samples)).collect())
    }

    fn list(fields: &str, urls: &[&str]) -> String {
        let entries: Vec<_> =
            urls.iter().map(|url| format!(r#"{{"url":"{url}","nsamples":3,"filesize":9}}"#)).collect();
        format!(
            r#"{{"__kind__":"wids-shard-index-v1","wids_version":1,{fields}"shardlist":[{}]}}"#,
            entries.join(",")
        )
    }

    #[test]
    fn names_are_relative_to_the_list() {
        let cases = [
            ("", "s3://b/d/i.json", "a b.tar", "s3://b/d/a%20b.tar"),
            ("", "file:///d%20e/i.json", "x/a.tar", "file:///d%20e/x/a.tar"),
            ("", "file:///d/i.json", "/e/a.tar", "file:///e/a.tar"),
            ("", "s3://b/d/i.json", "gs://c/a.tar", "gs://c/a.tar"),
            ("", "https://h/d/i.json?x=1", "a.tar", "https://h/d/a.tar"),
            (r#""base_path":"sub","#, "s3://b/d/i.json", "a.tar", "s3://b/d/sub/a.tar"),
            (r#""base":"gs://c/e/","#, "s3://b/d/i.json", "a.tar", "gs://c/e/a.tar"),
            ("", "s3://b/d/i.json", "a-{1}.tar", "s3://b/d/a-%7B1%7D.tar"),
        ];
        for (fields, at, url, wanted) in cases {
            assert_eq!(read(&list(fields, &[url]), at), Ok(vec![(wanted.to_owned(), 3)]));
        }
    }

    #[test]
    fn a_list_that_can_not_be_used_says_why() {
        let cases = [
            ("[]", "wids_version"),
            (r#"{"wids_version":2}"#, "reads 1"),
            (r#"{"wids_version":1}"#, "no shards"),
            (r#"{"wids_version":1,"shardlist":[{"url":"a.tar"}]}"#, "nsamples"),
            (r#"{"wids_version":1,"shardlist":[{"url":"a.tar","nsamples":-1}]}"#, "nsamples"),
            (r#"{"wids_version":1,"datasets":[{"source_url":"s3://x/y.json"}]}"#, "s3://x/y.json"),
            (
                r#"{"wids_version":1,"shardlist":[{"url":"a.tar","nsamples":1},{"url":"a.tar","nsamples":2}]}"#,
                "1 samples, and 2",
            ),
            (r#"{"wids_version":1,"shardlist":[{"url":"ftp://a.tar","nsamples":1}]}"#, "scheme"),
            (r#"{"wids_version":1,"shardlist":[{"url":"*.tar","nsamples":1}]}"#, "one shard"),
        ];
        for (json, wanted) in cases {
            let error = read(json, "s3://b/i.json").unwrap_err();
            assert!(error.contains(wanted), "{json}: {error}");
        }
    }
}
