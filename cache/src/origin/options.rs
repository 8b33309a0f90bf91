//! `storage_options` and the environment: one name for every setting, whatever people call it.
//!
//! An option that nobody knows is an error that lists near ones; an empty value counts as not given. Values
//! are never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};

/// Every option: its name here, then what else people and other libraries call it.
const NAMES: &[(&str, &[&str])] = &[
    (
        "endpoint",
        &[
            "endpoint_url",
            "aws_endpoint",
            "aws_endpoint_url",
            "aws_endpoint_url_s3",
            "azure_endpoint",
            "azure_storage_endpoint",
            "base_url",
            "google_base_url",
        ],
    ),
    ("region", &["region_name", "aws_region", "default_region", "aws_default_region"]),
    ("access_key_id", &["aws_access_key_id", "key", "access_key"]),
    ("secret_access_key", &["aws_secret_access_key", "secret", "secret_key"]),
    ("session_token", &["aws_session_token", "aws_token", "token"]),
    ("profile", &["aws_profile"]),
    (
        "skip_signature",
        &[
            "anon",
            "anonymous",
            "no_sign_request",
            "aws_skip_signature",
            "azure_skip_signature",
            "google_skip_signature",
        ],
    ),
    ("virtual_hosted_style_request", &["virtual_hosted_style", "aws_virtual_hosted_style_request"]),
    ("request_payer", &["requester_pays", "aws_request_payer"]),
    ("account_name", &["azure_storage_account_name", "azure_storage_account", "azure_account_name"]),
    ("account_key", &["azure_storage_account_key", "azure_storage_key", "azure_account_key"]),
    ("sas_token", &["sas_key", "azure_storage_sas_token", "azure_storage_sas_key"]),
    ("connection_string", &["azure_storage_connection_string"]),
    ("client_id", &["azure_client_id"]),
    ("client_secret", &["azure_client_secret"]),
    ("tenant_id", &["azure_tenant_id"]),
    (
        "service_account",
        &[
            "service_account_path",
            "google_service_account",
            "google_service_account_path",
            "application_credentials",
            "google_application_credentials",
        ],
    ),
    ("service_account_key", &["google_service_account_key"]),
    ("bearer_token", &["google_bearer_token", "azure_storage_token"]),
    ("allow_http", &["aws_allow_http", "azure_allow_http", "google_allow_http"]),
    ("ca_bundle", &["aws_ca_bundle", "ca_certificates"]),
    ("proxy_url", &["proxy"]),
    ("connect_timeout", &[]),
    ("stall_timeout", &["read_timeout"]),
    ("max_attempts", &[]),
];

/// The options whose values are secret.
const SECRET: &[&str] = &[
    "secret_access_key",
    "session_token",
    "account_key",
    "sas_token",
    "connection_string",
    "client_secret",
    "service_account_key",
    "bearer_token",
];

/// `storage_options` by their own names, and the environment behind them.
#[derive(Clone, Default)]
pub(super) struct Options {
    given: BTreeMap<&'static str, String>,
    environment: BTreeMap<String, String>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.given.keys()).finish()
    }
}

impl Options {
    pub(super) fn new(
        options: BTreeMap<String, String>,
        environment: BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut given: BTreeMap<&'static str, String> = BTreeMap::new();
        for (asked, value) in options {
            let name = canonical(&asked)?;
            if value.is_empty() {
                continue;
            }
            if given.get(name).is_some_and(|other| *other != value) {
                return Err(Error::config(format!(
                    "storage_options gives {name} twice under different names, with different values; keep one"
                )));
            }
            given.insert(name, value);
        }
        Ok(Self { given, environment })
    }

