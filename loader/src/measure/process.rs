//! What this process has used, as the kernel counts it.

use std::io::{Error, ErrorKind, Result};

/// User and system time, in seconds.
pub fn cpu_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| {
        let ticks = fields.get(at).and_then(|field| field.parse::<f64>().ok());
        ticks.ok_or_else(|| missing("a time in /proc/self/stat"))
    };
    // Linux shows times in hundredths of a second.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// The most memory that was resident at once, in bytes, since the process began or [`reset_peak_rss`].
pub fn peak_rss_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| missing("VmHWM in /proc/self/status"))
}

/// From now on [`peak_rss_bytes`] counts from what is resident now. A kernel without `CONFIG_PROC_PAGE_MONITOR` refuses.
pub fn reset_peak_rss() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5")
}

/// Bytes that this process has had read from disks and written to them.
pub fn disk_bytes() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| missing("a number in /proc/self/io"))
    };
    Ok((number("read_bytes")?, number("write_bytes")?))
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{what} can't be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let before = cpu_seconds().unwrap();
        let late = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while cpu_seconds().unwrap() <= before {
            assert!(std::time::Instant::now() < late, "no time passes");
        }
    }
}
