//! Plain HTTP(S) servers: ranges where they have them, and the right bytes where they don't.
//!
//! A version is the entity tag, else the modification time (to the second) with the size; a server that tells
//! neither is refused, since a replaced object couldn't be told from the cached one. Every answer is compared
//! with what is expected, also where the condition was sent along. A server that ignores `Range` sends the
//! object from its first byte for every range: what comes before is thrown away, which is slow, and said.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt, future};
use http::header::{self, HeaderMap};
use http::{HeaderValue, Method, Request, StatusCode};
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, HttpResponse, ReqwestConnector};

use super::Notes;
use super::attempt::{Body, Fault, Said, Store};
use super::options::Options;
use super::secret::Secrets;
use super::transport::{Answer, client_options, last_modified};
use crate::error::{Error, Result};
use crate::object::{ByteRange, Location, ObjectMeta, Version};

/// One server.
#[derive(Clone)]
pub(super) struct Http {
    shared: Arc<Shared>,
}

struct Shared {
    client: HttpClient,
    root: String,
    bearer: Option<HeaderValue>,
    secrets: Secrets,
    notes: Notes,
    said_no_ranges: AtomicBool,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", self.shared.root)
    }
}

impl Http {
    /// Opens a server, `https://host:port`.
    pub(super) fn open(root: &str, options: &Options, notes: Notes) -> Result<Self> {
        let secrets = options.secrets();
        let plain_http = root.starts_with("http://");
        let client = ReqwestConnector::default().connect(&client_options(options, plain_http)?);
        let client =
            client.map_err(|why| Error::config(format!("{root}: {}", Said::scrubbed(&why, &secrets))))?;
        let bearer = options.given("bearer_token").map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                Error::config("bearer_token in storage_options has characters that no header may have")
            })?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        let bearer = bearer.transpose()?;
        let said_no_ranges = AtomicBool::new(false);
        let root = root.to_owned();
        Ok(Self { shared: Arc::new(Shared { client, root, bearer, secrets, notes, said_no_ranges }) })
    }
}

impl Shared {
    async fn send(
        &self,
        method: Method,
        location: &Location,
        more: &[(header::HeaderName, String)],
    ) -> Result<HttpResponse, Fault> {
        let unusable = |why: &dyn fmt::Display| {
            Fault::Unusable(Error::config(format!("{location} can't be asked for: {why}")))
        };
        let mut request = Request::builder().method(method).uri(location.as_str());
        // What is stored is what is cached: no compression on the way.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(bearer) = &self.bearer {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        for (name, value) in more {
            request = request.header(name, value);
        }
        let request = request.body(HttpRequestBody::empty()).map_err(|why| unusable(&why))?;
        self.client.execute(request).await.map_err(|why| Fault::again(Said::scrubbed(&why, &self.secrets)))
    }

    /// By a range of one byte: signed URLs are often good for GET alone, and the answer tells whether the
    /// server has ranges.
    async fn head(&self, location: Location) -> Result<ObjectMeta, Fault> {
        let response = self.send(Method::GET, &location, &[(header::RANGE, "bytes=0-0".into())]).await?;
        let size = match response.status() {
            StatusCode::PARTIAL_CONTENT => content_range(response.headers()).map(|(_, size)| size),
            StatusCode::OK => length(response.headers()),
            // An empty object has no first byte.
            StatusCode::RANGE_NOT_SATISFIABLE => None,
            status => return Err(Answer::new(status, response.headers()).fault(&self.secrets)),
        };
        if let (Some(size), Some(version)) = (size, version(response.headers())) {
            return Ok(ObjectMeta::new(location, size, version));
        }
        drop(response);
        let response = self.send(Method::HEAD, &location, &[]).await?;
        if response.status() != StatusCode::OK {
            return Err(Answer::new(response.status(), response.headers()).fault(&self.secrets));
        }
        match (length(response.headers()), version(response.headers())) {
            (Some(size), Some(version)) => Ok(ObjectMeta::new(location, size, version)),
            (None, _) => Err(Fault::Unusable(Error::config(format!(
                "{location}: the server doesn't tell the size; serve it with Content-Length"
            )))),
            (_, None) => Err(Fault::Unusable(Error::config(format!(
                "{location}: the server gives neither ETag nor Last-Modified, so a replaced object couldn't be told from the cached one; \
                 serve it with one of them"
            )))),
        }
    }

    async fn open(self: Arc<Self>, object: ObjectMeta, range: ByteRange) -> Result<Body, Fault> {
        let mut headers = vec![(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1))];
        match &object.version {
            // A weak tag never matches If-Match; the answer's own tag is compared below.
            Version::Etag(etag) if !etag.starts_with("W/") => headers.push((header::IF_MATCH, etag.clone())),
            Version::Modified(ns) => {
                headers.extend(http_date(*ns).map(|date| (header::IF_UNMODIFIED_SINCE, date)))
            }
            _ => {}
        }
        let response = self.send(Method::GET, &object.location, &headers).await?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (got, size) = content_range(response.headers()).ok_or_else(|| {
                    Fault::broken(Said::new("the server sent a part without saying which (Content-Range)"))
                })?;
                if size != object.size_bytes {
                    return Err(Fault::Changed);
                }
                if got.start > range.start || got.is_empty() {
                    let said = format!("asked for bytes {range}, the server sent {got}");
                    return Err(Fault::again(Said::new(said)));
                }
                range.start - got.start
            }
            StatusCode::OK => {
                if length(response.headers()).is_some_and(|size| size != object.size_bytes) {
                    return Err(Fault::Changed);
                }
                if range.start > 0 || range.end < object.size_bytes {
                    self.say_no_ranges();
                }
                range.start
            }
            status => return Err(Answer::new(status, response.headers()).fault(&self.secrets)),
        };
        if version(response.headers()).as_ref() != Some(&object.version) {
            return Err(Fault::Changed);
        }
        let body = response.into_body().bytes_stream();
        let body = body.map_err(move |why| Fault::again(Said::scrubbed(&why, &self.secrets)));
        Ok(cut(body.boxed(), skip, range.len()))
    }

    fn say_no_ranges(&self) {
        if !self.said_no_ranges.swap(true, Ordering::Relaxed) {
            self.notes.add(format!(
                "{}: the server ignores Range and sends every object from its first byte for every part; use one that has ranges",
                self.root
            ));
        }
    }
}

