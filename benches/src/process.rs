//! What this process has used, as the kernel counts it.

use anyhow::{Context, Result};

/// User and system time, in seconds.
pub fn cpu_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks =
        |at: usize| fields.get(at).context("a field of /proc/self/stat").and_then(|f| Ok(f.parse::<f64>()?));
    // Linux shows times in hundredths of a second.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// The most memory that was resident at once, in bytes.
pub fn peak_rss_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// Counts [`peak_rss_bytes`] anew, from what is resident now.
pub fn forget_peak_rss() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")
}

/// Bytes that this process has had read from disks and written to them.
pub fn disk_bytes() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.with_context(|| format!("{name} in /proc/self/io")).and_then(|value| Ok(value.parse::<u64>()?))
    };
    Ok((number("read_bytes")?, number("write_bytes")?))
}
