# SPDX-License-Identifier: GPL-3.0-or-later
"""``sudo avne setup``: the helper as a setuid program, for machines where users may not make namespaces.

A wheel cannot carry a setuid file, and one in a user's own directory would be a hole.  So root
copies the package's helper, byte for byte what was built, to a place of root's own::

    /usr/local/libexec/avne/                 root:root 0755
    /usr/local/libexec/avne/avne-helper      root:avne 4750    only members of avne may run it
    /usr/local/libexec/avne/group-is-ours    root:root 0644    only if the group was made here

`remove` undoes it: the file, the directory, and the group where the mark says that it was made by
`install` (its members with it).  A group that was there before stays, as do its members.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import secrets
import shlex
import stat
import subprocess
from contextlib import suppress

from avne.errors import AvneError
from avne.privileged import launch

GROUP = "avne"
DIRECTORY = os.path.dirname(launch.INSTALLED)
MODE = 0o4750
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MARK = "group-is-ours"
_REINSTALL = "Reinstall avne: pip install --force-reinstall avne"


def plan(remove: bool = False) -> list[str]:
    """The shell commands that do the same; what is done already is left out."""
    commands = [["chmod", "0", launch.INSTALLED]] if os.path.lexists(launch.INSTALLED) else []
    if remove:
        commands += [["rm", launch.INSTALLED]] if commands else []
        if os.path.exists(os.path.join(DIRECTORY, _MARK)):
            commands += [["rm", "-f", os.path.join(DIRECTORY, _MARK)], ["groupdel", GROUP]]
        return [shlex.join(words) for words in [*commands, *([["rmdir", DIRECTORY]] if commands else [])]]
    root = ["--owner=root", "--group=root"]
    member = _new_member()
    new_group = _group() is None
    helper = ["--owner=root", f"--group={GROUP}", f"--mode={MODE:o}", launch.PACKAGED, launch.INSTALLED]
    commands += [["groupadd", "--system", GROUP]] if new_group else []
    commands += [["usermod", "--append", "--groups", GROUP, member]] if member else []
    commands += [["install", "--directory", *root, "--mode=0755", DIRECTORY]]
    mark = os.path.join(DIRECTORY, _MARK)
    commands += [["install", *root, "--mode=0644", "/dev/null", mark]] if new_group else []
    commands += [["install", *helper]]
    return [shlex.join(words) for words in commands]


def install() -> str | None:
    """Install and verify; gives the user who was added to the group and must log in again.

    Raises `AvneError`: not root, a helper that is not what was built, a directory that others may write.
    """
    require_root()
    data = built_helper()
    made_group = _group() is None
    if made_group:
        command("groupadd", "--system", GROUP)
    group = _group()
    assert group is not None
    directory = open_directory()
    try:
        if made_group:
            place(directory, _MARK, b"", 0, 0o644)
        place(directory, os.path.basename(launch.INSTALLED), data, group, MODE)
        os.fsync(directory)
    finally:
        os.close(directory)
    if user := _new_member():
        command("usermod", "--append", "--groups", GROUP, user)
    if problems := verify_installed():
        raise AvneError(f"the installed helper is not as it should be: {'; '.join(problems)}", _REINSTALL)
    return user


def remove() -> list[str]:
    """Undo `install`; gives what was removed.  Raises `AvneError` where this is not root."""
    require_root()
    removed = []
    mark = os.path.join(DIRECTORY, _MARK)
    ours = os.path.exists(mark) and _group() is not None
    for path in (launch.INSTALLED, mark):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.chmod(path, 0)  # whoever kept a hard link keeps nothing
            os.unlink(path)
            removed.append(path)
    if ours:
        command("groupdel", GROUP)
        removed.append(f"group {GROUP}")
    with suppress(OSError):  # not there, or the administrator's files are in it
        os.rmdir(DIRECTORY)
        removed.append(DIRECTORY)
    return removed


def verify_installed() -> list[str]:
    """What is wrong with the installed helper, a line each; empty when all is well."""
    try:
        fd = os.open(launch.INSTALLED, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return [f"{launch.INSTALLED}: {error.strerror}"]
    try:
        status = os.fstat(fd)
        group = _group()
        checks = [
            (stat.S_ISREG(status.st_mode), "it is not a regular file"),
            (status.st_uid == 0, "it does not belong to root"),
            (group is not None and status.st_gid == group, f"it does not belong to the group {GROUP}"),
            (
                stat.S_IMODE(status.st_mode) == MODE,
                f"its mode is {stat.S_IMODE(status.st_mode):o}, not {MODE:o}",
            ),
            (status.st_nlink == 1, "it has a second name (a hard link)"),
            (not os.fstatvfs(fd).f_flag & os.ST_NOSUID, "its file system is mounted nosuid"),
        ]
        problems = [problem for good, problem in checks if not good]
        if not stat.S_ISREG(status.st_mode):
            return problems[:1]
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != _built_digest():
                problems.append("it is not the helper of this version of avne")
    except PermissionError:
        problems.append(f"you may not run it: you are not in the group {GROUP}, or have yet to log in again")
    finally:
        os.close(fd)
    return problems + directory_problems(DIRECTORY)


def require_root() -> None:
    if os.geteuid() != 0:
        raise AvneError("setup needs root", "sudo avne setup")


def _built_digest() -> str:
    launch.layout()  # says what is missing where nothing was built
    from avne.privileged._build import HELPER_SHA256

    return HELPER_SHA256


def built_helper() -> bytes:
    """The package's helper, read once: what is checked is what is written."""
    with open(launch.find_helper(), "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != _built_digest():
        raise AvneError(f"{launch.PACKAGED} is not the helper that was built", _REINSTALL)
    return data


def is_built(path: str) -> bool:
    """Whether that is, byte for byte, the helper of this package."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest() == _built_digest()


def _group() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def _new_member() -> str | None:
    """Who called sudo(8), unless it is root or a member already."""
    name = os.environ.get("SUDO_USER", "root")
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
    with suppress(KeyError):
        if name in grp.getgrnam(GROUP).gr_mem:
            return None
    return name if uid != 0 else None


def command(*words: str) -> None:
    environment = {"PATH": PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except OSError as error:
        raise AvneError(
            f"cannot run {words[0]}: {error.strerror}", f"Do it by hand: {shlex.join(words)}"
        ) from error
    if done.returncode:
        raise AvneError(f"{shlex.join(words)} failed: {done.stderr.strip()}", "Do it by hand and try again.")


def directory_problems(path: str) -> list[str]:
    """Whether anybody but root could exchange what lies in `path`: it and all above it are looked at.

    Directories above may be open to a group: Debian gives /usr/local to staff, who are as good as root.
    """
    problems = []
    current = path
    while True:
        try:
            status = os.lstat(current)
        except OSError as error:
            return [f"{current}: {error.strerror}"]
        forbidden = stat.S_IWOTH | (stat.S_IWGRP if current == path else 0)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & forbidden:
            problems.append(f"{current} is not a directory that only root can change")
        if current == "/":
            return problems
        current = os.path.dirname(current)


def open_directory() -> int:
    """The directory to install to, made where it is missing.  Raises `AvneError` if others may write it."""
    for path in (os.path.dirname(DIRECTORY), DIRECTORY):
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
            os.chown(path, 0, 0)  # /usr/local hands down its group, and its bit
            os.chmod(path, 0o755)
    if problems := directory_problems(DIRECTORY):
        raise AvneError("; ".join(problems), f"Make it root's: chown root:root, chmod 0755 {DIRECTORY}")
    return os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def place(directory: int, name: str, data: bytes, group: int, mode: int) -> None:
    """Write `name` whole or not at all.  It gets its bits last; the one it replaces loses them.

    (Whoever kept a hard link of an old one would keep its faults, too.)
    """
    old = -1
    with suppress(FileNotFoundError):
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    scratch = f".{name}.{secrets.token_hex(8)}"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchown(fd, 0, group)
            os.fsync(fd)
            os.fchmod(fd, mode)
        os.rename(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
        if old >= 0:
            os.fchmod(old, 0)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(scratch, dir_fd=directory)
        raise
    finally:
        if old >= 0:
            os.close(old)
