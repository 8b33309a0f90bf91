//! A folder for what is not whole yet, inside the output's: files get their names together, when all of them are written.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::super::failure::Failure;

/// Files under way; removed with their folder on drop.
#[derive(Debug)]
pub(super) struct Staging {
    output: PathBuf,
    folder: PathBuf,
    names: Mutex<Vec<String>>,
    made_output: bool,
}

impl Staging {
    pub(super) fn new(output: &Path) -> Result<Self, Failure> {
        let failed = |error| {
            Failure::io(
                format_args!("{} can't be written to; choose another OUTPUT", output.display()),
                &error,
            )
        };
        let made_output = !output.exists();
        std::fs::create_dir_all(output).map_err(failed)?;
        // Hidden: a loader that is given the folder meanwhile doesn't take it for shards.
        let folder = output.join(format!(".forebay-pack-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(failed)?;
        Ok(Self { output: output.into(), folder, names: Mutex::default(), made_output })
    }

    /// Begins a file that will be `name`; refused where there is one already.
    pub(super) fn create(&self, name: &str) -> Result<File, Failure> {
        let goal = self.output.join(name);
        if goal.symlink_metadata().is_ok() {
            return Err(exists(&goal));
        }
        let path = self.folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file =
            file.map_err(|error| Failure::io(format_args!("{} can't be made", path.display()), &error))?;
        self.names.lock().push(name.to_owned());
        Ok(file)
    }

    /// Writes a whole small file.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let mut file = self.create(name)?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| Failure::io(format_args!("{name} can't be written"), &error))
    }

    /// As [`Self::write`]; a file that says the same already is fine.
    pub(super) fn write_or_same(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let goal = self.output.join(name);
        match std::fs::read(&goal) {
            Ok(there) if there == bytes => Ok(()),
            Ok(_) => Err(Failure::failed(format!(
                "{} lists other classes than this folder has: labels would not fit; choose another OUTPUT",
                goal.display()
            ))),
            Err(_) => self.write(name, bytes),
        }
    }

    /// Gives every file its name, in the order in which they were begun. Where one is taken, those that were given are taken back.
    pub(super) fn publish(self) -> Result<(), Failure> {
        let names = std::mem::take(&mut *self.names.lock());
        for (at, name) in names.iter().enumerate() {
            if let Err(failure) = rename_new(&self.folder.join(name), &self.output.join(name)) {
                for done in &names[..at] {
                    drop(std::fs::remove_file(self.output.join(done)));
                }
                return Err(failure);
            }
        }
        let synced = File::open(&self.output).and_then(|folder| folder.sync_all());
        synced.map_err(|error| Failure::io(format_args!("{} can't be synced", self.output.display()), &error))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
        if self.made_output {
            // Only where it is empty: then nothing was packed.
            drop(std::fs::remove_dir(&self.output));
        }
    }
}

fn exists(goal: &Path) -> Failure {
    Failure::failed(format!(
        "{} exists, and nothing is overwritten; choose another OUTPUT or --prefix, or remove it",
        goal.display()
    ))
}

/// Renames without replacing anything.
fn rename_new(from: &Path, to: &Path) -> Result<(), Failure> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(exists(to)),
        // File systems that know no such rename (NFS, some FUSE ones): a link never replaces either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match std::fs::hard_link(from, to) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(to)),
            Err(_) if to.symlink_metadata().is_ok() => Err(exists(to)),
            Err(_) => std::fs::rename(from, to).map_err(|error| Failure::io(to.display(), &error)),
        },
        Err(error) => Err(Failure::io(to.display(), &error.into())),
    }
}
