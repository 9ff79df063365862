# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages for browsers.  Each says in its DOM, and nowhere in its source, what has come and worked::

    GET /browser?other=HOST&onion=HOST   a page with parts from itself, HOST and HOST
    GET /browser/soak?other=…&onion=…    one that never rests
    GET /browser/PART                    style.css, script.js, soak.js, image.svg, frame, data/TEXT
    GET /browser/socket                  a WebSocket (RFC 6455) that says back what it is told

The `onion` is of the same server; a page without one asks itself instead.
"""

from __future__ import annotations

import base64
import hashlib
import html
import socket
import struct
from typing import BinaryIO
from urllib.parse import parse_qs

_PAGE = """<!DOCTYPE html>
<html><head><title>parts</title>
<link rel="stylesheet" href="http://{other}/browser/style.css">
<body data-other="{other}" data-onion="{onion}">
<p id="styled">text</p>
<img id="image" src="http://{onion}/browser/image.svg">
<p id="result"></p>
<script src="http://{onion}/browser/script.js"></script>
"""

_SOAK = """<!DOCTYPE html>
<html><head><title>soak</title>
<body data-other="{other}" data-onion="{onion}">
<script src="/browser/soak.js"></script>
"""

_STYLE = "#styled { color: rgb(1, 2, 3) }\n"
_IMAGE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="37" height="11"><rect width="37" height="11"/></svg>\n'
)
_FRAME = "<!DOCTYPE html><script>parent.postMessage('from ' + location.hostname, '*')</script>\n"

# What is in the result is put together here: no source has it.
_SCRIPT = """
const {other, onion} = document.body.dataset;
const framed = new Promise(done => addEventListener("message", event => done(event.data)));
const text = url => fetch(url).then(answer => answer.text());
document.body.append(Object.assign(document.createElement("iframe"), {src: `http://${other}/browser/frame`}));
const loaded = new Promise(done => addEventListener("load", done));
const echoed = new Promise((done, failed) => {
    const line = new WebSocket(`ws://${location.host}/browser/socket`);
    line.onopen = () => line.send("socket");
    line.onmessage = event => { done(event.data); line.close(); };
    line.onerror = () => failed(new Error("no socket"));
});
Promise.all([text("/browser/data/own"), text(`http://${other}/browser/data/other`),
             text(`http://${onion}/browser/data/onion`), framed, echoed, loaded])
    .then(all => [...all.slice(0, 5), getComputedStyle(styled).color, image.naturalWidth].join("; "),
          error => `failed: ${error}`)
    .then(all => { result.textContent = all; document.title = "ended"; });
"""

# Names of their own in each turn, so that no cache answers; STUN and QUIC are UDP.
_SOAK_JS = """
const {other, onion} = document.body.dataset;
const told = {fetched: 0, echoed: 0, failed: 0, frames: 0, hints: 0, secure: 0, candidates: 0};
const hosts = [location.host, other, onion];
let turn = Math.floor(Math.random() * 1e9);
const fetching = () => fetch(`http://${hosts[turn % 3]}/browser/data/${turn++}`)
    .then(answer => answer.text()).then(() => told.fetched++, () => told.failed++);
const line = new WebSocket(`ws://${location.host}/browser/socket`);
line.onopen = () => line.send("x");
line.onmessage = () => { told.echoed++; setTimeout(() => line.send("x".repeat(10000)), 50); };
const hint = () => {
    for (const rel of ["dns-prefetch", "preconnect"]) {
        const link = document.createElement("link");
        link.rel = rel;
        link.href = `http://x${turn++}.v4.test.example/`;
        document.head.append(link);
        told.hints++;
    }
};
const frame = () => {
    const made = document.createElement("iframe");
    made.src = `http://${other}/browser/frame?${turn++}`;
    made.onload = () => { told.frames++; setTimeout(() => made.remove(), 200); };
    document.body.append(made);
};
const call = () => {
    const urls = ["stun:www.test.example:3478", "stun:198.51.100.80:3478"];
    const peer = new RTCPeerConnection({iceServers: [{urls}]});
    peer.createDataChannel("x");
    peer.onicecandidate = event => event.candidate && told.candidates++;
    peer.createOffer().then(offer => peer.setLocalDescription(offer));
    setTimeout(() => peer.close(), 1500);
};
const secure = () => fetch(`https://www.test.example:${[443, 444][turn++ % 2]}/`)
    .then(() => told.secure++, () => told.failed++);
setInterval(() => document.title = JSON.stringify(told), 200);
setInterval(fetching, 100);
setInterval(hint, 500);
setInterval(frame, 700);
setInterval(secure, 900);
setInterval(call, 2000);
call();
secure();
"""  # fmt: skip

_PARTS = {
    "style.css": ("text/css", _STYLE),
    "script.js": ("text/javascript", _SCRIPT),
    "soak.js": ("text/javascript", _SOAK_JS),
    "image.svg": ("image/svg+xml", _IMAGE),
    "frame": ("text/html", _FRAME),
}


def result(other: str) -> str:
    """What the page says of itself in #result when every part has come and worked."""
    return f"own; other; onion; from {other}; socket; rgb(1, 2, 3); 37"


def answer(path: str, host: str) -> tuple[str, str] | None:
    """The type and the text of ``/browser…``; None where there is nothing."""
    name, _, query = path.removeprefix("/browser").partition("?")
    name = name.strip("/")
    if name.startswith("data/"):
        return "text/plain", name.removeprefix("data/")
    if name in ("", "soak"):
        asked = parse_qs(query)
        names = {key: html.escape(asked.get(key, [host])[0]) for key in ("other", "onion")}
        return "text/html", (_SOAK if name else _PAGE).format(**names)
    return _PARTS.get(name)


# ---- a WebSocket (RFC 6455) -----------------------------------------------------------------------

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE, _PING, _PONG = 8, 9, 10


def accept_key(key: str) -> str:
    """RFC 6455 §4.2.2."""
    return base64.b64encode(hashlib.sha1(key.encode() + _MAGIC).digest()).decode()


def echo_messages(source: BinaryIO, sock: socket.socket) -> None:
    """Until the client closes: every message back, of one frame each as browsers send short ones."""
    while head := source.read(2):
        code, size = head[0] & 15, head[1] & 127
        if size > 125:
            form = "!H" if size == 126 else "!Q"
            (size,) = struct.unpack(form, source.read(struct.calcsize(form)))
        mask = source.read(4)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(source.read(size)))
        if code == _PONG:
            continue
        length = bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size)
        sock.sendall(bytes([0x80 | (_PONG if code == _PING else code)]) + length + data)
        if code == _CLOSE:
            return
