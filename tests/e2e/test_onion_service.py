# SPDX-License-Identifier: GPL-3.0-or-later
"""A program inside as an onion service (--onion): another Tor client fetches its page."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess

import pytest

from tests.bed import places


@pytest.fixture
def other_client(bed, tor):
    """The SOCKS socket of a Tor that is not the service's."""
    (path,) = (bed.dir / "tor").rglob("onion*/socks.sock")
    return str(path)


def _address(process, port: int) -> str:
    """The name that is printed once it can be found."""
    while line := process.stderr.readline():
        if found := re.search(rf"open: ([a-z2-7]{{56}}\.onion):{port} leads to port \d+ inside", line):
            return found[1]
    raise AssertionError("it has ended")


def _fetch(client: str, url: str, seconds: int = 60) -> subprocess.CompletedProcess[bytes]:
    # curl has no option for a proxy at a unix socket and a name that it resolves, but this form.
    words = ["curl", "-sS", "--max-time", str(seconds), "--proxy", f"socks5h://localhost{client}", url]
    return subprocess.run(words, capture_output=True)


def test_another_client_of_tor_fetches_the_page(in_mode, bed, tor, other_client, tmp_path_for):
    avne = in_mode("root")
    home = tmp_path_for(avne)
    (home / "index.html").write_text("inside, by Tor\n")
    (home / "large").write_bytes(places.stream(1_000_000))
    words = ["python3", "-m", "http.server", "80", "-d", str(home)]
    options = ["--onion", "8080:80", "--name", "service", "--receipt", f"{home}/receipt"]
    with avne.start(*words, upstream=tor, options=options) as process:
        name = _address(process, 8080)
        page = _fetch(other_client, f"http://{name}:8080/")
        assert (page.stdout, page.stderr) == (b"inside, by Tor\n", b"")
        large = _fetch(other_client, f"http://{name}:8080/large")
        assert hashlib.sha256(large.stdout).hexdigest() == places.stream_sha256(1_000_000)
        listed = subprocess.run(
            avne.as_person([avne.command, "ps"]), capture_output=True, text=True, check=True
        ).stdout
        assert f"{name}:8080->80" in listed
        process.terminate()
        process.wait(20)
    assert _fetch(other_client, f"http://{name}:8080/", 10).returncode != 0
    receipt = json.loads((home / "receipt").read_text())
    assert receipt["opened"] == [f"inside {name}:8080->80"]
    assert receipt["tried"]["inbound"] == 2


def test_without_tor_or_its_control_port_nothing_begins(avne, bed, tor):
    """An ordinary user may not read the cookie of the world's client."""
    for upstream, problem in (
        (bed.socks, "--onion needs Tor, and the upstream is socks5"),
        (tor, "lets nobody in here"),
    ):
        done = avne.run("true", upstream=upstream, options=["--onion", "80"])
        assert done.returncode == 125
        assert problem in done.stderr
        assert len(done.stderr.splitlines()) == 2
    done = avne.run("true", upstream=tor, options=["--onion", "0"])
    assert "--onion 0 is no port" in done.stderr


def test_a_run_that_is_killed_leaves_no_service(in_mode, tor, other_client):
    """It belongs to the connection, which the kernel ends.  A port that refuses inside is an end at once."""
    avne = in_mode("root")
    with avne.start("sleep", "60", upstream=tor, options=["--onion", "80"]) as process:
        name = _address(process, 80)
        there = _fetch(other_client, f"http://{name}/", 30)
        process.kill()
        process.wait(20)
    gone = _fetch(other_client, f"http://{name}/", 10)
    assert there.returncode in (52, 55, 56), there.stderr  # reached, and closed
    assert gone.returncode in (28, 97), gone.stderr  # found by nobody
    subprocess.run(avne.as_person([avne.command, "ps"]), check=True, timeout=20)  # takes its directory away
