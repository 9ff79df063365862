# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of a run: the netstack, the workers, and a successor for each that dies.

The tun is kept here for as long as the run lasts, so that a netstack's end is not the device's: what the
program sends meanwhile waits in the device, or is lost there, and nothing else reads it.  A new
netstack gets new workers with it: the lanes of the old ones ended where it did.  It finds the program's
connections by itself, and resets those that it does not know; those that only wait for bytes it is told of.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from typing import Any, Protocol

import msgpack

from avne.cli.children import Part, Parts, died_early
from avne.cli.connections import Sockets
from avne.cli.doors import Answer
from avne.cli.job import Job
from avne.cli.loop import Loop
from avne.cli.programs import Programs
from avne.cli.published import Entrances
from avne.cli.start import NETSTACK, WORKER
from avne.cli.workers import MAX_CRASHES, Restarts, Slot, Worker, hopeless
from avne.config import MAX_WORKERS
from avne.errors import AvneError
from avne.log import Log
from avne.privileged import launch

STARTING, LASTING, ENDING = range(3)
_TUNSETPERSIST = 0x400454CB  # <linux/if_tun.h>
_KEYS_AT_ONCE = 500  # of at most 36 bytes, in a message


class Owner(Protocol):
    """What the supervisor hears."""

    def on_ready(self, who: str) -> None: ...
    def on_lost(self, error: AvneError) -> None: ...
    def on_replaced(self) -> None: ...
    def on_nothing_to_drain(self) -> None: ...
    def on_message(self, message: list[Any]) -> None: ...
    def on_workers_gone(self) -> None: ...


