//! What a user wrote → which objects are meant.
//!
//! A source is a string: a URL or local path; `::` separates several; braces expand; `${NAME}` is the environment's `WDS_NAME`, all as in
//! WebDataset. Each result is one object, a glob or a folder. Objects keep the order in which they were given, also where one is given
//! twice (it is then read twice, as WebDataset does); what a glob or a folder stands for comes in the order of names, byte by byte.
//!
//! Nothing is looked up here: whoever lists a folder asks [`Pattern::select`] which of the names are meant.

use std::path::{Component, Path, PathBuf};

use forebay_cache::Location;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::{Error, Result};

mod braces;
mod glob;

/// More shards than any dataset has; a typing error in a range ends here instead of filling the memory.
const MOST_SHARDS: usize = 10_000_000;

/// What can't stand for itself in the path of a URL. A percent sign is among them: a key of a store is taken as it is written, as
/// the stores' own tools take it.
const KEY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What is not even allowed in a URL that is one already.
const URL: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}');

/// One thing that a source stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One object.
    Exact(Location),
    /// Every shard in a folder and below it.
    Folder(Location),
    /// The objects below a folder whose key, relative to it, fits a shell pattern.
    Glob {
        /// The folder to list; ends in a slash.
        folder: Location,
        /// The pattern.
        pattern: String,
    },
}

/// What resolving a source needs to know of the process.
pub struct Surroundings<'a> {
    /// Where relative paths start; absolute.
    pub working_dir: PathBuf,
    /// An environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether a local path is a folder.
    pub is_dir: &'a dyn Fn(&Path) -> bool,
}

impl Surroundings<'static> {
    /// Those of this process.
    pub fn of_process() -> Result<Self> {
        let working_dir = std::env::current_dir()
            .map_err(|error| Error::config(format!("the working directory can't be found: {error}")))?;
        Ok(Self { working_dir, variable: &|name| std::env::var(name).ok(), is_dir: &|path| path.is_dir() })
    }
}

/// What these sources stand for, in order.
///
/// Fails on braces that don't match, a scheme that is not read, a pattern where none can be, and where nothing was given.
pub fn resolve<S: AsRef<str>>(sources: &[S], around: &Surroundings<'_>) -> Result<Vec<Pattern>> {
    let mut patterns = Vec::new();
    for source in sources {
        for url in split(source.as_ref()) {
            if url.is_empty() {
                return Err(Error::config(format!(
                    "{:?} names an empty shard; write a URL or a path on either side of ::",
                    source.as_ref()
                )));
            }
            let url = substitute(url, around)?;
            let room = MOST_SHARDS - patterns.len().min(MOST_SHARDS);
            let expanded = braces::expand(&url, room)
                .map_err(|problem| Error::config(format!("{:?}: {problem}", without_secrets(&url))))?;
            for url in expanded {
                patterns.push(classify(&url, around)?);
            }
        }
    }
    if patterns.is_empty() {
        return Err(Error::config("no shards were given; name a URL, a path, a glob or a folder"));
    }
    Ok(patterns)
}

impl Pattern {
    /// True where a key, relative to the folder of a glob or folder and not percent-encoded, is meant. Never for a single object.
    pub fn matches(&self, key: &str) -> bool {
        match self {
            Self::Exact(_) => false,
            Self::Folder(_) => is_shard_name(key) && !key.split('/').any(|name| name.starts_with('.')),
            Self::Glob { pattern, .. } => glob::matches(pattern, key),
        }
    }

    /// The folder to list, where there is one.
    pub fn folder(&self) -> Option<&Location> {
        match self {
            Self::Exact(_) => None,
            Self::Folder(folder) | Self::Glob { folder, .. } => Some(folder),
        }
    }

