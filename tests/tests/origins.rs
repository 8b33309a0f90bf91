//! Origins against real servers: HTTP with every kind of manners and faults, S3 by SeaweedFS.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use forebay_cache::origin::{Origin, Origins, resolve};
use forebay_cache::testing::conformance::{self, Fixture, pattern, read};
use forebay_cache::{ByteRange, Error, Location, ObjectMeta, Version};
use forebay_tests::servers::{FileServer, HttpOrigin, Seaweed};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};

fn origins(options: &[(&str, &str)]) -> Arc<Origins> {
    let options = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    // No metadata address is ever asked.
    let environment: BTreeMap<String, String> = [("AWS_EC2_METADATA_DISABLED".into(), "true".into())].into();
    Arc::new(Origins::with_environment(options, environment).expect("options that are known"))
}

struct Http {
    server: HttpOrigin,
    origins: Arc<Origins>,
}

impl Http {
    fn start(manners: &str) -> Self {
        Self::with(manners, &[])
    }

    fn with(manners: &str, options: &[(&str, &str)]) -> Self {
        let server = HttpOrigin::start();
        server.behave(manners);
        Self { server, origins: origins(options) }
    }

    async fn object(&self, name: &str, bytes: Bytes) -> ObjectMeta {
        self.put(name, bytes).await;
        self.origins.head(&self.locate(name)).await.expect("an object that was just put")
    }
}

impl Fixture for Http {
    fn origin(&self) -> Arc<dyn Origin> {
        self.origins.clone()
    }

