//! fio with direct I/O through io_uring: what the disk gives, on the same files, at the same size and depth.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One measurement of reads.
#[derive(Clone, Debug)]
pub struct Job {
    /// Files to read.
    pub files: Vec<PathBuf>,
    /// Bytes per read.
    pub block_bytes: usize,
    /// Reads in flight, of all processes together.
    pub depth: usize,
    /// How long, in seconds.
    pub seconds: f64,
    /// Whether places are drawn, or follow each other.
    pub random: bool,
    /// Processes that read. In order, each takes files of its own; drawn places are in all of them.
    pub processes: usize,
    /// Buffers and files are registered with the ring.
    pub registered: bool,
}

/// What fio reports.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// 10⁹ bytes per second, read and written.
    pub gb_per_s: f64,
    /// Seconds measured.
    pub seconds: f64,
    /// Processor seconds used.
    pub cpu_seconds: f64,
}

impl Job {
    /// The settings worth trying: a disk that one process fills is not read faster by more.
    pub fn settings(self, threads: usize) -> Vec<Self> {
        let with = |processes, registered| Self { processes, registered, ..self.clone() };
        let mut settings = vec![with(1, false), with(1, true)];
        if threads > 1 && self.files.len() >= threads {
            settings.extend([with(threads, false), with(threads, true)]);
        }
        settings
    }

    /// The command line.
    pub fn command(&self) -> Vec<String> {
        let mut command = common(self.seconds);
        command.extend([
            "--readonly".into(),
            "--ioengine=io_uring".into(),
            format!("--rw={}", if self.random { "randread" } else { "read" }),
            format!("--file_service_type={}", if self.random { "random" } else { "sequential" }),
            format!("--bs={}", self.block_bytes),
            format!("--iodepth={}", (self.depth / self.processes).max(1)),
        ]);
        if self.registered {
            command.extend(["--fixedbufs=1".into(), "--registerfiles=1".into()]);
        }
        for process in 0..self.processes {
            let (step, from) = if self.random { (1, 0) } else { (self.processes, process) };
            let files: Vec<_> =
                self.files.iter().skip(from).step_by(step).map(|file| in_list(file)).collect();
            command.extend([format!("--name=reads{process}"), format!("--filename={}", files.join(":"))]);
        }
        command
    }

    /// Runs it.
    ///
    /// # Errors
    /// fio is not installed, fails, or answers something else than its JSON.
    pub fn run(&self) -> Result<Answer> {
        run(&self.command())
    }
}

/// What every measurement has.
pub fn common(seconds: f64) -> Vec<String> {
    let mut command: Vec<String> =
        ["fio", "--direct=1", "--time_based", "--output-format=json"].map(str::to_owned).to_vec();
    // Without a unit it takes whole seconds only.
    command.push(format!("--runtime={}ms", (seconds * 1e3).round()));
    command
}

/// A file in fio's list, where a colon separates them.
pub fn in_list(file: &Path) -> String {
    file.display().to_string().replace(':', "\\:")
}

/// Runs fio; gives what it printed.
///
/// # Errors
/// It is not installed, or fails.
pub fn output(command: &[String]) -> Result<Vec<u8>> {
    let output = Command::new(&command[0])
        .args(&command[1..])
        // Its buffers in huge pages, as ours are: of small ones a virtual disk's request takes 254, a megabyte, and is read at half of its speed.
        .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        .output()
        .context("fio could not be started: install it")?;
    ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Runs fio; reads and writes of all of its jobs together, but for those whose name begins with "space": they move none.
///
/// # Errors
/// As [`Job::run`].
pub fn run(command: &[String]) -> Result<Answer> {
    let answer: Value = serde_json::from_slice(&output(command)?).context("fio's answer is not JSON")?;
    let number = |value: &Value| value.as_f64().context("a number in fio's answer");
    let mut sum = Answer { gb_per_s: 0.0, seconds: 0.0, cpu_seconds: 0.0 };
    for job in answer["jobs"].as_array().context("jobs in fio's answer")? {
        let seconds = number(&job["job_runtime"])? / 1e3;
        sum.cpu_seconds += (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0 * seconds;
        if !job["jobname"].as_str().is_some_and(|name| name.starts_with("space")) {
            sum.seconds = sum.seconds.max(seconds);
            sum.gb_per_s += (number(&job["read"]["bw_bytes"])? + number(&job["write"]["bw_bytes"])?) / 1e9;
        }
    }
    Ok(sum)
}
