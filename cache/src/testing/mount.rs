//! A file system of a test's own: small, so that it can be full, and used by nobody else, so that what it says is in use is exact.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where loop devices are asked for: containers often have none.
const LOOP_DEVICES: &str = "/dev/loop-control";

/// What `mount` says to those who may not.
const NOT_ALLOWED: [&str; 3] = ["must be superuser", "permission denied", "Operation not permitted"];

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// A file system in memory, mounted in `home`. None where this process may not mount one: the reason is printed, and the test can't run.
    pub fn tmpfs(home: &Path, bytes: u64) -> Result<Option<Self>, String> {
        Self::at(home, &["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
    }

    /// An ext4 in a file of `home`. None also where this process has no loop devices.
    pub fn ext4(home: &Path, bytes: u64) -> Result<Option<Self>, String> {
        if let Err(error) = OpenOptions::new().read(true).write(true).open(LOOP_DEVICES) {
            return not_run(&format!("{LOOP_DEVICES}: {error}"));
        }
        let image = home.join("image");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(bytes));
        made.map_err(|error| error.to_string())?;
        let image = image.to_string_lossy().into_owned();
        run("mkfs.ext4", &["-q", "-F", &image])?;
        Self::at(home, &["-o", "loop", &image])
    }

    fn at(home: &Path, options: &[&str]) -> Result<Option<Self>, String> {
        let path = home.join("mounted");
        std::fs::create_dir(&path).map_err(|error| error.to_string())?;
        match run("mount", &[options, &[&*path.to_string_lossy()]].concat()) {
            Ok(()) => Ok(Some(Self { path })),
            Err(why) if NOT_ALLOWED.iter().any(|said| why.contains(said)) => not_run(&why),
            Err(why) => Err(why),
        }
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

fn not_run<T>(why: &str) -> Result<Option<T>, String> {
    eprintln!("not run: this process may not have a file system of its own: {why}");
    Ok(None)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output = done.map_err(|error| format!("{program} can't be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program} failed: {}", said.trim())) }
}