class Network:
    """`begin` starts it, and `owner` hears of it.

    While it is STARTING a part that dies is an error, while it is LASTING it gets a successor, while it is
    ENDING neither.
    """

    def __init__(self, job: Job, loop: Loop, parts: Parts, log: Log, owner: Owner) -> None:
        self._job = job
        self._loop = loop
        self._parts = parts
        self._log = log
        self._owner = owner
        self._tun: launch.Tun | None = None
        self._sockets = Sockets(-1)
        self._netstack: Part | None = None
        self._programs: Programs | None = None  # where it matters whose a connection is
        self._epoch = ""  # of the isolation tokens
        self._generation = 0
        self._crashes = Restarts()  # of the netstack
        self._reloads = False  # its end was asked for
        self._lets_in = False
        self._workers: dict[int, Worker] = {}
        self._slots = {number: Slot() for number in range(1, job.workers + 1)}
        self._asking: list[Answer] = []  # who waits for a list of the workers
        self._entrances = Entrances(loop, job.openings)
        self.phase = STARTING

    def begin(self) -> None:
        """Start the netstack and the workers.  Raises `AvneError`."""
        self._generation += 1
        early = self._job.early
        self._netstack = (
            self._hire() if self._job.hire else Part("the network process", "net", early.take(NETSTACK))
        )
        config = {**self._job.netstack, "generation": self._generation, "epoch": self._epoch}
        place, capture = self._job.place, self._job.capture
        if place:
            config.update(place.config())
        fds = [place.fd] if place else []
        fds += [capture] if capture >= 0 else []
        self._netstack.control.send("config", config, fds=tuple(fds))
        self._parts.watch(self._netstack, self._on_netstack, self._netstack_died)
        for number, slot in self._slots.items():
            if slot.wanted:
                self._start_worker(number)
        if self._tun:
            self._hand_on(self._tun)
            self._tell_of_orphans()

    def _hire(self) -> Part:
        from avne.cli.netstack import Hired

        return Hired(self._job.hire)

    def give_tun(self, tun: launch.Tun, init: int) -> None:
        """The environment's tun and its sock_diag socket, ours to close from here on, and its first process.

        Raises `AvneError`.
        """
        self._tun = tun
        self._sockets = Sockets(tun.diag)
        self._hand_on(tun)
        if self._job.by_program:
            self._programs = Programs(self._sockets, init)

    def _hand_on(self, tun: launch.Tun) -> None:
        assert self._netstack
        self._netstack.control.send("tun", tun.missing, fds=(tun.fd,))

    def _tell_of_orphans(self) -> None:
        """What the last netstack had open: programs that wait for it are to be told (netstack/orphans.py)."""
        assert self._netstack
        try:
            keys = self._sockets.waiting()
        except AvneError as error:
            self._log.event("warning", "supervisor", "orphans-unknown", {"why": error.problem})
            return
        for at in range(0, len(keys), _KEYS_AT_ONCE):
            self._netstack.control.send("orphans", *keys[at : at + _KEYS_AT_ONCE])

    def let_in(self) -> None:
        """The program runs: who connects to its ports is let in, by each netstack to come."""
        self._lets_in = True
        if self._netstack and self._netstack.ready:
            self._entrances.begin(self._netstack.control)

    def newnym(self) -> None:
        """Whatever is opened from here on shares no circuit with what is open, whatever name it has."""
        self._epoch = os.urandom(8).hex()
        if self._netstack:
            self._netstack.control.send("newnym", self._epoch)

    def _tell_whose(self, number: int, key: bytes) -> None:
        if self._netstack and self._programs:
            with contextlib.suppress(BlockingIOError):  # who asks and does not listen is not to hold us up
                self._netstack.control.send("theirs", number, self._programs.owner(key), wait=False)

    @property
    def lives(self) -> bool:
        """Whether there is a netstack now."""
        return self._netstack is not None

    @property
    def ready(self) -> bool:
        """Whether the netstack has the tun, and everybody has said that it is ready."""
        if not self._tun or self._netstack is None or not self._netstack.ready:
            return False
        return all(worker.ready for worker in self._workers.values())

    @property
    def has_workers(self) -> bool:
        return bool(self._workers)

    def drain(self) -> None:
        """The program has ended: hand on what it sent, and replace nobody."""
        self.phase = ENDING
        self._lets_in = False
        self._entrances.close()
        self._loop.cancel("netstack")
        if self._netstack:
            self._netstack.control.send("drain")

    def reload(self) -> None:
        """Replace the netstack and the workers, by code that may be newer than ours."""
        if self.phase == LASTING and self._netstack:
            self._reloads = True
            self._netstack.kill()

    def close(self, deserted: bool = False) -> None:
        """Give the tun back: where nobody else has it the device is gone.  The parts end with `Parts.end`.

        `deserted`: nobody is left in the environment.  Then the end of its namespace takes the device, and
        nobody has to wait for that.
        """
        self.phase = ENDING
        self._entrances.close()
        if self._tun:
            if deserted:
                with contextlib.suppress(OSError):  # a packet socket
                    fcntl.ioctl(self._tun.fd, _TUNSETPERSIST, 1)
            os.close(self._tun.fd)
            self._tun = None
            self._sockets.close()

    # The netstack

    def _on_netstack(self, part: Part, message: list[Any]) -> None:
        if message == ["ready"]:
            part.ready = True
            if self._lets_in:
                self._entrances.begin(part.control)
            self._owner.on_ready("netstack")
        elif message[0] == "workers":
            self._answer(message[1])
        elif part is self._netstack:
            match message:
                case ["whose", int(number), bytes(key)]:
                    self._tell_whose(number, key)
                case ["inbound", int(taken), int(ended)]:
                    self._entrances.told(taken, ended)
                case _:
                    self._owner.on_message(message)

    def _netstack_died(self, part: Part) -> None:
        self._netstack = None
        self._entrances.stop()
        self._answer([])
        if self.phase == STARTING:
            raise died_early(part, self._log.path)
        for worker in self._workers.values():
            worker.kill()  # they have nothing to do, and nothing of the next one
        reloads, self._reloads = self._reloads, False
        if reloads and self.phase == ENDING:  # the program ended when it was about to be replaced
            self._owner.on_nothing_to_drain()
            return
        delay = 0.0 if reloads else self._crashes.delay(time.monotonic(), False)
        if delay is None or self.phase == ENDING or (self._job.on_failure == "kill" and not reloads):
            self.close()
            self._owner.on_lost(_ended(part, delay is None, self._log.path))
            return
        self._log.event("warning", "supervisor", "netstack-replaced", {"asked": reloads})
        self._loop.after(delay or 0.0, "netstack", self._replace)

    def _replace(self) -> None:
        self.begin()
        self._owner.on_replaced()

    # The workers

    def _start_worker(self, number: int) -> None:
        assert self._netstack
        slot = self._slots[number]
        slot.generation += 1
        started = self._job.early.take(WORKER)
        routings = self._job.routings
        routing = routings[(number - 1) % len(routings)]
        worker = Worker(started, number, slot.generation, routing, self._netstack.control)
        self._workers[number] = worker
        self._parts.watch(worker, self._on_worker, self._worker_died)

    def _on_worker(self, worker: Worker, message: list[Any]) -> None:
        match message:
            case ["ready"]:
                worker.ready = True
                self._slots[worker.slot].restarts.succeeded()
                self._owner.on_ready(f"worker {worker.identity}")
            case ["reopen", str(path)]:
                worker.reopen(path)
            case ["failed", str(problem), str(cure)]:
                worker.failed = AvneError(problem, cure)

    def _worker_died(self, worker: Worker) -> None:
        if self._workers.get(worker.slot) is not worker:
            return  # it went with its netstack, and has a successor
        if self.phase == STARTING:
            raise died_early(worker, self._log.path)
        del self._workers[worker.slot]
        if self._netstack is None:
            return  # its successor comes with the netstack's
        self._netstack.control.send("gone", worker.identity)
        if self.phase == ENDING:
            self._owner.on_workers_gone()
            return
        slot = self._slots[worker.slot]
        if not slot.wanted:
            return
        delay = slot.restarts.delay(time.monotonic(), worker.failed is not None)
        if delay is None:
            raise hopeless(worker, self._log.path)
        self._loop.after(delay, f"worker {worker.slot}", lambda: self._start_successor(worker.slot))

    def _start_successor(self, number: int) -> None:
        """Unless the netstack has died as well: then they come together."""
        wanted = self._slots[number].wanted and number not in self._workers
        if self.phase == LASTING and self._netstack and wanted:
            self._start_worker(number)

    # `avne workers`

    def on_question(self, question: bytes, answer: Answer) -> None:
        """``list``, or ``+N`` or ``-N`` before; answered by rows of workers, or an error's two texts."""
        try:
            if question != b"list":
                self._change(int(question))
        except AvneError as error:
            answer(msgpack.packb([error.problem, error.cure]))
            return
        self._asking.append(answer)
        if self._netstack and self._tun:  # before the tun it expects nothing else
            self._netstack.control.send("workers")
        else:
            self._answer([])

    def _change(self, by: int) -> None:
        """Raises `AvneError`."""
        if self.phase != LASTING:
            raise AvneError("the environment is starting or ending", "Try again while its program runs.")
        wanted = [number for number, slot in self._slots.items() if slot.wanted]
        if not self._job.workers:
            raise AvneError("all its workers are on other machines", "Start or end them there: avne worker.")
        least = len(self._job.routings)
        if not least <= len(wanted) + by <= MAX_WORKERS:
            each = "" if least == 1 else ", as there are upstreams"
            raise AvneError(
                f"it has {len(wanted)} of its own, and keeps {least} to {MAX_WORKERS}{each}",
                "Ask for a smaller change.",
            )
        for number in sorted(wanted)[by:] if by < 0 else ():
            self._let_go(number)
        free = (number for number in itertools.count(1) if self._is_free(number))
        for number in itertools.islice(free, max(0, by)):
            self._slots.setdefault(number, Slot()).wanted = True
            if self._netstack:
                self._start_worker(number)

    def _is_free(self, number: int) -> bool:
        return number not in self._workers and not (number in self._slots and self._slots[number].wanted)

    def _let_go(self, number: int) -> None:
        self._slots[number].wanted = False
        self._loop.cancel(f"worker {number}")
        worker = self._workers.get(number)
        if worker and worker.ready and self._netstack:
            self._netstack.control.send("leave", worker.identity)
        elif worker:
            worker.kill()

    def _answer(self, rows: list[Any]) -> None:
        """`rows`: what the netstack knows of each."""
        known = {identity: (kind, flows, leaving) for identity, kind, flows, leaving in rows}
        ours = [self._workers[number] for number in sorted(self._workers)]
        told = [_row(worker.identity, worker, known.pop(worker.identity, None)) for worker in ours]
        told += [_row(identity, None, row) for identity, row in sorted(known.items())]
        asking, self._asking = self._asking, []
        for answer in asking:
            answer(msgpack.packb(told))


def _row(identity: str, worker: Worker | None, known: tuple[str, int, bool] | None) -> dict[str, Any]:
    kind, flows, leaving = known or ("", 0, False)
    state = "leaving" if leaving else "ready" if known and (worker is None or worker.ready) else "starting"
    pid = worker.pid if worker else 0
    return {"worker": identity, "pid": pid, "upstream": kind, "connections": flows, "state": state}


def _ended(part: Part, often: bool, log_path: str) -> AvneError:
    said = f": {part.last_words}" if part.last_words else ""
    how = f"died {MAX_CRASHES + 1} times in a minute" if often else "died"
    cure = f"The log has more: {log_path}" if log_path else "Run it with -vv to see the log."
    return AvneError(f"the network process {how}, the program is ended{said}", cure)
