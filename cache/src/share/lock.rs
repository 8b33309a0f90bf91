//! Who lives: one lock for the owner of a cache folder, one per client.
//!
//! Liveness is a flock and never a process id, so that it holds across containers and process namespaces on one kernel. A flock
//! belongs to an open file description: it ends when the last reference does, and a ring of io_uring that has the file
//! registered keeps such a reference until its last operation in flight is complete, also after kill -9. So a lock that can be
//! taken says that its holder is gone *and* that nothing it started can still land.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::fork::ParentOnly;
use crate::error::{Error, Result};

/// The owner's lock in the cache folder.
pub(crate) const OWNER_LOCK: &str = "LOCK";
/// The folder of the clients' locks, inside the cache folder.
pub(crate) const CLIENTS: &str = "clients";
/// What ends the name of a client's lock.
const SUFFIX: &str = ".lock";

/// What became of an attempt to take a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is ours.
    Yes,
    /// Somebody else's.
    Held,
}

/// A file to lock; held from `try_take` until the last reference to this open file is gone.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: ParentOnly,
    path: PathBuf,
}

impl LockFile {
    /// Opens the file, making it where it is missing. Not locked yet.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.and_then(|file| ParentOnly::new(file.into())).map_err(|error| {
            failed(
                path,
                "it is not writable: choose a folder where this user may write (cache_dir); every process that uses it must",
                error,
            )
        })?;
        Ok(Self { file, path: path.into() })
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_take(&mut self) -> Result<Taken> {
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Taken::Yes),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Taken::Held),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let what = "flock failed: the cache folder must lie on a file system that supports it (a local disk)";
                    return Err(failed(&self.path, what, error.into()));
                }
            }
        }
    }

    /// Gives the lock back, in all of its references.
    pub(crate) fn give_back(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::error!(path = %self.path.display(), %error, "a lock could not be given back");
        }
    }

    /// Leaves a line about the holder for messages; never used to decide anything.
    pub(crate) fn sign(&self) -> Result<()> {
        let line = format!("{}\n", std::process::id());
        let file = File::from(self.reference()?);
        let signed = file.set_len(0).and_then(|()| file.write_all_at(line.as_bytes(), 0));
        signed.map_err(|error| failed(&self.path, "the lock file can't be written", error))
    }

    /// Another descriptor of the same open file: the lock lives as long as any. For rings, which take it into the kernel.
    pub(crate) fn reference(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0)
            .map_err(|error| failed(&self.path, "the lock file can't be duplicated", error.into()))
    }

    /// True while the path still names this file.
    fn is_named(&self) -> io::Result<bool> {
        let ours = rustix::fs::fstat(&self.file)?;
        match std::fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.st_dev, ours.st_ino)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The process id that the holder of the owner's lock left there; for messages.
pub(crate) fn signature(folder: &Path) -> Option<u32> {
    std::fs::read_to_string(folder.join(OWNER_LOCK)).ok()?.trim().parse().ok()
}

/// A client's own lock, held for its life. Its file is removed by the owner, once the lock can be taken: a client that removed
/// it would hide the operations of its ring that are still in flight.
#[derive(Debug)]
pub(crate) struct ClientLock {
    file: LockFile,
    name: Arc<str>,
}

impl ClientLock {
    /// Makes and takes a new lock in the cache folder.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let clients = folder.join(CLIENTS);
        std::fs::create_dir_all(&clients)
            .map_err(|error| failed(&clients, "the folder of the clients' locks can't be made", error))?;
        loop {
            let name = format!("{:016x}{SUFFIX}", RandomState::new().build_hasher().finish());
            let path = clients.join(&name);
            let mut file = LockFile::open(&path)?;
            // An owner that looks for the dead may find the file before it is locked here, and remove it: then once more.
            let named =
                || file.is_named().map_err(|error| failed(&path, "the lock can't be examined", error));
            if named()? && file.try_take()? == Taken::Yes && file.is_named().unwrap_or(false) {
                return Ok(Self { file, name: name.into() });
            }
        }
    }

    /// The file's name, by which an owner knows this client.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The lock's file.
    pub(crate) fn file(&self) -> &LockFile {
        &self.file
    }
}

/// An owner's look at one client's lock.
#[derive(Debug)]
pub(crate) struct ClientWatch {
    file: LockFile,
}

impl ClientWatch {
    /// Looks at the lock called `name`; None where it has no such file.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<Option<Self>> {
        if !is_client_name(name) {
            return Err(Error::Protocol { message: format!("{name:?} is not the name of a client's lock") });
        }
        let path = folder.join(CLIENTS).join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => {
                let file =
                    ParentOnly::new(file.into()).map_err(|error| failed(&path, "too many clients", error))?;
                Ok(Some(Self { file: LockFile { file, path } }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, "a client's lock can't be opened", error)),
        }
    }

    /// True where the client and its rings are gone; its file is then removed.
    pub(crate) fn is_gone(&mut self) -> Result<bool> {
        if self.file.try_take()? == Taken::Held {
            return Ok(false);
        }
        match std::fs::remove_file(&self.file.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&self.file.path, "a dead client's lock can't be removed", error))
            }
            _ => Ok(true),
        }
    }
}

/// The names of all clients' locks in the folder, dead or alive.
pub(crate) fn client_names(folder: &Path) -> Result<Vec<String>> {
    let clients = folder.join(CLIENTS);
    let unreadable = |error| failed(&clients, "the folder of the clients' locks can't be read", error);
    let entries = match std::fs::read_dir(&clients) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.map_err(unreadable)?.file_name().into_string()
            && is_client_name(&name)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Sixteen hexadecimal digits and the suffix: a name off the wire never leaves the folder.
fn is_client_name(name: &str) -> bool {
    name.strip_suffix(SUFFIX).is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn failed(path: &Path, what: &str, error: io::Error) -> Error {
    Error::CacheDir { path: path.into(), what: what.into(), source: Arc::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_seen_to_live_until_the_last_reference_to_its_lock_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let client = ClientLock::create(folder.path()).unwrap();
        let ring = client.file().reference().unwrap();
        let mut watch = ClientWatch::open(folder.path(), client.name()).unwrap().unwrap();
        assert!(!watch.is_gone().unwrap());
        drop(client);
        assert!(!watch.is_gone().unwrap(), "its ring still holds the file");
        drop(ring);
        assert!(watch.is_gone().unwrap());
        assert!(client_names(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn one_of_two_takes_the_lock_of_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OWNER_LOCK);
        let (mut one, mut two) = (LockFile::open(&path).unwrap(), LockFile::open(&path).unwrap());
        assert_eq!(one.try_take().unwrap(), Taken::Yes);
        one.sign().unwrap();
        assert_eq!(two.try_take().unwrap(), Taken::Held);
        assert_eq!(signature(folder.path()), Some(std::process::id()));
        drop(one);
        assert_eq!(two.try_take().unwrap(), Taken::Yes);
    }

    #[test]
    fn a_name_from_the_wire_stays_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../../etc/passwd", "0123456789abcde/.lock", "", "x.lock"] {
            assert!(ClientWatch::open(folder.path(), name).is_err(), "{name}");
        }
    }
}
