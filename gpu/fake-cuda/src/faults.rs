//! Errors by plan: which call fails, the how manieth time, and with what.
//!
//! A plan is a list, separated by commas, of `WHAT@N`, `WHAT@N+` (that one and all after it) and either with `:CODE`. WHAT is the name of
//! a function of the driver or of nvJPEG, or one of
//! - `oom`: an allocation of device or pinned memory, out of memory;
//! - `launch`: a kernel or the decoding of a group of images, which fails while it runs and leaves its context unusable;
//! - `jpeg`: an image that nvJPEG is to decode, which it doesn't support;
//! - `lost`: any operation on a stream, at which the device is lost.

use std::collections::HashMap;

use crate::codes::Code;

/// What fails.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Plan(Vec<Fault>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    what: String,
    first: u64,
    last: u64,
    code: Code,
}

impl Plan {
    pub(crate) fn parse(text: &str) -> Result<Plan, String> {
        text.split(',').filter(|word| !word.is_empty()).map(Fault::parse).collect::<Result<_, _>>().map(Plan)
    }
}

impl Fault {
    fn parse(word: &str) -> Result<Fault, String> {
        let bad = || format!("{word:?} is not WHAT@N, WHAT@N+ or WHAT@N:CODE");
        let (what, rest) = word.split_once('@').ok_or_else(bad)?;
        let (count, code) = match rest.split_once(':') {
            Some((count, code)) => (count, Some(code.parse().map_err(|_| bad())?)),
            None => (rest, None),
        };
        let (count, all) = count.strip_suffix('+').map_or((count, false), |count| (count, true));
        let first: u64 = count.parse().ok().filter(|count| *count > 0).ok_or_else(bad)?;
        let usual = match what {
            "oom" => Code::OUT_OF_MEMORY,
            "launch" => Code::LAUNCH_FAILED,
            "lost" => Code::ECC_UNCORRECTABLE,
            // NVJPEG_STATUS_JPEG_NOT_SUPPORTED and NVJPEG_STATUS_INTERNAL_ERROR.
            "jpeg" => Code(4),
            _ if what.starts_with("nvjpeg") => Code(8),
            _ if what.starts_with("cu") => Code::UNKNOWN,
            _ => {
                return Err(format!(
                    "{what:?} is no function of the driver or of nvJPEG, nor oom, launch, jpeg or lost"
                ));
            }
        };
        Ok(Fault {
            what: what.to_owned(),
            first,
            last: if all { u64::MAX } else { first },
            code: code.map_or(usual, Code),
        })
    }
}

/// How often everything in the plan was asked for.
#[derive(Default)]
pub(crate) struct Counts(HashMap<String, u64>);

impl Counts {
    /// Counts one more of `what`; the error if the plan has one for it.
    pub(crate) fn next(&mut self, plan: &Plan, what: &str) -> Result<(), Code> {
        if plan.0.iter().all(|fault| fault.what != what) {
            return Ok(());
        }
        let count = self.0.entry(what.to_owned()).or_default();
        *count += 1;
        match plan.0.iter().find(|fault| fault.what == what && (fault.first..=fault.last).contains(count)) {
            Some(fault) => Err(fault.code),
            None => Ok(()),
        }
    }
}
