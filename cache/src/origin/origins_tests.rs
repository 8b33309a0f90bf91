//! Which store a URL gets, and what is never said.

use super::*;
use crate::error::Error;
use crate::origin::resolve;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn origins(options: &[(&str, &str)]) -> Origins {
    Origins::with_environment(map(options), map(&[("AWS_EC2_METADATA_DISABLED", "true")])).unwrap()
}

#[test]
fn one_store_per_bucket_is_made_and_kept() {
    let origins = origins(&[("endpoint", "http://127.0.0.1:1"), ("anon", "true")]);
    for (url, kind) in [
        ("s3://photos/a", "s3"),
        ("s3a://photos/b", "s3"),
        ("s3://others/b", "s3"),
        ("gs://photos/a", "gcs"),
        ("http://127.0.0.1:1/a", "http"),
        ("/data/a", "local"),
        ("/data/b", "local"),
    ] {
        assert_eq!(origins.get(&resolve(url).unwrap()).unwrap().kind(), kind, "{url}");
    }
    assert_eq!(origins.stores.lock().len(), 5);
}

#[test]
fn an_endpoint_alone_is_asked_unsigned_and_that_is_said_once() {
    let origins = origins(&[("endpoint", "http://127.0.0.1:1")]);
    for _ in 0..2 {
        origins.get(&resolve("s3://photos/a").unwrap()).unwrap();
    }
    let notes = origins.notes();
    assert!(notes.len() == 1 && notes[0].contains("unsigned"), "{notes:?}");
}

#[test]
fn a_key_the_store_library_would_change_is_refused_not_changed() {
    let origins = origins(&[("endpoint", "http://127.0.0.1:1")]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for url in ["s3://b/a//b", "s3://b/a/../b", "s3://b//a"] {
        let error = runtime.block_on(origins.head(&resolve(url).unwrap())).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{url}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_metadata_service_that_never_answers_ends_in_an_error_that_says_what_to_set() {
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", service.local_addr().unwrap());
    let environment = map(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)]);
    let origins = Origins::with_environment(map(&[]), environment).unwrap();
    let said = origins.head(&resolve("s3://photos/a").unwrap()).await.unwrap_err().to_string();
    assert!(said.contains("metadata service") && said.contains("skip_signature"), "{said}");
}

#[tokio::test]
async fn the_metadata_service_is_never_asked_for_a_custom_endpoint_or_where_it_is_disabled() {
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    service.set_nonblocking(true).unwrap();
    let url = format!("http://{}", service.local_addr().unwrap());
    let moved = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str());
    let endpoint = [("endpoint", "http://127.0.0.1:9"), ("max_attempts", "1")];
    for (options, environment) in
        [(&endpoint[..], vec![moved]), (&[][..], vec![moved, ("AWS_EC2_METADATA_DISABLED", "true")])]
    {
        let origins = Origins::with_environment(map(options), map(&environment)).unwrap();
        assert!(origins.head(&resolve("s3://photos/a").unwrap()).await.is_err());
        assert!(service.accept().is_err(), "somebody asked");
    }
}

/// Every way to give a secret, against an endpoint that nobody listens at, and options that are wrong.
#[tokio::test]
async fn no_error_and_no_debug_shows_a_secret() {
    const SECRET: &str = "topsecretvalue0123456789";
    let endpoint = ("endpoint", "http://127.0.0.1:9");
    let few = ("max_attempts", "1");
    let account_key = "dG9wc2VjcmV0dmFsdWUwMTIzNDU2Nzg5"; // the secret in base64
    let sas = format!("?sv=2024-01-01&sp=r&sig={SECRET}");
    let connection = format!("AccountName=me;AccountKey={account_key};BlobEndpoint=http://127.0.0.1:9/me");
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("s3://b/k", &[endpoint, few, ("key", "id"), ("secret", SECRET)]),
        ("s3://b/k", &[endpoint, few, ("key", "id"), ("secret", "s"), ("token", SECRET)]),
        ("s3://b/k", &[endpoint, few, ("secret", SECRET)]),
        ("s3://b/k", &[("endpoint", "http://me:topsecretvalue0123456789@h"), few]),
        ("az://c/k", &[endpoint, few, ("account_name", "me"), ("account_key", account_key)]),
        ("az://c/k", &[endpoint, few, ("account_name", "me"), ("account_key", SECRET)]),
        ("az://c/k", &[endpoint, few, ("account_name", "me"), ("sas_token", &sas)]),
        ("az://c/k", &[few, ("connection_string", &connection)]),
        ("az://c/k", &[few, ("connection_string", SECRET)]),
        ("gs://b/k", &[endpoint, few, ("bearer_token", SECRET)]),
        (
            "gs://b/k",
            &[endpoint, few, ("service_account_key", "{\"private_key\": \"topsecretvalue0123456789\"}")],
        ),
        ("http://127.0.0.1:9/k", &[few, ("bearer_token", SECRET)]),
        ("http://127.0.0.1:9/k?X-Amz-Signature=topsecretvalue0123456789", &[few]),
        ("s3://me:topsecretvalue0123456789@b/k", &[few]),
        ("s3://b/k", &[("anon", SECRET)]),
    ];
    for (url, options) in cases {
        let tried = async {
            let origins =
                Origins::with_environment(map(options), map(&[("AWS_EC2_METADATA_DISABLED", "true")]))?;
            let said = format!("{origins:?}");
            let location = resolve(url)?;
            let origin = origins.get(&location)?;
            let said = format!("{said} {origin:?} {:?}", origins.notes());
            let error = origins.head(&location).await.expect_err("nobody listens there");
            Ok::<_, Error>((said, error))
        };
        let (said, error) = match tried.await {
            Ok(found) => found,
            Err(error) => (String::new(), error),
        };
        let mut said = format!("{said} {error} {error:?} {error:#?}");
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            said += &format!(" {inner} {inner:?}");
            source = inner.source();
        }
        assert!(!said.contains(SECRET) && !said.contains(account_key), "{url}: {said}");
    }
}
