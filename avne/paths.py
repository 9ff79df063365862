# SPDX-License-Identifier: GPL-3.0-or-later
"""Where avne keeps its files: the session's sockets, the state, the configuration.

The sockets of a session live below /run or /dev/shm and nowhere else, because the
environment masks both: the program inside can never reach them.  A session is a
directory ``RUNTIME/avne/ID/`` of mode 0700, held by a flock(2) on the directory itself;
one that nobody holds belongs to a supervisor that died, and the next start removes it.
The directory above is locked while sessions are made, named, listed and removed, so that a session
between its mkdir and its flock is never taken for a dead one.  A session's name is where its link
``name`` leads to: it is gone with the session.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from avne.errors import AvneError

SYSTEM_CONFIG = "/etc/avne/config.toml"
MASKED = ("/run", "/dev/shm")  # what the environment hides from the program
MAX_SOCKET_PATH = 107  # sockaddr_un's sun_path without its NUL, unix(7)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Session:
    """One run's directory, locked for as long as the object is open."""

    __slots__ = ("_fd", "directory", "id")

    def __init__(self, directory: str, fd: int) -> None:
        self.directory = directory
        self.id = os.path.basename(directory)
        self._fd = fd

    def socket(self, name: str) -> str:
        """The path of a socket in the directory; `AvneError` if no socket can have it."""
        path = f"{self.directory}/{name}"
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise AvneError(
                f"the runtime directory's name is too long for a socket: {self.directory}",
                "Set XDG_RUNTIME_DIR to a shorter path below /run.",
            )
        return path

    def close(self) -> None:
        """Remove the directory and let go of it."""
        _remove(self.directory, self._fd)
        os.close(self._fd)


class Live(NamedTuple):
    """A session that somebody holds."""

    id: str
    name: str  # "" where it has none
    directory: str


def open_session(environ: Mapping[str, str] = os.environ, name: str = "") -> Session:
    """Make a session with an id of its own (6 hex digits); removes what dead ones left behind.

    Raises `AvneError` for a `name` that cannot be one, or that a live session has.
    """
    if name:
        _check_name(name)
    with _locked(environ) as base:
        for other in _reap(base):
            if name and other.name == name:
                raise AvneError(f"there is an environment called {name}", f"Its id is {other.id}: avne ps")
        while True:
            number = os.urandom(3).hex()
            with contextlib.suppress(FileExistsError):
                if not number.isdigit():  # that would look like a process's
                    os.mkdir(directory := f"{base}/{number}", 0o700)
                    break
        fd = os.open(directory, _DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if name:
            os.symlink(name, "name", dir_fd=fd)
        return Session(directory, fd)


def live_sessions(environ: Mapping[str, str] = os.environ) -> list[Live]:
    """The sessions of this user that are held by somebody; removes what dead ones left behind."""
    with _locked(environ) as base:
        return _reap(base)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise AvneError(
            f"an environment cannot be called {name!r}",
            "At most 64 letters, digits, dots, hyphens and underscores, a letter or digit first.",
        )
    if name.isdigit() or _is_id(name):
        raise AvneError(
            f"an environment cannot be called {name}: that is how a process or an id looks",
            "Take a name with some other letter in it.",
        )


def _is_id(name: str) -> bool:
    return len(name) == 6 and not name.strip("0123456789abcdef")


@contextlib.contextmanager
def _locked(environ: Mapping[str, str]) -> Iterator[str]:
    """The directory of the sessions, while nobody else makes or removes one."""
    base = runtime_dir(environ)
    lock = _open_private(base)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield base
    except OSError as error:
        raise _cannot(base, error) from error
    finally:
        os.close(lock)


def runtime_dir(environ: Mapping[str, str] = os.environ) -> str:
    """The directory that holds our sessions, made if it is missing; `AvneError` if it is not safe."""
    base = _runtime_root(environ) + "/avne"
    _make_private(base)
    return base


def _runtime_root(environ: Mapping[str, str]) -> str:
    uid = os.geteuid()
    wanted = environ.get("XDG_RUNTIME_DIR", "")
    if wanted.startswith("/"):
        wanted = os.path.realpath(wanted)
        if wanted.startswith(tuple(f"{top}/" for top in MASKED)) and _is_private(wanted):
            return wanted
    if uid == 0:
        return "/run"
    if _is_private(f"/run/user/{uid}"):
        return f"/run/user/{uid}"
    fallback = f"/dev/shm/avne-{uid}"
    _make_private(fallback)
    return fallback


def state_dir(environ: Mapping[str, str] = os.environ) -> str:
    """``$XDG_STATE_HOME/avne`` (``~/.local/state/avne``), made with mode 0700 if it is missing."""
    path = _xdg(environ, "XDG_STATE_HOME", ".local/state") + "/avne"
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise _cannot(path, error) from error
    return path


def config_files(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """The system's configuration file and the user's; the later one wins."""
    return SYSTEM_CONFIG, _xdg(environ, "XDG_CONFIG_HOME", ".config") + "/avne/config.toml"


def _xdg(environ: Mapping[str, str], name: str, below_home: str) -> str:
    """An XDG base directory; relative values are to be ignored (XDG Base Directory 0.8)."""
    value = environ.get(name, "")
    if value.startswith("/"):
        return value.rstrip("/")
    home = environ.get("HOME", "")
    return os.path.join(home if home.startswith("/") else os.path.expanduser("~"), below_home)


def _make_private(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # judged below, as ours would be
    except OSError as error:
        raise _cannot(path, error) from error
    if not _is_private(path):
        raise AvneError(
            f"{path} is not a directory that is ours alone (a link, another owner, or open to others)",
            f"Look at it with: ls -ld {path}. Remove it, or have an administrator do so.",
        )


def _open_private(path: str) -> int:
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise _cannot(path, error) from error


def _is_private(path: str) -> bool:
    """A real directory (no link), ours, of no use to group and others."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    mode = status.st_mode
    return stat.S_ISDIR(mode) and status.st_uid == os.geteuid() and not mode & 0o077


def _reap(base: str) -> list[Live]:
    """Remove the sessions whose supervisor is gone; gives the others."""
    alive = []
    for name in filter(_is_id, sorted(os.listdir(base))):
        with contextlib.suppress(OSError):
            fd = os.open(f"{base}/{name}", _DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(f"{base}/{name}", fd)
            except BlockingIOError:
                alive.append(Live(name, _name_of(fd), f"{base}/{name}"))
            finally:
                os.close(fd)
    return alive


def _name_of(directory: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink("name", dir_fd=directory)
    return ""


def _remove(directory: str, fd: int) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        os.rmdir(directory)


def _cannot(path: str, error: OSError) -> AvneError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cure = "Free some space there."
    elif error.errno == errno.EROFS:
        cure = "It is on a read-only file system; set XDG_STATE_HOME or XDG_RUNTIME_DIR to another place."
    else:
        cure = f"Look at the owner and mode of it and what is above: namei -l {path}"
    return AvneError(f"cannot use {path}: {os.strerror(error.errno or 0)}", cure)
