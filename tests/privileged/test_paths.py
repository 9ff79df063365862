# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the caller's files the program sees, and which sockets it can speak to: in each mode."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from avne.cli.console import Console
from avne.cli.openings import Openings, Options
from avne.privileged import launch
from tests.privileged import stage

CONNECT = """
import socket, sys
def connect(path, kind):
    try: socket.socket(socket.AF_UNIX, kind).connect(path)
    except OSError as error: return error.errno
    return 0
print([connect(path, kind) for path in sys.argv[1:] for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)])
"""
REFUSED, WRONG_KIND, LACKS = errno.ECONNREFUSED, errno.EPROTOTYPE, errno.ENOENT


def landlock_hides_sockets():
    """Whether the kernel has landlock(7)'s right over unix sockets: ABI 9, Linux 7.1."""
    return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 9


@pytest.fixture
def places(mode):
    """A home directory and one below /tmp, both the user's own."""
    with contextlib.ExitStack() as stack:
        made = [Path(tempfile.mkdtemp(prefix="avne-test-", dir=top)) for top in ("/usr/local/lib", "/tmp")]
        for path in made:
            stack.callback(shutil.rmtree, path)
            os.chown(path, mode.uid, mode.gid)
        yield made


def looked(home, *words, cwd=None, session="/run/avne/none", environ=None, **options):
    """For `look`: go to `cwd`, and ask as ``avne run`` does."""

    def look():
        os.chdir(cwd or "/")
        opened = Options(tuple(map(str, words)), **options)
        return Openings(opened, {"HOME": str(home), **(environ or {})}, session, Console(quiet=True)).request

    return look


@contextlib.contextmanager
def bound(*paths, kind=socket.SOCK_STREAM):
    """Sockets that anybody may speak to; a relative path is taken as such."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            server = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            server.bind(str(path))
            os.chmod(path, 0o777)
            if kind == socket.SOCK_STREAM:
                server.listen()
        yield


def _sh(helper, mode, script, **settings):
    return stage.inside(helper, mode, ["sh", "-c", script], **settings)


def _connect(*paths):
    return [stage.PYTHON, "-I", "-S", "-c", CONNECT, *map(str, paths)]


# ---- the working directory and the home directory --------------------------------------------------


def test_a_working_directory_below_tmp_stays_and_its_neighbours_do_not(helper, mode, places):
    _, tmp = places
    (tmp / "sub").mkdir()
    (tmp / "sub" / "old").write_text("old\n")
    os.chown(tmp / "sub", mode.uid, mode.gid)
    os.chown(tmp / "sub" / "old", mode.uid, mode.gid)
    script = f"pwd; cat old; echo new > new; echo changed >> old; ls -A /tmp {tmp}; cat {tmp}/sub/new"
    done = _sh(helper, mode, script, look=looked("/nowhere", cwd=tmp / "sub"))
    assert (done.err, done.out.split()) == (
        "", [f"{tmp}/sub", "old", "/tmp:", tmp.name, f"{tmp}:", "sub", "new"],
    )  # fmt: skip
    assert (tmp / "sub" / "new").read_text() == "new\n"
    assert (tmp / "sub" / "old").read_text() == "old\nchanged\n"
    assert (tmp / "sub" / "new").stat().st_uid == mode.uid


def test_one_that_is_not_the_user_s_does_not(helper, mode):
    """/tmp itself, for one: in there are the sockets of everybody."""
    done = _sh(helper, mode, "pwd; ls -A", look=looked("/nowhere", cwd="/tmp"))
    assert done.out == "/tmp\n"


def test_a_home_directory_below_tmp_stays(helper, mode, places):
    _, tmp = places
    assert _sh(helper, mode, f"echo x > {tmp}/x", look=looked(tmp)).err == ""
    assert (tmp / "x").read_text() == "x\n"


def test_a_working_directory_on_another_mount(helper, mode, places):
    """And one below it: both are there."""
    home, tmp = places

    def arrange():
        for path in (home / "disk", tmp / "disk"):
            path.mkdir()
            stage.mount("tmpfs", path, "tmpfs", 0, "mode=0777")
            os.chown(path, mode.uid, mode.gid)
            (path / "file").write_text("there\n")

    script = f"cat file {home}/disk/file; echo x > y; cat y"
    done = _sh(helper, mode, script, arrange=arrange, look=looked(home, cwd=tmp / "disk"))
    assert (done.out, done.err) == ("there\nthere\nx\n", "")
    done = _sh(helper, mode, "cat disk/file", arrange=lambda: None, look=looked(home, cwd=tmp))
    assert "No such file" in done.err, "the control"


# ---- sockets ------------------------------------------------------------------------------------------


def test_sockets_in_reach_are_hidden(helper, mode, places):
    """In the home directory and the working directory, by the names that the kernel lists."""
    home, tmp = places
    streams, datagram = [home / "S.agent", tmp / "control"], home / "log"
    argv = _connect(*streams, datagram)
    with bound(*streams), bound(datagram, kind=socket.SOCK_DGRAM):
        control = stage.outside(argv, mode, lambda: os.chdir(tmp)).out
        assert control == f"{[0, WRONG_KIND, 0, WRONG_KIND, WRONG_KIND, 0]}\n"
        done = stage.inside(helper, mode, argv, look=looked(home, cwd=tmp))
    assert (done.out, done.err) == (f"{[REFUSED] * 6}\n", "")


def test_sockets_that_were_bound_by_a_relative_name(helper, mode, places):
    home, tmp = places
    (home / ".gnupg").mkdir()
    paths = [home / ".gnupg/S.gpg-agent", tmp / "sock"]
    with contextlib.ExitStack() as stack:
        for path in paths:
            with contextlib.chdir(path.parent):
                stack.enter_context(bound(path.name))
        assert stage.outside(_connect(*paths), mode).out == f"{[0, WRONG_KIND] * 2}\n", "the control"
        done = stage.inside(helper, mode, _connect(*paths), look=looked(home, cwd=tmp))
    assert done.out == f"{[REFUSED] * 4}\n"


def _late(helper, mode, path, **options):
    """What comes of speaking to a socket that is made when the program already runs."""

    server = socket.socket(socket.AF_UNIX)
    code = f"input()\n{CONNECT}"
    argv = [stage.PYTHON, "-I", "-S", "-c", code, str(path)]

    def work():
        helper_path = stage.prepare(helper, mode)
        request = looked(path.parent, **options)()
        reading, writing = os.pipe()

        def meanwhile(_):
            server.bind(str(path))
            server.listen()
            os.write(writing, b"go\n")

        def run():
            os.dup2(reading, 0)
            return stage.run_program(helper_path, argv, meanwhile=meanwhile, request=request)

        return stage.captured(run)

    with server:
        return stage.Outcome(*stage.apart(work))


def test_a_socket_that_is_made_later(helper, mode, places):
    """As docs/threat-model.md has it: in reach before Linux 7.1, but for --strict."""
    home, _ = places
    want = [errno.EACCES, errno.EACCES] if landlock_hides_sockets() else [0, WRONG_KIND]
    assert _late(helper, mode, home / "late").out == f"{want}\n"


def test_a_socket_that_is_made_later_is_out_of_reach_of_a_strict_program(helper, mode, places):
    home, _ = places
    done = _late(helper, mode, home / "late", strict=True)
    assert done.out == f"{[errno.EAFNOSUPPORT] * 2}\n"


STRICT = """
import socket
a, b = socket.socketpair()
a.sendall(b"x")
told = [b.recv(1).decode()]
socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
    try: socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b"x", "/tmp/log"); told.append(0)
    except OSError as error: told.append(error.errno)
