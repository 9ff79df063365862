# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import msgpack
import pytest

from avne.errors import AvneError
from avne.upstream.kinds import parse
from avne.upstream.spec import UpstreamSpec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tor://127.0.0.1:9050", UpstreamSpec("tor", ("127.0.0.1", 9050))),
        ("tor://unix:/run/tor/socks", UpstreamSpec("tor", "/run/tor/socks")),
        ("tor://[::1]:9050", UpstreamSpec("tor", ("::1", 9050))),
        ("tor://localhost:1", UpstreamSpec("tor", ("localhost", 1))),
        ("socks5://proxy.example:65535", UpstreamSpec("socks5", ("proxy.example", 65535))),
        ("socks5://unix:/a b@c:%41", UpstreamSpec("socks5", "/a b@c:%41")),
        ("socks5://u:p@unix:/s", UpstreamSpec("socks5", "/s", "u", "p")),
        ("socks5://u:p:q@h:1", UpstreamSpec("socks5", ("h", 1), "u", "p:q")),
        ("socks5://u:p@q@[::1]:1", UpstreamSpec("socks5", ("::1", 1), "u", "p@q")),
        ("socks5://%40%3a:%C3%A9%25@h:1", UpstreamSpec("socks5", ("h", 1), "@:", "é%")),
        ("socks5://é:p@h:1", UpstreamSpec("socks5", ("h", 1), "é", "p")),
        ("socks5://" + "u" * 127 + ":" + "p" * 127 + "@h:1",
         UpstreamSpec("socks5", ("h", 1), "u" * 127, "p" * 127)),
    ],
)  # fmt: skip
def test_good_forms(text: str, spec: UpstreamSpec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begins with"), ("127.0.0.1:9050", "begins with"), ("gopher://h:1", "no kind"),
        ("TOR://h:1", "begins with"), ("unix:/run/tor/socks", "no kind"),
        ("tor://", "port"), ("tor://h", "port"), ("tor://h:", "port"), ("tor://h:0", "port"),
        ("tor://h:65536", "port"), ("tor://h:+1", "port"), ("tor://h:٣", "port"), ("tor://h:1/", "port"),
        ("tor://h:000000000000001", "port"),
        ("tor://:9050", "host"), ("tor://a b:1", "host"), ("tor://a/b:1", "host"), ("tor://a\n:1", "host"),
        ("tor://::1:9050", "brackets"), ("tor://[::g]:1", "IPv6"), ("tor://[h]:1", "IPv6"),
        ("tor://[::1\0]:1", "IPv6"), ("tor://[]:1", "IPv6"),
        ("tor://unix:", "path"), ("tor://unix:run/tor", "path"), ("tor://unix:/a\0b", "path"),
        ("tor://unix:/" + "x" * 107, "107"),
        ("tor://u:p@h:1", "itself"),
        ("socks5://u@h:1", "no password"),
        ("socks5://u:@h:1", "1 to 127"), ("socks5://:p@h:1", "1 to 127"),
        ("socks5://" + "u" * 128 + ":p@h:1", "1 to 127"), ("socks5://u:" + "é" * 64 + "@h:1", "1 to 127"),
        ("socks5://%:p@h:1", "percent"), ("socks5://%4:p@h:1", "percent"), ("socks5://%zz:p@h:1", "percent"),
        ("socks5://u:%ff@h:1", "percent"), ("socks5://u\udcff:p@h:1", "percent"),
    ],
)  # fmt: skip
def test_bad_forms_name_the_good_ones_and_no_password(text: str, problem: str) -> None:
    with pytest.raises(AvneError) as caught:
        parse(text)
    assert problem in caught.value.problem
    kind = text.partition("://")[0]
    forms = [f"{kind}://HOST:PORT"] if kind == "tor" else ["@]HOST:PORT", "unix:PATH"]
    assert all(form in caught.value.cure for form in forms)
    assert "p@h" not in caught.value.problem


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (UpstreamSpec("tor", "/run/tor/socks", "avne-1", "2"), "tor://unix:/run/tor/socks"),
        (UpstreamSpec("tor", ("::1", 9050)), "tor://[::1]:9050"),
        (UpstreamSpec("socks5", ("h", 1)), "socks5://h:1"),
        (UpstreamSpec("socks5", ("h", 1), "user", "secret"), "socks5://***@h:1"),
    ],
)
def test_redacted(spec: UpstreamSpec, text: str) -> None:
    assert spec.redacted() == text


@pytest.mark.parametrize("text", ["tor://unix:/s", "socks5://u:p@[::1]:1"])
def test_a_configuration_brings_it_back(text: str) -> None:
    spec = parse(text)
    assert UpstreamSpec.from_config(msgpack.unpackb(msgpack.packb(spec.to_config()))) == spec
