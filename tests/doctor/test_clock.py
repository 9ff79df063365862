# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock is judged by what Tor has kept and said, and nobody is asked."""

from __future__ import annotations

import os
import time

import pytest

from avne.doctor import clock
from avne.doctor.clock import Consensus, judge
from avne.errors import AvneError

HOUR = 3600


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Neither this machine's Tor nor the state of whoever runs the tests."""
    monkeypatch.setattr(clock, "ask_control", lambda places: {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def _keep(directory, after, until, written=0.0):
    """A consensus as Tor keeps it, with times relative to now in hours."""
    now = time.time()
    data = directory / "avne/tor/data"
    data.mkdir(parents=True)
    stamp = [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now + hours * HOUR)) for hours in (after, until)]
    path = data / "cached-microdesc-consensus"
    path.write_text(
        f"network-status-version 3 microdesc\nvote-status consensus\nvalid-after {stamp[0]}\n"
        f"fresh-until {stamp[0]}\nvalid-until {stamp[1]}\n"
    )
    os.utime(path, (now + written * HOUR, now + written * HOUR))


def test_nothing_to_compare_with():
    assert "no consensus of today" in clock.clock()


def test_a_live_consensus_agrees(alone):
    _keep(alone, -1, 2)
    assert "as " in clock.clock()


def test_an_old_one_says_nothing_against_it(alone):
    _keep(alone, -100, -97, written=-99)
    assert "no consensus of today" in clock.clock()


@pytest.mark.parametrize(
    ("after", "until", "written", "said"),
    [
        (5.2, 8, 0, "at least 5 h behind"),
        (0.5, 3.5, 0, "at least 29 min behind"),
        (-100, -97, 3, "later when"),
        (-100, -97, -10, "3 days ahead of"),
    ],
    ids=["behind", "a little behind", "set back", "ahead"],
)
def test_what_a_consensus_shows(alone, after, until, written, said):
    _keep(alone, after, until, written)
    with pytest.raises(AvneError) as error:
        clock.clock()
    assert said in error.value.problem
    assert "timedatectl" in error.value.cure


def test_what_tor_itself_says_comes_first(alone, monkeypatch):
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + 7200))
    told = {"consensus/valid-after": stamp, "consensus/valid-until": stamp}
    monkeypatch.setattr(clock, "ask_control", lambda places: told)
    with pytest.raises(AvneError, match="behind Tor's consensus"):
        clock.clock()


def test_a_complaint_of_avne_s_own_tor(alone):
    log = alone / "avne/tor/keeper.log"
    log.parent.mkdir(parents=True)
    log.write_text("Nov 25 01:00:00.000 [warn] Our clock is 3 hours, 2 minutes behind the time published\n")
    with pytest.raises(AvneError, match="Our clock is 3 hours"):
        clock.clock()
    os.utime(log, (time.time() - 50 * HOUR,) * 2)
    assert "no consensus" in clock.clock()


def test_a_clock_before_avne_was_installed(monkeypatch):
    monkeypatch.setattr(clock.time, "time", lambda: os.stat(clock.__file__).st_mtime - HOUR)
    with pytest.raises(AvneError, match="when avne was installed"):
        clock.clock()


def test_tor_s_slack_is_ours():
    """A consensus may be used a day after it expired (dir-spec): written then, it shows nothing."""
    now = time.time()
    kept = Consensus("it", now - 30 * HOUR, now - 27 * HOUR, now - 4 * HOUR)
    assert judge(kept, now) == ""
    assert "ahead" in judge(kept._replace(written=now - HOUR), now)
