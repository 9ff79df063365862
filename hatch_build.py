# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the helper, as part of the package's build or by itself (``python hatch_build.py``).

It writes ``avne/privileged/avne-helper`` and ``avne/privileged/_build.py``, which says what was
built: ``LAYOUT``, by which supervisor and helper know each other, and ``HELPER_SHA256``, by which
``avne setup`` and ``avne doctor`` know the file.  The wheel holds no extension module, so one
serves every Python; and the helper is static, so one serves every distribution.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
PRIVILEGED = ROOT / "avne" / "privileged"
HELPER = PRIVILEGED / "avne-helper"
BUILD = PRIVILEGED / "_build.py"
SOURCES = sorted(PRIVILEGED.glob("*.c"))
CURE = "Install a C compiler: sudo apt install gcc libc6-dev (or name one in $CC)."

WARNINGS = shlex.split("""
    -Wall -Wextra -Werror -Wshadow -Wconversion -Wformat=2 -Wstrict-prototypes -Wmissing-prototypes
    -Wundef -Wcast-qual -Wvla -Wpointer-arith -Wimplicit-fallthrough
""")
HARDENING = shlex.split("""
    -std=gnu11 -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong
    -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--build-id=none -s
""")
# Not every toolchain has these: each is tried with a program of nothing.
WISHED = (
    "-D_FORTIFY_SOURCE=3",
    "-fstack-clash-protection",
    "-fcf-protection=full",
    "-mbranch-protection=standard",
)
LINKS = (["-static-pie", "-fPIE"], ["-static", "-fPIE"])


class BuildError(Exception):
    """The helper cannot be built; the message says why and what to do."""


def layout() -> int:
    """The first 8 bytes of the SHA-256 of request.h."""
    return int.from_bytes(hashlib.sha256((PRIVILEGED / "request.h").read_bytes()).digest()[:8], "little")


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"cannot run {words[0]}: {error.strerror}. {CURE}") from error


def _works(options: list[str]) -> bool:
    program = ["-x", "c", "-o", "/dev/null", "-"]
    try:
        done = subprocess.run(
            [*compiler(), "-Werror", *options, *program], input="int main(void){return 0;}",
            capture_output=True, text=True,
        )  # fmt: skip
    except OSError as error:
        raise BuildError(f"cannot run {compiler()[0]}: {error.strerror}. {CURE}") from error
    return done.returncode == 0


def flags() -> list[str]:
    """Warnings, hardening, and the best way of static linking that the toolchain has."""
    link = next((link for link in LINKS if _works(["-O2", *link])), None)
    if link is None:
        raise BuildError(f"{shlex.join(compiler())} cannot make a static program. {CURE}")
    options = [*WARNINGS, *HARDENING, *link]
    for wish in WISHED:
        undefine = ["-U_FORTIFY_SOURCE"] if wish.startswith("-D") else []
        if _works(["-O2", *undefine, wish]):
            options += [*undefine, wish]
    return options


def build_helper(target: Path = HELPER) -> None:
    """Compile the helper to `target`.  Raises `BuildError`."""
    scratch = target.with_name(target.name + ".new")
    words = [*compiler(), *flags(), f"-DAVNE_LAYOUT={layout():#x}ULL", "-o", str(scratch)]
    done = _run([*words, *map(str, SOURCES)])
    if done.returncode:
        raise BuildError(
            f"the helper does not compile:\n{shlex.join(words)}\n{done.stdout}{done.stderr}\n{CURE}"
        )
    scratch.chmod(0o755)
    scratch.rename(target)


def write_build(target: Path = BUILD) -> None:
    """Say in `target` what was built."""
    digest = hashlib.sha256(HELPER.read_bytes()).hexdigest()
    target.write_text(
        "# SPDX-License-Identifier: GPL-3.0-or-later\n"
        '"""Made by hatch_build.py: what the helper beside this file is."""\n\n'
        f"LAYOUT: int = {layout():#018x}\n"
        f'HELPER_SHA256: str = "{digest}"\n'
    )


def build() -> None:
    build_helper()
    write_build()


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # built by itself, with nothing but Python
    pass
else:

    class HelperHook(BuildHookInterface[Any]):
        """hatchling's hook: for wheels, editable ones too."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if self.target_name != "wheel":
                return
            build()
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{platform.machine()}"


if __name__ == "__main__":
    try:
        build()
    except BuildError as error:
        sys.exit(f"hatch_build: {error}")
