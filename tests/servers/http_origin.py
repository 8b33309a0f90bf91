"""A real HTTP server whose manners and faults a test controls. Standard library only.

Objects are put with PUT and removed with DELETE. `POST /_manners` takes JSON that replaces the manners of the server; `GET /_log` gives the
requests so far. The first line of output is the port.

Manners: ranges, etag ("strong", "weak" or null), last_modified, obey_conditions (true or false), content_length;
faults, a list of which each GET of an object takes the first: {"status": 503, "retry_after": "0"}, {"cut_after": bytes}, {"stall_after": bytes}.
"""

import email.utils
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USUAL = {
    "ranges": True,
    "etag": "strong",
    "last_modified": True,
    "obey_conditions": True,
    "content_length": True,
    "faults": [],
}

lock = threading.Lock()
objects = {}
manners = dict(USUAL)
log = []
clock = [1_700_000_000]
ended = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def name(self):
        return unquote(urlsplit(self.path).path)

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        body = self.body()
        with lock:
            clock[0] += 1
            tag = hashlib.sha256(body + str(clock[0]).encode()).hexdigest()[:16]
            objects[self.name()] = (body, tag, clock[0])
        self.answer(201)

    def do_DELETE(self):
        with lock:
            objects.pop(self.name(), None)
        self.answer(200)

    def do_POST(self):
        with lock:
            manners.clear()
            manners.update(USUAL, **json.loads(self.body()))
            log.clear()
        self.answer(200)

    def do_HEAD(self):
        self.serve(send_body=False)

    def do_GET(self):
        if self.path == "/_log":
            with lock:
                text = json.dumps(log).encode()
            return self.answer(200, body=text)
        self.serve(send_body=True)

    def serve(self, send_body):
        with lock:
            log.append([self.command, self.path, self.headers.get("Range")])
            found = objects.get(self.name())
            how = dict(manners)
            fault = manners["faults"].pop(0) if manners["faults"] and send_body else {}
        if "status" in fault:
            headers = [("Retry-After", fault["retry_after"])] if "retry_after" in fault else []
            return self.answer(fault["status"], headers, b"an error page")
        if found is None:
            return self.answer(404)
        body, tag, changed = found
        headers = []
        if how["etag"]:
            headers.append(("ETag", ("W/" if how["etag"] == "weak" else "") + f'"{tag}"'))
        date = email.utils.formatdate(changed, usegmt=True)
        if how["last_modified"]:
            headers.append(("Last-Modified", date))
        if how["obey_conditions"]:
            wanted = self.headers.get("If-Match")
            # Weak tags never match here, as the standard has it.
            if wanted and (how["etag"] != "strong" or wanted != f'"{tag}"'):
                return self.answer(412)
            since = self.headers.get("If-Unmodified-Since")
            if since and since != date:
                return self.answer(412)
        status, part = 200, body
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if how["ranges"] and asked:
            first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
            if first >= len(body):
                return self.answer(416, [*headers, ("Content-Range", f"bytes */{len(body)}")])
            status, part = 206, body[first : last + 1]
            headers.append(("Content-Range", f"bytes {first}-{last}/{len(body)}"))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if how["content_length"]:
            self.send_header("Content-Length", str(len(part)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if send_body:
            self.send_part(part, fault)

    def send_part(self, part, fault):
        try:
            stop = fault.get("cut_after", fault.get("stall_after"))
            self.wfile.write(part[:stop])
            self.wfile.flush()
            if "stall_after" in fault:
                ended.wait()
            if stop is not None:
                self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
