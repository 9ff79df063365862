# SPDX-License-Identifier: GPL-3.0-or-later
"""avne and its peers measured side by side, in namespaces of their own: ``python -m bench``.

Each tool runs programs in some environment of its own: a namespace behind a user-space
TCP stack, a preloaded library, a redirecting firewall.  All of them are given the same
world to reach::

    the tool's environment ─── tool ─── host namespace ─── veth ─── world namespace
      (pb agent: load)                  (SOCKS5 server)             (data, echo, DNS)

A tool of the kind "socks" or "preload" sends connections to the SOCKS5 server in the
host namespace; one of the kind "nat" opens them itself.  The rows of the kind "base" use
no tool: `native` is the same veth path, `loopback` stays inside the world, and `socks5`
is a client that speaks SOCKS5 itself, the limit of what any tool of the kind "socks" can
reach.

In each round every tool gets one fresh environment, in an order shuffled by the round's
number, and its values are compared with those of `native` in that same round, so that a
machine that is slow for a while is slow for all of them.

What is measured is in bench/metrics.py and bench/crowds.py; docs/performance.md tells how.
bench/gate.py compares avne's ratios with those of bench/recorded.json.

Needs root, a C compiler (the servers and the load generator are ``bench/pb``), iproute2
and util-linux.  Everything happens in a mount namespace and network namespaces of its
own, which the kernel removes even when the benchmark is killed.
"""
