# SPDX-License-Identifier: GPL-3.0-or-later
"""``make figures``: what can be said of avne in numbers, each from where it is measured.

What takes long is read from the document that its own command writes; the rest is counted now.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from avne.netstack import confinement as netstack_confinement
from avne.upstream import confinement, worker
from avne.upstream.spec import UpstreamSpec

ROOT = Path(__file__).parent.parent
UNPRIVILEGED = {"init.c", "program.c", "attach.c", "seal.c"}


def privileged_lines() -> str:
    files = [path for path in (ROOT / "avne/privileged").glob("*.c") if path.name not in UNPRIVILEGED]
    counts = [len(path.read_text().splitlines()) for path in files]
    return f"{sum(counts)} in {len(counts)} files, their comments included"


def system_calls() -> Iterator[tuple[str, str]]:
    netstack = netstack_confinement.policy(router=False, captures=False)
    yield "system calls that the netstack may make", str(len(netstack.allowed))
    for kind, address in (("a unix socket", "/"), ("an address", ("127.0.0.1", 9050))):
        spec = UpstreamSpec("tor", address)  # type: ignore[arg-type]
        policy = worker.policy(confinement.plan([spec]))
        yield f"the same of a worker, Tor at {kind}", str(len(policy.allowed))


def internet_sockets() -> str:
    """Those that avne makes in a whole run whose proxy is a unix socket; its program makes none."""
    from tests.upstream.socks_server import SocksServer

    with tempfile.TemporaryDirectory() as directory, SocksServer(f"{directory}/socks"):
        trace = Path(directory, "trace")
        avne = str(Path(sys.executable).with_name("avne"))
        run = [avne, "run", "-q", "--upstream", f"socks5://unix:{directory}/socks", "true"]
        strace = ["strace", "-f", "-qq", "-e", "trace=socket", "-o", str(trace)]
        subprocess.run([*strace, *run], check=True, timeout=60)
        lines = trace.read_text().splitlines()
    unix = sum("AF_UNIX" in line for line in lines)
    return f"{sum('AF_INET' in line for line in lines)} ({unix} unix sockets in the same trace)"


def table_sum(document: str, row: str) -> int:
    """The sum of a table's row."""
    text = (ROOT / "docs" / document).read_text()
    line = next(line for line in text.splitlines() if line.strip("| *").startswith(row))
    return sum(int(cell) for cell in re.findall(r"\| *(\d+) ", line))


def leaks() -> str:
    rows = {}
    for line in (ROOT / "docs/leaks.md").read_text().splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if line.startswith("| | "):
            names = cells
        elif cells[0] in ("leaks", "stopped"):
            rows[cells[0]] = dict(zip(names[1:], cells[1:], strict=True))
    ours = [name for name in rows["leaks"] if name.startswith("avne")]
    return ", ".join(f"{name}: {rows['leaks'][name]} of {_tried(rows, name)}" for name in ours)


def _tried(rows: dict[str, dict[str, str]], name: str) -> int:
    return int(rows["leaks"][name]) + int(rows["stopped"][name])


def fuzzed() -> str:
    text = (ROOT / "docs/proofs.md").read_text()
    inputs = re.search(r"\*\*([\d,]+) inputs in", text)
    requests = re.search(r"([\d,]+)\nspoilt requests for an environment", text)
    attachments = re.search(r"([\d,]+) to attach in", text)
    assert inputs
    assert requests
    assert attachments
    helpers = sum(int(found[1].replace(",", "")) for found in (requests, attachments))
    return f"{inputs[1]} of the netstack and the workers, {helpers:,} of the helper (docs/proofs.md)"


def main() -> int:
    rows = [
        ("lines of C that run with a privilege", privileged_lines()),
        *system_calls(),
        ("internet sockets that avne opens, proxy at a unix socket", internet_sockets()),
        ("kills, stops and starvations survived", f"{table_sum('reliability.md', 'acts'):,} (make chaos)"),
        ("packets that left meanwhile", str(table_sum("reliability.md", "packets on the host"))),
        ("wrong bytes meanwhile", str(table_sum("reliability.md", "wrong bytes"))),
        ("fuzzed inputs, without a finding", fuzzed()),
        ("ways out that are open (make leaktest; docs/leaks.md says which)", leaks()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
