# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne rules test``, and what `avne run` makes of settings before it starts anything."""

from __future__ import annotations

import pytest

from avne.cli import main as cli
from avne.cli import routing
from avne.config import load
from avne.errors import AvneError
from avne.upstream.spec import UpstreamSpec


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(
        "avne.config.config_files", lambda *_: (f"{tmp_path}/system.toml", f"{tmp_path}/user.toml")
    )
    return tmp_path


def rules_test(capsys, *arguments):
    code = cli.main(["rules", "test", *arguments])
    done = capsys.readouterr()
    assert done.err == ""
    return code, done.out


def test_the_rule_that_matches_is_named_with_its_reason_and_the_whole_table(capsys, own_settings):
    (own_settings / "system.toml").write_text('rules = ["10.0.0.0/8=block"]\n')
    code, out = rules_test(
        capsys, "--rule", "*:25=block", "--rule", "*.i2p=http://u:secret@127.0.0.1:4444", "x.i2p", "80"
    )
    assert code == 0
    assert out.splitlines() == [
        "x.i2p port 80: http://***@127.0.0.1:4444, by rule 2",
        "Its name is not looked up: whoever carries the connection gets the name.",
        "",
        "  1  *:25           block                      no: port 80 is not 25",
        "> 2  *.i2p          http://***@127.0.0.1:4444  yes: it is for names that end in .i2p",
        f"  3  10.0.0.0/8     block                      not reached [{own_settings}/system.toml]",
        "  4  avne.internal  pages                      not reached",
        "  5  *              tor                        not reached",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "first", "second"),
    [
        (["a.test", "80"], 0, "tor, by rule 2", "Its name is looked up by way of tor."),
        (["--upstream", "log+socks5://h:1", "a.test", "80"], 0, "log+socks5://h:1, by rule 2",
         "Its name is looked up by way of log+socks5."),
        (["--onion-only", "a.test", "80"], 1, "block, by rule 1", "Its name does not exist for the program"),
        (["--https-only", "a.test", "80"], 1, "block, by rule 1", "Its name is looked up by way of tor."),
        (["--rule", "*:80=direct", "a.test", "80"], 0, "direct, by rule 1", "Its name is not looked up"),
        (["192.0.2.1", "80"], 0, "tor, by rule 2", "It is an address"),
        (["--rule", "a.test=default", "--rule", "*=block", "b.test", "1"], 1, "block, by rule 2",
         "Its name does not exist"),
    ],
)  # fmt: skip
def test_what_it_says_of_a_destination(capsys, arguments, code, first, second):
    found, out = rules_test(capsys, *arguments)
    lines = out.splitlines()
    assert found == code
    assert lines[0].endswith(first)
    assert lines[1].startswith(second)


def test_a_bad_rule_says_where_it_is(own_settings):
    (own_settings / "user.toml").write_text('rules = ["a=tor", "b=nonsense"]\n')
    with pytest.raises(AvneError) as caught:
        routing.parse(load({"rules": ["c=block"]}))
    assert caught.value.problem.startswith(f"the 3. rule, from {own_settings}/user.toml: there is no kind")


def test_tor_is_looked_for_only_where_something_needs_it():
    def needs(upstream, *rules):
        return routing.parse(load({"upstream": upstream, "rules": list(rules)})).needs_tor

    assert needs("auto")
    assert needs("tor")
    assert not needs("socks5://h:1", "*:25=block", "a=tor://h:1")
    assert needs("socks5://h:1", "a=log+tor")
    assert needs("socks5://h:1 over tor")
    assert not needs("tor://h:1", "a=default")


def test_what_leaves_is_named():
    written = routing.parse(load({"rules": ["*.lan=direct", "a=log+direct", "b=block"]}))
    assert written.direct() == ["*.lan", "a"]
    with pytest.raises(AvneError, match=r"\*\.lan, a: this would leave without Tor"):
        routing.refuse_direct(written)
    assert routing.parse(load({"upstream": "direct"})).direct() == ["everything else"]
    assert routing.parse(load({"upstream": "direct"})).default == UpstreamSpec("direct")
