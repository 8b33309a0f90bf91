//! HTTP for every remote store: the clients' settings, and error answers kept with their status and
//! `Retry-After`.
//!
//! The store library throws an error answer's headers away; a service between it and the network turns the
//! answers that matter here into errors that carry them.

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{StatusCode, header};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::{Certificate, ClientOptions, RetryConfig};

use super::attempt::{Fault, Said};
use super::options::Options;
use super::secret::Secrets;
use crate::error::{Error, Result};

/// Connections that wait for their next request. More than any sensible number of ranges in flight, so that
/// none is closed only to be opened again.
const IDLE_CONNECTIONS: usize = 256;

/// Servers close idle connections after some seconds (S3: about 20), and a request on a connection just
/// closed costs an attempt.
const IDLE_SECONDS: u64 = 15;

/// How much of an error page is read: what names the error stands at its beginning.
const ERROR_BODY_BYTES: usize = 4096;

/// Settings of the HTTP clients.
///
/// The total request timeout of the library is off: a slow link is no failure, a stalled one is seen by
/// `retry`. Its retries are off too: attempts would multiply.
pub(super) fn client_options(options: &Options, plain_http: bool) -> Result<ClientOptions> {
    let connect = options.duration("connect_timeout", Duration::from_secs(5))?;
    let allow_http =
        plain_http || options.flag("allow_http", &["AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP"])? == Some(true);
    let mut client = ClientOptions::new()
        .with_http1_only()
        .with_timeout_disabled()
        .with_connect_timeout(connect)
        .with_pool_idle_timeout(Duration::from_secs(IDLE_SECONDS))
        .with_pool_max_idle_per_host(IDLE_CONNECTIONS)
        .with_allow_http(allow_http);
    if let Some(proxy) = options.given("proxy_url") {
        client = client.with_proxy_url(proxy);
    }
    if let Some(path) = options.text("ca_bundle", &["AWS_CA_BUNDLE"]) {
        let unusable = |why: String| Error::config(format!("ca_bundle {path}: {why}"));
        let pem = std::fs::read(path).map_err(|why| unusable(why.to_string()))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|why| unusable(why.to_string()))? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// No retries inside the store library.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Makes clients whose error answers keep their headers.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Service(HttpClient);

impl HttpService for Service {
    fn call<'me, 'call>(
        &'me self,
        request: HttpRequest,
    ) -> BoxFuture<'call, std::result::Result<HttpResponse, HttpError>>
    where
        'me: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            let response = self.0.execute(request).await?;
            match Answer::worth_keeping(response.status(), response.headers()) {
                None => Ok(response),
                Some(answer) => Err(HttpError::new(HttpErrorKind::Unknown, answer.with_body(response).await)),
            }
        })
    }
}

/// An error answer.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {status}{hint}{}{body}", if .body.is_empty() { "" } else { ": " })]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    hint: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap) -> Self {
        let region = headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
        let hint = match region {
            Some(region) if status.is_redirection() => {
                format!(" (the bucket is in region {region}: set region in storage_options)")
            }
            _ => String::new(),
        };
        Self { status, retry_after: retry_after(headers), hint, body: String::new() }
    }

    /// Those that the store library has errors of its own for stay with it: its credential providers look at
    /// them.
    fn worth_keeping(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let keep = status.is_server_error()
            || matches!(
                status,
                StatusCode::RANGE_NOT_SATISFIABLE
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::REQUEST_TIMEOUT
            )
            || (status.is_redirection() && headers.contains_key("x-amz-bucket-region"));
        keep.then(|| Self::new(status, headers))
    }

    /// Reads the beginning of the error page.
    async fn with_body(mut self, response: HttpResponse) -> Self {
        let mut body = response.into_body().bytes_stream();
        let mut bytes = Vec::new();
        while let Some(Ok(chunk)) = body.next().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() >= ERROR_BODY_BYTES {
                bytes.truncate(ERROR_BODY_BYTES);
                break;
            }
        }
        self.body = String::from_utf8_lossy(&bytes).into_owned();
        self
    }

    /// What it means where nothing better is known from the request.
    pub(super) fn fault(&self, secrets: &Secrets) -> Fault {
        let said = Said::scrubbed(self, secrets);
        match self.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Fault::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Fault::Denied(std::sync::Arc::new(said))
            }
            // Ranges behind the end are refused before they are sent: the object has shrunk.
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => Fault::Changed,
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Fault::broken(said),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => self.again(said),
            status if status.is_server_error() => self.again(said),
            _ => Fault::broken(said),
        }
    }

    fn again(&self, said: Said) -> Fault {
        Fault::Again { cause: std::sync::Arc::new(said), after: self.retry_after }
    }
}

/// Seconds or a date; a date that has passed means now.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?.timestamp();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(u64::try_from(at).unwrap_or(0).saturating_sub(now)))
}

/// The `Last-Modified` of an answer, in nanoseconds since 1970.
pub(super) fn last_modified(headers: &HeaderMap) -> Option<i128> {
    let text = headers.get(header::LAST_MODIFIED)?.to_str().ok()?;
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(&headers(&[("retry-after", "7")])), Some(Duration::from_secs(7)));
        let past = headers(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]);
        assert_eq!(retry_after(&past), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers(&[("retry-after", "soon")])), None);
    }

    #[test]
    fn last_modified_is_read_to_the_second() {
        let sent = headers(&[("last-modified", "Thu, 01 Jan 1970 00:00:05 GMT")]);
        assert_eq!(last_modified(&sent), Some(5_000_000_000));
    }

    #[test]
    fn a_bucket_elsewhere_is_named_with_its_region() {
        let sent = headers(&[("x-amz-bucket-region", "eu-west-1")]);
        let answer = Answer::worth_keeping(StatusCode::MOVED_PERMANENTLY, &sent).unwrap();
        assert!(answer.to_string().contains("region eu-west-1"), "{answer}");
    }

    #[test]
    fn server_errors_are_tried_again_and_client_errors_are_not() {
        let fault = |status: u16| {
            Answer::new(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()).fault(&Secrets::default())
        };
        for status in [429, 408, 500, 502, 503, 504] {
            assert!(matches!(fault(status), Fault::Again { .. }), "{status}");
        }
        assert!(matches!(fault(404), Fault::NotFound));
        assert!(matches!(fault(403), Fault::Denied(_)));
        assert!(matches!(fault(412), Fault::Changed));
        assert!(matches!(fault(400), Fault::Broken(_)));
    }
}
