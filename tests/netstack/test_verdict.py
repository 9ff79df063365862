# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from avne.ipc.messages import Code
from avne.netstack.verdict import TABLE, Verdict, verdict

OURS = [code for code in Code if code >= 0x100]
ONION = [code for code in Code if 0xF0 <= code <= 0xF7]


@pytest.mark.parametrize("kind", TABLE)
def test_every_code_that_a_kind_can_send_has_a_row(kind):
    missing = set(Code) - set(TABLE[kind]) - {Code.SUCCEEDED}
    assert missing == (set() if kind == "tor" else set(ONION))


@pytest.mark.parametrize(
    ("code", "socks5", "tor"),
    [
        (Code.GENERAL_FAILURE, Verdict.REFUSED, Verdict.REFUSED),
        (Code.NOT_ALLOWED, Verdict.PROHIBITED, Verdict.NETWORK_UNREACHABLE),
        (Code.NETWORK_UNREACHABLE, Verdict.NETWORK_UNREACHABLE, Verdict.NETWORK_UNREACHABLE),
        (Code.HOST_UNREACHABLE, Verdict.HOST_UNREACHABLE, Verdict.HOST_UNREACHABLE),
        (Code.CONNECTION_REFUSED, Verdict.REFUSED, Verdict.REFUSED),
        (Code.TTL_EXPIRED, Verdict.SILENCE, Verdict.REFUSED),
        (Code.UPSTREAM_DOWN, Verdict.REFUSED, Verdict.REFUSED),
        (Code.UPSTREAM_TIMEOUT, Verdict.SILENCE, Verdict.SILENCE),
        (Code.UPSTREAM_AUTH, Verdict.PROHIBITED, Verdict.PROHIBITED),
        (Code.BAD_NAME, Verdict.HOST_UNREACHABLE, Verdict.HOST_UNREACHABLE),
        (0x77, Verdict.REFUSED, Verdict.REFUSED),
        (0xFFFF, Verdict.REFUSED, Verdict.REFUSED),
    ],
)
def test_what_the_program_is_told(code, socks5, tor):
    assert verdict("socks5", code) is socks5
    assert verdict("tor", code) is tor


@pytest.mark.parametrize("code", OURS)
def test_our_own_codes_mean_the_same_everywhere(code):
    assert len({verdict(kind, code) for kind in (*TABLE, "an upstream of the future")}) == 1


def test_onion_failures_are_refusals():
    assert {verdict("tor", code) for code in ONION} == {Verdict.REFUSED}
