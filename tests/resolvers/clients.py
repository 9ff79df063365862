# SPDX-License-Identifier: GPL-3.0-or-later
"""The resolvers, and how each is asked: a command that takes ``TYPE:NAME`` words and prints their answers."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from tests.resolvers.questions import QUESTIONS

HERE = Path(__file__).parent

# dig(1) says most; `sed` leaves the status, and of each record of the answer type and data.
_DIG = r"""
for q; do
    type=${q%%:*} name=${q#*:} more=
    case $q in PTR:*) set_name="-x $name"; type=;; *) set_name=$name;; esac
    case $q in A:signed.*) more=+dnssec;; esac
    printf '%s = ' "$q"
    dig ${at-} +tries=1 +time=25 +noall +comments +answer $more $set_name $type |
        awk '/status:/ { gsub(",", "", $6); status = $6 }
             /^[^;]/ { for (n = 4; n <= NF && n < 12; n++) found = found " " $n; found = found ";" }
             END { print (found == "" ? (status == "NOERROR" ? "NODATA" : status) : found) }'
done
"""


class Client(NamedTuple):
    """`types`: what it can be asked for; `build`: how a program DIR/NAME is made from the sources here;
    `suite`: it is part of the test suite; `by_user`: it does not run as root."""

    name: str
    types: tuple[str, ...]
    command: str
    build: str = ""
    suite: bool = True
    by_user: bool = False

    def questions(self) -> list[str]:
        return [question for question in QUESTIONS if question.partition(":")[0] in self.types]

    def script(self, directory: Path, questions: list[str]) -> str:
        """For sh(1) inside."""
        return f"{self.command.format(dir=directory)} {shlex.join(questions)}"


_ADDRESSES: Final = ("A", "AAAA", "PTR")
_ALL: Final = (*_ADDRESSES, "MX", "TXT", "SRV", "NS", "SOA", "CAA", "HTTPS")

CLIENTS: Final = (
    Client("dig", _ALL, "sh {dir}/dig.sh"),
    Client("glibc", _ADDRESSES, "{dir}/glibc", "cc -o {dir}/glibc {here}/libc.c"),
    Client("musl", _ADDRESSES, "{dir}/musl", "musl-gcc -static -o {dir}/musl {here}/libc.c"),
    Client("c-ares", _ALL, "{dir}/cares", "cc -o {dir}/cares {here}/cares.c -lcares"),
    Client("Go", (*_ADDRESSES, "MX", "TXT", "SRV", "NS"), "{dir}/go",
           "env HOME={dir} GOFLAGS=-mod=mod CGO_ENABLED=0 go build -o {dir}/go {here}/main.go", suite=False),
    Client("systemd-resolved", _ALL, "sh {dir}/resolved.sh {dir}", "sh {here}/resolved.sh fetch {dir}",
           suite=False, by_user=True),
)  # fmt: skip


def build(directory: Path, clients: tuple[Client, ...] = CLIENTS) -> None:
    """The programs, in `directory`, for everybody to run."""
    directory.chmod(0o755)
    (directory / "dig.sh").write_text(_DIG)
    shutil.copy(HERE / "resolved.sh", directory)
    for client in clients:
        if client.build:
            command = client.build.format(dir=directory, here=HERE)
            subprocess.run(command.split(), check=True)
