//! An origin in the test's own process that other processes read over TCP, and that counts what they ask for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use forebay_cache::origin::Origin;
use forebay_cache::{ByteRange, Error, Location, ObjectMeta, Result, Version};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const OBJECTS: usize = 6;
/// Two blocks and a bit.
pub(crate) const OBJECT_BYTES: u64 = (10 << 20) + 12_345;
pub(crate) const TOTAL_BYTES: u64 = OBJECTS as u64 * OBJECT_BYTES;

const CHUNK_BYTES: u64 = 256 << 10;

/// Which byte stands where: any process can tell.
pub(crate) fn byte(object: usize, at: u64) -> u8 {
    ((at ^ at >> 9).wrapping_mul(2 * object as u64 + 31) >> 3) as u8
}

pub(crate) fn object(index: usize) -> ObjectMeta {
    let location = Location::new(format!("test://objects/{index}"));
    ObjectMeta::new(location, OBJECT_BYTES, Version::Etag("1".into()))
}

type Asked = Arc<Mutex<Vec<(usize, ByteRange)>>>;

/// The server; it ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Asked,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Asked::default();
        let log = asked.clone();
        let accept = move || {
            for stream in listener.incoming() {
                let (stream, log) = (stream.unwrap(), log.clone());
                let serve = move || serve(stream, &log);
                std::thread::Builder::new().name("origin-connection".into()).spawn(serve).unwrap();
            }
        };
        std::thread::Builder::new().name("origin".into()).spawn(accept).unwrap();
        Self { address, asked }
    }

    /// Bytes that were asked for so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.asked.lock().unwrap().iter().map(|(_, range)| range.len()).sum()
    }

    pub(crate) fn assert_each_byte_asked_once(&self) {
        let mut by_object: BTreeMap<usize, Vec<ByteRange>> = BTreeMap::new();
        for (object, range) in self.asked.lock().unwrap().iter() {
            by_object.entry(*object).or_default().push(*range);
        }
        for (object, mut ranges) in by_object {
            ranges.sort_by_key(|range| range.start);
            let twice = ranges.windows(2).find(|pair| pair[1].start < pair[0].end);
            assert!(twice.is_none(), "object {object}: {twice:?}");
        }
    }
}

/// One request a connection: "object start end". A reader that goes away, or is killed, is no error.
fn serve(mut stream: TcpStream, log: &Asked) {
    let mut line = String::new();
    if BufReader::new(&stream).read_line(&mut line).is_err() {
        return;
    }
    let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [object, start, end] = numbers[..] else { return };
    let object = object as usize;
    log.lock().unwrap().push((object, ByteRange::new(start, end)));
    let mut at = start;
    while at < end {
        let chunk: Vec<u8> = (at..end.min(at + CHUNK_BYTES)).map(|at| byte(object, at)).collect();
        at += chunk.len() as u64;
        if stream.write_all(&chunk).is_err() {
            return;
        }
    }
}

/// The same origin as a process sees it.
pub(crate) struct Remote(pub(crate) SocketAddr);

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}

fn index(location: &Location) -> Option<usize> {
    location.file_name().parse().ok().filter(|index| *index < OBJECTS)
}

fn failed(meta: &ObjectMeta, range: ByteRange, source: std::io::Error) -> Error {
    Error::Origin { location: meta.location.clone(), range, attempts: 1, source: Arc::new(source) }
}

impl Origin for Remote {
    fn head(&self, location: &Location) -> BoxFuture<'_, Result<ObjectMeta>> {
        let found = index(location).map(object).ok_or_else(|| Error::NotFound { location: location.clone() });
        Box::pin(async { found })
    }

    fn list(&self, _: &Location) -> BoxStream<'_, Result<ObjectMeta>> {
        stream::iter((0..OBJECTS).map(|index| Ok(object(index)))).boxed()
    }

    fn get(&self, meta: &ObjectMeta, range: ByteRange) -> BoxStream<'static, Result<bytes::Bytes>> {
        let (address, meta) = (self.0, meta.clone());
        stream::try_unfold((None, range.len()), move |(connection, left)| {
            let meta = meta.clone();
            async move {
                if left == 0 {
                    return Ok(None);
                }
                let next = next_chunk(connection, address, index(&meta.location).unwrap_or(0), range, left);
                let (connection, chunk) = next.await.map_err(|error| failed(&meta, range, error))?;
                let left = left - chunk.len() as u64;
                Ok(Some((chunk, (Some(connection), left))))
            }
        })
        .boxed()
    }

    fn kind(&self) -> &'static str {
        "test"
    }
}

async fn next_chunk(
    connection: Option<tokio::net::TcpStream>,
    address: SocketAddr,
    object: usize,
    range: ByteRange,
    left: u64,
) -> std::io::Result<(tokio::net::TcpStream, bytes::Bytes)> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => {
            let mut fresh = tokio::net::TcpStream::connect(address).await?;
            fresh.write_all(format!("{object} {} {}\n", range.start, range.end).as_bytes()).await?;
            fresh
        }
    };
    let mut chunk = vec![0; left.min(CHUNK_BYTES) as usize];
    let came = connection.read(&mut chunk).await?;
    if came == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    chunk.truncate(came);
    Ok((connection, chunk.into()))
}
