//! What a machine lacks, what that costs, and what helps: pure, from what was found.

use serde::Serialize;

use super::gpu::Lack;
use super::{Checkup, limit};
use crate::size;

/// The loader's default for host_memory_limit.
const DEFAULT_MEMORY_BYTES: u64 = 2_000_000_000;

/// What the program, its threads and the interpreter take beside host_memory_limit.
const BESIDE_BYTES: u64 = 300_000_000;

/// What the lack of a device costs.
const NO_DEVICE_COSTS: &str = "batches stay in host memory (device=\"cpu\"); device=\"cuda\" is an error";

/// Less free space than this holds hardly a dataset.
const LITTLE_SPACE_BYTES: u64 = 20_000_000_000;

/// Something that is not as well as it could be.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) what: String,
    /// What follows from it.
    pub(super) costs: String,
    /// What helps, where something does.
    pub(super) fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Forebay does not work here.
    Problem,
    /// It works, slower or with less.
    Warning,
    /// Worth knowing.
    Note,
}

/// The lacks of a machine, the worst ones first.
pub(super) fn of(checkup: &Checkup) -> Vec<Finding> {
    let mut findings = Vec::new();
    storage(checkup, &mut findings);
    processor(checkup, &mut findings);
    memory(checkup, &mut findings);
    gpu(checkup, &mut findings);
    findings.sort_by_key(|finding| finding.severity as u8);
    findings
}

fn add(into: &mut Vec<Finding>, severity: Severity, what: impl Into<String>, costs: &str, fix: Option<&str>) {
    let (what, costs, fix) = (what.into(), costs.into(), fix.map(Into::into));
    into.push(Finding { severity, what, costs, fix });
}

fn storage(checkup: &Checkup, into: &mut Vec<Finding>) {
    let storage = &checkup.storage;
    if let Some(error) = &storage.error {
        add(
            into,
            Severity::Problem,
            format!("the cache folder {} can't be used: {error}", storage.dir.display()),
            "no loader can be opened with it",
            Some(
                "name a folder on a local disk where this user may write, with cache_dir or FOREBAY_CACHE_DIR",
            ),
        );
    }
    if let Some(reason) = storage.io.as_ref().and_then(|io| io.reason.as_ref()) {
        add(
            into,
            Severity::Warning,
            format!("no io_uring: {reason}"),
            "blocking reads on a thread each: right, but with more threads and switches between them, and fewer reads in flight \
             on a fast disk",
            Some(
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile, and set \
                 kernel.io_uring_disabled=0",
            ),
        );
    }
    if let Some(because) = storage.io.as_ref().and_then(|io| io.buffered_because.as_ref()) {
        add(
            into,
            Severity::Warning,
            format!("no direct I/O in the cache folder: {because}"),
            "cached blocks go through the page cache: a copy more, and memory that counts against the cgroup's limit",
            Some("put cache_dir on ext4 or XFS on a local disk"),
        );
    }
    if storage.network {
        add(
            into,
            Severity::Warning,
            format!("the cache folder is on {}, which is not a local disk", storage.file_system),
            "cached reads cross the network, which the cache is there to avoid",
            Some("put cache_dir on a local NVMe disk"),
        );
    }
    if storage.free_bytes.is_some_and(|free| free < LITTLE_SPACE_BYTES) {
        add(
            into,
            Severity::Warning,
            format!("only {} are free for the cache folder", size::show(storage.free_bytes.unwrap_or(0))),
            "what doesn't fit is fetched from the origin again in every epoch",
            Some("put cache_dir on a larger disk, or give a cache_limit that is free"),
        );
    }
}

