# SPDX-License-Identifier: GPL-3.0-or-later
"""The world's HTTP server::

GET  /               the page of places.PAGE
GET  /bytes/N        the first N bytes of the stream; the length is announced
GET  /slow/N         N bytes, one every 50 ms
GET  /wait           a header, and then nothing
GET  /reset/N        announces 2 N bytes, sends N, waits 0.3 s for them to arrive, then RST
GET  /cut/N          announces 2 N bytes, sends N, then closes as if that were all
GET  /headers        the request as it came, and on its first line the client's address
GET  /status/CODE    that status
PUT, POST /upload    takes a body, answers "COUNT SHA256"
/git/NAME            the repositories below DIR/git, by git-http-backend(1)
GET  /browser…       pages and their parts: pages.py

Each request is a line of JSON in DIR/web-requests.jsonl: `client`, `host`, `path`.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from tests.bed import pages, places

BLOCK = 1 << 20


class WebServer(ThreadingMixIn, TCPServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket, stream: int, directory: Path) -> None:
        super().__init__(("::", places.WEB), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.stream = stream
        self.repositories = directory / "git"
        self.requests = os.open(
            directory / "web-requests.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to report."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer
    disable_nagle_algorithm = True

    def log_message(self, *_args: Any) -> None:
        pass

    def parse_request(self) -> bool:
        good = super().parse_request()
        if good:
            row = {"client": self._client(), "host": self.headers.get("Host"), "path": self.path}
            os.write(self.server.requests, json.dumps(row).encode() + b"\n")  # at once, whatever the thread
        return good

    def do_GET(self) -> None:
        word, _, rest = self.path.strip("/").partition("/")
        if word.partition("?")[0] == "browser":
            self._browser()
            return
        if word == "git":
            self._git()
            return
        answer = getattr(self, f"_get_{word or 'page'}", None)
        if answer is None:
            self.send_error(404)
            return
        answer(int(rest) if rest.isdigit() else 0)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.path.startswith("/git/"):
            self._git()
            return
        digest, total = hashlib.sha256(), 0
        for piece in self._body():
            digest.update(piece)
            total += len(piece)
        self._text(f"{total} {digest.hexdigest()}\n")

    do_PUT = do_POST

    # ---- answers ----------------------------------------------------------------------------

    def _header(self, length: int, status: int = 200, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _text(self, text: str, status: int = 200, kind: str = "text/plain") -> None:
        self._header(len(text.encode()), status, kind)
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def _send_stream(self, count: int) -> None:
        sent = 0
        while sent < count and self.command != "HEAD":
            offset = sent % places.PERIOD
            size = min(count - sent, places.PERIOD - offset)
            sent += os.sendfile(self.connection.fileno(), self.server.stream, offset, size)

    def _get_page(self, _number: int) -> None:
        self._text(places.PAGE, kind="text/html")

    def _get_bytes(self, number: int) -> None:
        self._header(number)
        self._send_stream(number)

    def _get_slow(self, number: int) -> None:
        self._header(number)
        never = threading.Event()
        for byte in places.stream(number):
            self.wfile.write(bytes([byte]))
            never.wait(0.05)

    def _get_wait(self, _number: int) -> None:
        self._header(1)
        self.connection.recv(1)  # until the client is gone

    def _get_reset(self, number: int) -> None:
        self._header(2 * number)
        self._send_stream(number)
        threading.Event().wait(0.3)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _get_cut(self, number: int) -> None:
        self._header(2 * number)
        self._send_stream(number)
        self.close_connection = True

    def _get_headers(self, _number: int) -> None:
        self._text(f"{self._client()}\n{self.requestline}\n{self.headers}")

    def _client(self) -> str:
        return str(self.client_address[0]).removeprefix("::ffff:")

    def _get_status(self, number: int) -> None:
        self._text(f"{number}\n", number)

    # ---- browsers ---------------------------------------------------------------------------

    def _browser(self) -> None:
        if key := self.headers.get("Sec-WebSocket-Key"):
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", pages.accept_key(key))
            self.end_headers()
            pages.echo_messages(self.rfile, self.connection)
            self.close_connection = True
            return
        found = pages.answer(self.path, self.headers.get("Host", ""))
        if found is None:
            self.send_error(404)
            return
        kind, text = found
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(text.encode())

    # ---- bodies -----------------------------------------------------------------------------

    def _body(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(BLOCK))
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self._exactly(size, buffer)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
        else:
            yield from self._exactly(int(self.headers.get("Content-Length", 0)), buffer)

    def _exactly(self, size: int, buffer: memoryview) -> Iterator[memoryview]:
        while size:
            got = self.rfile.readinto(buffer[: min(size, BLOCK)])
            if not got:
                raise ConnectionError("short body")
            yield buffer[:got]
            size -= got

    def _git(self) -> None:
        """CGI (RFC 3875), as much as git-http-backend(1) needs."""
        path, _, query = self.path.removeprefix("/git").partition("?")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_PROJECT_ROOT": str(self.server.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = b"".join(bytes(piece) for piece in self._body())
        environment["CONTENT_LENGTH"] = str(len(body))
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
