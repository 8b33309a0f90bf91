//! Local folders and mounted file systems.
//!
//! A version is modification time (nanoseconds), inode and size; on FUSE mounts without the inode, whose
//! numbers change with every mount there. The file is checked before its first byte and after its last one,
//! so a file rewritten while it is read is an error. Symbolic links are followed. A file rewritten in place
//! within one tick of the file system's clock can't be seen: replace files by renaming others over them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;

use super::attempt::{Body, Fault, Said, Store};
use super::location::{local_path, path_location};
use crate::error::{Error, Result};
use crate::io::is_on;
use crate::object::{ByteRange, Location, ObjectMeta, Version};

/// Bytes per read: large enough for a disk's full speed, small enough to hand on early.
const CHUNK_BYTES: u64 = 1 << 20;

/// Entries of a listing that may wait for their reader.
const LISTED_AHEAD: usize = 256;

/// `f_type` of FUSE, from linux/magic.h.
const FUSE_SUPER_MAGIC: i128 = 0x6573_5546;

/// Every local file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

impl Store for Local {
    fn head(&self, location: &Location) -> BoxFuture<'static, Result<ObjectMeta, Fault>> {
        let location = location.clone();
        blocking(move || {
            let path = local_path(&location).map_err(Fault::Unusable)?;
            let (_, meta) = open_file(&path, &location)?;
            Ok(meta)
        })
    }

    fn open(&self, object: &ObjectMeta, range: ByteRange) -> BoxFuture<'static, Result<Body, Fault>> {
        let object = object.clone();
        blocking(move || {
            let path = local_path(&object.location).map_err(Fault::Unusable)?;
            let (file, meta) = open_file(&path, &object.location)?;
            if meta != object {
                return Err(Fault::Changed);
            }
            Ok(chunks(Arc::new(file), object, range))
        })
    }

    fn list(
        &self,
        prefix: &Location,
        after: Option<&Location>,
    ) -> BoxStream<'static, Result<ObjectMeta, Fault>> {
        debug_assert!(after.is_none(), "a local listing has no failure that is tried again");
        let prefix = prefix.clone();
        let (send, receive) = mpsc::channel(LISTED_AHEAD);
        drop(tokio::task::spawn_blocking(move || {
            let folder = match local_path(&prefix) {
                Ok(folder) => folder,
                Err(error) => return drop(send.blocking_send(Err(Fault::Unusable(error)))),
            };
            if let Err(fault) = walk(&folder, &mut Vec::new(), &|found| send.blocking_send(Ok(found)).is_ok())
            {
                drop(send.blocking_send(Err(fault)));
            }
        }));
        stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) }).boxed()
    }

    fn kind(&self) -> &'static str {
        "local"
    }
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> BoxFuture<'static, Result<T, Fault>> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|_| Err(Fault::broken(Said::new("the reading thread ended"))))
    })
}

fn open_file(path: &Path, location: &Location) -> Result<(File, ObjectMeta), Fault> {
    // Not to wait where a pipe stands instead of a file.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fault)?;
    let found = file.metadata().map_err(fault)?;
    if !found.is_file() {
        let what = if found.is_dir() { "a folder" } else { "no regular file" };
        return Err(Fault::Unusable(Error::config(format!("{location} is {what}; name the files in it"))));
    }
    let version = version(&file, &found);
    Ok((file, ObjectMeta::new(location.clone(), found.len(), version)))
}

fn version(file: &File, found: &Metadata) -> Version {
    let modified_ns = modified(found);
    if is_on(file, &[FUSE_SUPER_MAGIC]) {
        Version::Modified(modified_ns)
    } else {
        Version::File { modified_ns, inode: found.ino() }
    }
}

fn modified(found: &Metadata) -> i128 {
    i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec())
}

/// Whether an open file is the version of it that was found. What its file system is asked is its metadata alone, as often as its bytes are read.
///
/// # Errors
/// What the system answers to the question.
pub fn is_version(file: &File, object: &ObjectMeta) -> io::Result<bool> {
    let found = file.metadata()?;
    let same = match object.version {
        Version::File { modified_ns, inode } => (modified_ns, inode) == (modified(&found), found.ino()),
        Version::Modified(modified_ns) => modified_ns == modified(&found),
        _ => false,
    };
    Ok(same && found.len() == object.size_bytes)
}

/// The bytes of an open file, one blocking read each; its version is checked again behind the last one.
fn chunks(file: Arc<File>, object: ObjectMeta, range: ByteRange) -> Body {
    stream::try_unfold(range, move |left| {
        let (file, object) = (file.clone(), object.clone());
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let next = ByteRange::new(left.start, left.end.min(left.start + CHUNK_BYTES));
            let bytes = blocking(move || {
                let bytes = read(&file, next)?;
                if is_version(&file, &object).map_err(fault)? { Ok(bytes) } else { Err(Fault::Changed) }
            });
            Ok(Some((bytes.await?, ByteRange::new(next.end, left.end))))
        }
    })
    .boxed()
}

fn read(file: &File, range: ByteRange) -> Result<Bytes, Fault> {
    let mut bytes = vec![0; range.len() as usize];
    match file.read_exact_at(&mut bytes, range.start) {
        Ok(()) => Ok(bytes.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Changed),
        Err(error) => Err(fault(error)),
    }
}

fn fault(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Fault::NotFound,
        io::ErrorKind::PermissionDenied => Fault::Denied(Arc::new(error)),
        io::ErrorKind::StaleNetworkFileHandle => Fault::Changed,
        _ => Fault::Broken(Arc::new(error)),
    }
}

/// Every regular file below a folder; `above` holds the folders on the way down, so that a circle of links
/// ends.
fn walk(
    folder: &Path,
    above: &mut Vec<(u64, u64)>,
    give: &dyn Fn(ObjectMeta) -> bool,
) -> Result<bool, Fault> {
    let here = std::fs::metadata(folder).map_err(fault)?;
    let identity = (here.dev(), here.ino());
    if above.contains(&identity) {
        return Ok(true);
    }
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        entries.push(entry.map_err(fault)?.path());
    }
    entries.sort();
    above.push(identity);
    for path in entries {
        // A link to nowhere, and what is removed while it is listed, is no object.
        let Ok(found) = std::fs::metadata(&path) else { continue };
        let go_on = if found.is_dir() {
            walk(&path, above, give)?
        } else if found.is_file() {
            let location = path_location(&path).map_err(Fault::Unusable)?;
            match open_file(&path, &location) {
                Ok((_, meta)) => give(meta),
                Err(Fault::NotFound) => true,
                Err(Fault::Denied(source)) => {
                    return Err(Fault::Unusable(Error::PermissionDenied { location, source }));
                }
                Err(fault) => return Err(fault),
            }
        } else {
            true
        };
        if !go_on {
            return Ok(false);
        }
    }
    above.pop();
    Ok(true)
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
