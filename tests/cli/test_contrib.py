# SPDX-License-Identifier: GPL-3.0-or-later
"""contrib/'s unit and user are what systemd takes."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

CONTRIB = Path(__file__).parents[2] / "contrib"
UNIT = "avne-netstack.service"


def _verify(unit: Path) -> str:
    """What systemd-analyze(1) finds wrong."""
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    """With a command that is there: where avne is is for the administrator to say."""
    text = (CONTRIB / UNIT).read_text()
    assert "ExecStart=/usr/bin/avne netstack" in text
    unit = tmp_path / UNIT
    unit.write_text(text.replace("/usr/bin/avne", "/bin/true"))
    assert _verify(unit) == ""
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in _verify(unit)


def test_sysusers_makes_the_user_of_the_unit(tmp_path):
    etc = tmp_path / "etc"
    (etc / "sysusers.d").mkdir(parents=True)
    shutil.copy(CONTRIB / "avne-sysusers.conf", etc / "sysusers.d" / "avne.conf")
    words = ["systemd-sysusers", f"--root={tmp_path}", "avne.conf"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    name, _, uid, gid, _, _, shell = (etc / "passwd").read_text().splitlines()[-1].split(":")
    assert f"User={name}\n" in (CONTRIB / UNIT).read_text()
    assert 0 < int(uid) < 1000
    assert int(gid) > 0
    assert shell.endswith("nologin")
    assert int(uid) != pwd.getpwnam("nobody").pw_uid
