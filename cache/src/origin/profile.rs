//! The AWS profile files, as far as they hold keys, a region and an endpoint.
//!
//! Roles, SSO and helper programs are named in an error where nothing else gives credentials, never passed
//! over in silence.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::options::Options;
use crate::error::{Error, Result};

/// What a profile says.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Profile {
    pub(super) id: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) token: Option<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    /// Another way to credentials, which isn't gone here.
    pub(super) unsupported: Option<&'static str>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("region", &self.region).finish_non_exhaustive()
    }
}

/// The profile in force; an empty one where there are no files. A profile that was asked for by name must
/// exist.
pub(super) fn read(options: &Options) -> Result<Profile> {
    let named = options.text("profile", &["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]);
    let name = named.unwrap_or("default");
    let home = options.env("HOME").map(PathBuf::from);
    let file = |variable: &str, usual: &str| {
        let path = options.env(variable).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(usual)))?;
        std::fs::read_to_string(path).ok()
    };
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials").unwrap_or_default();
    let config = file("AWS_CONFIG_FILE", ".aws/config").unwrap_or_default();
    let (of_credentials, of_config) = (section(&credentials, name), section(&config, name));
    if named.is_some() && of_credentials.is_none() && of_config.is_none() {
        return Err(Error::config(format!(
            "the AWS profile {name:?} is in neither ~/.aws/credentials nor ~/.aws/config"
        )));
    }
    let mut settings = of_config.unwrap_or_default();
    settings.extend(of_credentials.unwrap_or_default());
    Ok(profile(&settings))
}

fn profile(settings: &BTreeMap<String, String>) -> Profile {
    let get = |name: &str| settings.get(name).filter(|value| !value.is_empty()).cloned();
    let others = [
        ("role_arn", "a role"),
        ("sso_session", "SSO"),
        ("sso_start_url", "SSO"),
        ("credential_process", "a helper program"),
        ("login_session", "a login session"),
    ];
    Profile {
        id: get("aws_access_key_id"),
        secret: get("aws_secret_access_key"),
        token: get("aws_session_token"),
        region: get("region"),
        endpoint: get("endpoint_url"),
        unsupported: others.into_iter().find(|(name, _)| get(name).is_some()).map(|(_, what)| what),
    }
}

/// The settings of `[name]` or `[profile name]`; nested ones (indented) belong to other services.
fn section(text: &str, name: &str) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = line.trim().strip_prefix('[').and_then(|line| line.split(']').next()) {
            let title = title.trim();
            inside = title.strip_prefix("profile ").unwrap_or(title).trim() == name;
            if inside {
                found.get_or_insert_default();
            }
            continue;
        }
        if let (true, Some((key, value)), false) =
            (inside, line.split_once('='), line.starts_with([' ', '\t']))
        {
            found.get_or_insert_default().insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &std::path::Path, more: &[(&str, &str)]) -> Options {
        let mut environment = BTreeMap::from([("HOME".to_owned(), folder.display().to_string())]);
        environment.extend(more.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        Options::new(BTreeMap::new(), environment).unwrap()
    }

    #[test]
    fn keys_come_from_credentials_and_the_region_from_config() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let credentials = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n[other]\naws_access_key_id=C\n";
        std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
        let config = "[default]\nregion = eu-west-1\ns3 =\n  addressing_style = path\n[profile sso]\nsso_session = x\n";
        std::fs::write(home.path().join(".aws/config"), config).unwrap();
        let found = read(&options(home.path(), &[])).unwrap();
        assert_eq!((found.id.as_deref(), found.secret.as_deref()), (Some("A"), Some("B=")));
        assert_eq!(found.region.as_deref(), Some("eu-west-1"));
        let found = read(&options(home.path(), &[("AWS_PROFILE", "sso")])).unwrap();
        assert_eq!(found.unsupported, Some("SSO"));
        let said = read(&options(home.path(), &[("AWS_PROFILE", "missing")])).unwrap_err().to_string();
        assert!(said.contains("missing"), "{said}");
    }

    #[test]
    fn no_files_are_an_empty_profile() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(read(&options(home.path(), &[])).unwrap(), Profile::default());
    }
}
