# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives a browser from beside it, which is where it can be driven from: inside the environment.

    python3 -c TEXT chromium|firefox-esr [OPTION …]     (TEXT is this file: it needs nothing but Python)

The browser is started without a window.  Lines of JSON come on standard input and are answered on
standard output: ``{"open": URL}`` when the page is loaded, ``{"ask": JAVASCRIPT}`` with the value of that
expression (of a promise: what it comes to).  End of file ends the browser and this.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import IO, Any

_PREFERENCES = {
    "remote.log.level": "Info",  # it says where it listens
    "network.dns.blockDotOnion": False,  # RFC 7686: who has no Tor must not ask for such names
    "network.lna.enabled": False,  # mapped addresses are in a private range: it would ask its user
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "browser.aboutwelcome.enabled": False,
}


class Chromium:
    """By the DevTools protocol over descriptors 3 and 4, objects of JSON with a zero byte behind."""

    def __init__(self, program: str, options: list[str], directory: str) -> None:
        to_it, mine = os.pipe()
        its, from_it = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_it, from_it)]
        argv = [program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={directory}"]

        def place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [*argv, "--no-first-run", *options, "about:blank"],
            preexec_fn=place, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (to_it, from_it, *high):
            os.close(fd)
        self._to, self._from, self._rest = mine, its, b""
        self._count = 0
        self._loaded: list[str] = []
        page = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self._call("Page.enable")

    _session = ""

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            data = os.read(self._from, 1 << 16)
            if not data:
                raise EOFError("the browser has ended")
            self._rest += data
        line, self._rest = self._rest.split(b"\0", 1)
        return json.loads(line)

    def _call(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        call = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._to, json.dumps(call).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == self._count:
                return message.get("result") or {"error": message.get("error")}
            self._loaded.append(message.get("method", ""))

    def open(self, url: str) -> Any:
        self._loaded.clear()
        done = self._call("Page.navigate", url=url)
        if "errorText" in done:
            return done["errorText"]
        while "Page.loadEventFired" not in self._loaded:
            self._loaded.append(self._read().get("method", ""))
        return None

    def ask(self, expression: str) -> Any:
        done = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return done.get("result", {}).get("value", done.get("exceptionDetails", done.get("error")))

    def end(self) -> None:
        self._session = ""
        with contextlib.suppress(OSError, EOFError):
            self._call("Browser.close")
        self.process.wait()


class Firefox:
    """By Marionette, a port on the environment's own loopback: ``LENGTH:[0, id, command, parameters]``."""

    def __init__(self, program: str, options: list[str], directory: str) -> None:
        with open(f"{directory}/user.js", "w") as file:
            for name, value in _PREFERENCES.items():
                print(f"user_pref({json.dumps(name)}, {json.dumps(value)});", file=file)
        argv = [program, "--headless", "--marionette", "--profile", directory, *options, "about:blank"]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.process.stdout
        self._line = socket.create_connection(("127.0.0.1", _port(self.process.stdout)))
        self._file = self._line.makefile("rb")
        self._read()
        self._call("WebDriver:NewSession", capabilities={"alwaysMatch": {"pageLoadStrategy": "normal"}})
        self._call("WebDriver:SetTimeouts", script=60000)

    def _read(self) -> Any:
        size = b""
        while (byte := self._file.read(1)) != b":":
            size += byte
        return json.loads(self._file.read(int(size)))

    def _call(self, command: str, **parameters: Any) -> Any:
        data = json.dumps([0, 1, command, parameters]).encode()
        self._line.sendall(b"%d:%s" % (len(data), data))
        _, _, error, result = self._read()
        return {"error": error} if error else result

    def open(self, url: str) -> Any:
        return self._call("WebDriver:Navigate", url=url).get("error")

    def ask(self, expression: str) -> Any:
        script = f"const done = arguments[0]; Promise.resolve({expression}).then(done, e => done(String(e)));"
        done = self._call(
            "WebDriver:ExecuteAsyncScript", script=script, args=[], newSandbox=False, sandbox=None
        )
        return done.get("value", done.get("error"))

    def end(self) -> None:
        self._call("Marionette:Quit", flags=["eForceQuit"])
        self.process.wait()


def _port(output: IO[bytes]) -> int:
    """Where Firefox says that it listens; what it says later is read and forgotten."""
    for line in output:
        if b"Marionette" in line and b"Listening on port" in line:
            threading.Thread(target=output.read, daemon=True).start()
            return int(line.split()[-1])
    raise EOFError("the browser has ended")


def main() -> None:
    program, *options = sys.argv[1:]
    kind: Callable[..., Any] = Firefox if "firefox" in program else Chromium
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        browser = kind(program, options, directory)
        print(json.dumps({"pid": browser.process.pid}), flush=True)
        for line in sys.stdin:
            ((verb, what),) = json.loads(line).items()
            print(json.dumps(getattr(browser, verb)(what)), flush=True)
        browser.end()


if __name__ == "__main__":
    main()
