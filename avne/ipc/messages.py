# SPDX-License-Identifier: GPL-3.0-or-later
"""The vocabulary between the netstack and the upstream workers: one table.

A message is a msgpack array ``[type, flow, field …]``, followed for DATA by the payload bytes, which are
never packed.  `TABLE` is the whole contract: who may send a type, the fields with their bounds, and
whether a payload or a descriptor follows.  `decode` checks a message against it and raises `Malformed`; a
peer that sends such a one is cut off.

A worker has one line: the lane (lane.py) where it is on the netstack's machine, ZeroMQ (channel.py) where
it is elsewhere.

``flow`` is a number the netstack chose and never uses again (0 where a message is about
the worker, a query's own number for RESOLVE), so a message that crossed a RESET on the
wire names a flow that is gone, and is dropped without harm.

Life of a flow of a worker elsewhere::

    netstack                       worker
    OPEN flow host port credit token ->      credit: bytes the worker may send down
                               <-  OPENED flow credit     bytes the netstack may send up
                               <-  REFUSED flow code verdict detail     instead; the flow is gone
    DATA, CREDIT               <->  DATA, CREDIT
    SHUT                       <->  SHUT     no more bytes this way; gone once both are sent
    RESET                      <->  RESET    gone at once

A sender never sends more DATA bytes than it was granted; CREDIT returns what was consumed.

By the lane the worker gives the connected socket away instead of carrying the bytes::

    OPEN flow host port credit token ->      (the credit is of no use here)
    EARLY flow data            ->            what the program sends meanwhile, EARLY_MAX bytes at the most
                               <-  SOCKET flow opened upstream capabilities rate early   with its descriptor
                               <-  REFUSED flow code verdict detail                  instead
    RESET flow                 ->            instead of either: given up
    ENDED flow opened upstream ->            the server's end has come: was it the upstream's death?
                               <-  ALIVE flow             no
                               <-  RESET flow code        yes

The worker then knows nothing of the flow any more: `opened` (its clock, in µs) and `upstream` (a number, the
same with all workers) are what it needs for the answer.  `rate` is the most bytes in a second, each way, that
all flows of that upstream may carry together; 0: no bound.  `early` is how many of the bytes of EARLY have
been written to the socket; the netstack has kept them all, and writes the others.

Flows and questions of different tokens never share a circuit, where the upstream has circuits
(netstack/tokens.py).

DRAIN asks a worker to end what it has and itself; from a worker, it asks the netstack for that: no new flow
comes then, and DRAIN when none needs it any more.

Where the worker has the capability ROUTES it is asked about each name before anybody else is: RESOLVE with
the kind ROUTE is answered by SUCCEEDED, BY_NAME or BLOCKED.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from typing import Any, Final, NamedTuple

import msgpack

from avne.errors import Malformed
from avne.limits import CREDIT_MAX, EARLY_MAX, EARLY_PIECE, MAX_HEADER, MAX_HOST

WIRE_VERSION: Final = 6

HELLO: Final = 1
READY: Final = 2
DRAIN: Final = 3
OPEN: Final = 4
OPENED: Final = 5
REFUSED: Final = 6
DATA: Final = 7
CREDIT: Final = 8
SHUT: Final = 9
RESET: Final = 10
RESOLVE: Final = 11
RESOLVED: Final = 12
PING: Final = 13
PONG: Final = 14
STATS: Final = 15
SOCKET: Final = 16
ENDED: Final = 17
ALIVE: Final = 18
EARLY: Final = 19


class BadFrames(Malformed):
    """`peer` sent by ZeroMQ what is not one header and at most one payload."""

    def __init__(self, peer: bytes) -> None:
        super().__init__("wire-frames")
        self.peer = peer


class Capability(IntFlag):
    """What an upstream can do beyond opening a connection."""

    RESOLVE = 1  # names to addresses and back, without a connection
    HALF_CLOSE = 2  # one direction may end before the other
    PROOF = 4  # an end may be the upstream's death: ENDED asks
    ROUTES = 8  # not all names go the same way: ROUTE asks for each
    EARLY = 16  # takes a connection's first bytes before it has said that there is one


class Code(IntEnum):
    """Why an upstream refused: the SOCKS reply (RFC 1928 §6), Tor's extended errors, or ours.

    Any number of the SOCKS range (0–255) is carried as it came, known or not.  Of other protocols: 0x0200 +
    an errno of the host, 0x0400 + a SOCKS4 reply, and 0x1000 + an HTTP status, by its digits (0x1403 is 403).
    """

    SUCCEEDED = 0x00
    GENERAL_FAILURE = 0x01
    NOT_ALLOWED = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    CONNECTION_REFUSED = 0x05
    TTL_EXPIRED = 0x06
    COMMAND_NOT_SUPPORTED = 0x07
    ADDRESS_TYPE_NOT_SUPPORTED = 0x08
    ONION_DESCRIPTOR_NOT_FOUND = 0xF0
    ONION_DESCRIPTOR_INVALID = 0xF1
    ONION_INTRODUCTION_FAILED = 0xF2
    ONION_RENDEZVOUS_FAILED = 0xF3
    ONION_CLIENT_AUTH_MISSING = 0xF4
    ONION_CLIENT_AUTH_WRONG = 0xF5
    ONION_BAD_ADDRESS = 0xF6
    ONION_INTRODUCTION_TIMED_OUT = 0xF7
    UPSTREAM_DOWN = 0x100  # the proxy cannot be reached, or died
    UPSTREAM_TIMEOUT = 0x101  # the proxy did not answer in time
    UPSTREAM_AUTH = 0x102  # the proxy refused our user name and password
    UPSTREAM_PROTOCOL = 0x103  # the proxy does not speak its protocol
    BAD_NAME = 0x104  # no proxy request can carry this name
    BLOCKED = 0x105  # the user's settings refuse it
    BY_NAME = 0x106  # of ROUTE: nobody is to be asked, the connection is opened by name


class ResolveKind(IntEnum):
    """The question of a RESOLVE."""

    ADDRESS = 0  # a name → its addresses
    NAME = 1  # an address → its name
    ROUTE = 2  # a name, of whatever type → whether others may be asked about it


class Sender(Enum):
    NETSTACK = 1
    WORKER = 2
    BOTH = 3


class Field(NamedTuple):
    """One field of a header: its name, and the bound of its value."""

    name: str
    kind: type
    limit: int  # largest number, or most characters, bytes or items (each ≤ MAX_HOST characters)


class Row(NamedTuple):
    name: str
    sender: Sender
    fields: tuple[Field, ...]
    payload: bool = False
    socket: bool = False  # a descriptor comes with it


_U63 = (1 << 63) - 1


def _int(name: str, limit: int) -> Field:
    return Field(name, int, limit)


_TOKEN: Final = Field("token", str, 48)

TABLE: Final[dict[int, Row]] = {
    HELLO: Row(
        "HELLO",
        Sender.WORKER,
        (_int("version", 1 << 16), Field("kind", str, 32), _int("capabilities", 255)),
    ),
    READY: Row("READY", Sender.NETSTACK, ()),
    DRAIN: Row("DRAIN", Sender.BOTH, ()),
    OPEN: Row(
        "OPEN",
        Sender.NETSTACK,
        (Field("host", str, MAX_HOST), _int("port", 65535), _int("credit", CREDIT_MAX), _TOKEN),
    ),
    OPENED: Row("OPENED", Sender.WORKER, (_int("credit", CREDIT_MAX),)),
    REFUSED: Row(
        "REFUSED",
        Sender.WORKER,
        (_int("code", 0xFFFF), _int("verdict", 4), Field("detail", str, 200)),
    ),
    DATA: Row("DATA", Sender.BOTH, (), payload=True),
    CREDIT: Row("CREDIT", Sender.BOTH, (_int("bytes", CREDIT_MAX),)),
    SHUT: Row("SHUT", Sender.BOTH, ()),
    RESET: Row("RESET", Sender.BOTH, (_int("code", 0xFFFF),)),
    RESOLVE: Row("RESOLVE", Sender.NETSTACK, (_int("kind", 2), Field("what", str, MAX_HOST), _TOKEN)),
    RESOLVED: Row(
        "RESOLVED",
        Sender.WORKER,
        (_int("code", 0xFFFF), Field("answers", list, 16), _int("ttl", 1 << 31)),
    ),
    PING: Row("PING", Sender.BOTH, (_int("nonce", _U63),)),
    PONG: Row("PONG", Sender.BOTH, (_int("nonce", _U63),)),
    STATS: Row(
        "STATS",
        Sender.WORKER,
        (_int("flows", 1 << 32), _int("bytes_up", _U63), _int("bytes_down", _U63)),
    ),
    SOCKET: Row(
        "SOCKET",
        Sender.WORKER,
        (
            _int("opened", _U63),
            _int("upstream", 0xFFFF),
            _int("capabilities", 255),
            _int("rate", 1 << 40),
            _int("early", EARLY_MAX),
        ),
        socket=True,
    ),
    ENDED: Row("ENDED", Sender.NETSTACK, (_int("opened", _U63), _int("upstream", 0xFFFF))),
    ALIVE: Row("ALIVE", Sender.WORKER, ()),
    EARLY: Row("EARLY", Sender.NETSTACK, (Field("data", bytes, EARLY_PIECE),)),
}


def encode(kind: int, flow: int, *fields: Any) -> bytes:
    """A header for the wire; `fields` in the order of the table."""
    packed: bytes = msgpack.packb((kind, flow, *fields))
    return packed


def decode(header: bytes, sender: Sender) -> list[Any]:
    """``[type, flow, field …]`` of a header that `sender` sent, checked against the table.

    Raises `Malformed` for anything that the table does not allow.
    """
    if len(header) > MAX_HEADER:
        raise Malformed("wire-header-size")
    try:
        message = msgpack.unpackb(
            header, max_array_len=20, max_map_len=0, max_ext_len=0, max_bin_len=EARLY_PIECE + 1,
            max_str_len=MAX_HEADER,
        )  # fmt: skip
    except Exception as error:  # msgpack raises a mix of types, none of them ours
        raise Malformed("wire-header-syntax") from error
    if type(message) is not list or len(message) < 2:
        raise Malformed("wire-header-shape")
    kind, flow = message[0], message[1]
    if type(kind) is not int or type(flow) is not int or not 0 <= flow <= _U63:
        raise Malformed("wire-header-shape")
    row = TABLE.get(kind)
    if row is None:
        raise Malformed("wire-type")
    if row.sender is not Sender.BOTH and row.sender is not sender:
        raise Malformed("wire-direction")
    if len(message) != 2 + len(row.fields):
        raise Malformed("wire-fields")
    for field, value in zip(row.fields, message[2:], strict=True):
        if type(value) is not int or field.kind is not int or not 0 <= value <= field.limit:
            _check(field, value)
    return message


def _check(field: Field, value: object) -> None:
    if type(value) is not field.kind:
        raise Malformed(f"wire-field-{field.name}")
    if isinstance(value, int):
        good = 0 <= value <= field.limit
    elif isinstance(value, str | bytes):
        good = len(value) <= field.limit
    else:
        assert isinstance(value, list)
        good = len(value) <= field.limit and all(
            type(item) is str and len(item) <= MAX_HOST for item in value
        )
    if not good:
        raise Malformed(f"wire-field-{field.name}")