fn processor(checkup: &Checkup, into: &mut Vec<Finding>) {
    let processor = &checkup.processor;
    if processor.jpeg_simd_disabled {
        let what = "libjpeg-turbo runs without SIMD";
        let costs = "JPEGs are decoded several times slower";
        add(into, Severity::Warning, what, costs, Some("unset JSIMD_FORCENONE"));
    }
    if !["avx2", "neon"].contains(&processor.simd) {
        add(
            into,
            Severity::Warning,
            format!("the processor's widest SIMD level in use is {}, not avx2", processor.simd),
            "decoding and resizing work on fewer pixels at a time",
            Some("in a virtual machine, pass the host's processor through (cpu=host)"),
        );
    }
    if checkup.cores.usable < checkup.cores.affinity {
        add(
            into,
            Severity::Note,
            format!("the cgroup's quota allows {} of {} cores", checkup.cores.usable, checkup.cores.affinity),
            "decoding grows with cores; the defaults count those that are allowed",
            Some("raise the container's CPU limit"),
        );
    }
}

fn memory(checkup: &Checkup, into: &mut Vec<Finding>) {
    let memory = &checkup.memory;
    let needed = DEFAULT_MEMORY_BYTES + BESIDE_BYTES;
    if let Some(limit) = memory.cgroup_limit_bytes.filter(|&limit| limit < needed * 2) {
        add(
            into,
            Severity::Warning,
            format!("the cgroup's memory limit is {}", size::show(limit)),
            "a loader takes host_memory_limit (2 GB by default) and up to 300 MB; what exceeds the limit is killed",
            Some("give a smaller host_memory_limit, or raise the container's memory limit"),
        );
    } else if memory.available_bytes.is_some_and(|available| available < needed) {
        add(
            into,
            Severity::Warning,
            format!("only {} of memory are available", size::show(memory.available_bytes.unwrap_or(0))),
            "a loader takes host_memory_limit (2 GB by default) and up to 300 MB",
            Some("give a smaller host_memory_limit"),
        );
    }
    if memory.huge_pages.as_deref() == Some("never") {
        add(
            into,
            Severity::Note,
            "transparent huge pages are off",
            "the loader's memory is mapped in pages of 4 KiB: more work for the processor's address translation",
            Some("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        );
    }
}

fn gpu(checkup: &Checkup, into: &mut Vec<Finding>) {
    let gpu = &checkup.gpu;
    let kind = gpu.error.as_ref().map(|error| error.kind);
    match &gpu.error {
        Some(error) if gpu.libcuda.is_some() && kind != Some(Lack::NoDevice) => {
            let fix = match error.kind {
                Lack::DriverTooOld => "install NVIDIA's driver for CUDA 12.0 (525.60) or newer",
                _ => {
                    "see that the driver's library and the kernel module are of one version, and that this user may open /dev/nvidia*"
                }
            };
            add(into, Severity::Warning, &error.what, NO_DEVICE_COSTS, Some(fix));
        }
        _ if !gpu.present => {
            let fix = "in a container, start it with GPUs (--gpus all) and look at CUDA_VISIBLE_DEVICES; on a machine with one, install \
                       NVIDIA's driver";
            add(into, Severity::Note, "no NVIDIA GPU is visible", NO_DEVICE_COSTS, Some(fix));
        }
        _ => {}
    }
    if !gpu.devices.is_empty() && gpu.libcuda.is_none() {
        add(
            into,
            Severity::Warning,
            "a GPU is there, but no libcuda.so.1",
            "no framework can use the GPU",
            Some(
                "install NVIDIA's driver library; in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            ),
        );
    }
    for device in &gpu.tried {
        if let Some(error) = &device.error {
            let what = format!("{} can't be used: {error}", device.name);
            let fix = "end other programs that hold it, or name another device";
            add(into, Severity::Warning, what, "device=\"cuda\" is an error there", Some(fix));
        }
        if let Some(error) = &device.pinning_error {
            let limit = limit(checkup.memory.memlock_bytes);
            let fix = format!(
                "raise the memory that this process may lock (ulimit -l, or the container's memlock limit); it is {limit} now"
            );
            let costs = "copies to the device are slower, and wait for one another";
            let what = format!("host memory can't be pinned for {}: {error}", device.name);
            add(into, Severity::Warning, what, costs, Some(&fix));
        }
    }
    // One library for all of them, or none.
    if let Some(error) = gpu.tried.iter().find_map(|device| device.jpeg.error.as_ref()) {
        let costs = "the CPU decodes; decode_on=\"gpu\" is an error";
        add(into, Severity::Note, error, costs, None);
    }
}
