# SPDX-License-Identifier: GPL-3.0-or-later
"""A private, disposable Tor network on the loopback of one network namespace.

    python -m tests.bed.tornet up     --dir DIR [options]   build it, wait until it carries
                                                            traffic, print a JSON description
    python -m tests.bed.tornet status --dir DIR             the same JSON plus what is alive now
    python -m tests.bed.tornet down   --dir DIR             stop it (add --purge to delete DIR)
    python -m tests.bed.tornet node   --dir DIR NAME ACTION kill | stop | start | restart |
                                                            newnym one node, e.g. the client
    python -m tests.bed.tornet torrc  --dir DIR NAME        print one node's torrc

It runs unmodified `tor` binaries (Debian: apt-get install --no-install-recommends tor) with
TestingTorNetwork: directory authorities, exit relays, one client and, with --onion-service, one
onion-service host.  Everything listens on 127.0.0.1 (echo also on ::1) on free ports below the
ephemeral range.  Root is needed only for --address.

What a test gets
    * SOCKS 5 on `socks_port` (Tor's default flags, so SOCKS user/password isolates circuits), on
      `socks_port_ext` (with ExtendedErrors) and on unix sockets; HTTP CONNECT, DNSPort, TransPort.
    * Real three-hop circuits whose exits connect to loopback, to addresses assigned to this
      machine and, unless --unconfined, to nothing else: exit sockets are bound to 127.0.0.1/::1,
      so the kernel refuses to route them out of the machine (Tor then reports SOCKS error 1).
    * Names: the exits resolve through a small DNS server (UDP and TCP on 127.0.0.1,
      `resolver_port`; also port 53 of every --address) that never forwards.  See zone.py.
    * A TCP echo service on `echo_port` (127.0.0.1, ::1 and all --address).
    * With --onion-service: a v3 onion service, whose port 7 is the echo service and whose given
      port is forwarded to 127.0.0.1.
    * Control ports with cookie authentication on every node.

--address ADDR gives `lo` an extra address (removed again by `down`) and makes it the answer for
names in the zone.  A program inside a network namespace can never reach 127.0.0.0/8 through a tun,
so tests of transparent proxying want e.g. --address 198.51.100.80 --address 2001:db8::80.  A prefix
such as 198.51.100.0/24 makes the whole prefix local (AnyIP).  While the network is up this machine
cannot reach the real owner of such an address: the test bed uses a namespace of its own.

Timing.  A loopback Tor differs from the real one: a round trip through an open circuit takes 2 to
13 ms, in steps of Tor's 10 ms scheduler (KIST), and two small writes in a row cost 40 ms more
(Nagle and delayed ACKs between relays).  --latency MS makes the client's links slow in a realistic
way.  --torrc 'all:Schedulers Vanilla' takes the scheduler's steps away and makes a single stream
two to three times as fast.

Every query is appended to DIR/helper/queries.jsonl, so that a test can tell which names reached the
exits' resolver.

Exit status: 0 success, 1 failure (message on stderr), 2 usage, 3 (`status`) the network is not, or
not wholly, running.
"""
