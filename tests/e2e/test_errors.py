# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input and missing parts: the right exit code, one message with a cure, nothing left behind."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.bed.runs import Avne, Place


def _message(done, code):
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("avne: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_program_that_is_not_there(any_avne, bed):
    assert "no-such-program" in _message(any_avne.run("no-such-program", upstream=bed.socks), 127)


def test_a_program_that_cannot_be_executed(any_avne, bed):
    assert "/etc/passwd" in _message(any_avne.run("/etc/passwd", upstream=bed.socks), 126)


def test_bad_flags(avne):
    done = subprocess.run(
        avne.as_person([avne.command, "run", "--no-such-flag", "true"]), capture_output=True, text=True
    )
    assert "--no-such-flag" in _message(done, 125)


def test_a_forgotten_run(avne):
    done = subprocess.run(avne.as_person([avne.command, "wget", "x"]), capture_output=True, text=True)
    assert "avne run wget" in _message(done, 125)


@pytest.mark.parametrize(
    "upstream", ["gopher://x:1", "socks5://nowhere", "tor://unix:", "socks5://u:p@h:99999", "tor://[::1:9050"]
)
def test_a_bad_upstream(avne, upstream):
    assert "upstream" in _message(avne.run("true", upstream=upstream), 125).lower()


@pytest.mark.parametrize("kind", ["tor", "socks5", "socks4a", "http"])
def test_an_upstream_that_is_not_there(avne, kind):
    text = _message(avne.run("true", upstream=f"{kind}://unix:/run/avne-no-such-socket"), 125)
    assert "/run/avne-no-such-socket" in text


def test_an_unknown_key_names_the_nearest(avne, tmp_path_for):
    home = tmp_path_for(avne)
    (home / "avne").mkdir()
    (home / "avne" / "config.toml").write_text('upsteam = "tor://127.0.0.1:9050"\n')
    text = _message(avne.run("true", env={"XDG_CONFIG_HOME": str(home)}), 125)
    assert "upsteam" in text
    assert "upstream" in text


def test_an_unreadable_configuration(avne, tmp_path_for):
    home = tmp_path_for(avne)
    (home / "avne").mkdir()
    (home / "avne" / "config.toml").write_text("")
    (home / "avne" / "config.toml").chmod(0)
    text = _message(avne.run("true", env={"XDG_CONFIG_HOME": str(home)}), 125)
    assert "config.toml" in text


def test_no_tun_for_the_setuid_helper(installed, user, bed):
    """For others a veth pair takes its place: test_veth.py."""
    place = Place("0600", installed.avne, user.name, extra="rm /dev/net/tun")
    try:
        done = Avne("setuid", installed.avne, user, place).run("true", upstream=bed.socks)
    finally:
        place.close()
    assert "/dev/net/tun" in _message(done, 125)


@pytest.fixture
def copy(installed, tmp_path):
    """An installation of which parts can be taken away."""
    (source,) = installed.dir.glob("lib/python3*/site-packages/avne")
    helper = source / "privileged" / "avne-helper"
    kept = tmp_path / "helper"
    shutil.copy2(helper, kept)
    yield helper
    helper.unlink(missing_ok=True)
    shutil.copy2(kept, helper)


def test_no_helper(copy, avne, bed):
    copy.unlink()
    assert "helper" in _message(avne.run("true", upstream=bed.socks), 125)


def test_a_helper_of_another_version(copy, avne, bed, tmp_path):
    """One that was built with another layout of the request."""
    data = copy.read_bytes()
    build = copy.parent / "_build.py"
    scope: dict[str, int] = {}
    exec(build.read_text(), scope)
    layout = scope["LAYOUT"].to_bytes(8, "little")
    assert layout in data
    copy.unlink()
    copy.write_bytes(data.replace(layout, bytes(8)))
    copy.chmod(0o755)
    assert "version" in _message(avne.run("true", upstream=bed.socks), 125)


@pytest.fixture
def without_tor(installed, user):
    """A machine where Tor is not installed, and nothing listens where it would."""
    tor = shutil.which("tor") or "/usr/sbin/tor"
    place = Place("0666", "", user.name, extra=f"mount --bind /dev/null {tor}")
    yield Avne("rootless", installed.avne, user, place)
    place.close()


def test_no_tor_at_all(without_tor):
    done = without_tor.run("true")
    assert "apt install tor" in _message(done, 125)


def test_avne_says_nothing_when_all_is_well(any_avne, bed):
    done = any_avne.run("true", upstream=bed.socks)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_proxy_settings_are_not_passed_on_and_warned_about_where_they_are(avne, bed):
    proxy = {"http_proxy": "http://127.0.0.1:8118"}
    done = avne.run("sh", "-c", "echo $http_proxy", upstream=bed.socks, env=proxy)
    assert (done.stdout, done.stderr) == ("\n", "")
    done = avne.run("true", upstream=bed.socks, env=proxy, options=["--env", "http_proxy"])
    assert done.returncode == 0
    assert "http_proxy" in done.stderr
