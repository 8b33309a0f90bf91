//! What the machine gives this process: cores, and how wide its SIMD is.

use std::path::Path;

/// Decoding threads where the user says nothing: the cores given to this process by affinity and cgroup, shared with the job's other
/// processes on this node (LOCAL_WORLD_SIZE). At least 1.
pub fn default_threads() -> usize {
    let local = std::env::var("LOCAL_WORLD_SIZE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    (cores() / std::cmp::max(local, 1)).max(1)
}

/// Cores that this process may use: the smaller of its affinity and its cgroup's quota (rounded up), v2 or v1.
pub fn cores() -> usize {
    let affinity = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    quota(Path::new("/sys/fs/cgroup")).map_or(affinity, |quota| affinity.min(quota)).max(1)
}

/// The quota of the cgroup whose files lie in `root`, in whole cores.
fn quota(root: &Path) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
    let numbers = match read("cpu.max") {
        Some(text) => text,
        None => format!("{} {}", read("cpu/cpu.cfs_quota_us")?.trim(), read("cpu/cpu.cfs_period_us")?.trim()),
    };
    let mut parts = numbers.split_whitespace();
    let (quota, period): (u64, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok()
}

/// The widest SIMD level of this processor that decoding and resizing use.
pub fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx2") {
            return "avx2";
        }
        if std::is_x86_feature_detected!("sse4.1") {
            return "sse4.1";
        }
        "sse2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "neon"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "none"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_both_cgroup_versions_are_rounded_up() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(quota(dir.path()), None);
        std::fs::create_dir(dir.path().join("cpu")).unwrap();
        std::fs::write(dir.path().join("cpu/cpu.cfs_quota_us"), "-1\n").unwrap();
        std::fs::write(dir.path().join("cpu/cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota(dir.path()), None, "-1: no quota");
        std::fs::write(dir.path().join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota(dir.path()), None);
        std::fs::write(dir.path().join("cpu.max"), "150000 100000\n").unwrap();
        assert_eq!(quota(dir.path()), Some(2));
    }
}
