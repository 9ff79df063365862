# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the host's files the program is to see or not to see, as descriptors for the helper.

Inside, /run, /tmp, /var/tmp and /dev are new and empty.  Shown again are the working directory and the home
directory where they lie in such a place and are the user's, and what --share and --gui name.  Hidden are
the sockets that are bound, right now, to a name that stays in reach.  Everything is opened here with the
user's own rights; the helper gets no name from us.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from avne.cli.console import Console
from avne.errors import AvneError
from avne.paths import state_dir
from avne.privileged import launch
from avne.privileged.launch import Request, Share

# Private or masked in every environment.
HIDDEN = (
    "/run", "/var/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/var/lib/sss", "/var/lib/dbus",
    "/var/log", "/var/lib/dhcp", "/var/lib/dhclient", "/var/lib/dhcpcd", "/var/lib/NetworkManager",
)  # fmt: skip
# Where everybody may make a directory.
COMMON = ("/tmp", "/var/tmp", "/dev/shm")
EMPTIED = ("/run", "/var/run", "/dev", *COMMON)
# To show these would be to leave the environment.
NEVER = ("/", "/proc", "/sys", "/dev", "/run", "/etc")
X11 = "/tmp/.X11-unix"
# Directories in which programs have sockets by names that are not absolute.
SOCKET_PLACES = ("", ".gnupg", ".ssh", ".screen")
_SCANNED = 4096  # entries of a directory that are looked at
MAX_MASKS = launch.MAX_PATHS - launch.MAX_SHARES - 3
_PATH = os.O_PATH | os.O_CLOEXEC
_PROFILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_LISTENS, _DATAGRAM = 0x10000, 2  # __SO_ACCEPTCON, SOCK_DGRAM: columns of /proc/net/unix


class Options(NamedTuple):
    """Those of ``avne run`` that open or close a hole."""

    share: tuple[str, ...] = ()
    private_home: bool = False
    profile: str = ""
    gui: bool = False
    strict: bool = False
    env: tuple[str, ...] = ()
    setenv: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    onion: tuple[str, ...] = ()


NONE = Options()


class Openings:
    """Looks at the machine once.  `request` is for the helper; `variables` are what --gui needs.

    Every descriptor lives as long as avne does.  Raises `AvneError`.
    """

    def __init__(self, options: Options, environ: Mapping[str, str], session: str, console: Console) -> None:
        self._console = console
        self._session = session
        self._shares: dict[str, Share] = {}
        self.variables: dict[str, str] = {}
        for word in options.share:
            self._share(word)
        if options.gui:
            self._gui(environ)
        home = environ.get("HOME", "")
        self._keep_in_sight(".", "the working directory")
        if home.startswith("/"):
            self._keep_in_sight(home, "the home directory")
        homes = self._homes(options, home)
        if len(self._shares) > launch.MAX_SHARES:
            raise AvneError(
                "there are too many --share", f"At most {launch.MAX_SHARES}; share what is above."
            )
        masks = () if options.strict else tuple(self._masks(home, bool(homes)))
        shares = tuple(self._shares[name] for name in sorted(self._shares))
        self.request = Request(options.strict, homes, shares, masks)

    def hides(self, path: str) -> bool:
        """Whether the program cannot see what is there outside."""
        name = os.path.realpath(path)
        emptied = _is_in(name, ("/run", "/var/run", *COMMON)) and name not in EMPTIED
        return emptied and not _is_in(name, self._shares)

    # What is shown

    def _share(self, word: str) -> None:
        path, colon, mode = word.rpartition(":")
        read_only = bool(colon) and mode == "ro"
        self._open(path if read_only else word, read_only, "read-only" if read_only else "")

    def _open(self, path: str, read_only: bool, what: str) -> None:
        """Show `path`, and say so."""
        try:
            fd = os.open(path, _PATH)
        except OSError as error:
            raise AvneError(
                f"cannot show {path} inside: {os.strerror(error.errno or 0)}", "Is the name right?"
            ) from error
        name = _name(fd)
        if name in NEVER or _is_in(name, ("/proc", "/sys")) or _is_in(self._session, (name,)):
            raise AvneError(
                f"{name} cannot be shown inside: there would be no environment left", "Share less of it."
            )
        self._shares[name] = Share(fd, read_only, opened=True)
        self._console.notice(f"open: {name}{what and f' ({what})'}")

    def _keep_in_sight(self, path: str, what: str) -> None:
        """A directory of the user's own that lies where the environment has a directory of its own."""
        try:
            fd = os.open(path, _PATH | os.O_DIRECTORY)
        except OSError:
            return
        name = _name(fd)
        if not _is_in(name, HIDDEN) or _is_in(name, self._shares):
            os.close(fd)
        elif (
            name not in COMMON
            and _is_in(name, COMMON)
            and os.fstat(fd).st_uid == os.geteuid()
            and not _is_in(self._session, (name,))
            and not _is_in(name, (os.path.dirname(self._session),))
        ):
            self._shares[name] = Share(fd)
            self._console.phase(f"{what} {name} stays in sight")
        else:
            os.close(fd)
            if not _is_in(name, EMPTIED):
                return
            self._console.notice(
                f"{what} is {name}, which the program has a new, empty one of: what it writes there is lost "
                "at its end"
            )

    # --gui

    def _gui(self, environ: Mapping[str, str]) -> None:
        before = len(self._shares)
        if display := environ.get("WAYLAND_DISPLAY"):
            self._wayland(display, environ.get("XDG_RUNTIME_DIR", ""))
        if display := environ.get("DISPLAY"):
            self._x11(display, environ)
        if len(self._shares) == before:
            raise AvneError(
                "--gui: there is no display: neither WAYLAND_DISPLAY nor DISPLAY names one",
                "Run it from a terminal of your desktop.",
            )

    def _wayland(self, display: str, runtime: str) -> None:
        path = os.path.join(runtime, display)
        if not path.startswith("/") or not _is_socket(path):
            return
        self._open(path, False, "Wayland: windows, keys typed into them, and the clipboard")
        self.variables["WAYLAND_DISPLAY"] = display
        if not display.startswith("/"):
            self.variables["XDG_RUNTIME_DIR"] = runtime

    def _x11(self, display: str, environ: Mapping[str, str]) -> None:
        host, _, number = display.rpartition(":")
        number = number.partition(".")[0]
        if host not in ("", "unix") or not number.isascii() or not number.isdecimal():
            raise AvneError(
                f"--gui: the display {display} is reached over the network, which is Tor inside",
                "Use a display of this machine, such as one of Xvfb or Xephyr.",
            )
        path = f"{X11}/X{number}"
        if not _is_socket(path):
            return
        self._open(path, False, "X11: this program can see and type into every window of the display")
        self.variables["DISPLAY"] = display
        home = environ.get("HOME", "")
        cookie = environ.get("XAUTHORITY") or (home and f"{home}/.Xauthority")
        if cookie and os.access(cookie, os.R_OK):
            self._open(cookie, True, "the key to the X11 display")
            self.variables["XAUTHORITY"] = cookie

    # The home directory

    def _homes(self, options: Options, home: str) -> tuple[int, ...]:
        if not options.private_home and not options.profile:
            return ()
        if options.private_home and options.profile:
            raise AvneError(
                "--private-home and --profile exclude each other",
                "The one throws away what is written to the home directory, the other keeps it.",
            )
        try:
            fd = os.open(home, _PATH | os.O_DIRECTORY)
        except OSError as error:
            raise AvneError(
                f"the home directory {home or '(HOME is not set)'} cannot be used", "Set HOME."
            ) from error
        return (fd, *_profile(options.profile)) if options.profile else (fd,)

    # Sockets that are in reach

    def _masks(self, home: str, home_is_covered: bool) -> Iterator[int]:
        seen: set[tuple[int, int]] = set()
        home = os.path.realpath(home) if home else ""
        opened = [name for name, share in self._shares.items() if share.opened]
        for path in _bound_sockets(home):
            try:
                fd = os.open(path, _PATH | os.O_NOFOLLOW)
            except OSError:
                continue  # not for us either
            status = os.fstat(fd)
            name = _name(fd)
            in_sight = not _is_in(name, HIDDEN) or _is_in(name, self._shares)
            covered = home_is_covered and _is_in(name, (home,))
            key = (status.st_dev, status.st_ino)
            if (
                not stat.S_ISSOCK(status.st_mode) or key in seen or not in_sight or covered
                or _is_in(name, opened)
            ):  # fmt: skip
                os.close(fd)
                continue
            seen.add(key)
            if len(seen) > MAX_MASKS:
                raise AvneError(
                    f"more than {MAX_MASKS} sockets of other programs are in reach, {name} among them",
                    "Run it with --private-home, from another directory, or with --strict.",
                )
            yield fd


