# SPDX-License-Identifier: GPL-3.0-or-later
"""``sudo avne setup --apparmor``: an AppArmor profile by which avne's own helper may use user namespaces.

Ubuntu from 23.10 on gives no right in one to a program without such a profile
(kernel.apparmor_restrict_unprivileged_userns=1).  The profile is for one path and allows nothing else to
anybody; it confines nothing.  What is at that path must be root's to change, or it would be a way for
every program of the user: where the package is not (a venv, pipx), the helper is copied, without any
bit, byte for byte what was built::

    /etc/apparmor.d/avne-helper                     root:root 0644
    /usr/local/libexec/avne/avne-helper-userns      root:root 0755    only where it is needed
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from contextlib import suppress

from avne.errors import AvneError
from avne.privileged import launch, setup

PROFILE = "/etc/apparmor.d/avne-helper"
COPY_MODE = 0o755
_PARSER = "apparmor_parser"
_ENABLED = "/sys/module/apparmor/parameters/enabled"


def profile_text(path: str) -> str:
    """The profile for the helper at `path`, which has no character that is special there."""
    return (
        "# Made by avne setup --apparmor: avne's helper may make user namespaces.\n"
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n\n"
        f'profile avne-helper "{path}" flags=(unconfined) {{\n'
        "  userns,\n\n"
        "  include if exists <local/avne-helper>\n"
        "}\n"
    )


def helper_path() -> str:
    """What the profile is for: the package's helper where only root can change it, else the copy."""
    path = os.path.realpath(launch.PACKAGED)
    plain = re.fullmatch(r"[A-Za-z0-9/._+-]+", path) is not None
    return path if plain and not _changeable(path) else launch.USERNS


def _changeable(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return True
    return (
        not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or bool(status.st_mode & 0o022)
        or bool(setup.directory_problems(os.path.dirname(path)))
    )  # fmt: skip


def plan(remove: bool = False) -> list[str]:
    """The shell commands that do the same."""
    if remove:
        words = []
        if os.path.lexists(PROFILE):
            words += [[_PARSER, "--remove", PROFILE]] if _loads() else []
            words += [["rm", PROFILE]]
        words += [["rm", launch.USERNS]] if os.path.lexists(launch.USERNS) else []
        return [shlex.join(command) for command in words]
    root = ["--owner=root", "--group=root"]
    path = helper_path()
    words = []
    if path == launch.USERNS:
        words.append(["install", "--directory", *root, "--mode=0755", setup.DIRECTORY])
        words.append(["install", *root, f"--mode={COPY_MODE:o}", launch.PACKAGED, path])
    lines = [shlex.join(command) for command in words]
    write = shlex.join(["printf", "%s\\n", *profile_text(path).splitlines()])
    lines.append(f"{write} | {shlex.join(['install', *root, '--mode=0644', '/dev/stdin', PROFILE])}")
    return lines + ([shlex.join([_PARSER, "--replace", PROFILE])] if _loads() else [])


def install() -> list[str]:
    """Install the profile, and load it where that is possible; gives what was done, a line each.

    Raises `AvneError`: not root, no AppArmor, one that does not take the profile, or a directory
    that others may write.
    """
    setup.require_root()
    if not os.path.isdir(os.path.dirname(PROFILE)):
        raise AvneError(
            "there is no AppArmor on this machine (/etc/apparmor.d)", "No profile is needed then."
        )
    path, done = helper_path(), []
    if path == launch.USERNS:
        data = setup.built_helper()
        directory = setup.open_directory()
        try:
            setup.place(directory, os.path.basename(path), data, 0, COPY_MODE)
            os.fsync(directory)
        finally:
            os.close(directory)
        done.append(f"installed {path}")
    _write_profile(profile_text(path))
    done.append(f"installed {PROFILE}")
    if _loads():
        try:
            setup.command(_PARSER, "--replace", PROFILE)
        except AvneError:
            remove()
            raise
        return [*done, "loaded it"]
    return [*done, "AppArmor is not running, or has no parser here: it is loaded with the next start"]


def _write_profile(text: str) -> None:
    """Whole or not at all, and only what the parser takes."""
    place = os.path.dirname(PROFILE)
    if problems := setup.directory_problems(place):
        raise AvneError("; ".join(problems), f"Make it root's: chown root:root, chmod 0755 {place}")
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # AppArmor reads no file whose name begins with a dot.
        if _has_parser():
            trial = f".{os.path.basename(PROFILE)}.trial"
            setup.place(directory, trial, text.encode(), 0, 0o600)
            try:
                setup.command(_PARSER, "--skip-kernel-load", "--skip-cache", f"{place}/{trial}")
            except AvneError as error:
                cure = "It needs AppArmor 4 or later; an older one restricts no user namespaces."
                raise AvneError(error.problem, cure) from error
            finally:
                os.unlink(trial, dir_fd=directory)
        setup.place(directory, os.path.basename(PROFILE), text.encode(), 0, 0o644)
        os.fsync(directory)
    finally:
        os.close(directory)


def remove() -> list[str]:
    """Undo `install`; gives what was removed."""
    setup.require_root()
    removed = []
    if os.path.lexists(PROFILE):
        if _loads():
            with suppress(AvneError):  # it was not loaded
                setup.command(_PARSER, "--remove", PROFILE)
        os.unlink(PROFILE)
        removed.append(PROFILE)
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(launch.USERNS)
        removed.append(launch.USERNS)
    with suppress(OSError):  # not there, or the setuid helper is in it
        os.rmdir(setup.DIRECTORY)
        removed.append(setup.DIRECTORY)
    return removed


def problems() -> list[str]:
    """What is wrong with what was installed, a line each; empty when all is well."""
    path = helper_path()
    found = []
    try:
        with open(PROFILE, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if file.read() != profile_text(path):
                found.append(f"{PROFILE} is not the profile for {path}")
            if status.st_uid != 0 or status.st_mode & 0o022:
                found.append(f"others may change {PROFILE}")
    except (OSError, UnicodeDecodeError) as error:
        return [f"{PROFILE}: {getattr(error, 'strerror', None) or error}"]
    if path == launch.USERNS:
        if _changeable(path):
            found.append(f"{path} is missing, or others may change it")
        elif not setup.is_built(path):
            found.append(f"{path} is not the helper of this version of avne")
    return found


def _has_parser() -> bool:
    return any(os.access(f"{place}/{_PARSER}", os.X_OK) for place in setup.PATH.split(":"))


def _loads() -> bool:
    """Whether a profile can be loaded now."""
    try:
        with open(_ENABLED) as file:
            return file.read().strip() == "Y" and _has_parser()
    except OSError:
        return False
