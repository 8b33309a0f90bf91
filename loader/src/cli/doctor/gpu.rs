//! GPUs: what the driver leaves in the file system, and what a device gives when it is used.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_cache::memory::Arena;
use forebay_gpu::cuda::CudaDevice;
use forebay_gpu::jpeg::{Decoder, Settings};
use forebay_gpu::{Device, DeviceMemory, Pinned, Which};
use serde::Serialize;

use crate::device::dotted;
use crate::size;

/// NVIDIA's driver library, as programs load it.
const LIBCUDA: &str = "libcuda.so.1";

/// Where libraries lie beside what the linker's cache names: distributions, and WSL.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/cuda/compat",
    "/usr/lib/wsl/lib",
];

/// Host memory that is pinned to see that it can be: what a limit on locked memory leaves least of.
const PINNED_BYTES: u64 = 1 << 20;

/// Memory for a decoder of JPEG images that decodes none.
const DECODER_BYTES: u64 = 32 << 20;

#[derive(Debug, Default, Serialize)]
pub(super) struct Gpu {
    /// The driver sees a device.
    pub(super) present: bool,
    /// The kernel module's version.
    pub(super) driver: Option<String>,
    /// The newest CUDA that the driver knows, such as "12.4".
    pub(super) cuda: Option<String>,
    /// Models, as far as the driver names them; device files otherwise.
    pub(super) devices: Vec<String>,
    /// The driver library that was loaded, else the one that programs would load.
    pub(super) libcuda: Option<PathBuf>,
    /// Why there is no device to use.
    pub(super) error: Option<Unusable>,
    /// The devices that this process sees, by number.
    pub(super) tried: Vec<Tried>,
}

/// Why the driver gives no device.
#[derive(Debug, Serialize)]
pub(super) struct Unusable {
    pub(super) kind: Lack,
    pub(super) what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lack {
    NoDriver,
    DriverTooOld,
    NoDevice,
}

/// A device, by using it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tried {
    /// "cuda:0 (NVIDIA H100)".
    pub(super) name: String,
    pub(super) uuid: Option<String>,
    pub(super) pci: Option<String>,
    /// The processor's memory that is nearest to it.
    pub(super) numa_node: Option<u32>,
    pub(super) capability: Option<String>,
    pub(super) total_bytes: Option<u64>,
    pub(super) free_bytes: Option<u64>,
    /// How its memory is had: "virtual memory" or "cuMemAlloc".
    pub(super) memory: Option<&'static str>,
    /// Whether host memory can be pinned for it.
    pub(super) pins: bool,
    /// What the driver said where it refused that.
    pub(super) pinning_error: Option<String>,
    /// What decodes JPEG images on it.
    pub(super) jpeg: Jpeg,
    /// What keeps it from being used.
    pub(super) error: Option<String>,
}

/// What `decode_on="gpu"` would have.
#[derive(Debug, Default, Serialize)]
pub(super) struct Jpeg {
    /// "nvJPEG 12.4.0 (/…/libnvjpeg.so.12)".
    pub(super) library: Option<String>,
    /// "engines" made for JPEG, the "device"'s general processors, or what the "library" thinks best.
    pub(super) backend: Option<&'static str>,
    /// Why that is not a better one.
    pub(super) passed_over: Option<String>,
    /// Why nothing decodes them.
    pub(super) error: Option<String>,
}

impl Gpu {
    pub(super) fn find(jpeg_folders: &[PathBuf]) -> Self {
        let module = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
        let devices = devices(Path::new("/proc/driver/nvidia/gpus"), Path::new("/dev"));
        let mut gpu = Self { driver: version(&module), devices, ..Self::default() };
        match CudaDevice::count() {
            Ok(count) => gpu.tried = (0..count).map(|number| Tried::new(number, jpeg_folders)).collect(),
            Err(error) => gpu.error = Some(Unusable { kind: Lack::of(&error), what: error.to_string() }),
        }
        gpu.cuda = CudaDevice::version().ok().map(dotted);
        gpu.present = !gpu.tried.is_empty();
        gpu.libcuda = CudaDevice::library().ok().map(Into::into).or_else(|| library(LIBCUDA));
        gpu
    }

    pub(super) fn rows(&self, row: &mut impl FnMut(&str, String)) {
        for (at, device) in self.tried.iter().enumerate() {
            let title = if at == 0 { "GPU" } else { "" };
            device.text().into_iter().enumerate().for_each(|(line, text)| {
                row(if line == 0 { title } else { "" }, text);
            });
        }
        let cuda = self.cuda.as_ref().map(|version| format!("driver for CUDA {version}"));
        let module = self.driver.as_ref().map(|version| format!("driver {version}"));
        let library = self.libcuda.as_ref().map(|path| path.display().to_string());
        if self.present {
            row("", [cuda, module, library].into_iter().flatten().collect::<Vec<_>>().join("; "));
        } else if self.devices.is_empty() {
            row("GPU", "none visible".into());
        } else {
            let library = library.unwrap_or_else(|| format!("no {LIBCUDA}"));
            let parts = [Some(self.devices.join(", ")), module, Some(library)];
            row("GPU", parts.into_iter().flatten().collect::<Vec<_>>().join("; "));
        }
    }
}

impl Lack {
    fn of(error: &forebay_gpu::Error) -> Self {
        match error {
            forebay_gpu::Error::DriverTooOld { .. } => Self::DriverTooOld,
            forebay_gpu::Error::NoDevice { .. } => Self::NoDevice,
            _ => Self::NoDriver,
        }
    }
}