def _profile(name: str) -> tuple[int, int]:
    """Upper and work directory of the profile `name`, which is locked for us."""
    if not _PROFILE.fullmatch(name) or len(name) > 64:
        raise AvneError(
            f"{name!r} cannot be the name of a profile", "Letters, digits, and . _ - after the first."
        )
    base = f"{state_dir()}/profiles/{name}"
    try:
        for part in ("upper", "work"):
            os.makedirs(f"{base}/{part}", 0o700, exist_ok=True)
        lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until we end
        upper, work = (os.open(f"{base}/{part}", _PATH | os.O_DIRECTORY) for part in ("upper", "work"))
    except BlockingIOError as error:
        raise AvneError(
            f"the profile {name} is in use", "End the other run, or take another profile."
        ) from error
    except OSError as error:
        raise AvneError(
            f"cannot use {base}: {os.strerror(error.errno or 0)}", f"Look at it with: namei -l {base}"
        ) from error
    return upper, work


def _bound_sockets(home: str) -> Iterator[str]:
    """Names of sockets that may be spoken to: those that the kernel lists, in our network namespace,
    by an absolute name; and any in the directories where others are usual."""
    with contextlib.suppress(OSError), open("/proc/net/unix", errors="surrogateescape") as file:
        for line in file:
            words = line.rstrip("\n").split(None, 7)  # Num RefCount Protocol Flags Type St Inode Path
            bound = len(words) == 8 and words[7].startswith("/")
            if bound and (int(words[3], 16) & _LISTENS or int(words[4], 16) == _DATAGRAM):
                yield words[7]
    yield from _sockets_in(".")
    for place in SOCKET_PLACES if home else ():
        yield from _sockets_in(f"{home}/{place}")


def _sockets_in(directory: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for _, entry in zip(range(_SCANNED), entries, strict=False):
            if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                        yield entry.path


def _is_socket(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.stat(path).st_mode)
    return False


def _is_in(name: str, tops: Mapping[str, Share] | tuple[str, ...] | list[str]) -> bool:
    """Whether `name` is one of `tops`, or is below one."""
    return any(name == top or name.startswith(f"{top.rstrip('/')}/") for top in tops)


def _name(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")
