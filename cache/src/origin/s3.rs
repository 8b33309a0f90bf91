//! S3 and what speaks its protocol: where credentials and endpoint come from.
//!
//! In order: storage_options, the environment, a web identity, a container's credentials, the profile files,
//! and last the machine's metadata service. A custom endpoint without any credentials is asked unsigned, and
//! that is said; its metadata service is never asked.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::attempt::Store;
use super::cloud::{Cloud, probe};
use super::location::Address;
use super::options::Options;
use super::profile::{self, Profile};
use super::secret::Secrets;
use super::transport::{Connector, client_options, no_retries};
use crate::error::{Error, Result};

/// Opens a bucket; the note says what a user should know about how.
pub(super) fn open(address: &Address, options: &Options) -> Result<(Arc<dyn Store>, Option<String>)> {
    let profile = profile::read(options)?;
    let from_profile = |pick: fn(&Profile) -> &Option<String>| pick(&profile).as_deref();
    let endpoint = options
        .text("endpoint", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
        .or(from_profile(|profile| &profile.endpoint));
    let region = options
        .text("region", &["AWS_REGION", "AWS_DEFAULT_REGION"])
        .or(from_profile(|profile| &profile.region))
        .unwrap_or("us-east-1");
    let bucket = address.authority.as_str();

    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_http_connector(Connector)
        .with_retry(no_retries())
        .with_client_options(client_options(
            options,
            endpoint.is_some_and(|url| url.starts_with("http://")),
        )?);
    let virtual_hosted =
        options.flag("virtual_hosted_style_request", &["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"])?;
    if let Some(endpoint) = endpoint {
        let endpoint = with_bucket_in_host(check(endpoint)?, bucket, virtual_hosted == Some(true));
        builder = builder.with_endpoint(endpoint);
    }
    builder = builder.with_virtual_hosted_style_request(virtual_hosted.unwrap_or(false));
    if options.flag("request_payer", &["AWS_REQUEST_PAYER"])? == Some(true) {
        builder = builder.with_request_payer(true);
    }

    let mut secrets = options.secrets();
    let found = find(options, &profile, endpoint.is_some())?;
    let builder = found.apply(builder, options, &mut secrets);
    let store = builder.build().map_err(|why| {
        Error::config(format!("s3://{bucket} can't be opened: {}", secrets.scrub(&why.to_string())))
    })?;
    let probe = matches!(found, Found::Metadata).then(|| probe(store.credentials().clone()));
    let note = matches!(found, Found::Nothing).then(|| {
        format!(
            "{}: no credentials found, and the endpoint is not AWS: requests are sent unsigned",
            address.store
        )
    });
    let cloud = Cloud::new(Arc::new(store), "s3", address.store.clone(), secrets, probe);
    Ok((Arc::new(cloud), note))
}

/// Where credentials come from.
#[derive(Debug, PartialEq)]
enum Found {
    /// As asked for: unsigned.
    Skip,
    Keys {
        id: String,
        secret: String,
        token: Option<String>,
    },
    WebIdentity,
    Container,
    /// None anywhere, at a custom endpoint.
    Nothing,
    Metadata,
}

fn find(options: &Options, profile: &Profile, custom_endpoint: bool) -> Result<Found> {
    if options.flag("skip_signature", &["AWS_SKIP_SIGNATURE"])? == Some(true) {
        return Ok(Found::Skip);
    }
    let given = |name| options.given(name);
    let env = |name| options.env(name);
    let places = [
        (given("access_key_id"), given("secret_access_key"), given("session_token"), "storage_options"),
        (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"), env("AWS_SESSION_TOKEN"), "the environment"),
        (profile.id.as_deref(), profile.secret.as_deref(), profile.token.as_deref(), "the AWS profile"),
    ];
    // A profile asked for by option goes before the environment, as in AWS's own tools.
    let order = if given("profile").is_some() { [0, 2, 1] } else { [0, 1, 2] };
    for (index, place) in order.into_iter().enumerate() {
        if index == 2 {
            if env("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && env("AWS_ROLE_ARN").is_some() {
                return Ok(Found::WebIdentity);
            }
            let container = ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
            if container.into_iter().any(|name| env(name).is_some()) {
                return Ok(Found::Container);
            }
        }
        let (id, secret, token, place) = places[place];
        match (id, secret) {
            (Some(id), Some(secret)) => {
                return Ok(Found::Keys {
                    id: id.into(),
                    secret: secret.into(),
                    token: token.map(Into::into),
                });
            }
            (None, None) => {}
            _ => {
                return Err(Error::config(format!(
                    "{place} has only one of access key id and secret access key; give both"
                )));
            }
        }
    }
    if let Some(what) = &profile.unsupported {
        return Err(Error::config(format!(
            "the AWS profile gets its credentials by {what}, which is not supported; run `aws configure export-credentials --format env` \
             and set what it prints"
        )));
    }
    if custom_endpoint {
        return Ok(Found::Nothing);
    }
    if options.may_ask_metadata() {
        return Ok(Found::Metadata);
    }
    Err(Error::config(
        "no S3 credentials in storage_options, the environment or the profile files, and AWS_EC2_METADATA_DISABLED is set; give \
         access_key_id and secret_access_key, or \"skip_signature\": \"true\" for public data",
    ))
}

impl Found {
    fn apply(&self, builder: AmazonS3Builder, options: &Options, secrets: &mut Secrets) -> AmazonS3Builder {
        match self {
            Self::Skip | Self::Nothing => builder.with_skip_signature(true),
            Self::Keys { id, secret, token } => {
                secrets.add(secret);
                let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
                match token {
                    Some(token) => {
                        secrets.add(token);
                        builder.with_token(token)
                    }
                    None => builder,
                }
            }
            Self::WebIdentity | Self::Container => {
                let variables = [
                    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
                    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
                    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
                    ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
                    (
                        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
                    ),
                    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
                    (
                        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                        AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
                    ),
                ];
                variables.into_iter().fold(builder, |builder, (name, key)| match options.env(name) {
                    Some(value) => builder.with_config(key, value),
                    None => builder,
                })
            }
            Self::Metadata => match options.env("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
                Some(endpoint) => builder.with_metadata_endpoint(endpoint),
                None => builder,
            },
        }
    }
}

fn check(endpoint: &str) -> Result<&str> {
    let parsed = url::Url::parse(endpoint).ok();
    match parsed {
        Some(url) if !url.username().is_empty() || url.password().is_some() => Err(Error::config(
            "endpoint in storage_options holds a user or a password; give access_key_id and secret_access_key",
        )),
        Some(url) if matches!(url.scheme(), "http" | "https") => Ok(endpoint.trim_end_matches('/')),
        _ => Err(Error::config("endpoint in storage_options must be a URL such as http://127.0.0.1:8333")),
    }
}

/// The library wants the bucket inside a virtual-hosted endpoint; people give it either way.
fn with_bucket_in_host(endpoint: &str, bucket: &str, virtual_hosted: bool) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if virtual_hosted && !host.starts_with(&format!("{bucket}.")) => {
            format!("{scheme}://{bucket}.{host}")
        }
        _ => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn options(given: &[(&str, &str)], environment: &[(&str, &str)]) -> Options {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        Options::new(map(given), map(environment)).unwrap()
    }

    fn keys(id: &str) -> Found {
        Found::Keys { id: id.into(), secret: "s".into(), token: None }
    }

    #[test]
    fn options_go_before_the_environment_and_that_before_the_profile() {
        let given = [("key", "option"), ("secret", "s")];
        let environment = [("AWS_ACCESS_KEY_ID", "env"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let profile = Profile { id: Some("profile".into()), secret: Some("s".into()), ..Profile::default() };
        assert_eq!(find(&options(&given, &environment), &profile, true).unwrap(), keys("option"));
        assert_eq!(find(&options(&[], &environment), &profile, true).unwrap(), keys("env"));
        assert_eq!(find(&options(&[], &[]), &profile, true).unwrap(), keys("profile"));
        let named = options(&[("profile", "work")], &environment);
        assert_eq!(find(&named, &profile, true).unwrap(), keys("profile"));
    }

    #[test]
    fn a_custom_endpoint_without_credentials_is_asked_unsigned() {
        assert_eq!(find(&options(&[], &[]), &Profile::default(), true).unwrap(), Found::Nothing);
    }

    #[test]
    fn the_metadata_service_is_asked_last_and_never_where_it_is_disabled() {
        assert_eq!(find(&options(&[], &[]), &Profile::default(), false).unwrap(), Found::Metadata);
        let disabled = options(&[], &[("AWS_EC2_METADATA_DISABLED", "true")]);
        let said = find(&disabled, &Profile::default(), false).unwrap_err().to_string();
        assert!(said.contains("access_key_id") && said.contains("skip_signature"), "{said}");
    }

    #[test]
    fn half_a_key_is_an_error_that_says_where() {
        let said = find(&options(&[("key", "id")], &[]), &Profile::default(), true).unwrap_err().to_string();
        assert!(said.contains("storage_options"), "{said}");
    }

    #[test]
    fn a_virtual_hosted_endpoint_gets_its_bucket_once() {
        assert_eq!(
            with_bucket_in_host("https://store.example", "photos", true),
            "https://photos.store.example"
        );
        assert_eq!(
            with_bucket_in_host("https://photos.store.example", "photos", true),
            "https://photos.store.example"
        );
        assert_eq!(with_bucket_in_host("https://store.example", "photos", false), "https://store.example");
    }
}