    /// The objects that are meant, of the keys (relative, not percent-encoded) that a listing of [`Self::folder`] gave.
    pub fn select(&self, keys: impl IntoIterator<Item = String>) -> Vec<Location> {
        let Some(folder) = self.folder() else { return Vec::new() };
        let mut keys: Vec<String> = keys.into_iter().filter(|key| self.matches(key)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.iter().map(|key| child(folder, key)).collect()
    }
}

/// The object `key` (not percent-encoded) in a folder.
pub fn child(folder: &Location, key: &str) -> Location {
    Location::new(format!("{}{}", folder.as_str(), utf8_percent_encode(key, KEY)))
}

/// True for names that a folder's shards have.
pub fn is_shard_name(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    [".tar", ".tar.gz", ".tgz"].iter().any(|suffix| lower.ends_with(suffix))
}

/// Splits at `::`, but not inside the address of `http://[::1]:8000/`.
fn split(source: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(found) = source[at..].find("::").map(|found| at + found) {
        let before = &source[start..found];
        let in_address = before.rfind("://[").is_some_and(|open| !before[open..].contains(']'));
        if in_address {
            at = source[found..].find(']').map_or(source.len(), |close| found + close);
            continue;
        }
        parts.push(before);
        (start, at) = (found + 2, found + 2);
    }
    parts.push(&source[start..]);
    parts
}

/// Replaces `${NAME}` by the environment's WDS_NAME; ten times over, as a value may name others.
fn substitute(url: &str, around: &Surroundings<'_>) -> Result<String> {
    let mut url = url.to_owned();
    for _ in 0..10 {
        let mut out = String::new();
        let mut rest = url.as_str();
        let mut found = false;
        while let Some(open) = rest.find("${") {
            let after = &rest[open + 2..];
            let length = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
            out.push_str(&rest[..open]);
            if length == 0 || !after[length..].starts_with('}') {
                out.push_str("${");
                rest = after;
                continue;
            }
            let name = format!("WDS_{}", &after[..length]);
            let value = (around.variable)(&name).ok_or_else(|| {
                Error::config(format!(
                    "${{{}}} stands for the environment variable {name}, which is not set",
                    &after[..length]
                ))
            })?;
            out.push_str(&value);
            rest = &after[length + 1..];
            found = true;
        }
        out.push_str(rest);
        url = out;
        if !found {
            break;
        }
    }
    Ok(url)
}

fn classify(url: &str, around: &Surroundings<'_>) -> Result<Pattern> {
    match url.split_once(':') {
        Some((scheme @ ("s3" | "gs" | "az"), rest)) if rest.starts_with("//") => in_store(scheme, &rest[2..]),
        Some(("http" | "https", rest)) if rest.starts_with("//") => web(url),
        Some(("file", rest)) => local(&file_path(url, rest)?, around),
        Some((scheme, _)) if is_scheme(scheme) => Err(Error::config(format!(
            "{:?}: shards of the scheme {scheme:?} can't be read; s3://, gs://, az://, http(s)://, file:// and local paths can",
            without_secrets(url)
        ))),
        _ => local(url, around),
    }
}

fn is_scheme(text: &str) -> bool {
    text.len() > 1
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn in_store(scheme: &str, rest: &str) -> Result<Pattern> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let problem = match bucket {
        "" => Some("names no bucket"),
        _ if bucket.contains('@') => {
            Some("has credentials in it; give them in storage_options or in the environment")
        }
        _ if glob::is_pattern(bucket) => Some("has a pattern in the bucket's name, where none can be"),
        _ => None,
    };
    if let Some(problem) = problem {
        return Err(Error::config(format!("{:?} {problem}", without_secrets(&format!("{scheme}://{rest}")))));
    }
    let last = key.rsplit('/').next().unwrap_or_default();
    Ok(pattern(&format!("{scheme}://{bucket}/"), key, !last.contains('.')))
}

/// A URL on the web: nothing can be listed there, and `?` starts a query.
fn web(url: &str) -> Result<Pattern> {
    let shown = || without_secrets(url);
    let host =
        url.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    if host.is_empty() {
        return Err(Error::config(format!("{:?} names no host", shown())));
    }
    if host.contains('@') {
        return Err(Error::config(format!(
            "{:?} has credentials in it; give them in storage_options",
            shown()
        )));
    }
    let path = url.split(['?', '#']).next().unwrap_or(url);
    if path.ends_with('/') || path.ends_with(host) || path.contains('*') {
        return Err(Error::config(format!(
            "{:?}: folders and globs can't be listed over HTTP; write the shards' names, with braces: {{000000..000007}}",
            shown()
        )));
    }
    Ok(Pattern::Exact(Location::new(utf8_percent_encode(url, URL).to_string())))
}

/// The path of a `file:` URL, percent-decoded.
fn file_path(url: &str, rest: &str) -> Result<String> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => match rest.find('/').map(|slash| rest.split_at(slash)) {
            Some(("" | "localhost", path)) => path,
            _ => {
                return Err(Error::config(format!(
                    "{url:?} names a host; a local file has three slashes: file:///data/a.tar"
                )));
            }
        },
    };
    let decoded = percent_decode_str(path).decode_utf8();
    decoded.map(Into::into).map_err(|_| Error::config(format!("{url:?} is not UTF-8 when it is decoded")))
}

fn local(path: &str, around: &Surroundings<'_>) -> Result<Pattern> {
    if path.contains('\0') {
        return Err(Error::config(format!("{path:?} has a NUL in it, which no path can have")));
    }
    let whole = absolute(path, &around.working_dir);
    let folder = path.ends_with('/')
        || whole == "/"
        || (!glob::is_pattern(path) && (around.is_dir)(Path::new(&whole)));
    let slash = if path.ends_with('/') && whole != "/" { "/" } else { "" };
    Ok(pattern("file:///", &format!("{}{slash}", &whole[1..]), folder))
}

/// An absolute path without `.` and `..`, as Python's `os.path.abspath`.
fn absolute(path: &str, working_dir: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in working_dir.join(path).components() {
        match component {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    format!("/{}", parts.join("/"))
}

/// A key in a store (or a path behind the root), as object, glob or folder.
fn pattern(root: &str, key: &str, folder: bool) -> Pattern {
    if let Some(first) = key.split('/').position(glob::is_pattern) {
        let at = key.split('/').take(first).map(|part| part.len() + 1).sum();
        // A glob with a slash at its end means the shards in the folders that fit.
        let pattern = if key.ends_with('/') { format!("{}*.tar", &key[at..]) } else { key[at..].to_owned() };
        return Pattern::Glob { folder: child(&Location::new(root), &key[..at]), pattern };
    }
    if folder {
        let key = key.trim_end_matches('/');
        let slash = if key.is_empty() { "" } else { "/" };
        return Pattern::Folder(child(&Location::new(root), &format!("{key}{slash}")));
    }
    Pattern::Exact(child(&Location::new(root), key))
}

/// A URL without user information and query, for messages.
fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(path, _)| path);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host = rest.split('/').next().unwrap_or(rest);
    match host.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://…{}", &rest[user.len()..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests;
