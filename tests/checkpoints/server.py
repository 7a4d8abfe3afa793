"""A real web server on loopback, with the misbehaviour that downloads meet."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Resource:
    """What the server holds under a path.

    Attributes:
        body: The file.
        status: Answer with this error instead.
        location: Redirect there instead.
        kind: Content type.
        ranges: Whether parts can be asked for.
        cuts: Close the connection after so many bytes, one number a request; whole answers when used up.
        etag: Version of the file.
        shift: Answer with a part that begins so many bytes later than asked for.
        gate: Wait for it before answering.
    """

    body: bytes = b""
    status: int = 200
    location: str | None = None
    kind: str = "application/octet-stream"
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    etag: str | None = '"1"'
    shift: int = 0
    gate: threading.Event | None = None


class Server:
    """Serves `resources` by path; `requests` lists `(path, Range header or None)` as they came in."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.requests: list[tuple[str, str | None]] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/{path}"

    def put(self, path: str, body: bytes = b"", **options) -> str:
        """Serve `body` under `path`; returns the address."""
        self.resources[f"/{path}"] = Resource(body, **options)
        return self.url(path)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: Server

    def do_GET(self) -> None:
        self.owner.requests.append((self.path, self.headers.get("Range")))
        resource = self.owner.resources.get(self.path, Resource(status=404))
        if resource.gate is not None:
            resource.gate.wait(60)
        if resource.status != 200 or resource.location:
            self.send_response(302 if resource.location else resource.status)
            if resource.location:
                self.send_header("Location", resource.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, asked = 0, self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, resource.etag)
        partial = bool(asked) and resource.ranges and fresh
        if partial:
            start = int(asked.removeprefix("bytes=").partition("-")[0]) + resource.shift
            if start >= len(resource.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(resource.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if partial else 200)
        self.send_header("Content-Type", resource.kind)
        self.send_header("Content-Length", str(len(resource.body) - start))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(resource.body) - 1}/{len(resource.body)}")
        if resource.etag:
            self.send_header("ETag", resource.etag)
        self.end_headers()
        end = start + resource.cuts.pop(0) if resource.cuts else len(resource.body)
        self.wfile.write(resource.body[start:end])
        self.close_connection = True

    def log_message(self, *_) -> None:
        """Stay quiet."""