    /// An option as given in storage_options.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        debug_assert!(NAMES.iter().any(|(known, _)| *known == name), "{name} is no option");
        self.given.get(name).map(String::as_str)
    }

    /// A variable of the environment, where it isn't empty.
    pub(super) fn env(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// An option, or the first of these variables that is set.
    pub(super) fn text(&self, name: &str, variables: &[&str]) -> Option<&str> {
        self.given(name).or_else(|| variables.iter().find_map(|variable| self.env(variable)))
    }

    pub(super) fn flag(&self, name: &str, variables: &[&str]) -> Result<Option<bool>> {
        let Some(text) = self.text(name, variables) else { return Ok(None) };
        match truth(text) {
            Some(value) => Ok(Some(value)),
            None if name == "request_payer" && text.eq_ignore_ascii_case("requester") => Ok(Some(true)),
            None => Err(Error::config(format!("{name} in storage_options must be true or false"))),
        }
    }

    pub(super) fn duration(&self, name: &str, default: Duration) -> Result<Duration> {
        let Some(text) = self.given(name) else { return Ok(default) };
        let number_of = |text: &str| text.trim().parse::<f64>().ok();
        let seconds = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(milliseconds), _) => number_of(milliseconds).map(|number| number / 1000.0),
            (None, Some(seconds)) => number_of(seconds),
            (None, None) => number_of(text),
        };
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        duration.filter(|duration| !duration.is_zero()).ok_or_else(|| {
            Error::config(format!(
                "{name} in storage_options must be a positive time such as \"30s\" or \"500ms\", not {text:?}"
            ))
        })
    }

    pub(super) fn number(&self, name: &str, default: u32) -> Result<u32> {
        let Some(text) = self.given(name) else { return Ok(default) };
        text.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
            Error::config(format!("{name} in storage_options must be a positive number, not {text:?}"))
        })
    }

    /// False where the machine's metadata service must not be asked for credentials.
    pub(super) fn may_ask_metadata(&self) -> bool {
        self.env("AWS_EC2_METADATA_DISABLED").and_then(truth) != Some(true)
    }

    /// The secrets among storage_options.
    pub(super) fn secrets(&self) -> super::secret::Secrets {
        let mut secrets = super::secret::Secrets::default();
        SECRET.iter().filter_map(|name| self.given(name)).for_each(|value| secrets.add(value));
        secrets
    }
}

/// Reads what people write for yes and no.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn canonical(asked: &str) -> Result<&'static str> {
    let lower = asked.to_ascii_lowercase();
    let known = NAMES.iter().find(|(name, others)| *name == lower || others.contains(&lower.as_str()));
    if let Some((name, _)) = known {
        return Ok(name);
    }
    let everything = NAMES.iter().flat_map(|(name, others)| std::iter::once(name).chain(*others));
    let mut near: Vec<_> = everything.map(|name| (strsim::jaro_winkler(&lower, name), *name)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<_> =
        near.iter().take_while(|(score, _)| *score > 0.8).take(3).map(|(_, name)| *name).collect();
    let hint = if near.is_empty() {
        let all: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        format!("known are {}", all.join(", "))
    } else {
        format!("near ones are {}", near.join(", "))
    };
    Err(Error::config(format!("storage_options has no option {asked:?}; {hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[(&str, &str)]) -> Result<Options> {
        let given = given.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Options::new(given, BTreeMap::new())
    }

    #[test]
    fn an_option_is_known_under_every_name_it_has() {
        for name in ["endpoint", "endpoint_url", "AWS_ENDPOINT_URL"] {
            assert_eq!(options(&[(name, "http://h")]).unwrap().given("endpoint"), Some("http://h"));
        }
        assert_eq!(options(&[("key", "k")]).unwrap().given("access_key_id"), Some("k"));
        assert_eq!(options(&[("anon", "True")]).unwrap().flag("skip_signature", &[]).unwrap(), Some(true));
    }

    #[test]
    fn an_unknown_option_is_an_error_that_lists_near_ones() {
        let said = options(&[("secret_acces_key", "hidden-value")]).unwrap_err().to_string();
        assert!(said.contains("secret_access_key") && !said.contains("hidden-value"), "{said}");
        let said = options(&[("qqq", "x")]).unwrap_err().to_string();
        assert!(said.contains("endpoint"), "{said}");
    }

    #[test]
    fn two_values_for_one_option_are_an_error() {
        assert!(options(&[("endpoint", "http://a"), ("endpoint_url", "http://b")]).is_err());
        assert!(options(&[("endpoint", "http://a"), ("endpoint_url", "http://a")]).is_ok());
    }

    #[test]
    fn times_and_numbers_are_read_or_refused() {
        let second = Duration::from_secs(1);
        let read = |text| options(&[("stall_timeout", text)]).unwrap().duration("stall_timeout", second);
        assert_eq!(read("500ms").unwrap(), second / 2);
        assert_eq!(read("2s").unwrap(), second * 2);
        assert_eq!(read("2").unwrap(), second * 2);
        for wrong in ["0", "-1", "soon", "1e400"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(options(&[("max_attempts", "0")]).unwrap().number("max_attempts", 8).is_err());
    }

    #[test]
    fn debug_shows_names_and_no_values() {
        let shown = format!("{:?}", options(&[("key", "AKIA"), ("secret", "topsecret")]).unwrap());
        assert!(shown.contains("secret_access_key") && !shown.contains("topsecret"), "{shown}");
    }
}
