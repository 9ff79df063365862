# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows: what a flow gets, alone, beside idle ones, and beside busy ones; and that the bounds hold."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from avne.ipc.credit import PERIOD, Account, Budget
from avne.limits import CREDIT_FIRST, CREDIT_MAX, CREDIT_MIN, CREDIT_PROMISED, CREDIT_TOTAL, MAX_FLOWS


def move(accounts: list[Account], now: float, rounds: int = 1) -> float:
    """Each receives all it may, and is done with it; gives the time."""
    for _ in range(rounds):
        now += 0.001
        for account in accounts:
            size = account.outstanding
            account.received(size)
            account.done(size, now)
    return now


def test_it_begins_small_and_grows_with_its_use() -> None:
    account = Account(Budget())
    sizes = [account.outstanding]
    now = 0.0
    while account.outstanding < CREDIT_MAX:
        now = move([account], now)
        sizes.append(account.outstanding)
    assert sizes == [CREDIT_MIN << n for n in range(len(sizes))]
    move([account], now, 10)
    assert account.outstanding == CREDIT_MAX


def test_the_first_windows_are_large_while_little_is_promised() -> None:
    """… and MAX_FLOWS idle flows leave a busy one all it can use."""
    budget = Budget()
    firsts = []
    for _ in range(MAX_FLOWS * 5 // 8):
        firsts.append(budget.first())
        Account(budget, budget.first())
    few = CREDIT_PROMISED // 4 // CREDIT_FIRST
    assert firsts == [CREDIT_FIRST] * few + [CREDIT_MIN] * (len(firsts) - few)
    busy = Account(budget)
    move([busy], 0.0, 20)
    assert busy.outstanding == CREDIT_MAX


def test_an_idle_flow_stays_small() -> None:
    account = Account(Budget())
    for n in range(100):
        account.received(10)
        account.done(10, n)
    assert account.outstanding + account.waiting <= CREDIT_MIN


def test_beside_ten_thousand_idle_flows_one_gets_all_it_can_use() -> None:
    budget = Budget()
    idle = [Account(budget) for _ in range(10_000)]
    busy = Account(budget)
    move([busy], 0.0, 20)
    assert busy.outstanding == CREDIT_MAX
    assert all(account.outstanding == CREDIT_MIN for account in idle)


def test_busy_flows_share_what_may_be_under_way() -> None:
    budget = Budget()
    accounts = [Account(budget) for _ in range(256)]
    move(accounts, 0.0, 200)
    assert all(account.outstanding == CREDIT_TOTAL // 256 for account in accounts)
    assert budget.held == CREDIT_TOTAL
    move(accounts[:1], 100.0, 200)  # the others have fallen silent
    assert accounts[0].outstanding == CREDIT_MAX


def test_whatever_is_promised_is_bounded() -> None:
    """Flows that grow one after another, and then keep what they were promised."""
    budget = Budget()
    accounts, now = [], 0.0
    for _ in range(MAX_FLOWS // 8):
        accounts.append(Account(budget))
        now = move(accounts[-1:], now + PERIOD, 10)
    assert budget.held <= CREDIT_PROMISED + len(accounts) * CREDIT_MIN
    assert accounts[-1].outstanding >= CREDIT_MIN
    for account in accounts:
        account.close()
    assert budget.held == 0


def test_what_waits_is_not_granted_again() -> None:
    account = Account(Budget())
    account.received(CREDIT_MIN)
    assert account.done(CREDIT_MIN // 8 - 1, 0.0) == 0
    granted = account.done(CREDIT_MIN - CREDIT_MIN // 8 + 1, 0.0)
    assert granted == account.outstanding == 2 * CREDIT_MIN


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_books_are_right(seed: int, flows: int) -> None:
    """`held` is what all flows hold, whatever happens to them, and a flow that is done with all can go on."""
    script = random.Random(seed)
    budget = Budget()
    accounts = [Account(budget) for _ in range(flows)]
    now = 0.0
    for _ in range(300):
        now += script.random() * PERIOD / 4
        account = script.choice(accounts)
        step = script.random()
        if step < 0.45:
            account.received(script.randint(0, account.outstanding))
        elif step < 0.9:
            size = script.randint(0, account.waiting)
            before = account.outstanding
            grant = account.done(size, now)
            assert grant >= 0
            assert account.outstanding == before + grant
        elif step < 0.95:
            account.drop(script.randint(0, account.waiting))
        else:
            account.close()
            accounts[accounts.index(account)] = Account(budget)
        assert budget.held == sum(a.outstanding + a.waiting for a in accounts)
        assert account.outstanding + account.waiting <= CREDIT_MAX
    for account in accounts:
        account.done(account.waiting, now)
        assert account.outstanding >= CREDIT_MIN * 3 // 4
