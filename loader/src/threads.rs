//! What the machine gives this process: cores, as affinity and cgroup leave them, and how wide its SIMD is.
//!
//! A container's limit is a CPU quota, which `sched_getaffinity` doesn't see: without it a job with 4 of 64 cores starts 64
//! decoding threads, which the kernel then stops for most of every period.

use std::path::{Path, PathBuf};

/// Decoding threads where the user says nothing: the cores given to this process by cgroup (v1, v2) and affinity, divided by
/// LOCAL_WORLD_SIZE; at least 1.
pub fn default_threads() -> usize {
    let local_ranks = std::env::var("LOCAL_WORLD_SIZE").ok().and_then(|ranks| ranks.trim().parse().ok());
    share(affinity(), quota_cores(Path::new("/")), local_ranks)
}

/// Cores that this process may use: the smaller of its affinity and its cgroup's quota.
pub fn cores() -> usize {
    share(affinity(), quota_cores(Path::new("/")), None)
}

fn affinity() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A quota of 2.5 cores makes 2 threads: a third would be stopped half of the time.
fn share(affinity: usize, quota: Option<f64>, local_ranks: Option<usize>) -> usize {
    let cores = quota.map_or(affinity, |quota| affinity.min((quota as usize).max(1)));
    (cores / local_ranks.unwrap_or(1).max(1)).max(1)
}

/// The tightest quota of this process's cgroup and its parents, in cores. `None`: no limit, or nothing readable.
fn quota_cores(root: &Path) -> Option<f64> {
    let own = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    own.lines().filter_map(|line| quota_of_line(root, line)).min_by(f64::total_cmp)
}

/// One line of /proc/self/cgroup: `0::/path` for v2, `4:cpu,cpuacct:/path` for v1.
fn quota_of_line(root: &Path, line: &str) -> Option<f64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (mount, read): (&str, fn(&Path) -> Option<f64>) = if controllers.is_empty() {
        ("sys/fs/cgroup", quota_v2)
    } else if controllers.split(',').any(|name| name == "cpu") {
        ("sys/fs/cgroup/cpu", quota_v1)
    } else {
        return None;
    };
    let mount = root.join(mount);
    let mut folder: PathBuf = mount.join(path.trim_start_matches('/'));
    let mut least: Option<f64> = None;
    // Inside a container's own namespace the path may not exist below the mount; its parents up to the mount do.
    loop {
        if let Some(quota) = read(&folder) {
            least = Some(least.map_or(quota, |other| other.min(quota)));
        }
        if folder == mount || !folder.pop() {
            return least;
        }
    }
}

/// cpu.max: "max 100000" or "250000 100000", both in microseconds.
fn quota_v2(folder: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(folder.join("cpu.max")).ok()?;
    let mut words = text.split_ascii_whitespace();
    ratio(words.next()?, words.next()?)
}

/// cpu.cfs_quota_us, −1 for none, and cpu.cfs_period_us.
fn quota_v1(folder: &Path) -> Option<f64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
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

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_v2_quota_of_a_parent_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/pods/one\n"),
            ("sys/fs/cgroup/pods/one/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pods/cpu.max", "250000 100000\n"),
        ]);
        assert_eq!(quota_cores(root.path()), Some(2.5));
    }

    #[test]
    fn a_v1_quota_counts_and_minus_one_is_no_limit() {
        let files = |quota| {
            tree(&[
                ("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ])
        };
        assert_eq!(quota_cores(files("400000\n").path()), Some(4.0));
        assert_eq!(quota_cores(files("-1\n").path()), None);
    }

    #[test]
    fn without_a_readable_cgroup_there_is_no_quota() {
        assert_eq!(quota_cores(tree(&[]).path()), None);
        assert_eq!(quota_cores(tree(&[("proc/self/cgroup", "nonsense\n\n0::\n")]).path()), None);
    }

    #[test]
    fn cores_are_shared_among_local_ranks_and_never_zero() {
        assert_eq!(share(64, None, None), 64);
        assert_eq!(share(64, Some(8.0), Some(4)), 2);
        assert_eq!(share(2, Some(0.5), Some(8)), 1);
        assert_eq!(share(2, Some(100.0), Some(0)), 2);
        assert!(default_threads() >= 1 && cores() >= default_threads());
    }
}
