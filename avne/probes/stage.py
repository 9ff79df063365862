# SPDX-License-Identifier: GPL-3.0-or-later
"""The outside that probes try to reach: listeners, a victim, memory, descriptors to inherit.

Everything is the stage's own and goes with it; it belongs to the user who runs it, and nothing of it
can be reached from another machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import shutil
import socket
import struct
import tempfile
import tty
from pathlib import Path
from typing import Any, Final, Self

from avne.errors import AvneError
from avne.probes import facts, prey, uring
from avne.probes.ears import Ears
from avne.probes.identity import SET
from avne.probes.sockets import OWN
from avne.probes.upstream import Refuser

_SO_ATTACH_FILTER = 26
_IP_SOURCE = 0xFFF00000 + 12  # SKF_NET_OFF, and where IPv4 has the source address
_FIRST_FD: Final = 20  # of those that are inherited
_RENAMED = "before.sock"  # the name of renamed.sock before it gets that


class Stage:
    """Open it, run the probes outside and inside with `descriptors`, `environment` and `facts`, close it."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._late: list[socket.socket] = []
        self._ring: uring.Ring | None = None
        self.run = ""
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        self.facts: dict[str, Any] = facts.collect()
        self.facts["variables"] = True
        self.directories = self._make_directories()
        self.facts["directories"] = self.directories
        self.ears = Ears(self._tick)
        self._make_ports()
        self._make_sockets()
        self.facts["ipc"] = prey.share_memory(self._stack)
        Path(self.place("shm", "file")).write_text(self.facts["ipc"]["secret"])
        self._victim = prey.Victim(self._stack.enter_context(self.connection()), self.directories["tmp"])
        self._stack.callback(self._victim.close)
        self.facts["victim"] = self._victim.facts
        self.signalled = self._victim.signalled
        self._make_terminals()
        self._make_inherited()
        if key := prey.add_key(self._stack):
            self.facts["key"] = key
        self.upstream = Refuser(self.place("home", "upstream.sock"))
        self._stack.callback(self.upstream.close)
        self.ears.start()
        self._stack.callback(self.ears.close)  # before what it listens on

    # ---- where -----------------------------------------------------------------------

    def _make_directories(self) -> dict[str, str]:
        runtime = [f"/run/user/{os.getuid()}", "/run/lock", "/run"]
        homes = [os.path.expanduser("~")]
        wanted = {"tmp": ["/tmp"], "var": ["/var/tmp"], "shm": ["/dev/shm"], "home": homes, "run": runtime}
        found = {}
        for name, places in wanted.items():
            for place in places:
                with contextlib.suppress(OSError):
                    found[name] = tempfile.mkdtemp(prefix=".avne-probe-", dir=place)
                    self._stack.callback(_remove, found[name])
                    break
        for name in ("tmp", "home"):
            if name not in found:
                raise AvneError(f"cannot write to {wanted[name][0]}", "The probes need a directory there.")
        found["cwd"] = found["tmp"] + "/cwd"
        os.mkdir(found["cwd"])
        return found

    def place(self, name: str, file: str) -> str:
        return f"{self.directories[name]}/{file}"

    # ---- listeners -------------------------------------------------------------------

    def _listener(self, family: int, address: Any, kind: int) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(family, kind))
        sock.bind(address)
        if kind == socket.SOCK_DGRAM:
            self.ears.datagrams(sock)
        else:
            self.ears.stream(sock)
        return sock

    def _make_ports(self) -> None:
        self.ports: dict[str, int] = {}
        self._sockets: dict[str, socket.socket] = {}
        for name, family, address, kind in (
            ("tcp4", socket.AF_INET, "127.0.0.1", socket.SOCK_STREAM),
            ("tcp6", socket.AF_INET6, "::1", socket.SOCK_STREAM),
            ("udp4", socket.AF_INET, "127.0.0.1", socket.SOCK_DGRAM),
            ("udp6", socket.AF_INET6, "::1", socket.SOCK_DGRAM),
        ):
            with contextlib.suppress(OSError):
                sock = self._listener(family, (address, 0), kind)
                self._sockets[name] = sock
                self.ports[name] = sock.getsockname()[1]
        self.facts["ports"] = self.ports
        self._make_own_port(next((a for a in self.facts["addresses"] if "." in a), ""))
        self.facts["abstract"] = f"avne-probe-{os.urandom(6).hex()}"
        self._listener(socket.AF_UNIX, "\0" + self.facts["abstract"], socket.SOCK_STREAM)
        self._listener(socket.AF_UNIX, "\0" + self.facts["abstract"] + "-dgram", socket.SOCK_DGRAM)

    def _make_own_port(self, address: str) -> None:
        """At an address of the host, with a filter that drops what does not come from that address."""
        if not address:
            return
        sock = self._stack.enter_context(socket.socket(socket.AF_INET))
        own = int.from_bytes(socket.inet_aton(address), "big")
        steps = ((0x20, 0, 0, _IP_SOURCE), (0x15, 0, 1, own), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0))
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
        pointer = struct.pack("HP", len(steps), ctypes.addressof(program))
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
            sock.bind((address, 0))
            self.ears.stream(sock)
            self.ports["host"] = sock.getsockname()[1]
            self.facts["host_address"] = address

    def _make_sockets(self) -> None:
        for _, where, file, kind, late, _ in OWN.values():
            if not late and where in self.directories:
                self._listener(socket.AF_UNIX, self.place(where, file), kind)
        self._listener(socket.AF_UNIX, self.place("cwd", "cwd.sock"), socket.SOCK_STREAM)
        self._listener(socket.AF_UNIX, self.place("home", _RENAMED), socket.SOCK_STREAM)
        rights = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        rights.bind(self.place("home", "rights.sock"))
        self.ears.stream(rights, self._hand_in)
        os.mkfifo(self.place("tmp", "pipe"))
        pipe = os.open(self.place("tmp", "pipe"), os.O_RDWR | os.O_CLOEXEC)
        self._stack.callback(os.close, pipe)
        self.ears.file(pipe)

    def connection(self) -> socket.socket:
        """A TCP connection to the stage."""
        return socket.create_connection(("127.0.0.1", self.ports["tcp4"]))

    def _hand_in(self, line: socket.socket) -> None:
        """A connection of ours for whoever is at the other end (SCM_RIGHTS)."""
        with contextlib.suppress(OSError), self.connection() as sock:
            socket.send_fds(line, [b"x"], [sock.fileno()])

    def change(self) -> None:
        """What happens while the program runs: new sockets, and one that gets another name."""
        for _, where, file, kind, late, _ in OWN.values():
            if late and file != "renamed.sock":
                sock = socket.socket(socket.AF_UNIX, kind)
                sock.bind(self.place(where, file))
                (self.ears.datagrams if kind == socket.SOCK_DGRAM else self.ears.stream)(sock)
                self._late.append(sock)
        os.rename(self.place("home", _RENAMED), self.place("home", "renamed.sock"))

    def change_back(self) -> None:
        for sock in self._late:
            path = sock.getsockname()
            self.ears.forget(sock)
            sock.close()
            os.unlink(path)
        self._late.clear()
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.place("home", "renamed.sock"), self.place("home", _RENAMED))

    # ---- what is inherited -----------------------------------------------------------

    def _make_terminals(self) -> None:
        """One that is the program's own, and another of the same user."""
        self._other, other = pty.openpty()
        self.facts["other_terminal"] = os.ttyname(other)
        tty.setraw(other)
        self.ears.file(self._other)
        for fd in (self._other, other):
            self._stack.callback(os.close, fd)

    def _make_inherited(self) -> None:
        hold = self._stack.enter_context
        udp = hold(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.connect(("127.0.0.1", self.ports["udp4"]))
        unix, peer = socket.socketpair()
        hold(unix)
        hold(peer)
        self.ears.datagrams(peer)
        tcp = hold(self.connection())
        self._inherited: dict[str, int] = {
            "tcp": tcp.fileno(),
            "udp": udp.fileno(),
            "listener": self._sockets["tcp4"].fileno(),
            "unix": unix.fileno(),
            "directory": os.open(self.directories["tmp"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
            "path": os.open(self.place("tmp", "tmp.sock"), os.O_PATH | os.O_CLOEXEC),
            "netns": os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC),
            "pidfd": os.pidfd_open(self._victim.pid),
        }
        with contextlib.suppress(OSError):
            self._ring = uring.Ring(tcp.fileno())
            self._stack.callback(self._close_ring)
            self._inherited["ring"] = self._ring.fd
            self.facts["ring"] = self._ring.facts
        for name in ("directory", "path", "netns", "pidfd"):
            self._stack.callback(os.close, self._inherited[name])
        numbers = {name: _FIRST_FD + index for index, name in enumerate(self._inherited)}
        self.facts["fds"] = numbers

    @property
    def descriptors(self) -> dict[int, int]:
        """What a program gets: its number → ours."""
        return {self.facts["fds"][name]: fd for name, fd in self._inherited.items()}

    @property
    def environment(self) -> dict[str, str]:
        """The user's own, with canaries in it, and nothing that would change how the probes run."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
        return {**ours, **SET}

    def entrance(self, what: str, stack: contextlib.ExitStack) -> tuple[int, int]:
        """(the stream's number, our descriptor) of ``0:tcp`` and the like; `stack` closes it."""
        number, _, kind = what.partition(":")
        if kind == "rights":
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            self._hand_in(ours)
            return int(number), stack.enter_context(theirs).fileno()
        if kind == "tcp":
            return int(number), stack.enter_context(self.connection()).fileno()
        return int(number), self._inherited[kind]

    def _close_ring(self) -> None:
        assert self._ring
        ring, self._ring = self._ring, None
        ring.close()

    def _tick(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            if self._ring:
                self._ring.wake()

    # ---- the end ---------------------------------------------------------------------

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _remove(directory: str) -> None:
    """Unless something is mounted there, which would be a fault: then nothing of it is touched."""
    if not any(os.path.ismount(entry.path) for entry in os.scandir(directory)):
        shutil.rmtree(directory, ignore_errors=True)
