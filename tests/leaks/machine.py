# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of the test's own, full of what a leaking program would find: names, daemons, a network.

    python -m tests.leaks.machine AVNE USER      (root; in fresh net, pid, mount, ipc and uts namespaces)

`Machine` starts it and runs programs in it.  Its uplink leads nowhere and is watched; its files
are overlays and tmpfs of its own mount namespace; its daemons listen, and do nothing else.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from avne.probes import model
from avne.probes.sockets import DAEMONS
from tests.bed import people
from tests.bed.people import Person
from tests.bed.tornet.network import REPOSITORY
from tests.bed.wire import Packet, Wire

UPLINK = "eth7"
UNSHARE = "/usr/local/libexec/avne-2015/unshare"
_NAME = "canary-host"
_TICK = 0.05
_SILENCE = 1.5

_FILES = {
    "/etc/hostname": f"{_NAME}\n",
    "/etc/hosts": f"127.0.0.1 localhost\n198.51.100.7 {_NAME}.lan.example {_NAME}\n",
    "/etc/machine-id": "c0ffeec0ffeec0ffeec0ffeec0ffee01\n",
    "/etc/resolv.conf": "nameserver 198.51.100.53\n",
    "/etc/nsswitch.conf": "passwd: files systemd sss\nhosts: files mdns4_minimal resolve dns\n",
    "/var/lib/dbus/machine-id": "c0ffeec0ffeec0ffeec0ffeec0ffee02\n",
    "/var/lib/dhcp/dhclient.eth7.leases": "lease {\n  fixed-address 198.51.100.7;\n}\n",
    "/var/log/wtmp": "\0\0ts/1\0avnetest\0\0203.0.113.99\0\0",
    "/run/utmp": "\0\0ts/1\0avnetest\0\0203.0.113.98\0\0",
    "/run/systemd/netif/state": "OPER_STATE=routable\nDNS=198.51.100.53\n",
    "/run/systemd/resolve/resolv.conf": "nameserver 198.51.100.53\n",
}
# What the stage cannot know: uevents are made here, and resolv.conf is replaced all the time.
FACTS = json.dumps({"uevents": True, "replaced": True})