socket.socket(socket.AF_INET, socket.SOCK_STREAM)
print(told)
"""


def test_what_a_strict_program_may(helper, mode, places):
    """A pair of datagram sockets would do to send to a third."""
    home, _ = places
    argv = [stage.PYTHON, "-I", "-S", "-c", STRICT]
    with bound("/tmp/log", kind=socket.SOCK_DGRAM):
        control = stage.outside(argv, mode).out
        os.unlink("/tmp/log")
    done = stage.inside(helper, mode, argv, look=looked(home, strict=True))
    assert control == "['x', 0, 0]\n"
    assert (done.out, done.err) == (f"{['x', errno.EPROTONOSUPPORT, errno.EPROTONOSUPPORT]}\n", "")


def test_a_mask_that_is_no_socket_masks_nothing(helper, mode, places):
    home, _ = places
    (home / "file").write_text("x\n")

    def look():
        return launch.Request(masks=(os.open(home / "file", os.O_PATH), os.open(home, os.O_PATH)))

    assert _sh(helper, mode, f"cat {home}/file", look=look).out == "x\n"


def test_a_socket_that_has_gone_needs_no_mask(helper, mode, places):
    home, _ = places

    def look():
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(home / "gone"))
            fd = os.open(home / "gone", os.O_PATH)
            os.unlink(home / "gone")
        return launch.Request(masks=(fd,))

    assert _sh(helper, mode, "echo ok", look=look).out == "ok\n"


# ---- --share --------------------------------------------------------------------------------------------


def test_what_is_shared_is_shown_where_it_is(helper, mode, places):
    """A directory, a file and a socket below /tmp; read-only is that, also below."""
    home, tmp = places
    (tmp / "a" / "b").mkdir(parents=True)
    (tmp / "a" / "b" / "file").write_text("file\n")
    (tmp / "ro").mkdir()
    (tmp / "hidden").write_text("hidden\n")
    for path in (tmp / "a" / "b", tmp / "ro"):
        os.chown(path, mode.uid, mode.gid)
    script = f"cat {tmp}/a/b/file; echo x > {tmp}/a/b/x; ls {tmp}; echo x > {tmp}/ro/x"
    look = looked(home, tmp / "a" / "b", f"{tmp}/ro:ro")
    done = _sh(helper, mode, script, look=look)
    assert done.out.split() == ["file", "a", "ro"]
    assert "Read-only file system" in done.err
    assert (tmp / "a" / "b" / "x").read_text() == "x\n"
    assert not (tmp / "ro" / "x").exists()


def test_a_socket_that_is_shared_can_be_spoken_to(helper, mode, places):
    home, tmp = places
    with bound(tmp / "one", tmp / "two"):
        done = stage.inside(helper, mode, _connect(tmp / "one", tmp / "two"), look=looked(home, tmp / "one"))
    assert done.out == f"{[0, WRONG_KIND, LACKS, LACKS]}\n"


def test_a_device_that_is_shared(helper, mode, places):
    home, _ = places

    def arrange():
        os.makedirs("/dev/shm/avne-dri")
        os.mknod("/dev/shm/avne-dri/card", 0o20666, os.makedev(1, 5))
        os.chmod("/dev/shm/avne-dri/card", 0o666)

    try:
        look = looked(home, "/dev/shm/avne-dri")
        done = _sh(helper, mode, "head -c 2 /dev/shm/avne-dri/card | wc -c", arrange=arrange, look=look)
    finally:
        shutil.rmtree("/dev/shm/avne-dri")
    assert done.out == "2\n"


def test_a_share_that_has_gone_is_told(helper, mode, places):
    home, _ = places

    def look():
        (home / "gone").mkdir()
        fd = os.open(home / "gone", os.O_PATH)
        (home / "gone").rmdir()
        return launch.Request(shares=(launch.Share(fd),))

    assert _sh(helper, mode, "true", look=look).failed == ["FIND", errno.ENOENT]


def test_another_file_of_the_same_name_is_not_taken_for_it(helper, mode, places):
    home, _ = places

    def look():
        (home / "name").write_text("mine\n")
        fd = os.open(home / "name", os.O_PATH)
        (home / "other").write_text("not mine\n")
        (home / "other").rename(home / "name")
        return launch.Request(shares=(launch.Share(fd),))

    failed = _sh(helper, mode, "true", look=look).failed
    assert failed[0] == "FIND"


def test_a_descriptor_of_no_file_is_refused(helper, mode):
    def look():
        return launch.Request(shares=(launch.Share(os.memfd_create("x")),))

    assert _sh(helper, mode, "true", look=look).failed[0] == "FIND"


# ---- --private-home and --profile --------------------------------------------------------------------------


def _fill(home, mode):
    (home / "dir").mkdir()
    (home / "dir" / "old").write_text("old\n")
    for path in (home / "dir", home / "dir" / "old"):
        os.chown(path, mode.uid, mode.gid)


WRITES = (
    "cd {0} && cat dir/old && echo new > dir/old && rm -r dir && mkdir dir && echo x > dir/x && cat dir/x"
)


def test_what_is_written_to_a_private_home_is_thrown_away(helper, mode, places):
    home, _ = places
    _fill(home, mode)
    done = _sh(helper, mode, WRITES.format(home), look=looked(home, private_home=True))
    if mode is stage.SETUID:
        assert done.failed == ["REQUEST", errno.EBADMSG], "no overlay with rights that the user lacks"
        return
    assert (done.out, done.err) == ("old\nx\n", "")
    assert (home / "dir" / "old").read_text() == "old\n"


@pytest.mark.parametrize("kind", ["early", "late"])
def test_no_socket_of_the_real_home_is_in_reach_of_a_private_one(helper, mode, places, kind):
    if mode is stage.SETUID:
        mode = stage.ROOTLESS
    home, _ = places
    if kind == "early":
        with bound(home / "early"):
            done = stage.inside(helper, mode, _connect(home / "early"), look=looked(home, private_home=True))
    else:
        done = _late(helper, mode, home / "late", private_home=True)
    assert done.out == f"{[REFUSED] * 2}\n"


def test_a_profile_is_kept_apart(helper, mode, places):
    if mode is stage.SETUID:
        mode = stage.ROOTLESS
    home, _ = places
    _fill(home, mode)
    state = {"XDG_STATE_HOME": str(home / "state")}

    def run(script, name):
        def look():
            os.environ.update(state)
            return looked(home, profile=name)()

        return _sh(helper, mode, script, look=look)

    assert run(WRITES.format(home), "one").out == "old\nx\n"
    assert run(f"cat {home}/dir/x", "one").out == "x\n"
    assert run(f"cat {home}/dir/old", "two").out == "old\n"
    assert (home / "dir" / "old").read_text() == "old\n"
    assert not (home / "dir" / "x").exists()


def test_a_share_is_seen_through_a_private_home(helper, mode, places):
    if mode is stage.SETUID:
        mode = stage.ROOTLESS
    home, _ = places
    _fill(home, mode)
    look = looked(home, home / "dir", private_home=True)
    assert _sh(helper, mode, f"echo x > {home}/dir/kept; echo x > {home}/lost", look=look).err == ""
    assert (home / "dir" / "kept").exists()
    assert not (home / "lost").exists()
