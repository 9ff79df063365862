# SPDX-License-Identifier: GPL-3.0-or-later
"""avne as a user gets it: its wheel in a virtual environment that everybody can run, made offline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Self

from tests.bed.tornet.network import REPOSITORY

BASE = Path("/usr/local/lib")
PREFIX = "avne-test-"


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o022,
    )
    if done.returncode:
        raise RuntimeError(f"{command[:4]} failed:\n{done.stdout[-3000:]}")


def build_wheel(directory: Path) -> Path:
    """avne's wheel, by its own build backend."""
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory)
    (wheel,) = directory.glob("*.whl")
    return wheel


def requirements() -> dict[str, metadata.Distribution]:
    """What avne needs to run, and what that needs, without extras."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found: dict[str, metadata.Distribution] = {}
    waiting: list[str] = list(project["dependencies"])
    while waiting:
        line = waiting.pop()
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name and ";" not in line and name.group() not in found:
            found[name.group()] = metadata.distribution(name.group())
            waiting += found[name.group()].requires or []
    return found


class Installed:
    """One installation; `avne` is its command, `python` its interpreter."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix=PREFIX, dir=BASE))
        try:
            self._install()
        except BaseException:
            self.close()
            raise
        self.avne = str(self.dir / "bin" / "avne")
        self.python = str(self.dir / "bin" / "python")

    def _install(self) -> None:
        self.dir.chmod(0o755)
        if os.path.realpath(sys.executable).startswith("/root/"):
            raise RuntimeError(
                f"ordinary users cannot run {sys.executable}: make .venv with /usr/bin/python3"
            )
        _run(sys.executable, "-m", "venv", "--without-pip", self.dir)
        (library,) = (self.dir / "lib").glob("python3*/site-packages")
        for distribution in requirements().values():
            for file in distribution.files or []:
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    target = library / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(str(file.locate()), target)
        _run("chmod", "-R", "u=rwX,go=rX", library)
        with tempfile.TemporaryDirectory() as scratch:
            wheel = build_wheel(Path(scratch))
            options = ["--no-deps", "--no-index", "--no-cache-dir", "--quiet", "--root-user-action=ignore"]
            python = self.dir / "bin" / "python"
            _run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)

    def close(self) -> None:
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
