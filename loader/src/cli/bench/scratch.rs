//! A folder for the caches that are measured, beside the user's own and on the same disk.
//!
//! Its bench holds a lock on it for as long as it lives, so that the folder of one that was killed is known, whatever has its number now
//! and in whichever container it ran: the next bench removes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use super::super::failure::Failure;

/// A folder's name goes on with its process's number.
const NAME: &str = ".forebay-bench-";

/// Removed, with everything in it, on drop.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    /// Locked.
    _open: File,
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
        sweep(parent);
        let folder = parent.join(format!("{NAME}{}", std::process::id()));
        let open = claim(&folder).map_err(failed)?;
        Ok(Self { folder, _open: open })
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

/// Makes the folder and locks it. A sweep that finds it in between removes it: then it is made again.
fn claim(folder: &Path) -> io::Result<File> {
    loop {
        std::fs::create_dir(folder)?;
        let open = match File::open(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            open => open?,
        };
        retry_on_intr(|| flock(&open, FlockOperation::LockExclusive))?;
        match folder.metadata() {
            Ok(there) if there.ino() == open.metadata()?.ino() => return Ok(open),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

/// Removes the folders that killed benches have left here, and says so. One that can't be removed hinders nobody but by its size.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let (name, folder) = (entry.file_name(), entry.path());
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            continue;
        }
        // Locked until it is gone, so that nobody claims it meanwhile.
        let Some(_locked) = left(&folder) else { continue };
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => eprintln!("forebay: removed {}, which a killed bench had left", folder.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                eprintln!(
                    "forebay: {}, which a killed bench had left, can't be removed: {error}",
                    folder.display()
                );
            }
        }
    }
}

/// The folder, locked, where it is one and nobody else has it locked.
fn left(folder: &Path) -> Option<File> {
    let open =
        folder.symlink_metadata().ok().filter(|meta| meta.is_dir()).and_then(|_| File::open(folder).ok())?;
    flock(&open, FlockOperation::NonBlockingLockExclusive).ok().map(|()| open)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("forebay: {} could not be removed: {error}", self.folder.display());
        }
    }
}
