# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said to the helper: anything but the messages of request.h, in their order, ends it."""

from __future__ import annotations

import errno
import os

import pytest

from avne.privileged import launch
from tests.privileged import stage
from tests.privileged.stage import Line


def _message(**changes):
    fields = {"magic": launch.MAGIC, "type": launch.REQUEST, "layout": launch.layout(), **changes}
    return launch.MESSAGE.pack(*fields.values(), *[0] * 6)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (_message(layout=launch.layout() ^ 1), errno.EPROTO),
        (_message(magic=0), errno.EBADMSG),
        (_message(type=launch.GO), errno.EBADMSG),
        (_message(type=99), errno.EBADMSG),
        (_message()[:-1], errno.EBADMSG),
        (_message() + b"\0", errno.EBADMSG),
        (os.urandom(launch.MESSAGE.size), errno.EBADMSG),
        (b"\0", errno.EBADMSG),
        (bytes(60000), errno.EBADMSG),
    ],
    ids=["layout", "magic", "go", "type", "short", "long", "random", "byte", "large"],
)
def test_a_bad_request(helper, mode, data, error):
    def work():
        line = Line(stage.prepare(helper, mode))
        line.raw.send(data)
        return [line.receive(), line.receive(), line.close()]

    assert stage.apart(work) == [[launch.FAILED, "REQUEST", error], [], 1]


def test_a_request_with_a_descriptor(helper, mode):
    def work():
        line = Line(stage.prepare(helper, mode))
        line.send(launch.REQUEST, fds=[0])
        return line.receive()

    assert stage.apart(work) == [launch.FAILED, "REQUEST", errno.EBADMSG]


def _memory(data):
    fd = os.memfd_create("go")
    os.write(fd, data)
    return fd


@pytest.fixture
def line(helper):
    """A helper that waits for GO."""
    line = Line(helper)
    line.send(launch.REQUEST)
    assert line.receive()[0] == launch.TUN
    yield line
    line.close()


@pytest.mark.parametrize(
    ("data", "argc", "envc"),
    [
        (b"", 1, 0),
        (b"true", 1, 0),
        (b"true\0", 0, 1),
        (b"true\0", 2, 0),
        (b"true\0", 1, 1),
        (b"true\0x\0", 1, 0),
        (b"true\0", 0xFFFFFFFF, 0xFFFFFFFF),
        (b"true\0", 1, 0xFFFFFFFF),
        (bytes(8 << 20) + b"x\0", 1, 0),
    ],
)
def test_bad_strings(line, data, argc, envc):
    line.send(launch.GO, fds=[_memory(data)], argc=argc, envc=envc)
    kind, where, error = line.receive()
    assert (kind, where) == (launch.FAILED, "GO")
    assert error in (errno.EBADMSG, errno.E2BIG)
    assert line.receive() == []


@pytest.mark.parametrize("fds", [[], [0, 0], [0, 0, 0]])
def test_go_has_one_descriptor(line, fds):
    memory = _memory(b"true\0")
    line.send(launch.GO, fds=[memory for _ in fds], argc=1)
    os.close(memory)
    assert line.receive() == [launch.FAILED, "GO", errno.EBADMSG]


def test_go_with_something_that_is_no_memory(line):
    ends = os.pipe()
    line.send(launch.GO, fds=[ends[0]], argc=1)
    assert line.receive() == [launch.FAILED, "GO", errno.E2BIG]
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (launch.SIGNAL, {"value": 15}),
        (launch.REQUEST, {}),
        (launch.TUN, {}),
        (launch.FAILED, {}),
        (77, {}),
    ],
)
def test_what_has_no_place_before_go(line, kind, fields):
    line.send(kind, **fields)
    assert line.receive() == [launch.FAILED, "GO", errno.EBADMSG]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (launch.SIGNAL, {"value": 0}),
        (launch.SIGNAL, {"value": -1}),
        (launch.SIGNAL, {"value": 65}),
        (launch.GO, {"argc": 1}),
    ],
)
def test_what_has_no_place_after_go(line, kind, fields):
    line.send(launch.GO, fds=[_memory(b"/bin/sleep\0infinity\0")], argc=2)
    assert line.receive()[0] == launch.STARTED
    line.send(kind, fds=[_memory(b"true\0")] if kind == launch.GO else [], **fields)
    assert line.receive() == [launch.FAILED, "GO", errno.EBADMSG]
