//! Azure Blob Storage: where credentials and endpoint come from.
//!
//! In order: storage_options (a connection string among them), the environment, and last the machine's
//! managed identity. A custom endpoint without credentials is asked unsigned, and that is said.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::attempt::Store;
use super::cloud::{Cloud, probe};
use super::location::Address;
use super::options::Options;
use super::transport::{Connector, client_options, no_retries};
use crate::error::{Error, Result};

/// What the store library takes: its key, our option, the variables of the environment.
const SETTINGS: &[(AzureConfigKey, &str, &[&str])] = &[
    (AzureConfigKey::AccessKey, "account_key", &["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"]),
    (AzureConfigKey::SasKey, "sas_token", &["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"]),
    (AzureConfigKey::Token, "bearer_token", &["AZURE_STORAGE_TOKEN"]),
    (AzureConfigKey::ClientId, "client_id", &["AZURE_CLIENT_ID", "AZURE_STORAGE_CLIENT_ID"]),
    (AzureConfigKey::ClientSecret, "client_secret", &["AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET"]),
    (AzureConfigKey::AuthorityId, "tenant_id", &["AZURE_TENANT_ID", "AZURE_STORAGE_TENANT_ID"]),
];

/// Those of the settings that are secret, wherever they come from.
const SECRET: &[&str] = &["account_key", "sas_token", "bearer_token", "client_secret"];

/// Opens a container; the note says what a user should know about how.
pub(super) fn open(address: &Address, options: &Options) -> Result<(Arc<dyn Store>, Option<String>)> {
    let connection = options.text("connection_string", &["AZURE_STORAGE_CONNECTION_STRING"]);
    let connection = connection.map(connection_string).transpose()?.unwrap_or_default();
    let setting = |name: &str, variables: &[&str]| -> Option<String> {
        options
            .given(name)
            .or(connection.get(name).map(String::as_str))
            .or(options.text(name, variables))
            .map(Into::into)
    };
    let (container, account_in_url) = match address.authority.split_once('@') {
        Some((container, host)) => (container, host.split('.').next()),
        None => (address.authority.as_str(), None),
    };
    let account = match account_in_url {
        Some(account) => account.to_owned(),
        None => setting("account_name", &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"])
            .ok_or_else(|| {
                Error::config(format!("{}: account_name is missing in storage_options", address.store))
            })?,
    };
    let endpoint = setting("endpoint", &["AZURE_STORAGE_ENDPOINT"]);
    let plain_http = endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(container)
        .with_http_connector(Connector)
        .with_retry(no_retries())
        .with_client_options(client_options(options, plain_http)?);
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }

    let mut secrets = options.secrets();
    let mut given = Vec::new();
    for (key, name, variables) in SETTINGS {
        let Some(value) = setting(name, variables) else { continue };
        if SECRET.contains(name) {
            secrets.add(&value);
            given.push(*name);
        }
        for part in value.split('&').filter_map(|part| part.trim_start_matches('?').strip_prefix("sig=")) {
            secrets.add(part);
        }
        builder = builder.with_config(*key, value);
    }
    if let Some(file) = options.env("AZURE_FEDERATED_TOKEN_FILE") {
        given.push("AZURE_FEDERATED_TOKEN_FILE");
        builder = builder.with_federated_token_file(file);
    }
    let found = find(options, !given.is_empty(), endpoint.is_some())?;
    builder = builder.with_skip_signature(matches!(found, Found::Skip | Found::Nothing));

    let store = builder.build().map_err(|why| {
        Error::config(format!("{} can't be opened: {}", address.store, secrets.scrub(&why.to_string())))
    })?;
    let probe = matches!(found, Found::ManagedIdentity).then(|| probe(store.credentials().clone()));
    let note = matches!(found, Found::Nothing).then(|| {
        format!(
            "{}: no credentials found, and the endpoint is not Azure's: requests are sent unsigned",
            address.store
        )
    });
    let cloud = Cloud::new(Arc::new(store), "azure", address.store.clone(), secrets, probe);
    Ok((Arc::new(cloud), note))
}

#[derive(Debug, PartialEq)]
enum Found {
    Skip,
    Given,
    Nothing,
    ManagedIdentity,
}

fn find(options: &Options, given: bool, custom_endpoint: bool) -> Result<Found> {
    if options.flag("skip_signature", &[])? == Some(true) {
        return Ok(Found::Skip);
    }
    if given {
        return Ok(Found::Given);
    }
    if custom_endpoint {
        return Ok(Found::Nothing);
    }
    if options.may_ask_metadata() {
        return Ok(Found::ManagedIdentity);
    }
    Err(Error::config(
        "no Azure credentials in storage_options or the environment, and AWS_EC2_METADATA_DISABLED is set; give account_key or sas_token, or \
         \"skip_signature\": \"true\" for public data",
    ))
}

/// `Name=value;…` by our own names.
fn connection_string(text: &str) -> Result<BTreeMap<&'static str, String>> {
    let mut settings = BTreeMap::new();
    let mut protocol = "https";
    let mut suffix = "core.windows.net";
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| {
            Error::config("connection_string must be Name=value pairs with ';' between them, as the Azure portal shows it")
        })?;
        match name.trim() {
            "AccountName" => drop(settings.insert("account_name", value.to_owned())),
            "AccountKey" => drop(settings.insert("account_key", value.to_owned())),
            "SharedAccessSignature" => drop(settings.insert("sas_token", value.to_owned())),
            "BlobEndpoint" => drop(settings.insert("endpoint", value.to_owned())),
            "DefaultEndpointsProtocol" => protocol = value,
            "EndpointSuffix" => suffix = value,
            _ => {}
        }
    }
    let usual = protocol == "https" && suffix == "core.windows.net";
    if let (Some(account), false, false) =
        (settings.get("account_name"), usual, settings.contains_key("endpoint"))
    {
        let endpoint = format!("{protocol}://{account}.blob.{suffix}");
        settings.insert("endpoint", endpoint);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_taken_apart() {
        let found = connection_string(
            "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=a+b==;EndpointSuffix=core.windows.net",
        )
        .unwrap();
        assert_eq!(found.get("account_key").map(String::as_str), Some("a+b=="));
        assert!(!found.contains_key("endpoint"));
        let found = connection_string("AccountName=me;BlobEndpoint=http://127.0.0.1:10000/me;").unwrap();
        assert_eq!(found.get("endpoint").map(String::as_str), Some("http://127.0.0.1:10000/me"));
        assert!(connection_string("nonsense").is_err());
    }

    #[test]
    fn a_store_opens_with_a_sas_token_and_shows_none_of_it() {
        let given = BTreeMap::from([
            ("account_name".to_owned(), "me".to_owned()),
            ("sas_token".to_owned(), "?sv=2024&sig=topsecret%3D".to_owned()),
        ]);
        let options = Options::new(given, BTreeMap::new()).unwrap();
        let location = super::super::resolve("az://photos/a.tar").unwrap();
        let (store, note) = open(&Address::of(&location).unwrap(), &options).unwrap();
        assert!(note.is_none());
        assert!(!format!("{store:?} {options:?}").contains("topsecret"));
    }
}
