# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the documents that are made from the code: ``python scripts/generate_docs.py [--check]``.

With ``--check`` nothing is written; the exit status is 1 when a document is stale, or a requirement of an
RFC has neither a test nor a reason.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import conformance

from avne.ipc.messages import TABLE, Sender
from avne.upstream import kinds
from avne.upstream.base import COMMON, Reply

DOCS = Path(__file__).resolve().parent.parent / "docs"

_KINDS = ("tor", "socks5", "socks4a", "http", "direct", "pages")

_TRUTH_HEAD = """# What connect(2) reports

<!-- Made by scripts/generate_docs.py from the kinds of avne/upstream. Do not edit. -->

A program's SYN is not answered before the upstream has answered (but for the ports of `--optimistic`: there
connect(2) succeeds at once, and every refusal below is a reset of the connection). Then connect(2) reports
what the upstream said. Filters report what the upstream that they wrap does; a proxy that is reached over
another upstream reports by its own table, and its not being reached as the proxy's being down. The code is
what a receipt, a capture and the log have.
"""

_TRUTH_TAIL = """
Any other code is a refusal. A name that does not exist, or that a rule or a list blocks, never gets as far
as connect(2): the resolver says so (NXDOMAIN), and the program reports "could not resolve".

What Tor cannot tell: it answers 01 for most failures, a refused port included, because the exit does not
report the reason; it has no half-close, so a program that shuts down its sending side still gets the
whole answer, but the server sees that end only when the answer has ended, after 30 s in which nothing
moved, or at the program's end; and every end of a stream looks like a normal one: avne asks Tor for a
sign of life before it passes an end on, so that Tor's own death is a reset and never a short file that
looks whole. A server's reset arrives as a normal end: Tor does not say.
"""


def connect_truth() -> str:
    lines = [_TRUTH_HEAD]
    for name in _KINDS:
        kind = kinds.find(name)
        lines += [f"## {kind.title}", "", *_truth_table(kind.replies), ""]
    lines += ["## What avne itself says, with every upstream", "", *_truth_table(COMMON)]
    return "\n".join(lines) + "\n" + _TRUTH_TAIL


def _truth_table(replies: Mapping[int, Reply]) -> list[str]:
    rows = ["| it says | code | meaning | the guest gets | connect(2) reports |", "|---|---|---|---|---|"]
    for code, reply in sorted(replies.items()):
        what = reply.verdict
        rows.append(f"| {reply.said} | {code:#04x} | {reply.meaning} | {what.answer} | {what.errno} |")
    return rows


def wire() -> str:
    lines = [
        "# The wire between netstack and workers",
        "",
        "<!-- Made by scripts/generate_docs.py from avne/ipc/messages.py. Do not edit. -->",
        "",
        "A message is one msgpack array `[type, flow, field …]`. To a worker on the same machine it goes by",
        "the lane, a SOCK_SEQPACKET pair (avne/ipc/lane.py): the worker gives its connected sockets away",
        "(SOCKET, ENDED, ALIVE, EARLY). To a worker elsewhere it goes by ZeroMQ (avne/ipc/channel.py;",
        "ROUTER in the netstack, DEALER in the worker), and so do the bytes of a flow (OPENED, DATA, CREDIT,",
        "SHUT): DATA has a second frame, the payload.",
        "A message that breaks this table, or the flow's turn, ends the worker that sent it.",
        "",
        "| type | name | from | fields (largest value, or most characters, bytes or items) | payload |",
        "|---|---|---|---|---|",
    ]
    who = {Sender.NETSTACK: "netstack", Sender.WORKER: "worker", Sender.BOTH: "both"}
    for kind, row in TABLE.items():
        fields = ", ".join(f"{f.name}: {f.kind.__name__} ≤ {f.limit:,}" for f in row.fields) or "–"
        payload = "yes" if row.payload else "a socket" if row.socket else ""
        lines.append(f"| {kind} | {row.name} | {who[row.sender]} | {fields} | {payload} |")
    return "\n".join(lines) + "\n"


GENERATED = {"connect-truth.md": connect_truth, "wire.md": wire, "conformance.md": conformance.page}


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for name, make in GENERATED.items():
        path = DOCS / name
        text = make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    if check and stale:
        print(f"stale: {', '.join(stale)}; run python scripts/generate_docs.py", file=sys.stderr)
    gaps = conformance.survey().problems() if check else []
    for gap in gaps:
        print(gap, file=sys.stderr)
    return 1 if check and (stale or gaps) else 0


if __name__ == "__main__":
    sys.exit(main())
