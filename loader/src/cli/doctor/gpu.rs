//! GPUs, told from what the driver leaves in the file system: nothing is loaded, so that asking can't fail.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// NVIDIA's driver library, as programs load it.
const LIBCUDA: &str = "libcuda.so.1";

/// Where it lies beside what the linker's cache names: distributions, and WSL.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/cuda/compat",
    "/usr/lib/wsl/lib",
];

#[derive(Debug, Default, Serialize)]
pub(super) struct Gpu {
    /// Devices and the library are both there.
    pub(super) present: bool,
    /// The kernel module's version.
    pub(super) driver: Option<String>,
    /// Models, as far as the driver names them; device files otherwise.
    pub(super) devices: Vec<String>,
    /// The driver library that programs would load.
    pub(super) libcuda: Option<PathBuf>,
}

impl Gpu {
    pub(super) fn find() -> Self {
        let module = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
        let devices = devices(Path::new("/proc/driver/nvidia/gpus"), Path::new("/dev"));
        let libcuda = libcuda();
        Self { present: !devices.is_empty() && libcuda.is_some(), driver: version(&module), devices, libcuda }
    }

    pub(super) fn text(&self) -> String {
        let driver = self.driver.as_ref().map(|version| format!("driver {version}"));
        let library = self.libcuda.as_ref().map(|path| path.display().to_string());
        match self.devices.is_empty() {
            true => "none visible".into(),
            false => {
                let library = library.unwrap_or_else(|| format!("no {LIBCUDA}"));
                let parts = [Some(self.devices.join(", ")), driver, Some(library)];
                parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
            }
        }
    }
}

/// The version in the first line of the kernel module's own description: the first word of digits and dots.
fn version(module: &str) -> Option<String> {
    let number = |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    module.lines().next()?.split_whitespace().find(number).map(Into::into)
}

/// GPUs whose device files this process sees: a container is shown every GPU of the machine in /proc, but gets only some.
fn devices(described: &Path, dev: &Path) -> Vec<String> {
    let files = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let minors: Vec<u32> = files(dev)
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok())
        .collect();
    let mut found: Vec<(u32, String)> =
        minors.iter().map(|minor| (*minor, format!("nvidia{minor}"))).collect();
    for entry in files(described) {
        let text = std::fs::read_to_string(entry.path().join("information")).unwrap_or_default();
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let minor: Option<u32> = field("Device Minor").and_then(|minor| minor.parse().ok());
        if let (Some(minor), Some(model)) = (minor, field("Model"))
            && let Some((_, name)) = found.iter_mut().find(|(known, _)| *known == minor)
        {
            *name = model;
        }
    }
    if dev.join("dxg").exists() && found.is_empty() {
        // Windows Subsystem for Linux has one file for all of them.
        found.push((0, "dxg (WSL)".into()));
    }
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name).collect()
}

fn libcuda() -> Option<PathBuf> {
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let given = std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty());
    let first = given.map(|folder| folder.join(LIBCUDA)).find(|path| path.exists());
    let cache = || in_linker_cache(&std::fs::read("/etc/ld.so.cache").unwrap_or_default());
    let usual = || FOLDERS.iter().map(|folder| Path::new(folder).join(LIBCUDA)).find(|path| path.exists());
    first.or_else(cache).or_else(usual)
}

/// The library's path among the strings of the dynamic linker's cache.
fn in_linker_cache(cache: &[u8]) -> Option<PathBuf> {
    let paths = cache.split(|&byte| byte == 0).filter(|text| text.starts_with(b"/"));
    paths
        .map(|text| Path::new(OsStr::from_bytes(text)))
        .find(|path| path.file_name() == Some(OsStr::new(LIBCUDA)) && path.exists())
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_those_whose_device_files_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let (gpus, dev) = (dir.path().join("gpus"), dir.path().join("dev"));
        assert!(devices(&gpus, &dev).is_empty());
        std::fs::create_dir(&dev).unwrap();
        for (minor, model) in [(0, "NVIDIA A"), (1, "NVIDIA B")] {
            let folder = gpus.join(format!("0000:0{minor}:00.0"));
            std::fs::create_dir_all(&folder).unwrap();
            let text = format!("Model: \t\t {model}\nIRQ:   \t\t 7\nDevice Minor: \t {minor}\n");
            std::fs::write(folder.join("information"), text).unwrap();
        }
        for name in ["nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(dev.join(name), "").unwrap();
        }
        assert_eq!(devices(&gpus, &dev), ["NVIDIA B", "nvidia2"]);
    }

    #[test]
    fn versions_and_libraries_are_found_by_name() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12.2";
        assert_eq!(version(open).as_deref(), Some("570.86.15"));
        assert_eq!(version(""), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LIBCUDA);
        let cache = format!("ld.so-1.7.0\0{LIBCUDA}\0{}\0/lib/libc.so.6\0", path.display());
        assert_eq!(in_linker_cache(cache.as_bytes()), None, "it does not exist");
        std::fs::write(&path, "").unwrap();
        assert_eq!(in_linker_cache(cache.as_bytes()), Some(path));
    }
}
