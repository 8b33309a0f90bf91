//! Memory: how much there is, and which limits this process has.

use std::path::Path;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::limit;
use crate::size;

/// Limits from here on are no limits: version 1 writes "none" as almost 2⁶³.
const NO_LIMIT_BYTES: u64 = 1 << 60;

#[derive(Debug, Default, Serialize)]
pub(super) struct Memory {
    pub(super) total_bytes: Option<u64>,
    pub(super) available_bytes: Option<u64>,
    /// The tightest limit of this process's cgroups; null where there is none.
    pub(super) cgroup_limit_bytes: Option<u64>,
    /// 1 or 2: which kind of cgroup limits memory here; null where none is mounted.
    pub(super) cgroup_version: Option<u8>,
    /// RLIMIT_MEMLOCK; null where it is unlimited.
    pub(super) memlock_bytes: Option<u64>,
    /// Transparent huge pages: "always", "madvise" or "never"; null where the kernel has none.
    pub(super) huge_pages: Option<String>,
}

impl Memory {
    pub(super) fn find() -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let (cgroup_version, cgroup_limit_bytes) = cgroup(Path::new("/sys/fs/cgroup"), &groups);
        let pages = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        Self {
            total_bytes: kibibytes(&meminfo, "MemTotal:"),
            available_bytes: kibibytes(&meminfo, "MemAvailable:"),
            cgroup_limit_bytes,
            cgroup_version,
            memlock_bytes: getrlimit(Resource::Memlock).current,
            huge_pages: pages.ok().and_then(|text| chosen(&text)),
        }
    }

    pub(super) fn rows(&self, row: &mut impl FnMut(&str, String)) {
        let show = |bytes: Option<u64>| bytes.map_or("?".into(), size::show);
        row("memory", format!("{}, {} available", show(self.total_bytes), show(self.available_bytes)));
        let version = self.cgroup_version.map_or("no cgroup".into(), |version| format!("cgroup v{version}"));
        row("", format!("{version} limit: {}", limit(self.cgroup_limit_bytes)));
        // Nothing is locked by this version: the ring's own memory is not counted since Linux 5.12.
        row("", format!("locked memory (RLIMIT_MEMLOCK): {}", limit(self.memlock_bytes)));
        let pages = self.huge_pages.as_deref().unwrap_or("none");
        row("", format!("transparent huge pages: {pages}"));
    }
}

/// A line of /proc/meminfo.
fn kibibytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// Version and tightest limit of the groups that `groups` (/proc/self/cgroup) names, mounted at `root`. Limits hold for all below
/// them, so every group up to the root counts; inside a container the names may lead nowhere, and the root is the group itself.
fn cgroup(root: &Path, groups: &str) -> (Option<u8>, Option<u64>) {
    let path_of = |controller: &str| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            controllers.split(',').any(|name| name == controller).then(|| parts.next())?
        })
    };
    let (version, root, path, file) = if root.join("memory").is_dir() {
        (1, root.join("memory"), path_of("memory"), "memory.limit_in_bytes")
    } else if root.join("cgroup.controllers").is_file() || root.join("memory.max").is_file() {
        (2, root.to_owned(), path_of(""), "memory.max")
    } else {
        return (None, None);
    };
    let below = root.join(path.unwrap_or("/").trim_start_matches('/'));
    let limits = below.ancestors().take_while(|folder| folder.starts_with(&root)).filter_map(|folder| {
        let text = std::fs::read_to_string(folder.join(file)).ok()?;
        text.trim().parse::<u64>().ok().filter(|&bytes| bytes < NO_LIMIT_BYTES)
    });
    (Some(version), limits.min())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_of_all_groups_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (root, groups) = (dir.path(), "0::/pods/one\n");
        assert_eq!(cgroup(root, groups), (None, None));
        std::fs::create_dir_all(root.join("pods/one")).unwrap();
        std::fs::write(root.join("cgroup.controllers"), "memory").unwrap();
        assert_eq!(cgroup(root, groups), (Some(2), None));
        std::fs::write(root.join("pods/one/memory.max"), "max\n").unwrap();
        std::fs::write(root.join("pods/memory.max"), "5000000000\n").unwrap();
        assert_eq!(cgroup(root, groups), (Some(2), Some(5_000_000_000)));
        std::fs::write(root.join("memory.max"), "4000000000\n").unwrap();
        assert_eq!(cgroup(root, "0::/gone\n"), (Some(2), Some(4_000_000_000)));
    }

    #[test]
    fn version_1_writes_no_limit_as_a_large_number() {
        let dir = tempfile::tempdir().unwrap();
        let groups = "4:cpu:/\n3:memory,hugetlb:/a\n0::/\n";
        std::fs::create_dir_all(dir.path().join("memory/a")).unwrap();
        std::fs::write(dir.path().join("memory/a/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(cgroup(dir.path(), groups), (Some(1), None));
        std::fs::write(dir.path().join("memory/memory.limit_in_bytes"), "1073741824\n").unwrap();
        assert_eq!(cgroup(dir.path(), groups), (Some(1), Some(1 << 30)));
    }

    #[test]
    fn the_kernels_own_files_are_read() {
        assert_eq!(kibibytes("MemTotal:       2 kB\n", "MemTotal:"), Some(2048));
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise".into()));
    }
}
