//! What can be set: one line of `key=value`, separated by spaces or semicolons, from the environment or from a test.
//!
//! `FOREBAY_FAKE_CUDA_<KEY>` sets a key for a whole process, and is read at the first call. An unknown key or a value that can't be read
//! ends the process from the environment, and is an error through [`Settings::set`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::faults::Plan;
use crate::findings::Kind;

/// How the simulated machine is, and what is done about findings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `seed`: of the delays.
    pub(crate) seed: u64,
    /// `delay_us`: the longest delay before an operation.
    pub(crate) delay: Duration,
    /// `devices`: how many there are, before CUDA_VISIBLE_DEVICES.
    pub(crate) devices: usize,
    /// `memory_mib`: of each device.
    pub(crate) memory: u64,
    /// `version`: of the driver, as cuDriverGetVersion says it.
    pub(crate) version: i32,
    /// `bus_gbps`: 10⁹ bytes a second in each direction; nothing means that copies take the time of a memcpy.
    pub(crate) bus: Option<f64>,
    /// `bus_latency_us`: of each copy.
    pub(crate) latency: Duration,
    /// `faults`: see [`Plan`].
    pub(crate) faults: Plan,
    /// `missing`: functions that this version of the driver doesn't have.
    pub(crate) missing: BTreeSet<String>,
    /// `allow`: findings that the program asks not to be reported.
    pub(crate) allowed: BTreeSet<Kind>,
    /// `vmm=0`: a device without virtual memory management.
    pub(crate) vmm: bool,
    /// `rdma=0`: a device without GPUDirect RDMA.
    pub(crate) rdma: bool,
    /// `nvjpeg`: the version of nvJPEG, as 12040 for 12.4.0; 0 for one that doesn't work.
    pub(crate) nvjpeg: i32,
    /// `jpeg_engines`: how many engines for JPEG the devices have.
    pub(crate) jpeg_engines: u32,
    /// `guard=0`: host memory under copy is neither hashed nor poisoned, for measuring.
    pub(crate) guard: bool,
    /// `moves=0`: copies to a device take the bus's time and move no bytes, as a device's copy engines take no processor; for measuring.
    pub(crate) moves: bool,
    /// `leaks=0`: what isn't freed at exit is not reported.
    pub(crate) leaks: bool,
    /// `abort=1`: ends the process at the first finding.
    pub(crate) abort: bool,
    /// `exit_code`: of a process with findings, if it isn't 0.
    pub(crate) exit_code: i32,
    /// `log`: a file that findings are appended to, also those of forked children.
    pub(crate) log: Option<PathBuf>,
    /// `quiet=1`: nothing on stderr.
    pub(crate) quiet: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: 0,
            delay: Duration::from_micros(200),
            devices: 1,
            memory: 1 << 30,
            version: 12_000,
            bus: None,
            latency: Duration::ZERO,
            faults: Plan::default(),
            missing: BTreeSet::new(),
            allowed: BTreeSet::new(),
            vmm: true,
            rdma: true,
            nvjpeg: 12_040,
            jpeg_engines: 0,
            guard: true,
            moves: true,
            leaks: true,
            abort: false,
            exit_code: 0,
            log: None,
            quiet: false,
        }
    }
}

const KEYS: &[&str] = &[
    "seed",
    "delay_us",
    "devices",
    "memory_mib",
    "version",
    "bus_gbps",
    "bus_latency_us",
    "faults",
    "missing",
    "allow",
    "vmm",
    "rdma",
    "nvjpeg",
    "jpeg_engines",
    "guard",
    "moves",
    "leaks",
    "abort",
    "exit_code",
    "log",
    "quiet",
];

impl Settings {
    /// The defaults with what the environment says.
    pub(crate) fn from_environment() -> Result<Settings, String> {
        let mut settings = Settings::default();
        for key in KEYS {
            let name = format!("FOREBAY_FAKE_CUDA_{}", key.to_uppercase());
            if let Some(value) = std::env::var_os(&name) {
                let value = value.to_str().ok_or_else(|| format!("{name} is not UTF-8"))?;
                settings.one(key, value).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        Ok(settings)
    }

    /// Takes a line of `key=value`.
    pub(crate) fn set(&mut self, line: &str) -> Result<(), String> {
        for word in line.split([' ', ';', '\n']).filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not key=value"))?;
            self.one(key, value).map_err(|error| format!("{key}: {error}"))?;
        }
        Ok(())
    }

    fn one(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "seed" => self.seed = number(value)?,
            "delay_us" => self.delay = Duration::from_micros(number(value)?),
            "devices" => self.devices = number::<u8>(value)?.into(),
            "memory_mib" => self.memory = number::<u32>(value).map(u64::from)? << 20,
            "version" => self.version = number(value)?,
            "bus_gbps" => self.bus = Some(number::<f64>(value)?).filter(|rate| *rate > 0.0),
            "bus_latency_us" => self.latency = Duration::from_micros(number(value)?),
            "faults" => self.faults = Plan::parse(value)?,
            "missing" => self.missing = words(value).map(str::to_owned).collect(),
            "allow" => {
                let kind =
                    |name| Kind::from_name(name).ok_or_else(|| format!("{name:?} is no kind of finding"));
                self.allowed = words(value).map(kind).collect::<Result<_, _>>()?;
            }
            "vmm" => self.vmm = yes(value)?,
            "rdma" => self.rdma = yes(value)?,
            "nvjpeg" => self.nvjpeg = number(value)?,
            "jpeg_engines" => self.jpeg_engines = number(value)?,
            "guard" => self.guard = yes(value)?,
            "moves" => self.moves = yes(value)?,
            "leaks" => self.leaks = yes(value)?,
            "abort" => self.abort = yes(value)?,
            "exit_code" => self.exit_code = number(value)?,
            "log" => self.log = Some(PathBuf::from(value)),
            "quiet" => self.quiet = yes(value)?,
            _ => return Err(format!("no such setting; there are {}", KEYS.join(", "))),
        }
        Ok(())
    }
}

fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').filter(|word| !word.is_empty())
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value:?} is not a number in range"))
}

fn yes(value: &str) -> Result<bool, String> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(format!("{value:?} is neither 0 nor 1")),
    }
}
