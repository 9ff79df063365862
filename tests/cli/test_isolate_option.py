# SPDX-License-Identifier: GPL-3.0-or-later
"""--isolate: names and passwords for Tor, and the secret that a name's are made of."""

from __future__ import annotations

import os
import threading

import pytest

from avne.cli import isolation
from avne.cli.routing import parse
from avne.config import load
from avne.errors import AvneError


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "avne"


def _config(how, upstream="tor://127.0.0.1:9050", **more):
    return load({"isolate": how, "upstream": upstream, **more}, {}, ())


def _credentials(how):
    return isolation.credentials(_config(how))


@pytest.mark.parametrize("how", ["run", "program", "destination"])
def test_each_run_has_its_own(how, state):
    one, other = _credentials(how), _credentials(how)
    assert one[0] != other[0]
    assert one[1] != other[1]
    assert not state.exists(), "nothing of it is kept"


def test_a_name_has_the_same_now_and_later_and_another_name_has_others():
    one, same, other = (_credentials(f"name={name}") for name in ("a", "a", "b"))
    assert one == same
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_a_name_is_nothing_without_the_secret(state):
    before = _credentials("name=a")
    (state / "isolation.key").unlink()
    assert _credentials("name=a") != before


@pytest.mark.parametrize("how", ["run", "name=x"])
def test_what_tor_reserves_is_not_used(how):
    assert _credentials(how)[0].startswith("avne-")
    assert all(1 <= len(part) <= 255 - 49 for part in _credentials(how)), "a token goes with it (RFC 1929)"


def test_the_secret_is_for_its_owner_only(state):
    _credentials("name=a")
    status = (state / "isolation.key").stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size == 32
    assert os.listdir(state) == ["isolation.key"]


def test_runs_that_begin_at_once_agree_on_one_secret(state):
    barrier = threading.Barrier(2)
    real_link, seen = os.link, []

    def link(mine, path):  # both have looked, and found none
        barrier.wait(10)
        real_link(mine, path)

    pids = iter((1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", link)
        patch.setattr(os, "getpid", lambda: next(pids))
        threads = [threading.Thread(target=lambda: seen.append(_credentials("name=a"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(seen) == 2
    assert seen[0] == seen[1] == _credentials("name=a")
    assert os.listdir(state) == ["isolation.key"]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_damaged_secret_is_no_secret(state, size):
    state.mkdir()
    (state / "isolation.key").write_bytes(bytes(size))
    with pytest.raises(AvneError, match="another size"):
        _credentials("name=a")


def test_a_link_in_its_place_is_not_followed(state, tmp_path):
    state.mkdir()
    (tmp_path / "elsewhere").write_bytes(bytes(32))
    (state / "isolation.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AvneError, match=r"cannot use .*isolation\.key"):
        _credentials("name=a")


@pytest.mark.parametrize("how", ["program", "destination", "name=x"])
@pytest.mark.parametrize(
    ("upstream", "good"),
    [
        ("tor://127.0.0.1:9050", True),
        ("log+tor", True),
        ("socks5://h:1 over tor", True),
        ("socks5://h:1", False),
        ("http://h:1", False),
    ],
)
def test_it_takes_a_tor(how, upstream, good):
    config = _config(how, upstream)
    if good:
        isolation.check(config, parse(config))
        return
    with pytest.raises(AvneError, match="only Tor has circuits"):
        isolation.check(config, parse(config))


def test_a_rule_s_tor_is_one():
    config = _config("destination", "socks5://h:1", rules=["*.onion=tor"])
    isolation.check(config, parse(config))


def test_the_default_takes_none():
    config = _config("run", "socks5://h:1")
    isolation.check(config, parse(config))


def test_what_the_netstack_is_told():
    mode, key = isolation.for_netstack(_config("name=x"))
    assert mode == "name"
    assert len(key) == 32
    assert isolation.for_netstack(_config("destination"))[0] == "destination"
    assert key != isolation.for_netstack(_config("name=x"))[1]
    assert [isolation.asks_programs(_config(how)) for how in ("run", "program")] == [False, True]


# ---- --optimistic, which is Tor's alone as well ------------------------------------------------------------


@pytest.mark.parametrize(
    ("upstream", "rules", "good"),
    [
        ("auto", [], True),
        (f"log+hosts:{__file__}+tor", [], True),
        ("tor://a:1", ["*:25=block", "*.onion=log+tor"], True),
        ("socks5://h:1", [], False),
        ("socks5://h:1 over tor", [], False),
        ("tor://a:1", ["*.i2p=http://h:1"], False),
        ("direct", [], False),
    ],
)
def test_first_bytes_go_ahead_of_the_answer_only_by_tor(upstream, rules, good):
    from avne.cli.routing import check_optimistic

    config = load({"optimistic": "80,443", "upstream": upstream, "rules": rules}, {}, ())
    assert config["optimistic"] == [80, 443]
    if good:
        check_optimistic(config, parse(config))
    else:
        with pytest.raises(AvneError, match="may lose bytes"):
            check_optimistic(config, parse(config))
    without = load({"upstream": upstream, "rules": rules}, {}, ())
    check_optimistic(without, parse(without))


@pytest.mark.parametrize("ports", ["0", "65536", "http", "80;443"])
def test_what_are_no_ports(ports):
    with pytest.raises(AvneError, match="--optimistic cannot be"):
        load({"optimistic": ports}, {}, ())