/// `take` bytes of a body behind the first `skip`.
fn cut(body: Body, skip: u64, take: u64) -> Body {
    let pieces = body.scan((skip, take), |(skip, take), chunk| {
        let chunk = chunk.map(|mut chunk| {
            let skipped = (*skip).min(chunk.len() as u64);
            drop(chunk.split_to(skipped as usize));
            chunk.truncate((*take).min(chunk.len() as u64) as usize);
            *skip -= skipped;
            *take -= chunk.len() as u64;
            chunk
        });
        future::ready(Some(chunk))
    });
    // Empty pieces still tell that bytes arrive: a long skip is no stall.
    pieces.boxed()
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// `bytes 0-9/100`: which part, of how many.
fn content_range(headers: &HeaderMap) -> Option<(ByteRange, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (part, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let end: u64 = last.trim().parse().ok()?;
    Some((ByteRange::new(first.trim().parse().ok()?, end.checked_add(1)?), size.trim().parse().ok()?))
}

fn version(headers: &HeaderMap) -> Option<Version> {
    let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).filter(|etag| !etag.is_empty());
    match etag {
        Some(etag) => Some(Version::Etag(etag.to_owned())),
        None => last_modified(headers).map(Version::Modified),
    }
}

fn http_date(ns: i128) -> Option<String> {
    let seconds = i64::try_from(ns.div_euclid(1_000_000_000)).ok()?;
    let at = chrono::DateTime::from_timestamp(seconds, 0)?;
    Some(at.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

impl Store for Http {
    fn head(&self, location: &Location) -> BoxFuture<'static, Result<ObjectMeta, Fault>> {
        let (shared, location) = (self.shared.clone(), location.clone());
        Box::pin(async move { shared.head(location).await })
    }

    fn open(&self, object: &ObjectMeta, range: ByteRange) -> BoxFuture<'static, Result<Body, Fault>> {
        Box::pin(self.shared.clone().open(object.clone(), range))
    }

    fn list(&self, prefix: &Location, _: Option<&Location>) -> BoxStream<'static, Result<ObjectMeta, Fault>> {
        let said = format!(
            "{prefix}: HTTP servers can't be listed; name the files, or use braces such as {{000..007}}"
        );
        stream::iter([Err(Fault::Unusable(Error::config(said)))]).boxed()
    }

    fn kind(&self) -> &'static str {
        "http"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn dates_go_to_the_server_as_they_came() {
        let sent = "Sun, 06 Nov 1994 08:49:37 GMT";
        let headers = HeaderMap::from_iter([(header::LAST_MODIFIED, HeaderValue::from_static(sent))]);
        assert_eq!(http_date(last_modified(&headers).unwrap()).unwrap(), sent);
    }

    #[test]
    fn a_content_range_is_read_or_refused() {
        let read = |text: &str| {
            content_range(&HeaderMap::from_iter([(
                header::CONTENT_RANGE,
                HeaderValue::from_str(text).unwrap(),
            )]))
        };
        assert_eq!(read("bytes 5-9/100"), Some((ByteRange::new(5, 10), 100)));
        for wrong in ["bytes */100", "bytes 5-9/*", "items 5-9/100", "bytes 0-18446744073709551615/1", "5"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_cut_body_is_the_slice(
            sizes in proptest::collection::vec(0usize..50, 0..12), skip in 0u64..100, take in 0u64..100,
        ) {
            let all: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|at| at as u8).collect();
            let mut at = 0;
            let chunks: Vec<Result<Bytes, Fault>> = sizes.iter().map(|size| {
                let chunk = Bytes::copy_from_slice(&all[at..at + size]);
                at += size;
                Ok(chunk)
            }).collect();
            let got: Vec<Bytes> = futures::executor::block_on(
                cut(stream::iter(chunks).boxed(), skip, take).try_collect()).unwrap();
            let expected: Vec<u8> = all.into_iter().skip(skip as usize).take(take as usize).collect();
            prop_assert_eq!(got.concat(), expected);
        }
    }
}