class Machine:
    """`run` runs a program in it, `packets` is what has left by its uplink."""

    def __init__(self, avne: str, user: Person) -> None:
        namespaces = [
            "--net",
            "--pid",
            "--mount",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ]
        self.user = user
        self._process = subprocess.Popen(
            ["unshare", *namespaces, "--", sys.executable, "-m", "tests.leaks.machine", avne, user.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line == "ready\n", line
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        self.pid = int(children.split()[0])

    def argv(self, words: Sequence[str], person: Person, env: dict[str, str]) -> list[str]:
        enter = [
            "nsenter",
            "-t",
            str(self.pid),
            "-n",
            "-p",
            "-m",
            "-i",
            "-u",
            "--",
            "env",
            "-C",
            str(person.home),
        ]
        return [*enter, *people.command_as(person, words, env, "host")]

    def run(self, words: Sequence[str], person: Person, env: dict[str, str], timeout: float = 100) -> Any:
        return subprocess.run(
            self.argv(words, person, env), capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def ask(self, word: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def packets(self) -> list[str]:
        """What has left since the last call; fails if the watcher lost any."""
        answer = self.ask("packets")
        assert answer["lost"] == 0
        return list(answer["packets"])

    def close_tun(self, closed: bool) -> None:
        """For ordinary users, as on a machine without udev's rule."""
        subprocess.run(
            self.argv(["chmod", "600" if closed else "666", "/dev/net/tun"], people.ROOT, {}), check=True
        )

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


# ---- the machine itself ---------------------------------------------------------------------------


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _make_files(user: Person) -> None:
    _mount("--make-rprivate", "/")
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/mnt")  # the upper layers
    for top in ("/etc", "/var", "/usr/local"):
        upper, work = (f"/mnt/{top[1:].replace('/', '-')}-{kind}" for kind in ("upper", "work"))
        os.mkdir(upper)
        os.mkdir(work)
        _mount("-t", "overlay", "-o", f"lowerdir={top},upperdir={upper},workdir={work}", "overlay", top)
    for place, mode in (("/run", "0755"), ("/tmp", "1777"), ("/var/tmp", "1777"), ("/dev/shm", "1777")):
        _mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", place)
    for person in (user, people.ROOT):
        _mount("-t", "tmpfs", "-o", f"mode=0700,uid={person.uid},gid={person.gid}", "tmpfs", str(person.home))
        os.makedirs(f"/run/user/{person.uid}", 0o755)
        os.chown(f"/run/user/{person.uid}", person.uid, person.gid)
        os.chmod(f"/run/user/{person.uid}", 0o700)
    os.makedirs("/run/lock", exist_ok=True)
    os.chmod("/run/lock", 0o1777)
    _mount("-t", "tmpfs", "-o", "mode=0755,size=4k", "tmpfs", "/dev/net")
    os.mknod("/dev/net/tun", 0o20666, os.makedev(10, 200))
    os.chmod("/dev/net/tun", 0o666)
    for path, text in _FILES.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text)
        os.chmod(path, 0o644)
    os.makedirs(os.path.dirname(UNSHARE))
    shutil.copy(shutil.which("unshare") or "/usr/bin/unshare", UNSHARE)
    os.chmod(UNSHARE, 0o4755)  # as the original was: setuid, and a network namespace of its own


def _path_for(pattern: str, person: Person) -> str:
    return pattern.format(uid=person.uid, home=person.home).replace("[0-9]", "0").replace("*", "0")


def _listen(user: Person) -> list[socket.socket]:
    """Something at every place where a daemon of the catalogue would be."""
    listeners = []
    for person in (user, people.ROOT):
        for _, _, patterns in DAEMONS.values():
            path = Path(_path_for(patterns[0], person))
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(path))
            path.chmod(0o777)
            sock.listen(16)
            listeners.append(sock)
            for parent in path.parents:
                if str(parent).startswith((f"{person.home}/", f"/run/user/{person.uid}/", "/tmp/")):
                    os.chown(parent, person.uid, person.gid)
    return listeners


def _stir(stopping: threading.Event, listeners: list[socket.socket]) -> None:
    """As hosts do: daemons that answer the door, a resolv.conf that is replaced, devices that change."""
    for turn in range(1 << 30):
        if stopping.wait(_TICK):
            return
        for listener in select.select(listeners, [], [], 0)[0]:
            listener.accept()[0].close()
        new = Path("/etc/resolv.conf.new")
        new.write_text(f"# {turn}\nnameserver 198.51.100.53\n")
        new.rename("/etc/resolv.conf")
        Path("/sys/devices/virtual/mem/null/uevent").write_text("change")


def _await_silence(wire: Wire) -> None:
    """Until the kernel's own first packets on the uplink are over: they are the control of `quiet`."""
    silent = time.monotonic()
    while time.monotonic() < silent + _SILENCE:
        if wire.packets():
            silent = time.monotonic()
        select.select([], [], [], 0.1)


def _packets(wire: Wire) -> dict[str, Any]:
    packets: list[Packet] = wire.packets()
    return {"packets": [str(packet) for packet in packets], "lost": wire.lost()}


def main() -> None:
    avne, name = sys.argv[1:]
    user = people.find_person(name)
    _make_files(user)
    socket.sethostname(_NAME)
    Path("/proc/sys/net/ipv6/conf/default/router_solicitations").write_text("1")
    model.make_uplink(UPLINK, silent=False)
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    setup = subprocess.run([avne, "setup"], env={"SUDO_USER": name, "PATH": os.environ["PATH"]},
                           stdout=subprocess.DEVNULL, check=False)  # fmt: skip
    assert setup.returncode == 0
    listeners = _listen(user)
    stopping = threading.Event()
    stirring = threading.Thread(target=_stir, args=(stopping, listeners))
    stirring.start()
    with Wire() as wire:
        _await_silence(wire)
        print("ready", flush=True)
        for line in sys.stdin:
            assert line == "packets\n"
            print(json.dumps(_packets(wire)), flush=True)
    stopping.set()
    stirring.join()
    for sock in listeners:
        sock.close()


if __name__ == "__main__":
    main()
