# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables the program gets."""

from __future__ import annotations

import pytest

from avne.cli.environment import PROXY, program_environment
from avne.errors import AvneError

OUTSIDE = {
    "PATH": "/bin", "HOME": "/home/u", "LC_ALL": "C", "TZ": "UTC",
    "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22",
    "SSH_AUTH_SOCK": "/tmp/ssh", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1/bus", "DISPLAY": ":0",
    "LD_PRELOAD": "x.so", "http_proxy": "http://x", "HOSTNAME": "here", "TMPDIR": "/tmp/u", "SECRET": "x",
}  # fmt: skip


def test_only_what_is_listed_is_passed_and_the_rest_is_named():
    kept, dropped = program_environment(OUTSIDE, (), (), {"AVNE": "1"})
    assert kept == {"PATH": "/bin", "HOME": "/home/u", "LC_ALL": "C", "TZ": "UTC", "AVNE": "1"}
    assert dropped == sorted(set(OUTSIDE) - set(kept))


def test_names_and_settings_add_to_it():
    kept, dropped = program_environment(
        OUTSIDE, ("SECRET", "LACKS"), ("TZ=X=Y", "NEW=", "AVNE=0"), {"AVNE": "1"}
    )
    assert kept["SECRET"] == "x"
    assert "LACKS" not in kept
    assert (kept["TZ"], kept["NEW"]) == ("X=Y", "")
    assert kept["AVNE"] == "1", "what avne says of itself is true"
    assert "SECRET" not in dropped


@pytest.mark.parametrize(
    ("passed", "settings", "problem"),
    [
        (("A=b",), (), "--env: 'A=b' is not the name of a variable"),
        (("",), (), "--env: '' is not the name"),
        ((), ("A",), "--setenv A sets nothing"),
        ((), ("1=x",), "--setenv: '1' is not the name"),
    ],
)
def test_what_is_no_name_is_an_error(passed, settings, problem):
    with pytest.raises(AvneError, match=problem):
        program_environment(OUTSIDE, passed, settings, {})


def test_what_proxy_env_sets():
    """Names are left to the proxy; loopback is not."""
    assert set(PROXY) == {"ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"}
    assert PROXY["ALL_PROXY"] == "socks5h://10.213.0.1:1080"
    assert {"localhost", "127.0.0.1", "::1"} <= set(PROXY["no_proxy"].split(","))
