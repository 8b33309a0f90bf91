//! Cached files under their own names, for programs that open files by name: read-only, and gone with whoever asked for them.
//!
//! A view is a folder of hard links inside the cache folder, and takes no space of its own. A note says that its maker lives; what the dead
//! leave is removed by whoever makes the next view, and by the owner when a client ends, so that no link keeps space that was given back.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::fork::Birth;
use super::notes::{self, Note};
use super::whole::Whole;
use crate::error::{Error, Result};

/// The folder of the views, inside the cache folder.
const VIEWS: &str = "views";
/// The board where makers of views say that they live.
const BOARD: &str = "view";

/// A folder with cached files in it. Removed on drop, before it lets the files go.
#[derive(Debug)]
pub struct View {
    dir: PathBuf,
    files: Mutex<Vec<(PathBuf, Arc<Whole>)>>,
    _note: Note,
    birth: Birth,
}

impl View {
    /// An empty one in the cache folder.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        sweep(folder)?;
        let name = format!("{:016x}", RandomState::new().build_hasher().finish());
        let note = Note::leave(folder, BOARD, &name)?;
        let dir = folder.join(VIEWS).join(name);
        std::fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
        Ok(Self { dir, files: Mutex::default(), _note: note, birth: Birth::here() })
    }

    /// Shows a file under `name`, which may have folders in it and stays inside (the caller's to check). The same again gives the same path.
    ///
    /// # Errors
    /// [`Error::Disk`] where the file system has no hard links; [`Error::Forked`].
    pub fn show(&self, whole: &Arc<Whole>, name: &str) -> Result<PathBuf> {
        self.birth.check()?;
        let path = self.dir.join(name);
        let mut files = self.files.lock();
        if files.iter().any(|(shown, _)| *shown == path) {
            return Ok(path);
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        }
        whole.link(&path)?;
        files.push((path.clone(), whole.clone()));
        Ok(path)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // A forked child has a copy of this, and its parent still lives.
        if self.birth.check().is_ok() {
            remove(&self.dir);
        }
    }
}

/// Removes the views of the dead.
pub(super) fn sweep(folder: &Path) -> Result<()> {
    let views = folder.join(VIEWS);
    let entries = match std::fs::read_dir(&views) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&views, error)),
    };
    let found: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    if found.is_empty() {
        return Ok(());
    }
    // After the look at the views: whoever makes one has left a note before.
    let living: HashSet<_> = notes::read(folder, BOARD)?.into_iter().collect();
    found.iter().filter(|name| !living.contains(*name)).for_each(|name| remove(&views.join(name)));
    Ok(())
}

fn remove(view: &Path) {
    if let Err(error) = std::fs::remove_dir_all(view)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %view.display(), %error, "names of cached files could not be removed; the next one tries again");
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::CacheDir {
        path: path.into(),
        what: "files can't be shown by name there".into(),
        source: Arc::new(error),
    }
}
