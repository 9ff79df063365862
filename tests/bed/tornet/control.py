# SPDX-License-Identifier: GPL-3.0-or-later
"""Tor's control protocol, as much as the test bed needs: authentication, commands, events."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple, Self

from tests.bed.tornet.processes import TornetError
from tests.bed.tornet.socks_client import Address, dial


class Hop(NamedTuple):
    """One relay of a circuit."""

    fingerprint: str
    nickname: str


class Control:
    """A control-port connection.  Events that arrive are kept in `events`."""

    def __init__(self, address: Address, cookie_file: Path, timeout: float = 10.0) -> None:
        self._sock = dial(address, timeout)
        self._file = self._sock.makefile("rb")
        self.events: list[str] = []
        try:
            self.command(f"AUTHENTICATE {cookie_file.read_bytes().hex()}")
        except BaseException:
            self.close()
            raise

    def _reply(self) -> tuple[str, list[str]]:
        """One reply: its status code and its lines (data blocks expanded)."""
        lines: list[str] = []
        while True:
            raw = self._file.readline()
            if not raw:
                raise TornetError("control connection closed")
            text = raw.decode("utf-8", "replace").rstrip("\r\n")
            code, kind, rest = text[:3], text[3:4], text[4:]
            lines.append(rest)
            if kind == "+":
                while True:
                    data = self._file.readline().decode("utf-8", "replace")
                    data = data.rstrip("\r\n")
                    if data == ".":
                        break
                    lines.append(data[1:] if data.startswith("..") else data)
            elif kind != "-":
                return code, lines

    def command(self, line: str) -> list[str]:
        self._sock.sendall(line.encode() + b"\r\n")
        while True:
            code, lines = self._reply()
            if code.startswith("6"):
                self.events.extend(lines)
                continue
            if not code.startswith("2"):
                verb = line.split()[0]
                raise TornetError(f"control port: {verb}: {code} {lines[-1]}")
            return lines

    def getinfo(self, key: str) -> str:
        lines = self.command(f"GETINFO {key}")
        first = lines[0].partition("=")[2]
        return "\n".join(([first] if first else []) + lines[1:-1])

    def circuit(self, ident: str) -> list[Hop]:
        """The relays of an open circuit, in their order; empty when there is no such circuit."""
        for row in self.getinfo("circuit-status").splitlines():
            fields = row.split()
            if fields[0] == ident and len(fields) > 2 and fields[2].startswith("$"):
                return [Hop(*re.fullmatch(r"\$(\w+)[~=](\w+)", hop).groups()) for hop in fields[2].split(",")]
        return []

    def stream_events(self) -> list[list[str]]:
        """``[stream, state, circuit, target]`` of each STREAM event so far (after SETEVENTS STREAM)."""
        self.command("GETINFO version")  # collects what has arrived
        return [e.split()[1:5] for e in self.events if e.startswith("STREAM ")]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
            self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
