//! `forebay doctor`: what this machine has, found by doing where that can be, and what each lack costs.

mod findings;
mod gpu;
mod memory;
mod storage;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::output::{self, Report, Table, clean, count};
use super::place::default_dir;
use crate::{size, threads};
use findings::{Finding, Severity};

/// Show what this machine has: io_uring, direct I/O, SIMD, cores, memory limits, GPU; and what each lack costs. Exit code 1 when
/// something keeps Forebay from working.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The cache folder to try [default: $FOREBAY_CACHE_DIR, or forebay/data in the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Checkup {
    version: &'static str,
    kernel: String,
    processor: Processor,
    cores: Cores,
    storage: storage::Storage,
    memory: memory::Memory,
    gpu: gpu::Gpu,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Processor {
    architecture: &'static str,
    model: Option<String>,
    /// The widest level that decoding and resizing use.
    simd: &'static str,
    /// The environment turns off libjpeg-turbo's SIMD (JSIMD_FORCENONE=1), without which nothing is built.
    jpeg_simd_disabled: bool,
}

#[derive(Debug, Serialize)]
struct Cores {
    /// Cores that this process's affinity allows.
    affinity: usize,
    /// What it may use: the smaller of affinity and its cgroup's quota.
    usable: usize,
    /// Decoding threads of a loader that is given none.
    default_threads: usize,
}

pub(super) fn run(arguments: &Arguments, json: bool, jpeg_folders: &[PathBuf]) -> Result<(), Failure> {
    let dir = arguments.cache_dir.clone().or_else(default_dir).ok_or_else(|| {
        Failure::Usage("there is no home folder to keep a cache in; name a folder with --cache-dir".into())
    })?;
    let checkup = examine(dir, jpeg_folders);
    output::print(&checkup, json)?;
    match checkup.findings.iter().filter(|finding| finding.severity == Severity::Problem).count() as u64 {
        0 => Ok(()),
        problems => {
            Err(Failure::Found(format!("{} to mend before Forebay works here", count(problems, "problem"))))
        }
    }
}

fn examine(cache_dir: PathBuf, jpeg_folders: &[PathBuf]) -> Checkup {
    let mut checkup = Checkup {
        version: env!("CARGO_PKG_VERSION"),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processor: Processor::find(),
        cores: Cores::find(),
        storage: storage::Storage::find(cache_dir),
        memory: memory::Memory::find(),
        gpu: gpu::Gpu::find(jpeg_folders),
        findings: Vec::new(),
    };
    checkup.findings = findings::of(&checkup);
    checkup
}

impl Processor {
    fn find() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            architecture: std::env::consts::ARCH,
            model: model.map(|(_, name)| name.trim().to_owned()),
            simd: threads::simd(),
            jpeg_simd_disabled: std::env::var("JSIMD_FORCENONE").is_ok_and(|value| value == "1"),
        }
    }
}

impl Cores {
    fn find() -> Self {
        let affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
        Self { affinity, usable: threads::cores(), default_threads: threads::default_threads() }
    }
}

impl Report for Checkup {
    fn text(&self) -> String {
        let mut table = Table::new(&[], &[]);
        let mut row = |what: &str, found: String| table.row([what.to_owned(), clean(&found)]);
        row("forebay", self.version.into());
        row("kernel", self.kernel.clone());
        let model = self.processor.model.as_deref().unwrap_or("unknown");
        row("processor", format!("{model} ({})", self.processor.architecture));
        row("cores", self.cores.text());
        row("SIMD", self.processor.text());
        self.storage.rows(&mut row);
        self.memory.rows(&mut row);
        self.gpu.rows(&mut row);
        let mut text = table.text();
        if self.findings.is_empty() {
            text.push_str("\n\nNothing is lacking.");
        }
        for finding in &self.findings {
            let mark = match finding.severity {
                Severity::Problem => "problem",
                Severity::Warning => "slower",
                Severity::Note => "note",
            };
            text = format!("{text}\n\n{mark}: {}\n  costs: {}", clean(&finding.what), finding.costs);
            if let Some(fix) = &finding.fix {
                text = format!("{text}\n  fix:   {fix}");
            }
        }
        text
    }
}

impl Processor {
    fn text(&self) -> String {
        let jpeg = match self.jpeg_simd_disabled {
            false => "libjpeg-turbo with SIMD",
            true => "libjpeg-turbo's SIMD is turned off by JSIMD_FORCENONE",
        };
        format!("{}, {jpeg}", self.simd)
    }
}

impl Cores {
    fn text(&self) -> String {
        let Self { affinity, usable, default_threads } = self;
        let threads = count(*default_threads as u64, "decoding thread");
        match usable < affinity {
            true => {
                format!("{usable} by the cgroup's quota (affinity allows {affinity}): {threads} by default")
            }
            false => format!("{usable} by affinity: {threads} by default"),
        }
    }
}

/// "unlimited" where there is no limit.
fn limit(bytes: Option<u64>) -> String {
    bytes.map_or("unlimited".into(), size::show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_its_keys_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let checkup = examine(dir.path().join("not/yet"), &[]);
        let json = serde_json::to_value(&checkup).unwrap();
        for key in [
            "/version",
            "/kernel",
            "/processor/simd",
            "/processor/jpeg_simd_disabled",
            "/cores/usable",
            "/storage/io/engine",
            "/storage/io/direct",
            "/storage/free_bytes",
            "/memory/total_bytes",
            "/gpu/present",
            "/findings",
        ] {
            assert!(json.pointer(key).is_some(), "{key} is missing in {json:#}");
        }
        assert_eq!(json["storage"]["exists"], false);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let text = checkup.text();
        assert!(text.contains("io_uring") || text.contains("blocking"), "{text}");
    }

    #[test]
    fn a_folder_that_can_not_be_used_is_a_problem() {
        let checkup = examine("/proc/forebay".into(), &[]);
        assert!(checkup.findings.iter().any(|finding| finding.severity == Severity::Problem), "{checkup:?}");
    }

    #[test]
    fn every_lack_names_its_cost() {
        let mut checkup = examine(std::env::temp_dir(), &[]);
        checkup.processor.simd = "sse2";
        checkup.processor.jpeg_simd_disabled = true;
        checkup.memory.cgroup_limit_bytes = Some(1 << 30);
        checkup.memory.huge_pages = Some("never".into());
        checkup.gpu = gpu::Gpu::default();
        let findings = findings::of(&checkup);
        for word in ["sse2", "libjpeg-turbo", "cgroup", "huge pages", "GPU"] {
            let found = findings.iter().find(|finding| finding.what.contains(word));
            assert!(found.is_some_and(|finding| !finding.costs.is_empty()), "{word}: {findings:?}");
        }
    }
}
