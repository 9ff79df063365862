# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of the tables: every tool and way to set it up that we know."""

from __future__ import annotations

import shlex

from bench.daemons import Badvpn, HevSocks5Tunnel, Redsocks, Slirp4netns
from bench.tools import Avne, Loopback, Native, Pasta, Prefix, Proxychains, Socks5, Tool, Torsocks


def known_tools(extra: list[str]) -> list[Tool]:
    """All rows in the order of the tables; `extra` are ``NAME=COMMAND``, which replace one of that name."""
    tools: list[Tool] = [
        Native("native"),
        Loopback("loopback"),
        Socks5("socks5"),
        Avne("avne"),
        Torsocks("torsocks"),
        Proxychains("proxychains4"),
        Redsocks("redsocks"),
        HevSocks5Tunnel("hev"),
        HevSocks5Tunnel("hev@65520", 65520),
        Badvpn("badvpn"),
        Slirp4netns("slirp4netns"),
        Slirp4netns("slirp4netns@65520", mtu=65520),
        Slirp4netns("slirp4netns-new", "slirp4netns-new"),
        Slirp4netns("slirp4netns-new@65520", "slirp4netns-new", 65520),
        Pasta("pasta"),
        Pasta("pasta@1500", mtu=1500),
        Pasta("pasta-new", "pasta-new"),
        Pasta("pasta-new@1500", "pasta-new", 1500),
    ]
    by_name = {tool.name: tool for tool in tools}
    for text in extra:
        name, _, words = text.partition("=")
        if not shlex.split(words):
            raise SystemExit(f"bench: --add takes NAME=COMMAND, not {text!r}")
        by_name[name] = Prefix(name, shlex.split(words))
    return list(by_name.values())
