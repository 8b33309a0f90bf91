//! What can go wrong on a device, and what to do about it.

use std::sync::Arc;

/// Errors of this crate.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no CUDA driver, or one that can't be used.
    #[error("no CUDA driver: {what}")]
    NoDriver {
        /// What was tried, and what to do.
        what: String,
    },
    /// The driver has fewer devices than asked for, or another name for them.
    #[error("no device {asked}: {what}")]
    NoDevice {
        /// As it was asked for.
        asked: String,
        /// What there is.
        what: String,
    },
    /// The driver is older than what this needs.
    #[error("the CUDA driver {have} is too old: {need}")]
    DriverTooOld {
        /// Its version, such as "11.8".
        have: String,
        /// What is missing, and which version has it.
        need: String,
    },
    /// A call of the driver failed.
    #[error("{call} failed on {device}: {name} ({code}), {text}")]
    Driver {
        /// The function.
        call: &'static str,
        /// Which device.
        device: Arc<str>,
        /// The driver's number for the error.
        code: u32,
        /// The driver's name for it.
        name: String,
        /// The driver's words.
        text: String,
    },
    /// The device's context is in a state that no later call leaves: an illegal address, a device that fell off the bus.
    #[error(
        "{device} is lost: {call} answered {name} ({code}), {text}; nothing runs on it in this process any more"
    )]
    Lost {
        /// The first function that said so.
        call: &'static str,
        /// Which device.
        device: Arc<str>,
        /// The driver's number for the error.
        code: u32,
        /// The driver's name for it.
        name: String,
        /// The driver's words.
        text: String,
    },
    /// The device has less memory than asked for.
    #[error(
        "{device} has no {wanted_bytes} bytes for {what}: {free_bytes} of {total_bytes} are free; lower gpu_memory_limit, or free memory \
         that other programs of this device hold"
    )]
    DeviceFull {
        /// Which device.
        device: Arc<str>,
        /// For what.
        what: &'static str,
        /// Bytes asked for.
        wanted_bytes: u64,
        /// Bytes that were free.
        free_bytes: u64,
        /// Bytes that the device has.
        total_bytes: u64,
    },
    /// More was asked for than a budget ever holds.
    #[error(
        "{what} takes {wanted_bytes} bytes of {device}, and gpu_memory_limit is {limit_bytes}, of which {used_bytes} are taken; {advice}"
    )]
    OverBudget {
        /// Which device.
        device: Arc<str>,
        /// What wants it.
        what: String,
        /// Bytes asked for.
        wanted_bytes: u64,
        /// The budget.
        limit_bytes: u64,
        /// Bytes that are taken.
        used_bytes: u64,
        /// What to lower or let go.
        advice: &'static str,
    },
    /// The driver refused the kernels.
    #[error("{device} refused the kernels ({name}): {log}")]
    Kernels {
        /// Which device.
        device: Arc<str>,
        /// The driver's name for the error.
        name: String,
        /// What its compiler said.
        log: String,
    },
    /// The device decodes no JPEG images: it can't, or what it takes for that is missing.
    #[error("no JPEG decoding on {device}: {what}")]
    NoJpeg {
        /// Which device.
        device: Arc<str>,
        /// What was looked for and where, and what to do.
        what: String,
    },
    /// A call of the device's JPEG library failed.
    #[error("{call} failed on {device}: {name} ({code})")]
    Jpeg {
        /// The function.
        call: &'static str,
        /// Which device.
        device: Arc<str>,
        /// The library's number for the error.
        code: i32,
        /// The library's name for it.
        name: &'static str,
    },
    /// A stream that belongs to another device, or is being captured.
    #[error("stream {stream:#x}: {what}")]
    Stream {
        /// The stream's handle.
        stream: u64,
        /// Why it can't be used.
        what: &'static str,
    },
    /// The process is ending.
    #[error("{device} can't be used any more: the process is ending")]
    Ending {
        /// Which device.
        device: Arc<str>,
    },
    /// A child of `fork()`: CUDA doesn't survive it.
    #[error("a forked child can't use {device}: start the process anew (spawn)")]
    Forked {
        /// Which device.
        device: Arc<str>,
    },
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
