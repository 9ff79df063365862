# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's browsers, as they are: pages come through Tor, and the browser's own sandbox is on."""

from __future__ import annotations

import threading
import time

import pytest

from tests.bed import browsers, pages, places
from tests.bed.soak import soak

OTHER = "v4.test.example"
ENDED = """new Promise(done => {
    const look = setInterval(() => {
        if (document.title == "ended") {
            clearInterval(look);
            done(document.getElementById("result").textContent);
        }
    }, 20);
})"""


def _rendered(browser, bed):
    """A page with parts from three names, as the browser has it when all of them have worked."""
    url = f"http://www.test.example/browser?other={OTHER}&onion={bed.onion}"
    before = len(bed.requests())
    assert browser.open(url) is None
    result = browser.ask(ENDED)
    assert browser.ask("document.title") == "ended"
    return result, bed.requests()[before:]


def _came_by_the_exits(requests, bed):
    """Every part, from its name, and by nobody but the exits and the onion service's own Tor."""
    wanted = {
        "www.test.example": {"/browser", "/browser/data/own", "/browser/socket"},
        OTHER: {"/browser/style.css", "/browser/frame", "/browser/data/other"},
        bed.onion: {"/browser/image.svg", "/browser/script.js", "/browser/data/onion"},
    }
    for host, paths in wanted.items():
        asked = [row for row in requests if row["host"] == host]
        assert {row["path"].partition("?")[0] for row in asked} >= paths, host
        clients = {row["client"] for row in asked}
        assert clients <= ({"127.0.0.1"} if host == bed.onion else {places.V4, places.V6}), host


def _sandboxed(run, renders):
    """The processes that render, as the kernel sees them: below avne's seal, and the browser's own.

    One that is kept in reserve may just have been started, and be about to enter the latter.
    """
    until = time.monotonic() + 10
    while True:
        all_of_it = browsers.processes(run)
        (program,) = [process for process in all_of_it if process.words[:2] == ["python3", "-c"]]
        renderers = [process for process in all_of_it if renders(process)]
        if all(one.filters > 1 for one in renderers) or time.monotonic() > until:
            break
        threading.Event().wait(0.1)
    assert renderers
    for renderer in renderers:
        assert renderer.no_new_privs
        assert renderer.filters > program.filters == 1, renderer.words
    return program, renderers


@pytest.mark.parametrize("mode", ["rootless", "setuid"])
def test_chromium_renders_a_page_in_its_own_sandbox(in_mode, bed, tor, mode):
    with browsers.inside(in_mode(mode), tor, "chromium") as browser:
        result, requests = _rendered(browser, bed)
        assert result == pages.result(OTHER)
        _came_by_the_exits(requests, bed)
        program, renderers = _sandboxed(browser.run, lambda process: "--type=renderer" in process.words)
        for renderer in renderers:
            for kind in ("user", "pid", "net"):
                assert renderer.namespaces[kind] != program.namespaces[kind], kind
        assert browser.open("chrome://sandbox") is None
        said = browser.ask("new Promise(done => setTimeout(() => done(document.body.innerText), 200))")
        assert "Layer 1 Sandbox\tNamespace\n" in said
        assert "Seccomp-BPF sandbox\tYes\n" in said
        assert said.endswith("You are adequately sandboxed.")
        assert browser.close() == 0


def test_firefox_renders_a_page_in_its_own_sandbox(in_mode, bed, tor):
    with browsers.inside(in_mode("setuid"), tor, "firefox-esr") as browser:
        result, requests = _rendered(browser, bed)
        assert result == pages.result(OTHER)
        _came_by_the_exits(requests, bed)
        program, renderers = _sandboxed(browser.run, lambda process: process.name == "Isolated Web Co")
        for renderer in renderers:
            assert renderer.namespaces["user"] != program.namespaces["user"]
        assert browser.close() == 0


def test_chromium_with_the_user_s_own_profile(avne, bed):
    """As it would be typed: no option of ours that a user would not give."""
    before = len(bed.requests())
    url = f"http://www.test.example/browser?other={OTHER}&onion=v6.test.example"
    done = avne.run("chromium", "--headless=new", "--dump-dom", url, upstream=bed.socks)
    assert done.returncode == 0, done.stderr
    assert f'<iframe src="http://{OTHER}/browser/frame">' in done.stdout, (
        "which the script from a third name makes"
    )
    asked = {row["path"] for row in bed.requests()[before:]}
    assert asked >= {"/browser/style.css", "/browser/image.svg", "/browser/script.js"}
    assert (avne.person.home / ".config/chromium").is_dir()


def test_chromium_where_users_may_make_no_namespaces(without_user_namespaces, bed):
    """Its other sandbox is a setuid program, which is like any other inside: it refuses, as it should."""
    words = ["chromium", "--headless=new", "--dump-dom", "http://www.test.example/browser/data/bare"]
    avne = without_user_namespaces("setuid")
    done = avne.run(*words, upstream=bed.socks)
    assert done.returncode != 0
    assert "sandbox" in done.stderr.lower(), done.stderr
    assert "/browser/data/bare" not in [row["path"] for row in bed.requests()]
    done = avne.run(words[0], "--no-sandbox", *words[1:], upstream=bed.socks)
    assert ">bare<" in done.stdout, done.stderr


def test_a_browser_that_never_rests_sends_no_packet_past_avne(avne, bed, tor):
    """`make soak-browser` is the same for a minute.  The uplink hears the browser without avne."""
    found = soak(avne, bed, tor, "chromium", 8)
    assert found.heard > 0, "the control has not been heard: this shows nothing"
    assert (found.packets, found.betraying) == ([], [])
    for what in ("fetched", "echoed", "frames", "hints"):
        assert found.told[what] > 5, found.told
    tried = found.receipt["tried"]
    assert sum(tried["udp"].values()) > 0, "QUIC and STUN were tried, and refused"
    assert tried["names"] > 20
    assert tried["opened"] > 20
