# SPDX-License-Identifier: GPL-3.0-or-later
"""avne with one layer left out, to see its probes turn red: no layer is there for show.

Only a test can build such a thing: the sources are copied, lines are taken out of the copy, and the result
is put over the installed files of the test's own machine.  The product has no switch for it.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hatch_build
from tests.bed import people
from tests.bed.installed import Installed
from tests.leaks.machine import Machine


class Change(NamedTuple):
    file: str  # below avne/
    old: str  # what has to be in it, once
    new: str


class Layer(NamedTuple):
    """What is taken out for one layer, and the probes that have to turn red."""

    changes: tuple[Change, ...]
    red: tuple[str, ...]


def _helper(file: str, old: str, new: str = "") -> Change:
    return Change(f"privileged/{file}", old, new)


def _place(start: str) -> Change:
    """A row of view.c's places, as a comment."""
    return _helper("view.c", f"    {start}", f"    // {start}")


_CLOSE_ALL = "close_range(LINE + 1, ~0U, 0)"
LAYERS = {
    "seccomp filter": Layer(
        (_helper("helper.c", "    seal(wishes);\n"),),
        ("af-vsock", "af-high-bits", "socket-32", "socketcall-32", "io-uring", "io-uring-32", "request-key",
         "add-key", "tiocsti", "tiocsti-high-bits", "tiocsti-32", "tioclinux"),
    ),
    "descriptors are closed": Layer(
        (
            Change("cli/start.py", "            if int(name) > 2:\n", "            if int(name) > 900:\n"),
            _helper("helper.c", f"{_CLOSE_ALL} < 0 ? errno : 0;", "0;"),
            _helper("program.c", f"&& {_CLOSE_ALL} == 0 && ", "&& "),
        ),
        ("fd-tcp", "fd-udp", "fd-listener", "fd-unix", "fd-directory", "fd-path", "fd-io-uring", "fd-netns"),
    ),
    "standard streams are relayed or refused": Layer(
        (
            Change("cli/stdio.py", "return one.type == socket.SOCK_STREAM", "return False"),
            _helper("helper.c", "    check_standard_descriptors();  ", "  "),
        ),
        ("stdin-tcp", "stdout-udp", "stderr-tcp", "stdin-io-uring", "stdin-rights"),
    ),
    "IPC namespace": Layer(
        (_helper("helper.c", "CLONE_NEWIPC | "),), ("sysv-shm", "sysv-sem", "sysv-msg", "posix-mq")
    ),
    "cgroup namespace": Layer((_helper("helper.c", " | CLONE_NEWCGROUP"),), ("cgroup-path",)),
    "new /sys": Layer(
        (_place('{"/sys", "sysfs"'),),
        ("sys-mac", "sys-interfaces"),
    ),
    "new /run": Layer(
        (_place('{"/run", "tmpfs"'),),
        ("unix-run", "daemon-nscd", "daemon-system-bus", "daemon-session-bus", "daemon-tor-control", "utmp",
         "netif"),
    ),
    "new /tmp": Layer(
        (_place('{"/tmp", "tmpfs"'),),
        ("unix-tmp-late", "fifo-tmp"),
    ),
    "new /dev": Layer(
        (_helper("view.c", "    mount_dev(wishes);\n"),), ("dev-nodes", "dev-tun", "dev-pts", "dev-shm")
    ),
    "overlay on /etc": Layer(
        (_helper("view.c", "    if (mount_on(&etc) < 0)\n", "    if (etc.may_lack)\n"),),
        ("resolv-conf", "resolv-conf-replaced", "machine-id", "etc-hosts", "etc-hostname", "nsswitch"),
    ),
    "masked sockets": Layer(
        (_helper("view.c", "    mask_sockets(wishes, dead);\n"),),
        ("unix-home", "unix-home-dgram", "unix-home-seqpacket", "unix-home-rights", "daemon-ssh-master"),
    ),
    "masked files of /proc": Layer(
        (_helper("view.c", '        mask_file(scratch, "empty", secrets[i]);\n', "        (void)secrets;\n"),
         _helper("view.c", '    mask_file(scratch, "boot_id", "/proc/sys/kernel/random/boot_id");\n')),
        ("boot-id", "proc-keys", "proc-key-users", "proc-kernel-cmdline"),
    ),
    "variables by a list": Layer(
        (Change("cli/environment.py", "        if name in KEPT or", "        if name or name in KEPT or"),),
        ("env-ssh", "env-agents", "env-bus", "env-proxies", "env-display", "env-multiplexers", "env-secrets"),
    ),
}  # fmt: skip
# Of every group one that no layer above stops alone: they stay green.
GREEN = ("abstract-stream", "loopback-tcp4", "signal-process", "proc-net-tcp", "no-new-privs", "host-name")


def changed(sources: Path, changes: tuple[Change, ...]) -> dict[str, str]:
    """The changed files below `sources`, by name.  A change that fits nowhere is an error."""
    texts: dict[str, str] = {}
    for change in changes:
        text = texts.get(change.file) or (sources / change.file).read_text()
        assert text.count(change.old) == 1, f"{change.file} has not once: {change.old!r}"
        texts[change.file] = text.replace(change.old, change.new)
    return texts


def build(texts: dict[str, str]) -> bytes:
    """The helper of these sources, the others as they are; without optimisation, to be quick."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in [*hatch_build.SOURCES, *hatch_build.PRIVILEGED.glob("*.h")]:
            (Path(scratch) / path.name).write_text(texts.get(f"privileged/{path.name}") or path.read_text())
        target = Path(scratch) / "helper"
        layout = f"-DAVNE_LAYOUT={hatch_build.layout():#x}ULL"
        words = [*hatch_build.compiler(), "-std=gnu11", "-O0", "-static", layout, "-o", str(target)]
        sources = sorted(str(path) for path in Path(scratch).glob("*.c"))
        done = subprocess.run([*words, *sources], capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
        return target.read_bytes()


@contextlib.contextmanager
def without(layer: Layer, machine: Machine, installed: Installed) -> Iterator[None]:
    """On the machine, avne lacks `layer`."""
    (package,) = (installed.dir / "lib").glob("python3*/site-packages/avne")
    texts = changed(hatch_build.PRIVILEGED.parent, layer.changes)
    files = {name: text.encode() for name, text in texts.items() if name.endswith(".py")}
    if len(files) < len(texts):
        files["privileged/avne-helper"] = build(texts)
    before = {name: (package / name).read_bytes() for name in files}
    try:
        for name, data in files.items():
            _put(machine, package / name, data)
        yield
    finally:
        for name, data in before.items():
            _put(machine, package / name, data)


def _put(machine: Machine, path: Path, data: bytes) -> None:
    """Into the machine's own layer over /usr/local."""
    script = 'cat > "$1.new" && chmod --reference="$1" "$1.new" && mv "$1.new" "$1"'
    subprocess.run(
        machine.argv(["sh", "-c", script, "sh", str(path)], people.ROOT, {}), input=data, check=True
    )
