//! URLs and paths: made absolute, refused where they hold credentials, and taken apart for the stores.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

use crate::error::{Error, Result};
use crate::object::Location;

/// What a path needs escaped to stand in a `file://` URL and come back the same.
const IN_FILE_URL: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'%');

/// A family of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    Local,
    Http,
    S3,
    Gcs,
    Azure,
}

impl Family {
    fn of_scheme(scheme: &str) -> Option<(Self, &'static str)> {
        Some(match scheme {
            "file" => (Self::Local, "file"),
            "http" => (Self::Http, "http"),
            "https" => (Self::Http, "https"),
            "s3" | "s3a" => (Self::S3, "s3"),
            "gs" | "gcs" => (Self::Gcs, "gs"),
            "az" | "azure" => (Self::Azure, "az"),
            "abfs" => (Self::Azure, "abfs"),
            "abfss" => (Self::Azure, "abfss"),
            _ => return None,
        })
    }
}

/// Makes a URL or a path absolute: `s3://bucket/key`, `gs://`, `az://`, `abfss://`, `https://`, `file://`, or
/// a path of this machine.
///
/// Keys of S3, GCS and Azure are taken as they stand, as those clouds' own tools do; `file://` and HTTP URLs
/// are percent-encoded. Other spellings of one scheme become one (`s3a` is `s3`), so that one object has one
/// identity.
///
/// ```
/// let location = forebay_cache::origin::resolve("s3a://photos/train-000000.tar")?;
/// assert_eq!(location.as_str(), "s3://photos/train-000000.tar");
/// # Ok::<(), forebay_cache::Error>(())
/// ```
///
/// # Errors
/// [`Error::Config`] where the scheme is unknown, a bucket or host is missing, or the URL holds a user or a
/// password.
pub fn resolve(url: &str) -> Result<Location> {
    if url.is_empty() {
        return Err(Error::config("an empty string is not a URL or a path"));
    }
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return path_location(Path::new(url));
    };
    let scheme = scheme.to_ascii_lowercase();
    let Some((family, canonical)) = Family::of_scheme(&scheme) else {
        return Err(Error::config(format!(
            "{scheme}:// is not a kind of store: use s3://, gs://, az://, abfss://, https://, http://, file:// or a path"
        )));
    };
    if family == Family::Local {
        return file_url(rest);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    refuse_credentials(family, canonical, authority)?;
    if authority.is_empty() {
        let what = if family == Family::Http { "a host" } else { "a bucket or container" };
        return Err(Error::config(format!(
            "{canonical}://{}: {what} is missing",
            rest.trim_start_matches('/')
        )));
    }
    if family == Family::Http {
        let parsed =
            url::Url::parse(url).map_err(|why| Error::config(format!("{canonical}://{authority}: {why}")))?;
        return Ok(Location::new(parsed.as_str().split('#').next().unwrap_or_default()));
    }
    Ok(Location::new(format!("{canonical}://{rest}")))
}

/// Where a local path is, as a `file://` URL; relative paths start at the working folder.
///
/// # Errors
/// [`Error::Config`] for a relative path where there is no working folder.
pub fn path_location(path: &Path) -> Result<Location> {
    let absolute = std::path::absolute(path)
        .map_err(|why| Error::config(format!("{}: can't be made absolute: {why}", path.display())))?;
    let encoded = percent_encode(absolute.as_os_str().as_bytes(), IN_FILE_URL);
    Ok(Location::new(format!("file://{encoded}")))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|each| each.is_ascii_alphanumeric() || "+-.".contains(each))
}

fn file_url(rest: &str) -> Result<Location> {
    let Some(path) = rest.strip_prefix("localhost").unwrap_or(rest).strip_prefix('/') else {
        return Err(Error::config(format!(
            "file://{rest} names a host; write file:///{rest} for a path of this machine"
        )));
    };
    let mut bytes = vec![b'/'];
    bytes.extend(percent_decode_str(path));
    path_location(Path::new(OsStr::from_bytes(&bytes)))
}

