# SPDX-License-Identifier: GPL-3.0-or-later
"""Every bound of the system in one place, with the reason for its size.

Sizes are bytes and times seconds unless the name says otherwise.
"""

from __future__ import annotations

# The tun (compiled into helper.c as well; a test compares them).
TUN_MTU = 65520  # 64 KiB packets in both directions; a multiple of 16, as slirp4netns uses
TUN_QUEUE = 8192  # packets; the kernel's default of 500 overflows at 64 upload streams

# gso_size of what we send to a program: with segments as large as the MTU a guest with a small receive
# buffer advertises a zero window for good (its rcv_mss grows to the segment's size).
GSO_SIZE = 1448
MAX_BURST = 45 * GSO_SIZE  # one super-segment: the largest multiple below 64 KiB

# Flows.
MAX_FLOWS = 16384  # about a default net.ipv4.ip_local_port_range of one program
MAX_HALF_OPEN = 4096  # SYNs that wait for their upstream; further SYNs are dropped (RFC 4987)
# Flows whose program has ended its side where the upstream cannot be told (Tor); beyond, the
# oldest ends.  A client that closes each connection first would else hold 30 s of them.
HALF_CLOSED_MAX = 512

# Credit: the bytes that one side of the wire may send and the other must be able to hold.
# The receive window a guest sees is the credit its flow has left.
CREDIT_MIN = 16 << 10  # per flow and direction, at first and however many are open
# Up, at first, while less than a quarter of CREDIT_PROMISED is promised: two segments, as a kernel makes
# them no larger than half the largest window it has seen, and queues megabytes before it sees the next.
CREDIT_FIRST = 128 << 10
# SO_RCVBUF of a flow's socket whose other end is on this machine: the kernel would let each grow to 6 MiB,
# which the proxy then fills, and 256 of them are cold in the cache before they are read.
LOCAL_BUFFER = 256 << 10
CREDIT_MAX = 1 << 20  # per flow and direction; ipc/credit.py says when
CREDIT_TOTAL = 32 << 20  # of all busy flows of a direction: more would only queue
CREDIT_PROMISED = 256 << 20  # of all flows of a direction, before CREDIT_MIN is all that one gets

# What a window is beyond whole MAX_BURSTs: the netstack reads no less for want of credit.
LEAST_READ = CREDIT_MIN // 2

# The wire between processes.
MAX_HEADER = 2048  # an encoded message header
MAX_PAYLOAD = 256 << 10  # bytes of one DATA message: smaller ones cost more per byte
MAX_HOST = 255  # characters of a name or address in OPEN and RESOLVE (RFC 1035 §2.3.4)

# What a program may send before its connection is there (--optimistic), and what a message of it takes.
EARLY_MAX = CREDIT_MIN
EARLY_PIECE = 1536  # with its header below MAX_HEADER

LANE_PACKET = 32  # messages of one packet of the lane, and so descriptors, of which the kernel takes 253

# The pool that is read into, the tun and the sockets alike.
POOL_BYTES = 128 << 20  # beyond, what is read is copied; the credits bound it then
POOL_CHUNK = 512 << 10  # filled and freed as one
POOL_WARM = 8  # free chunks that are kept
COPY_BELOW = 8 << 10  # fewer bytes are copied: they would hold a whole chunk

# Datagrams in pieces (wire/fragments.py): 1 MiB of them at most.
REASSEMBLY_DATAGRAMS = 16
REASSEMBLY_PIECES = 64  # of a datagram: 53 of 1,280 bytes make the largest

# ICMP errors to the guest (RFC 4443 §2.4 (f)); Linux takes as many in a second (icmp_msgs_per_sec).
ICMP_RATE = 1000  # per second
ICMP_BURST = 1000

# DNS.
DNS_MAX_UDP = 4096  # larger queries are not parsed: a 60 kB one costs 30 ms
DNS_MAX_PENDING = 1024  # distinct questions in flight; more are answered SERVFAIL
DNS_MAX_WAITING = 4096  # queries that wait for them; more are answered SERVFAIL
DNS_CACHE_ENTRIES = 4096
DNS_CACHE_BYTES = 4096  # records of one answer; larger ones are not kept
DNS_NAMES = 100_000  # mapped names
DNS_NAMES_ONLY = 30_000  # … that have no address elsewhere; the two together are what 198.18.0.0/15 has
DNS_NAME_GRACE = 3600  # a mapped address keeps its name so long after its TTL: programs cache too

# Capture.
CAPTURE_SNAPLEN = 262144  # bytes of a packet, as tcpdump has it: more than any packet has
CAPTURE_BUFFER = 1 << 20  # bytes that wait before they are written in the middle of a turn

# Log.
LOG_BYTES = 1 << 20  # one session's log; the older half goes first
LOG_FILES = 20  # sessions whose logs are kept
