//! Google Cloud Storage: where credentials and endpoint come from.
//!
//! In order: storage_options, GOOGLE_APPLICATION_CREDENTIALS, gcloud's own file, and last the machine's
//! metadata service. A custom endpoint (STORAGE_EMULATOR_HOST) without credentials is asked unsigned, and
//! that is said.

use std::path::Path;
use std::sync::Arc;

use object_store::gcp::GoogleCloudStorageBuilder;

use super::attempt::Store;
use super::cloud::{Cloud, probe};
use super::location::Address;
use super::options::Options;
use super::transport::{Connector, client_options, no_retries};
use crate::error::{Error, Result};

/// Opens a bucket; the note says what a user should know about how.
pub(super) fn open(address: &Address, options: &Options) -> Result<(Arc<dyn Store>, Option<String>)> {
    let endpoint = options.text("endpoint", &["STORAGE_EMULATOR_HOST"]).map(|host| {
        let url = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        url.trim_end_matches('/').to_owned()
    });
    let plain_http = endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&address.authority)
        .with_http_connector(Connector)
        .with_retry(no_retries())
        .with_client_options(client_options(options, plain_http)?);
    if let Some(endpoint) = &endpoint {
        builder = builder.with_base_url(endpoint);
    }

    let found = find(options, endpoint.is_some())?;
    let secrets = options.secrets();
    builder = match &found {
        Found::Skip | Found::Nothing => builder.with_skip_signature(true),
        Found::Bearer(token) => builder.with_bearer_token(token),
        Found::Key(json) => builder.with_service_account_key(json),
        Found::File(path) => builder.with_application_credentials(path),
        Found::GcloudFile | Found::Metadata => builder,
    };
    let store = builder.build().map_err(|why| {
        Error::config(format!("{} can't be opened: {}", address.store, secrets.scrub(&why.to_string())))
    })?;
    let probe = matches!(found, Found::Metadata).then(|| probe(store.credentials().clone()));
    let note = matches!(found, Found::Nothing).then(|| {
        format!(
            "{}: no credentials found, and the endpoint is not Google's: requests are sent unsigned",
            address.store
        )
    });
    let cloud = Cloud::new(Arc::new(store), "gcs", address.store.clone(), secrets, probe);
    Ok((Arc::new(cloud), note))
}

#[derive(Debug, PartialEq)]
enum Found {
    Skip,
    Bearer(String),
    Key(String),
    File(String),
    GcloudFile,
    Nothing,
    Metadata,
}

fn find(options: &Options, custom_endpoint: bool) -> Result<Found> {
    if options.flag("skip_signature", &[])? == Some(true) {
        return Ok(Found::Skip);
    }
    if let Some(token) = options.given("bearer_token") {
        return Ok(Found::Bearer(token.into()));
    }
    if let Some(key) = options.given("service_account_key") {
        return Ok(Found::Key(key.into()));
    }
    let variables = ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "SERVICE_ACCOUNT"];
    if let Some(path) = options.text("service_account", &variables) {
        return Ok(Found::File(path.into()));
    }
    let gcloud = options
        .env("HOME")
        .map(|home| Path::new(home).join(".config/gcloud/application_default_credentials.json"));
    if gcloud.is_some_and(|path| path.exists()) {
        return Ok(Found::GcloudFile);
    }
    if custom_endpoint {
        return Ok(Found::Nothing);
    }
    if options.may_ask_metadata() {
        return Ok(Found::Metadata);
    }
    Err(Error::config(
        "no Google credentials in storage_options, GOOGLE_APPLICATION_CREDENTIALS or gcloud's own file, and AWS_EC2_METADATA_DISABLED is set; \
         give service_account, or \"skip_signature\": \"true\" for public data",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn credentials_are_looked_for_in_order() {
        let find_with = |given: &[(&str, &str)], environment: &[(&str, &str)], custom| {
            let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
                pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
            };
            find(&Options::new(map(given), map(environment)).unwrap(), custom)
        };
        let environment = [("GOOGLE_APPLICATION_CREDENTIALS", "/key.json")];
        assert_eq!(
            find_with(&[("bearer_token", "t")], &environment, false).unwrap(),
            Found::Bearer("t".into())
        );
        assert_eq!(find_with(&[], &environment, false).unwrap(), Found::File("/key.json".into()));
        assert_eq!(find_with(&[], &[], true).unwrap(), Found::Nothing);
        assert_eq!(find_with(&[], &[], false).unwrap(), Found::Metadata);
        assert!(find_with(&[], &[("AWS_EC2_METADATA_DISABLED", "true")], false).is_err());
    }
}