/// `abfss://container@account.host/` is Azure's own spelling and no credential; elsewhere whatever stands
/// before `@` may be one, and isn't shown.
fn refuse_credentials(family: Family, scheme: &str, authority: &str) -> Result<()> {
    let Some((before, host)) = authority.rsplit_once('@') else { return Ok(()) };
    if family == Family::Azure && scheme != "az" && !before.contains([':', '@']) {
        return Ok(());
    }
    Err(Error::config(format!(
        "a URL of {scheme}://…@{host} holds a user or a password; give credentials in storage_options or in the environment instead"
    )))
}

/// A location taken apart for its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) family: Family,
    /// `s3://bucket`, `https://host:port`, `file://`: one store each.
    pub(super) store: String,
    /// Bucket, container or host with its port; empty for local files.
    pub(super) authority: String,
    /// The object's key inside the store, without the first slash.
    pub(super) key: String,
}

impl Address {
    pub(super) fn of(location: &Location) -> Result<Self> {
        let unknown = || Error::config(format!("{location} is not an absolute URL of a known kind of store"));
        let (scheme, rest) = location.as_str().split_once("://").ok_or_else(unknown)?;
        let (family, scheme) = Family::of_scheme(scheme).ok_or_else(unknown)?;
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        Ok(Self {
            family,
            store: format!("{scheme}://{authority}"),
            authority: authority.into(),
            key: key.into(),
        })
    }
}

/// The path that a `file://` location names.
///
/// # Errors
/// [`Error::Config`] for any other location.
pub fn local_path(location: &Location) -> Result<PathBuf> {
    let path = location.as_str().strip_prefix("file://").filter(|path| path.starts_with('/'));
    let path =
        path.ok_or_else(|| Error::config(format!("{location} is not the location of a local file")))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(percent_decode_str(path).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_scheme_become_one() {
        for (given, expected) in [
            ("s3://photos/a.tar", "s3://photos/a.tar"),
            ("S3A://photos/a b%20?.tar", "s3://photos/a b%20?.tar"),
            ("gcs://b/k", "gs://b/k"),
            ("azure://c/k", "az://c/k"),
            ("abfss://c@account.dfs.core.windows.net/k", "abfss://c@account.dfs.core.windows.net/k"),
            ("HTTPS://Host/a%20b.tar?sig=1#part", "https://host/a%20b.tar?sig=1"),
            ("file:///data/a%20b.tar", "file:///data/a%20b.tar"),
            ("file://localhost/data/x", "file:///data/x"),
            ("/data/a b.tar", "file:///data/a%20b.tar"),
        ] {
            assert_eq!(resolve(given).unwrap().as_str(), expected, "{given}");
        }
        let here = std::env::current_dir().unwrap().join("sub/a.tar");
        assert_eq!(resolve("sub/a.tar").unwrap(), path_location(&here).unwrap());
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        for url in
            ["s3://AKIA:topsecret@bucket/k", "https://me:topsecret@host/k", "abfss://c:topsecret@host/k"]
        {
            let said = format!("{0} {0:?}", resolve(url).unwrap_err());
            assert!(said.contains("credentials") && !said.contains("topsecret"), "{said}");
        }
    }

    #[test]
    fn what_is_no_url_is_a_clear_error() {
        for (given, part) in [
            ("", "empty"),
            ("ftp://host/a", "ftp://"),
            ("s3:///key", "bucket"),
            ("https://", "host"),
            ("file://host/a", "file:///host/a"),
        ] {
            let said = resolve(given).unwrap_err().to_string();
            assert!(said.contains(part), "{given}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_path_comes_back_from_its_location(bytes in proptest::collection::vec(1u8..=255, 1..40)) {
            let path = std::path::absolute(Path::new("/data").join(OsStr::from_bytes(&bytes))).unwrap();
            let location = path_location(&path).unwrap();
            prop_assert_eq!(local_path(&location).unwrap(), path);
            prop_assert_eq!(resolve(location.as_str()).unwrap(), location);
        }
    }
}
