//! Modules: PTX, read only as far as the driver's answers depend on it, with the kernels' host builds in place of their code.

use forebay_kernels::host::{self, HostKernel};

use crate::clocks::Point;
use crate::codes::Code;
use crate::places::Origin;

/// A loaded module.
pub(crate) struct Module {
    pub(crate) context: u64,
    pub(crate) entries: Vec<String>,
    pub(crate) origin: Origin,
    /// The latest launch on each stream, to know what is in flight when it is unloaded.
    pub(crate) launches: Vec<Point>,
}

/// A kernel of a module.
pub(crate) struct Function {
    pub(crate) module: u64,
    pub(crate) kernel: HostKernel,
}

/// What the driver says about PTX that it doesn't take.
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) log: String,
}

/// The newest PTX that a driver of this version knows: 8.0 came with CUDA 12.0, 9.0 with 13.0.
fn newest(driver: i32) -> (u32, u32) {
    let (major, minor) = (driver / 1000, driver % 1000 / 10);
    (u32::try_from(major - 4).unwrap_or(0), u32::try_from(minor.min(8)).unwrap_or(0))
}

/// The names of the kernels in `ptx`, for a device of compute capability `capability` (`90` for 9.0).
pub(crate) fn read(ptx: &str, driver: i32, capability: u32) -> Result<Vec<String>, Refusal> {
    let fatal = |line: usize, what: String, code: Code| Refusal {
        code,
        log: format!(
            "ptxas application ptx input, line {line}; fatal   : {what}\nptxas fatal   : Ptx assembly aborted due to errors"
        ),
    };
    let mut version = None;
    let mut target = None;
    let mut depth = 0i64;
    let mut entries = Vec::new();
    let mut last = 1;
    for (number, line) in ptx.lines().enumerate() {
        last = number + 1;
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(rest) = line.strip_prefix(".version") {
            version = Some(parse_version(rest).ok_or_else(|| {
                fatal(last, format!("Parsing error near '{}': syntax error", rest.trim()), Code::INVALID_PTX)
            })?);
            let (major, minor) = newest(driver);
            if version > Some((major, minor)) {
                let what =
                    format!("Unsupported .version {}; current version is '{major}.{minor}'", rest.trim());
                return Err(fatal(last, what, Code::UNSUPPORTED_PTX_VERSION));
            }
        } else if let Some(rest) = line.strip_prefix(".target") {
            let digits: String =
                rest.trim().trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
            target = digits.parse::<u32>().ok();
        }
        if let Some((_, rest)) = line.split_once(".entry") {
            let name = rest.trim().split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).next();
            match name.filter(|name| !name.is_empty()) {
                Some(name) => entries.push(name.to_owned()),
                None => {
                    return Err(fatal(
                        last,
                        "Parsing error near '.entry': syntax error".to_owned(),
                        Code::INVALID_PTX,
                    ));
                }
            }
        }
        depth += line.matches('{').count() as i64 - line.matches('}').count() as i64;
    }
    if version.is_none() {
        return Err(fatal(1, "Missing .version directive at start of file".to_owned(), Code::INVALID_PTX));
    }
    let Some(target) = target else {
        return Err(fatal(last, "Missing .target directive".to_owned(), Code::INVALID_PTX));
    };
    if target > capability {
        let what = format!(
            "SM version specified by .target is higher than default SM version assumed ('sm_{capability}')"
        );
        return Err(fatal(last, what, Code::NO_BINARY_FOR_GPU));
    }
    if depth != 0 {
        return Err(fatal(
            last,
            "Parsing error near end of file: syntax error".to_owned(),
            Code::INVALID_PTX,
        ));
    }
    Ok(entries)
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Module {
    /// The kernel of this name: of the module, and with a host build.
    pub(crate) fn kernel(&self, name: &str) -> Option<HostKernel> {
        self.entries.iter().any(|entry| entry == name).then(|| host::find(name)).flatten()
    }
}
