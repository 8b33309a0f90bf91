//! fio's direct io_uring reads of a file: what the disk gives, on the same extents and at the same depth.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One measurement.
#[derive(Debug)]
pub struct Job {
    /// Files to read; fio opens all of them and takes them in turn.
    pub files: Vec<PathBuf>,
    /// Bytes per read.
    pub block_bytes: usize,
    /// Reads in flight.
    pub depth: usize,
    /// How long, in seconds; fio takes whole ones.
    pub seconds: f64,
    /// Whether places are drawn, or follow each other.
    pub random: bool,
}

/// What fio reports.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// 10⁹ bytes per second.
    pub gb_per_s: f64,
    /// Seconds measured.
    pub seconds: f64,
    /// Processor seconds used.
    pub cpu_seconds: f64,
}

impl Job {
    /// The command line.
    pub fn command(&self) -> Vec<String> {
        // A colon separates files in fio's list of them.
        let files: Vec<_> =
            self.files.iter().map(|file| file.display().to_string().replace(':', "\\:")).collect();
        let mut command: Vec<String> =
            ["fio", "--name=x", "--readonly", "--direct=1", "--ioengine=io_uring", "--time_based"]
                .map(str::to_owned)
                .to_vec();
        command.extend([
            "--output-format=json".into(),
            format!("--filename={}", files.join(":")),
            "--file_service_type=random".into(),
            format!("--rw={}", if self.random { "randread" } else { "read" }),
            format!("--bs={}", self.block_bytes),
            format!("--iodepth={}", self.depth),
            format!("--runtime={}", self.seconds.ceil()),
        ]);
        command
    }

    /// Runs it.
    ///
    /// # Errors
    /// fio is not installed, fails, or answers something else than its JSON.
    pub fn run(&self) -> Result<Answer> {
        let command = self.command();
        let output = Command::new(&command[0])
            .args(&command[1..])
            .output()
            .context("fio could not be started: install it")?;
        ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
        let answer: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("fio's answer is not JSON")?;
        let job = &answer["jobs"][0];
        let number = |value: &serde_json::Value| value.as_f64().context("a number in fio's answer");
        let seconds = number(&job["read"]["runtime"])? / 1e3;
        Ok(Answer {
            gb_per_s: number(&job["read"]["bw_bytes"])? / 1e9,
            seconds,
            cpu_seconds: (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0 * seconds,
        })
    }
}
