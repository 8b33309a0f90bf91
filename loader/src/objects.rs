//! Objects of a store as plain files, past the cache: what a folder holds, and copies of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use forebay_cache::origin::{Origin, Origins, resolve};
use forebay_cache::{ByteRange, Location, ObjectMeta};
use futures::TryStreamExt;
use tokio::runtime::Runtime;

use crate::error::{Error, Result};
use crate::stop::Stop;

/// Stores as `storage_options` and the environment open them.
#[derive(Debug)]
pub struct Objects {
    origins: Origins,
    runtime: Runtime,
}

impl Objects {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// An option that nobody knows, or a value that can't be read.
    pub fn new(storage_options: BTreeMap<String, String>) -> Result<Self> {
        let origins = Origins::new(storage_options)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| Error::config(format!("the network thread could not be started: {error}")))?;
        Ok(Self { origins, runtime })
    }

    /// URLs of everything below a folder, by name. Of a store that knows no folders there is nothing below one that doesn't exist.
    ///
    /// # Errors
    /// What the store answers, such as that there is no such bucket; [`Error::Closed`] once it is stopped.
    pub fn list(&self, folder: &str, stop: &Stop) -> Result<Vec<String>> {
        let folder = Location::new(format!("{}/", resolve(folder)?.as_str().trim_end_matches('/')));
        self.runtime.block_on(stop.or(async {
            let mut listed = self.origins.list(&folder);
            let mut found = Vec::new();
            while let Some(object) = listed.try_next().await? {
                if !object.location.as_str().ends_with('/') {
                    found.push(object.location.as_str().to_owned());
                }
            }
            found.sort();
            Ok(found)
        }))
    }

    /// Copies an object to a file, whole or not at all: it is written beside it first, and renamed over what stands there.
    ///
    /// # Errors
    /// What the store answers or the disk; [`Error::Closed`] once it is stopped.
    pub fn copy(&self, url: &str, file: &Path, stop: &Stop) -> Result<()> {
        let location = resolve(url)?;
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = file.with_file_name(name);
        let copied = self.runtime.block_on(stop.or(async {
            let object = self.origins.head(&location).await?;
            self.write(&object, &part).await
        }));
        let copied =
            copied.and_then(|()| std::fs::rename(&part, file).map_err(|error| unwritable(file, &error)));
        if copied.is_err() {
            // Not there where it could not be made.
            drop(std::fs::remove_file(&part));
        }
        copied
    }

    async fn write(&self, object: &ObjectMeta, file: &Path) -> Result<()> {
        let failed = |error| unwritable(file, &error);
        let mut written = File::create(file).map_err(failed)?;
        let mut bytes = Origin::get(&self.origins, object, ByteRange::new(0, object.size_bytes));
        while let Some(chunk) = bytes.try_next().await? {
            written.write_all(&chunk).map_err(failed)?;
        }
        Ok(())
    }
}

fn unwritable(file: &Path, error: &std::io::Error) -> Error {
    Error::config(format!(
        "{}: can't be written: {error}; name a folder with room that may be written",
        file.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Objects {
        Objects::new(BTreeMap::new()).unwrap()
    }

    #[test]
    fn a_folder_is_listed_with_what_is_below_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for name in ["b", "sub/c", "a"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let url = folder.path().to_str().unwrap();
        let go = Stop::default();
        let expected = ["a", "b", "sub/c"].map(|name| format!("file://{url}/{name}"));
        assert_eq!(objects().list(url, &go).unwrap(), expected);
        let missing = objects().list(&format!("{url}/none"), &go);
        assert!(matches!(missing, Err(Error::Cache(forebay_cache::Error::NotFound { .. }))), "{missing:?}");
    }

    #[test]
    fn a_copy_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let bytes = vec![7; 3 << 20];
        std::fs::write(&from, &bytes).unwrap();
        let from = from.to_str().unwrap();

        let stopped = Stop::default();
        stopped.stop();
        assert!(matches!(objects().copy(from, &to, &stopped), Err(Error::Closed)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");

        objects().copy(from, &to, &Stop::default()).unwrap();
        assert!(std::fs::read(&to).unwrap() == bytes);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
