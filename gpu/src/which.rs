//! Which device a user means.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A device as users name it: `cuda`, `cuda:1`, `cuda:GPU-8a5b…` (an unambiguous beginning will do), `cuda:MIG-…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// `cuda`: the one of this rank. `LOCAL_RANK` says which; where each rank sees a single device, or there are no ranks, the first.
    OfThisRank {
        /// `LOCAL_RANK`, where it is set.
        local_rank: Option<u32>,
    },
    /// By its number among those that this process sees (`CUDA_VISIBLE_DEVICES` is the driver's affair).
    Index(u32),
    /// By its UUID, or the beginning of it.
    Uuid(String),
}

impl Which {
    /// As [`FromStr`], where `cuda` is the device of `local_rank`.
    pub fn parse(text: &str, local_rank: Option<u32>) -> Result<Self> {
        Ok(match text.parse()? {
            Self::OfThisRank { .. } => Self::OfThisRank { local_rank },
            other => other,
        })
    }

    /// The index of the device among `count`, whose UUIDs are asked for where they are needed.
    pub(crate) fn choose(
        &self,
        count: u32,
        uuids: impl FnOnce() -> Result<Vec<Option<String>>>,
    ) -> Result<i32> {
        let none = |what: String| Err(Error::NoDevice { asked: self.to_string(), what });
        let seen = match count {
            0 => {
                return none(
                    "the driver sees none; look at CUDA_VISIBLE_DEVICES and the container's devices".into(),
                );
            }
            1 => "this process sees one, cuda:0".to_owned(),
            _ => format!("this process sees {count}, cuda:0 to cuda:{}", count - 1),
        };
        match self {
            Self::OfThisRank { local_rank } => match local_rank.unwrap_or(0) {
                rank if rank < count => Ok(rank as i32),
                _ if count == 1 => Ok(0),
                rank => none(format!("LOCAL_RANK is {rank}, and {seen}; name one, as in device=\"cuda:0\"")),
            },
            Self::Index(index) if *index < count => Ok(*index as i32),
            Self::Index(_) => none(seen),
            Self::Uuid(start) => {
                let uuids = uuids()?;
                let bare =
                    start.split_once('-').map_or(start.as_str(), |(_, bare)| bare).to_ascii_lowercase();
                let found: Vec<usize> = (0..uuids.len())
                    .filter(|&at| uuids[at].as_ref().is_some_and(|uuid| uuid.starts_with(&bare)))
                    .collect();
                match found[..] {
                    [at] => Ok(at as i32),
                    [] => {
                        let known: Vec<_> =
                            uuids.iter().flatten().map(|uuid| format!("GPU-{uuid}")).collect();
                        none(format!("no UUID begins so; there are {}", known.join(", ")))
                    }
                    _ => none("several UUIDs begin so; give more of it".into()),
                }
            }
        }
    }
}

impl FromStr for Which {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let what = "say cuda, cuda:N with the device's number, or cuda:GPU-... with its UUID".to_owned();
            Err(Error::NoDevice { asked: text.into(), what })
        };
        match text.split_once(':') {
            None if text == "cuda" => Ok(Self::OfThisRank { local_rank: None }),
            Some(("cuda", uuid))
                if uuid.len() > 4 && (uuid.starts_with("GPU-") || uuid.starts_with("MIG-")) =>
            {
                Ok(Self::Uuid(uuid.into()))
            }
            Some(("cuda", index)) if !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()) => {
                index.parse().map(Self::Index).or_else(|_| wrong())
            }
            _ => wrong(),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfThisRank { .. } => write!(f, "cuda"),
            Self::Index(index) => write!(f, "cuda:{index}"),
            Self::Uuid(uuid) => write!(f, "cuda:{uuid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(text: &str, local_rank: Option<u32>, count: u32) -> Result<i32> {
        let uuid = |at: u32| Some(format!("{at:02x}aa5b1c-0000-0000-0000-000000000000"));
        Which::parse(text, local_rank)?.choose(count, || Ok((0..count).map(uuid).collect()))
    }

    #[test]
    fn a_rank_takes_its_own_device_or_the_only_one_that_it_sees() {
        assert_eq!(choose("cuda", None, 4).unwrap(), 0);
        assert_eq!(choose("cuda", Some(3), 4).unwrap(), 3);
        assert_eq!(choose("cuda", Some(3), 1).unwrap(), 0);
        let error = choose("cuda", Some(3), 2).unwrap_err().to_string();
        assert!(error.contains("LOCAL_RANK is 3") && error.contains("cuda:0 to cuda:1"), "{error}");
    }

    #[test]
    fn a_device_by_number_or_uuid() {
        assert_eq!(choose("cuda:1", Some(0), 2).unwrap(), 1);
        let error = choose("cuda:7", None, 2).unwrap_err().to_string();
        assert!(error.contains("cuda:7") && error.contains("sees 2"), "{error}");
        assert_eq!(choose("cuda:GPU-01AA", None, 2).unwrap(), 1);
        assert_eq!(choose("cuda:MIG-00aa5b", None, 2).unwrap(), 0);
        assert!(choose("cuda:GPU-ff", None, 2).unwrap_err().to_string().contains("GPU-00aa5b1c"));
        assert!(choose("cuda:GPU-0", None, 2).unwrap_err().to_string().contains("several"));
        assert!(choose("cuda", None, 0).unwrap_err().to_string().contains("CUDA_VISIBLE_DEVICES"));
    }

    #[test]
    fn what_names_no_device_is_an_error_that_says_how() {
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:1.5", "cuda:GPU-", "cuda:99999999999", "cpu"] {
            assert!(Which::from_str(text).unwrap_err().to_string().contains("cuda:N"), "{text}");
        }
    }
}
