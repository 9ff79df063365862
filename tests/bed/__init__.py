# SPDX-License-Identifier: GPL-3.0-or-later
"""The test bed: a private Tor network and a world of servers, in a network namespace of their own.

    host namespace (nothing of it is changed)      world namespaces: network, pid, mount
    ------------------------------------------     --------------------------------------------
    pytest, avne, the programs under test           world.py (pid 1): servers, DNS, Tor network
      |-- DIR/sockets/tor      (unix) ------------->  the Tor client's SOCKS port
      |-- DIR/sockets/control  (unix) ------------->  the Tor client's control port
      |-- DIR/sockets/socks    (unix) ------------->  socks.py: a plain, truthful SOCKS 5 server
      `-- 127.0.0.1:PORT       (TCP)  ------------->  the same server; RST needs TCP

A path crosses network namespaces and so does an open socket: the world has no other line to the
host, and no packet of it can reach a wire.  The world is a pid namespace whose first process
dies with the test run, so that nothing is left even after `kill -9`.

tornet/      the Tor network; `python -m tests.bed.tornet up --dir DIR` runs it by hand
world.py     the world's first process: makes the network, starts the rest, obeys `bed.py`
servers.py   what listens at 198.51.100.80 and 2001:db8::80
web.py       the HTTP server, and git over HTTP
socks.py     the SOCKS 5 server
splicing.py  how it carries bytes, ends and resets
bed.py       starts a world from outside and talks to it
wire.py      watches the wires of the host
people.py    ordinary users, and how to run a program as one
installed.py avne's wheel, installed where ordinary users can run it
runs.py      runs of avne in each mode: places, their processes
no_userns.py a user namespace in which no other can be made
leftovers.py what a test run has left behind
demo.py      `make demo`
"""
