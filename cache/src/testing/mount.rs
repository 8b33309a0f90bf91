//! A file system of a test's own: small, so that it can be full, and used by nobody else, so that what it says is in use is exact.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// A file system in memory, mounted in `home`. The error says why this process can't have one; then the test says so and does not run.
    pub fn tmpfs(home: &Path, bytes: u64) -> Result<Self, String> {
        Self::at(home, &["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
    }

    /// An ext4 in a file of `home`.
    pub fn ext4(home: &Path, bytes: u64) -> Result<Self, String> {
        let image = home.join("image");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(bytes));
        made.map_err(|error| error.to_string())?;
        let image = image.to_string_lossy().into_owned();
        run("mkfs.ext4", &["-q", "-F", &image])?;
        Self::at(home, &["-o", "loop", &image])
    }

    fn at(home: &Path, options: &[&str]) -> Result<Self, String> {
        let path = home.join("mounted");
        std::fs::create_dir(&path).map_err(|error| error.to_string())?;
        run("mount", &[options, &[&*path.to_string_lossy()]].concat())?;
        Ok(Self { path })
    }

    /// Makes it read-only ("ro"), where no file of it is open for writing, or writable ("rw").
    pub fn remount(&self, how: &str) -> Result<(), String> {
        run("mount", &["-o", &format!("remount,{how}"), &self.path.to_string_lossy()])
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in use: files that were unlinked and are still open, delayed allocation and metadata included. A moment's truth on tmpfs; an
    /// ext4 counts what is just being allocated twice.
    pub fn used_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.path)?;
        Ok((found.f_blocks - found.f_bfree) * found.f_frsize)
    }
}

impl Drop for Mount {
    /// Also where a file of it is still open: it goes with the last one.
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l", &self.path.to_string_lossy()]) {
            tracing::error!(%error, "a test's file system stays mounted");
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(arguments).output();
    let output = done.map_err(|error| format!("{program} can't be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program} failed: {}", said.trim())) }
}
