# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured of one tool in one round: the usual figures (bench/crowds.py has those of many)."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable

from bench.agent import Agent
from bench.crowds import crowd, flat, small
from bench.lab import DATA_PORT, ECHO_PORT, WORLD_IP
from bench.processes import BenchError, end_strays, memory_kib
from bench.samples import GIGABYTE, MEGABYTE, Bench

_CURL_TIMED_OUT = 28  # no fault: the speed until then is what we want


def throughput(bench: Bench, agent: Agent) -> None:
    """Bulk bytes one way, by one stream and by eight, and the CPU time they cost."""
    if not _arrives_intact(bench, agent):
        return
    where = f"{bench.tool.target} {DATA_PORT} {bench.options.mib << 20}"
    for verb in ("down", "up"):
        for streams in (1, 8):
            answer = agent.ask(f"{verb} {where} {streams} {bench.options.cap_ms}")
            name, gigabytes = f"{verb}{streams}", answer["bytes"] / GIGABYTE
            if answer["bad"] or not gigabytes:
                bench.note(f"{name}: {answer['trouble']}")
                continue
            bench.record(f"{name}.mb_s", answer["bytes"] / MEGABYTE / answer["seconds"])
            bench.record(f"{name}.tool_cpu_s_per_gb", agent.cpu["tool"] / gigabytes)
            bench.record(f"{name}.all_cpu_s_per_gb", sum(agent.cpu.values()) / gigabytes)


def _arrives_intact(bench: Bench, agent: Agent) -> bool:
    """First, that what arrives is what was sent, and went the way it was meant to."""
    relayed = bench.lab.relay_cpu()
    for verb in ("vup", "vdown"):
        answer = agent.ask(f"{verb} {bench.tool.target} {DATA_PORT} {4 << 20} 2 20000")
        if answer["bad"] or answer["capped"]:
            bench.note(f"{verb}: {answer}")
            return False
    by_socks = bench.tool.kind in ("socks", "preload") or bench.tool.via_socks
    if by_socks and bench.lab.relay_cpu() - relayed < 0.0005:
        bench.note("it went past the SOCKS5 server")
        return False
    return True


def connect(bench: Bench, agent: Agent) -> None:
    """New connections: connect, one byte there and back, close."""
    for name, count, threads in (("seq", 1500, 1), ("par32", 4000, 32)):
        where = f"{bench.tool.target} {ECHO_PORT} {count} {threads}"
        answer = agent.ask(f"connect {where} {bench.options.cap_ms}")
        bench.record(f"conn_{name}.per_s", answer["good"] / answer["seconds"])
        bench.record(f"conn_{name}.errors", answer["bad"])
        bench.record(f"conn_{name}.p99_us", answer["p99_us"])
        if answer["good"]:
            bench.record(f"conn_{name}.tool_cpu_us", agent.cpu["tool"] / answer["good"] * 1e6)
        if answer["bad"]:
            bench.note(f"connect {name}: {answer['bad']} bad, {answer['trouble']}")


def ping(bench: Bench, agent: Agent) -> None:
    """One byte there and back, again and again, over one connection."""
    where = f"{bench.tool.target} {ECHO_PORT} {bench.options.pings} 1"
    answer = agent.ask(f"ping {where} {bench.options.cap_ms}")
    if answer["bad"] or not answer["good"]:
        bench.note(f"ping: {answer['trouble']}")
        return
    bench.record("ping.p50_us", answer["p50_us"])
    bench.record("ping.p99_us", answer["p99_us"])


def dns(bench: Bench, agent: Agent) -> None:
    """Lookups of fresh names by eight threads, a fresh port for each."""
    tool = bench.tool
    ways: dict[str, str] = {}
    if tool.dns and tool.dns != "libc":
        ways["dns"] = tool.dns
    if tool.relays_udp:
        ways["dns_udp"] = WORLD_IP
    if tool.dns == "libc" or tool.name == "native":
        ways["dns_libc"] = "libc"
    for name, server in ways.items():
        answer = agent.ask(f"dns {server} 53 {bench.options.lookups} 8 {bench.options.cap_ms}")
        bench.record(f"{name}.per_s", answer["good"] / answer["seconds"])
        bench.record(f"{name}.errors", answer["bad"])
        if answer["bad"]:
            bench.note(f"{name}: {answer['bad']} bad, {answer['trouble']}")


