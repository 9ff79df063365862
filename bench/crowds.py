# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured with many connections at once, or with one that is slow to take its bytes."""

from __future__ import annotations

import time

from bench.agent import Agent
from bench.counters import inside
from bench.lab import DATA_PORT, ECHO_PORT
from bench.processes import cpu_seconds
from bench.samples import GIGABYTE, MEGABYTE, Bench

CROWD = 256
RECEIVE_BUFFERS = {"8k": 8 << 10, "64k": 64 << 10}  # of SO_RCVBUF
_NEVER_ENDS = 64 << 30  # bytes: the time cap ends it
_BESIDE = 7
_PATIENCE = 60


def crowd(bench: Bench, agent: Agent) -> None:
    """256 bulk streams one way, and what the kernel inside lost or had to wait for meanwhile."""
    where = f"{bench.tool.target} {DATA_PORT} {bench.options.mib << 20}"
    for verb in ("down", "up"):
        before = inside(bench.lab)
        answer = agent.ask(f"{verb} {where} {CROWD} {bench.options.cap_ms}", _PATIENCE)
        counted = inside(bench.lab).since(before)
        name, gigabytes = f"{verb}{CROWD}", answer["bytes"] / GIGABYTE
        for counter, value in counted._asdict().items():
            bench.record(f"{name}.{counter}", value)
        if answer["bad"] or not gigabytes:
            bench.note(f"{name}: {answer['bad']} bad, {answer['trouble']}")
            continue
        speed = answer["bytes"] / MEGABYTE / answer["seconds"]
        bench.record(f"{name}.mb_s", speed)
        bench.record(f"{name}.tool_cpu_s_per_gb", agent.cpu["tool"] / gigabytes)
        bench.record(f"{name}.gap_ms", max(answer["first_gap_ms"], answer["rest_gap_ms"]))
        if eight := bench.value(f"{verb}8.mb_s"):
            bench.record(f"{name}.percent_of_8", speed / eight * 100)


def small(bench: Bench, agent: Agent) -> None:
    """A receiver with a small buffer, alone and beside seven usual ones: its speed, the longest
    time between two of its reads that got something, and the same of the others."""
    where = f"down {bench.tool.target} {DATA_PORT} {_NEVER_ENDS}"
    for name, size in RECEIVE_BUFFERS.items():
        for streams, measure in ((1, f"small{name}"), (1 + _BESIDE, f"small{name}_beside")):
            request = f"{where} {streams} {bench.options.small_ms} {size}"
            answer = agent.ask(request, _PATIENCE)
            if answer["bad"] or answer["first_rcvbuf"] != 2 * size:  # socket(7): the kernel doubles it
                bench.note(f"{measure}: {answer}")
                continue
            bench.record(f"{measure}.mb_s", answer["first_bytes"] / MEGABYTE / answer["first_seconds"])
            bench.record(f"{measure}.gap_ms", answer["first_gap_ms"])
            if streams > 1:
                others = answer["bytes"] - answer["first_bytes"]
                bench.record(f"{measure}_others.mb_s", others / MEGABYTE / answer["seconds"])
                bench.record(f"{measure}_others.gap_ms", answer["rest_gap_ms"])


def flat(bench: Bench, agent: Agent) -> None:
    """What a connection, a byte there and back, and a gigabyte cost while others are open and idle."""
    opened = 0
    for others in bench.options.flat:
        where = f"{bench.tool.target} {ECHO_PORT}"
        answer = agent.ask(f"idle {where} {others - opened} 16 {bench.options.idle_cap_ms}", 90)
        opened = answer["open"]
        if opened < others or answer["alive"] < answer["tried"]:
            bench.note(f"flat {others}: {answer}")
            return
        _settle(agent)
        _cost_beside(bench, agent, f"flat{others}", where)


def _cost_beside(bench: Bench, agent: Agent, name: str, where: str) -> None:
    cap = bench.options.flat_ms
    for verb, what in (("connect", "connect"), ("ping", "ping")):
        answer = agent.ask(f"{verb} {where} 20000 1 {cap}", _PATIENCE)
        if answer["bad"] or not answer["good"]:
            bench.note(f"{name} {verb}: {answer['bad']} bad, {answer['trouble']}")
            continue
        bench.record(f"{name}_{what}.p50_us", answer["p50_us"])
        bench.record(f"{name}_{what}.tool_cpu_us", agent.cpu["tool"] / answer["good"] * 1e6)
    for verb in ("down", "up"):
        request = f"{verb} {bench.tool.target} {DATA_PORT} {_NEVER_ENDS} 1 {cap}"
        answer = agent.ask(request, _PATIENCE)
        if answer["bad"] or not answer["bytes"]:
            bench.note(f"{name} {verb}: {answer['trouble']}")
            continue
        bench.record(f"{name}_{verb}.mb_s", answer["bytes"] / MEGABYTE / answer["seconds"])
        bench.record(f"{name}_{verb}.tool_cpu_s_per_gb", agent.cpu["tool"] / (answer["bytes"] / GIGABYTE))


def _settle(agent: Agent, patience: float = 3) -> None:
    """Wait until the tool rests (5 % of a core), as what it still does for the connections that
    were opened is not the cost of the next; or for `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = _tool_cpu(agent)
        time.sleep(0.1)
        if _tool_cpu(agent) - before < 0.005:
            return


def _tool_cpu(agent: Agent) -> float:
    return sum(map(cpu_seconds, agent.lab.roles()["tool"]))