    fn locate(&self, name: &str) -> Location {
        resolve(&format!("{}/{}", self.server.url(), name.replace(' ', "%20"))).expect("a URL")
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, ()> {
        self.server.put(&format!("/{}", name.replace(' ', "%20")), &bytes);
        Box::pin(async {})
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        self.server.delete(&format!("/{}", name.replace(' ', "%20")));
        Box::pin(async {})
    }

    fn lists(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_servers_of_every_kind_conform() {
    let http = Http::start("{}");
    for manners in [
        r#"{}"#,
        r#"{"ranges": false}"#,
        r#"{"etag": null}"#,
        r#"{"etag": "weak"}"#,
        r#"{"etag": null, "ranges": false}"#,
        r#"{"obey_conditions": false}"#,
        r#"{"etag": null, "obey_conditions": false}"#,
        r#"{"ranges": false, "obey_conditions": false}"#,
    ] {
        eprintln!("manners {manners}");
        http.server.behave(manners);
        conformance::conforms(&http).await;
    }
}

#[tokio::test]
async fn a_server_without_ranges_gives_the_right_bytes_and_that_is_said_once() {
    let http = Http::start(r#"{"ranges": false}"#);
    let bytes = pattern(1 << 20, 1);
    let object = http.object("a.tar", bytes.clone()).await;
    for start in [0, 500_000] {
        let range = ByteRange::new(start, start + 1000);
        let got = read(&*http.origins, &object, range).await.unwrap();
        assert_eq!(got, bytes.slice(start as usize..start as usize + 1000));
    }
    let notes = http.origins.notes();
    assert!(notes.len() == 1 && notes[0].contains("ignores Range"), "{notes:?}");
}

#[tokio::test]
async fn a_server_that_tells_no_version_or_no_size_is_refused_with_the_reason() {
    let http = Http::start(r#"{"etag": null, "last_modified": false}"#);
    http.put("a", pattern(10, 1)).await;
    let error = http.origins.head(&http.locate("a")).await.unwrap_err();
    assert!(error.to_string().contains("neither ETag nor Last-Modified"), "{error}");
    http.server.behave(r#"{"ranges": false, "content_length": false}"#);
    let error = http.origins.head(&http.locate("a")).await.unwrap_err();
    assert!(error.to_string().contains("Content-Length"), "{error}");
}

#[tokio::test]
async fn a_connection_cut_in_the_body_is_resumed_at_the_byte() {
    let http = Http::start("{}");
    let bytes = pattern(1 << 20, 1);
    let object = http.object("a.tar", bytes.clone()).await;
    http.server.behave(r#"{"faults": [{"cut_after": 300000}, {"cut_after": 0}, {"cut_after": 1000}]}"#);
    let range = ByteRange::new(10, 1 << 20);
    assert_eq!(read(&*http.origins, &object, range).await.unwrap(), bytes.slice(10..));
    let asked: Vec<_> = http.server.log().into_iter().filter_map(|(_, _, range)| range).collect();
    assert_eq!(
        asked,
        ["bytes=10-1048575", "bytes=300010-1048575", "bytes=300010-1048575", "bytes=301010-1048575"]
    );
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_and_one_that_stays_so_is_an_error_with_its_answer() {
    let http = Http::with("{}", &[("max_attempts", "3")]);
    let object = http.object("a.tar", pattern(1000, 1)).await;
    http.server.behave(
        r#"{"faults": [{"status": 503, "retry_after": "0"},
                       {"status": 429, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}]}"#,
    );
    let range = ByteRange::new(0, 1000);
    assert_eq!(read(&*http.origins, &object, range).await.unwrap(), pattern(1000, 1));
    http.server.behave(r#"{"faults": [{"status": 500}, {"status": 500}, {"status": 500}]}"#);
    let error = read(&*http.origins, &object, range).await.unwrap_err();
    let Error::Origin { attempts: 3, source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("500"), "{source}");
}

#[tokio::test]
async fn a_stalled_connection_is_left_and_stalls_in_a_row_are_an_error_that_says_how_long() {
    let http = Http::with("{}", &[("stall_timeout", "200ms")]);
    let object = http.object("a.tar", pattern(100_000, 1)).await;
    let range = ByteRange::new(0, 100_000);
    http.server.behave(r#"{"faults": [{"stall_after": 5000}]}"#);
    assert_eq!(read(&*http.origins, &object, range).await.unwrap(), pattern(100_000, 1));
    http.server.behave(r#"{"faults": [{"stall_after": 0}, {"stall_after": 0}, {"stall_after": 0}]}"#);
    let error = read(&*http.origins, &object, range).await.unwrap_err();
    assert!(
        matches!(error, Error::Stalled { after, .. } if after == Duration::from_millis(600)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_refusal_is_permission_denied_and_not_tried_again() {
    let http = Http::start("{}");
    let object = http.object("a.tar", pattern(1000, 1)).await;
    for status in [401, 403] {
        http.server.behave(&format!(r#"{{"faults": [{{"status": {status}}}]}}"#));
        let error = read(&*http.origins, &object, ByteRange::new(0, 10)).await.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        assert_eq!(http.server.log().len(), 1);
    }
}

#[tokio::test]
async fn an_object_that_shrank_under_a_server_without_conditions_is_changed() {
    let http = Http::start(r#"{"obey_conditions": false}"#);
    let object = http.object("a.tar", pattern(1000, 1)).await;
    http.put("a.tar", pattern(100, 2)).await;
    let error = read(&*http.origins, &object, ByteRange::new(500, 600)).await.unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error:?}");
}

#[tokio::test]
async fn an_object_replaced_between_a_cut_and_its_resumption_is_changed() {
    let http = Http::start("{}");
    let object = http.object("a.tar", pattern(1 << 20, 1)).await;
    http.server.behave(r#"{"faults": [{"cut_after": 300000}]}"#);
    let mut stream = http.origin().get(&object, ByteRange::new(0, 1 << 20));
    assert!(stream.next().await.unwrap().is_ok());
    http.put("a.tar", pattern(1 << 20, 2)).await;
    let rest: Result<Vec<Bytes>, Error> = stream.try_collect().await;
    assert!(matches!(rest, Err(Error::Changed { .. })));
}

#[tokio::test]
async fn a_server_that_nobody_runs_is_an_error_with_the_cause() {
    let origins = origins(&[("max_attempts", "2")]);
    let error = origins.head(&resolve("http://127.0.0.1:9/a.tar").unwrap()).await.unwrap_err();
    let Error::Origin { attempts: 2, source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().to_lowercase().contains("refused"), "{source}");
}

#[tokio::test]
async fn python_s_own_file_server_works_though_it_has_neither_ranges_nor_etags() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a b.tar"), pattern(300_000, 1)).unwrap();
    let server = FileServer::start(folder.path());
    let origins = origins(&[]);
    let object = origins.head(&resolve(&format!("{}/a%20b.tar", server.url())).unwrap()).await.unwrap();
    assert!(matches!(object.version, Version::Modified(_)) && object.size_bytes == 300_000);
    let got = read(&*origins, &object, ByteRange::new(100_000, 200_000)).await.unwrap();
    assert_eq!(got, pattern(300_000, 1).slice(100_000..200_000));
}

/// One server for the tests of this file: it takes seconds to start. It ends with the last test that holds
/// it.
static SEAWEED: LazyLock<Mutex<Weak<Seaweed>>> = LazyLock::new(Default::default);

fn seaweed() -> Option<Arc<Seaweed>> {
    let mut running = SEAWEED.lock().unwrap_or_else(PoisonError::into_inner);
    running.upgrade().or_else(|| {
        let server = Arc::new(Seaweed::start()?);
        *running = Arc::downgrade(&server);
        Some(server)
    })
}

struct S3 {
    server: Arc<Seaweed>,
    origins: Arc<Origins>,
    bucket: &'static str,
}

impl Fixture for S3 {
    fn origin(&self) -> Arc<dyn Origin> {
        self.origins.clone()
    }

    fn locate(&self, name: &str) -> Location {
        resolve(&format!("s3://{}/conformance/{name}", self.bucket)).expect("a URL")
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, ()> {
        self.server.put(self.bucket, &format!("conformance/{name}"), &bytes);
        Box::pin(async {})
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        self.server.delete(self.bucket, &format!("conformance/{name}"));
        Box::pin(async {})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms_signed_and_unsigned() {
    let Some(server) = seaweed() else { return };
    let endpoint = server.endpoint();
    let signed = origins(&[("endpoint", &endpoint), ("key", Seaweed::KEY), ("secret", Seaweed::SECRET)]);
    conformance::conforms(&S3 { server: server.clone(), origins: signed, bucket: "private" }).await;
    // The endpoint and nothing else.
    let unsigned = origins(&[("endpoint", &endpoint)]);
    conformance::conforms(&S3 { server, origins: unsigned.clone(), bucket: "public" }).await;
    assert!(unsigned.notes()[0].contains("unsigned"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_s3_credentials_are_permission_denied_and_never_shown() {
    let Some(server) = seaweed() else { return };
    let endpoint = server.endpoint();
    let wrong = "a-wrong-secret-value";
    for options in [
        vec![("endpoint", endpoint.as_str()), ("key", Seaweed::KEY), ("secret", wrong)],
        vec![("endpoint", endpoint.as_str()), ("key", "nobody"), ("secret", wrong)],
        vec![("endpoint", endpoint.as_str())],
    ] {
        let origins = origins(&options);
        let error = origins.head(&resolve("s3://private/ready").unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        let said = format!("{error} {error:?} {origins:?}");
        assert!(!said.contains(wrong), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_object_that_is_not_there_names_itself() {
    let Some(server) = seaweed() else { return };
    let origins = origins(&[("endpoint", &server.endpoint())]);
    let missing = resolve("s3://public/no/such.tar").unwrap();
    let error = origins.head(&missing).await.unwrap_err();
    assert!(error.to_string().starts_with("s3://public/no/such.tar does not exist"), "{error}");
}
