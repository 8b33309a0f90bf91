//! A folder for the caches that are measured, beside the user's own and on the same disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::failure::Failure;

/// Removed, with everything in it, on drop.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// A folder beside `dir`, or in the nearest one above it that exists.
    pub(super) fn beside(dir: &Path) -> Result<Self, Failure> {
        let failed = |error| {
            Failure::io(
                format_args!(
                    "no folder can be made beside {}; choose another place with --cache-dir",
                    dir.display()
                ),
                &error,
            )
        };
        let whole = std::path::absolute(dir).map_err(failed)?;
        let mut above = whole.ancestors().skip(1);
        let parent = above.find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let device = |path: &Path| path.metadata().map(|meta| meta.dev());
        if whole.is_dir() && device(&whole).map_err(failed)? != device(parent).map_err(failed)? {
            return Err(Failure::failed(format!(
                "{} is the top of a disk, and what is beside it is on another one; name a folder in it, such as --cache-dir {}",
                dir.display(),
                whole.join("data").display()
            )));
        }
        let folder = parent.join(format!(".forebay-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(failed)?;
        Ok(Self { folder })
    }

    pub(super) fn parent(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    pub(super) fn free_bytes(&self) -> Result<u64, Failure> {
        let space = rustix::fs::statvfs(&self.folder)
            .map_err(|error| Failure::io(self.folder.display(), &error.into()))?;
        Ok(space.f_bavail * space.f_frsize)
    }

    /// An empty folder of this name.
    pub(super) fn empty(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.folder.join(name);
        std::fs::create_dir(&folder).map_err(|error| Failure::io(folder.display(), &error))?;
        Ok(folder)
    }

    /// Removes a folder, and what is in it.
    pub(super) fn remove(folder: &Path) -> Result<(), Failure> {
        std::fs::remove_dir_all(folder)
            .map_err(|error| Failure::io(format_args!("{} can't be removed", folder.display()), &error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("forebay: {} could not be removed: {error}", self.folder.display());
        }
    }
}
