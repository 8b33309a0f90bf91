//! Notes: a few words that a living process leaves in the folder for the other ones.
//!
//! A note is a small file under a lock of its writer, so it ends with the writer, also after kill -9, and needs neither the owner nor a
//! take-over. Whoever writes first and reads then can't miss another one who does the same. The files of the dead are removed by
//! whoever reads.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::fork::{Birth, ParentOnly};
use crate::error::{Error, Result};

/// The folder of the notes, inside the cache folder.
const NOTES: &str = "notes";

/// More than any note holds: a reader of a folder that others write to takes no more.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// Words that others read for as long as this is kept.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    /// Locked. In a forked child this is another file.
    _file: ParentOnly,
    birth: Birth,
}

impl Note {
    /// Leaves `text` on `board`, a word of letters, digits and dashes that its readers know.
    pub(crate) fn leave(folder: &Path, board: &str, text: &str) -> Result<Self> {
        let notes = folder.join(NOTES);
        std::fs::create_dir_all(&notes).map_err(|error| failed(&notes, error))?;
        loop {
            let path = notes.join(format!("{board}.{:016x}", RandomState::new().build_hasher().finish()));
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(|error| failed(&path, error))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // A reader that looks at the file before it is locked here takes it for a dead one's and removes it: then once more.
                Err(Errno::WOULDBLOCK) => continue,
                Err(error) => return Err(failed(&path, error.into())),
                Ok(()) if !is_named(&file, &path).map_err(|error| failed(&path, error))? => continue,
                Ok(()) => {}
            }
            let left = file.write_all(text.as_bytes()).and_then(|()| ParentOnly::new(file.into()));
            return match left {
                Ok(file) => Ok(Self { path, _file: file, birth: Birth::here() }),
                Err(error) => {
                    // Whoever reads next removes it otherwise.
                    drop(std::fs::remove_file(&path));
                    Err(failed(&path, error))
                }
            };
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // A forked child has a copy of this, and its parent still lives.
        if self.birth.check().is_ok()
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.path.display(), %error, "a note is left for its readers to remove");
        }
    }
}

/// The notes of the living on `board`, those of this process included.
pub(crate) fn read(folder: &Path, board: &str) -> Result<Vec<String>> {
    let notes = folder.join(NOTES);
    let entries = match std::fs::read_dir(&notes) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&notes, error)),
    };
    let mut texts = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed(&notes, error))?.path();
        let is_ours = path.file_stem().is_some_and(|stem| stem == board);
        match read_if_alive(&path) {
            // An empty one is being written: its writer reads afterwards, and finds what this process has left.
            Ok(text) => texts.extend(text.filter(|text| is_ours && !text.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Looked at only to clear away after the dead; another user's may not even be read.
            Err(error) if !is_ours => {
                tracing::debug!(path = %path.display(), %error, "a note of others can't be read")
            }
            Err(error) => return Err(failed(&path, error)),
        }
    }
    Ok(texts)
}

/// The file's words; None, and the file removed, where its writer is gone.
fn read_if_alive(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    // Shared: two readers must not take each other for the writer.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            std::fs::remove_file(path)?;
            Ok(None)
        }
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            (&mut file).take(MAX_NOTE_BYTES).read_to_string(&mut text)?;
            Ok(Some(text))
        }
        Err(error) => Err(error.into()),
    }
}

/// True while the path still names this file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::CacheDir {
        path: path.into(),
        what: "a note for the other processes of the folder can't be written or read".into(),
        source: Arc::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_read_each_other_board_by_board() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path(), "a").unwrap().is_empty());
        let one = Note::leave(folder.path(), "a", "one").unwrap();
        let _two = Note::leave(folder.path(), "a", "two").unwrap();
        let _other = Note::leave(folder.path(), "ab", "other").unwrap();
        let mut texts = read(folder.path(), "a").unwrap();
        texts.sort();
        assert_eq!(texts, ["one", "two"]);
        drop(one);
        assert_eq!(read(folder.path(), "a").unwrap(), ["two"]);
    }

    #[test]
    fn a_note_whose_writer_is_gone_is_not_read_but_removed() {
        let folder = tempfile::tempdir().unwrap();
        let note = Note::leave(folder.path(), "a", "alive").unwrap();
        let dead = folder.path().join(NOTES).join("a.0123456789abcdef");
        std::fs::write(&dead, "dead").unwrap();
        assert_eq!(read(folder.path(), "a").unwrap(), ["alive"]);
        assert!(!dead.exists());
        assert!(note.path.exists());
    }
}