def memory(bench: Bench, agent: Agent) -> None:
    """The tool's memory (PSS), and the client's, with idle connections open."""
    opened, at_rest, counts = 0, {"tool": 0.0, "agent": 0.0}, bench.options.idle
    for wanted in (0, *counts):
        if wanted > counts[0] and bench.round >= bench.options.idle_rounds:
            return
        if wanted:
            where = f"{bench.tool.target} {ECHO_PORT} {wanted - opened} 16"
            answer = agent.ask(f"idle {where} {bench.options.idle_cap_ms}", 90)
            opened = answer["open"]
            bench.record(f"idle{wanted}.open", opened)
            if opened < wanted or answer["alive"] < answer["tried"]:
                bench.note(f"idle {wanted}: {answer}")
        for role, kib in _memory_by_role(bench, wanted).items():
            bench.record(f"idle{wanted}.{role}_pss_mib", kib / 1024)
            if not wanted:
                at_rest[role] = kib
            elif opened:
                bench.record(f"idle{wanted}.{role}_kib_each", (kib - at_rest[role]) / opened)
        if opened < wanted:
            return


def _memory_by_role(bench: Bench, wanted: int) -> dict[str, float]:
    """KiB of the tool and of the agent; records each process of the tool as well."""
    roles = bench.lab.roles()
    by_process: dict[str, int] = {}
    for process in roles["tool"]:
        by_process[process.name] = by_process.get(process.name, 0) + memory_kib(process.pid)
    for name, kib in by_process.items():
        bench.record(f"idle{wanted}.process_pss_mib {name}", kib / 1024)
    return {
        "tool": sum(by_process.values()),
        "agent": sum(memory_kib(process.pid) for process in roles["agent"]),
    }


def start(bench: Bench) -> None:
    """From nothing to the end of `true` in fresh environments, and until they are gone
    (a command prefix takes its environment down before it ends)."""
    for _ in range(bench.options.starts):
        begin = time.monotonic()
        with bench.tool.environment(bench.lab) as prefix:
            done = subprocess.run(
                [*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
            )
            seconds = time.monotonic() - begin
        if done.returncode:
            bench.note(f"start: status {done.returncode}, {done.stderr[-200:]!r}")
            return
        bench.record("start.ms", seconds * 1e3)
        bench.record("cycle.ms", (time.monotonic() - begin) * 1e3)


def curl(bench: Bench) -> None:
    """What a real program gets: one large file by HTTP."""
    if bench.tool.via_socks or not shutil.which("curl"):
        return
    url = f"http://{bench.tool.target}:{DATA_PORT}/{bench.options.mib << 20}"
    limit = str(bench.options.cap_ms / 1000)
    argv = ["curl", "--silent", "--show-error", "--output", "/dev/null", "--max-time", limit,
            "--write-out", "%{speed_download}", url]  # fmt: skip
    with bench.tool.environment(bench.lab) as prefix:
        done = subprocess.run(
            [*prefix, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    if done.returncode not in (0, _CURL_TIMED_OUT):
        bench.note(f"curl: status {done.returncode}, {done.stderr[-200:]!r}")
        return
    bench.record("curl.mb_s", float(done.stdout.split()[-1]) / MEGABYTE)


WITHOUT_AGENT: dict[str, Callable[[Bench], None]] = {"start": start, "curl": curl}
# In one environment each.  Memory is apart, as some tools keep a descriptor for each lookup
# for minutes, and some are long busy with the end of thousands of connections.
WITH_AGENT: list[dict[str, Callable[[Bench, Agent], None]]] = [
    {"throughput": throughput, "connect": connect, "ping": ping, "dns": dns, "small": small, "crowd": crowd},
    {"memory": memory},
    {"flat": flat},
]
BY_NAME_ONLY = {"flat"}  # it takes long, and few rows need it
METRICS = [*(name for group in WITH_AGENT for name in group), *WITHOUT_AGENT]


def measure(bench: Bench, metrics: list[str]) -> None:
    """All `metrics` of one tool; what goes wrong is noted, and ends the tool's round."""
    keep = {server.pid for server in bench.lab.servers}
    try:
        for name, metric in WITHOUT_AGENT.items():
            if name in metrics:
                metric(bench)
        for group in WITH_AGENT:
            if wanted := [metric for name, metric in group.items() if name in metrics]:
                _with_agent(bench, wanted)
    except (BenchError, subprocess.TimeoutExpired, OSError) as error:
        bench.note(f"{type(error).__name__}: {error}")
    finally:
        end_strays(keep)


def _with_agent(bench: Bench, metrics: list[Callable[[Bench, Agent], None]]) -> None:
    with bench.tool.environment(bench.lab) as prefix:
        agent = Agent(bench.lab, bench.tool, prefix)
        try:
            for metric in metrics:
                metric(bench, agent)
        finally:
            agent.close()
