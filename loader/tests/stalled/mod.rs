//! An HTTP server of one shard, which tells its size and gives its sidecar, and never sends its bytes.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

pub(crate) struct Stalled {
    pub(crate) url: String,
    asked: Receiver<TcpStream>,
}

impl Stalled {
    pub(crate) fn serve(shard_bytes: u64, sidecar: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.tar", listener.local_addr().unwrap());
        let (ask, asked) = sync_channel(64);
        let sidecar = Arc::new(sidecar);
        let accept = move || {
            for stream in listener.incoming() {
                let (stream, sidecar, ask) = (stream.unwrap(), sidecar.clone(), ask.clone());
                let answer = move || answer(stream, shard_bytes, &sidecar, &ask);
                std::thread::Builder::new().name("stalled-connection".into()).spawn(answer).unwrap();
            }
        };
        std::thread::Builder::new().name("stalled".into()).spawn(accept).unwrap();
        Self { url, asked }
    }

    /// Waits until somebody asks for the shard's bytes. They wait as long as what is returned lives.
    pub(crate) fn asked(&self) -> TcpStream {
        self.asked.recv_timeout(Duration::from_secs(120)).unwrap()
    }
}

/// One request a connection. A client that goes away is no error.
fn answer(mut stream: TcpStream, shard_bytes: u64, sidecar: &[u8], ask: &SyncSender<TcpStream>) {
    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = request.first().and_then(|line| line.split([' ', '?']).nth(1)).unwrap_or_default();
    let probe = request.iter().any(|line| line.to_lowercase().replace(' ', "") == "range:bytes=0-0");
    let (size, bytes): (u64, &[u8]) = match (path, probe) {
        ("/a.tar", true) => (shard_bytes, &[0]),
        ("/a.tar", false) => return drop(ask.send(stream)),
        ("/a.idx", true) => (sidecar.len() as u64, &sidecar[..1]),
        ("/a.idx", false) => (sidecar.len() as u64, sidecar),
        _ => {
            return drop(
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            );
        }
    };
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-{}/{size}\r\nContent-Length: {}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n",
        bytes.len() - 1,
        bytes.len()
    );
    drop(stream.write_all(&[head.as_bytes(), bytes].concat()));
}
