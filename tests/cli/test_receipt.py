# SPDX-License-Identifier: GPL-3.0-or-later
"""The receipt: when it is opened, what is in it, and that it never fails a run that has begun."""

from __future__ import annotations

import json
import os
import resource
import stat

import pytest

from avne.cli.receipt import Receipt, tried
from avne.errors import AvneError


def test_it_is_written_whatever_happened(tmp_path):
    path = tmp_path / "receipt"

    def run():
        with Receipt.at(str(path)) as receipt:
            receipt.end(-15)
            raise KeyError

    with pytest.raises(KeyError):
        run()
    found = json.loads(path.read_text())
    assert found["exit"] == -15
    assert found["network"] is None
    assert found["start"] <= found["end"]


def test_it_is_the_owner_s_alone_also_where_the_file_was_there(tmp_path):
    path = tmp_path / "receipt"
    path.write_text("x" * 10_000)
    path.chmod(0o666)
    with Receipt.at(str(path)):
        assert path.read_text() == "", "opened and emptied before anything starts"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["exit"] is None


def test_the_program_cannot_put_another_in_its_place(tmp_path):
    path = tmp_path / "receipt"
    with Receipt.at(str(path)) as receipt:
        path.rename(tmp_path / "moved")
        path.write_text("forged")
        receipt.end(0)
    assert path.read_text() == "forged"
    assert json.loads((tmp_path / "moved").read_text())["exit"] == 0


def test_what_cannot_be_opened_is_an_error(tmp_path):
    os.symlink("elsewhere", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for name in ("no/such", "link", "pipe", "."):
        with pytest.raises(AvneError) as caught, Receipt.at(str(tmp_path / name)):
            pass
        assert caught.value.exit_code == 125
        assert "cannot write the receipt to" in caught.value.problem
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_fails_nothing_and_is_told(capfd):
    with Receipt.at("/dev/full") as receipt:
        receipt.end(0)
    assert capfd.readouterr().err == "avne: the receipt could not be written: No space left on device\n"


def test_no_half_receipt_stays(tmp_path, capfd):
    """A limit of the file's size writes less than it is asked to, as a disk does that gets full."""
    path = tmp_path / "receipt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Receipt.at(str(path)) as receipt:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            receipt.write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == b""
        assert "No space left" in capfd.readouterr().err


def test_no_path_is_no_receipt():
    with Receipt.at("") as receipt:
        assert receipt is None


def test_counters_become_what_was_tried():
    counters = {
        "tcp-syn": 5, "opened": 2, "refused-0x05": 2, "refused-0x04": 1, "reset-0x01": 1, "dns-query": 7,
        "udp": 1, "udp-443": 3, "icmp-echo": 4, "icmp-limited": 2, "fragment": 2,
        "multicast-17": 2, "multicast-2": 1, "protocol-253": 1,
        "source-foreign": 1, "malformed-ip-short": 9,
    }  # fmt: skip
    assert tried(counters, {"names": ["a.example"]}) == {
        "connections": 5, "opened": 2, "refused": {"0x04": 1, "0x05": 2}, "reset": {"0x01": 1}, "names": 7,
        "udp": {"other": 1, "443": 3}, "icmp": {"echo": 4}, "fragments": 2,
        "multicast": 3, "other_protocols": {"253": 1},
        "foreign_source": 1, "malformed": {"ip-short": 9}, "inbound": 0, "asked": ["a.example"],
    }  # fmt: skip


# ---- real runs ------------------------------------------------------------------------------------


def test_a_run_that_cannot_give_one_does_not_begin(run, tmp_path):
    done = run("touch", str(tmp_path / "ran"), options=["--receipt", "/nonexistent/receipt"])
    assert done.returncode == 125
    assert done.stderr.splitlines()[0].startswith("avne: cannot write the receipt to /nonexistent/receipt: ")
    assert not (tmp_path / "ran").exists()


def test_the_program_has_no_descriptor_of_it(run, tmp_path):
    done = run("ls", "/proc/self/fd", options=["--receipt", str(tmp_path / "receipt")])
    assert done.stdout.split() == ["0", "1", "2", "3"], "3 is of ls itself"


def test_the_program_s_end_is_in_it(run, tmp_path):
    for script, code in (("exit 7", 7), ("kill -TERM $$", -15)):
        done = run("sh", "-c", script, options=["--receipt", str(tmp_path / "receipt")])
        found = json.loads((tmp_path / "receipt").read_text())
        assert (done.returncode, found["exit"]) == (code, code)
        assert found["started"] >= found["start"]
        assert set(found["layers"].values()) == {True}
        assert found["network"]["up"] == {"accepted": 0, "to_upstream": 0, "discarded": 0}


def test_a_program_that_is_not_there_leaves_one_too(run, tmp_path):
    done = run("no-such-program", options=["--receipt", str(tmp_path / "receipt")])
    assert done.returncode == 127
    found = json.loads((tmp_path / "receipt").read_text())
    assert (found["started"], found["exit"], found["network"]) == (None, 127, None)