impl Tried {
    fn new(number: u32, jpeg_folders: &[PathBuf]) -> Self {
        let device = match CudaDevice::open(&Which::Index(number)) {
            Ok(device) => device,
            Err(error) => {
                let name = format!("cuda:{number}");
                return Self { name, error: Some(error.to_string()), ..Self::default() };
            }
        };
        let facts = device.facts();
        let free_bytes = device.free_bytes().ok();
        // What it gives is known once it was asked for some.
        let memory = DeviceMemory::new(&device, 1).map(|_| device.memory_kind());
        let pinned = pin(&device);
        Self {
            name: facts.name.to_string(),
            uuid: facts.uuid.clone(),
            numa_node: facts.pci.as_ref().and_then(|pci| node(Path::new("/sys/bus/pci/devices"), pci)),
            pci: facts.pci.clone(),
            capability: Some(dotted(facts.capability)),
            total_bytes: Some(facts.total_bytes),
            free_bytes,
            memory: memory.as_ref().ok().copied(),
            pins: pinned.is_ok(),
            pinning_error: pinned.err(),
            jpeg: if memory.is_ok() { Jpeg::find(&device, jpeg_folders) } else { Jpeg::default() },
            error: memory.err().map(|error| error.to_string()),
        }
    }

    fn text(&self) -> Vec<String> {
        let shown = |bytes: Option<u64>| bytes.map(size::show);
        let facts = [
            self.capability.as_ref().map(|capability| format!("compute capability {capability}")),
            shown(self.total_bytes),
            shown(self.free_bytes).map(|free| format!("{free} free")),
        ];
        let place = [
            self.uuid.clone(),
            self.pci.as_ref().map(|pci| format!("PCI {pci}")),
            self.numa_node.map(|node| format!("NUMA node {node}")),
        ];
        let used = [
            self.memory.map(|kind| format!("memory by {kind}")),
            self.pins.then(|| "host memory can be pinned".into()),
        ];
        let mut lines = vec![format!("{}: {}", self.name, joined(facts))];
        if let Some(error) = &self.error {
            lines[0] = format!("{}: {error}", self.name);
        }
        lines.extend(
            [joined(place), joined(used), self.jpeg.text()].into_iter().filter(|line| !line.is_empty()),
        );
        lines
    }
}

impl Jpeg {
    /// Opens a decoder, as a loader does.
    fn find(device: &Arc<dyn Device>, folders: &[PathBuf]) -> Self {
        let settings = Settings { folders: folders.to_vec(), ..Settings::default() };
        let opened = DeviceMemory::new(device, DECODER_BYTES)
            .and_then(|memory| Ok(Decoder::open(&memory, &settings)?.facts().clone()));
        match opened {
            Ok(facts) => Self {
                library: Some(facts.library),
                backend: Some(facts.backend.name()),
                passed_over: facts.passed_over,
                error: None,
            },
            Err(error) => Self { error: Some(error.to_string()), ..Self::default() },
        }
    }

    fn text(&self) -> String {
        joined([
            self.library.as_ref().map(|library| format!("JPEG by {library}")),
            self.backend.map(|backend| format!("backend {backend}")),
            self.passed_over.clone(),
        ])
    }
}

fn joined<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Pins a little, as a loader pins its memory.
fn pin(device: &Arc<dyn Device>) -> Result<(), String> {
    let arena = Arena::new(PINNED_BYTES).map_err(|error| error.to_string())?;
    arena.pin(Arc::new(Pinned(device.clone()))).map_err(|error| error.to_string())
}

/// The NUMA node of a device on the PCI bus, where the machine has several.
fn node(devices: &Path, pci: &str) -> Option<u32> {
    let text = std::fs::read_to_string(devices.join(pci.to_ascii_lowercase()).join("numa_node")).ok()?;
    // -1 where there is only one.
    text.trim().parse().ok()
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

/// A library where the dynamic linker would find it.
fn library(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let given = std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty());
    let first = given.map(|folder| folder.join(name)).find(|path| path.exists());
    let cache = || in_linker_cache(&std::fs::read("/etc/ld.so.cache").unwrap_or_default(), name);
    let usual = || FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    first.or_else(cache).or_else(usual)
}

/// The library's path among the strings of the dynamic linker's cache.
fn in_linker_cache(cache: &[u8], name: &str) -> Option<PathBuf> {
    let paths = cache.split(|&byte| byte == 0).filter(|text| text.starts_with(b"/"));
    paths
        .map(|text| Path::new(OsStr::from_bytes(text)))
        .find(|path| path.file_name() == Some(OsStr::new(name)) && path.exists())
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
    fn a_device_is_nearest_to_one_part_of_memory_where_there_are_several() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("0000:3b:00.0");
        std::fs::create_dir(&folder).unwrap();
        for (text, found) in [("1\n", Some(1)), ("-1\n", None)] {
            std::fs::write(folder.join("numa_node"), text).unwrap();
            assert_eq!(node(dir.path(), "0000:3B:00.0"), found);
        }
        assert_eq!(node(dir.path(), "0000:3C:00.0"), None);
    }

    #[test]
    fn versions_and_libraries_are_found_by_name() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12.2";
        assert_eq!(version(open).as_deref(), Some("570.86.15"));
        assert_eq!(version(""), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LIBCUDA);
        let cache = format!("ld.so-1.7.0\0{LIBCUDA}\0{}\0/lib/libc.so.6\0", path.display());
        assert_eq!(in_linker_cache(cache.as_bytes(), LIBCUDA), None, "it does not exist");
        std::fs::write(&path, "").unwrap();
        assert_eq!(in_linker_cache(cache.as_bytes(), LIBCUDA), Some(path));
    }
}
