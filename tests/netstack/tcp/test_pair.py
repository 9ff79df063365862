# SPDX-License-Identifier: GPL-3.0-or-later
"""Our TCP against itself over a link that loses, repeats and reorders."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import Simulation

from avne.netstack.tcp import state


def _data(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _exchange(sim: Simulation, up: bytes, down: bytes) -> None:
    """Open, send both ways, close both ways: everything must arrive, once and in order.

    Where segments are lost the last ACK may be too: then the client's TIME-WAIT (1 s) can be over before
    the server's FIN comes again, and the server gives up, with everything delivered both ways.
    """
    sim.connect()
    sim.client.send(up) if up else None
    sim.client.connection.shutdown()
    sim.run(limit=0.01)
    sim.server.send(down) if down else None
    sim.server.connection.shutdown()
    sim.run(limit=4000.0)
    assert bytes(sim.server.received_bytes) == up
    assert bytes(sim.client.received_bytes) == down
    assert sim.client.got_fin
    assert sim.server.got_fin
    assert sim.client.end is False
    assert sim.server.end is False or (sim.loss and sim.server.end is True)
    assert sim.client.connection.state is state.CLOSED
    assert sim.server.connection.state is state.CLOSED
    assert not sim.client.connection.inflight
    assert not sim.client.connection.unsent


@pytest.mark.parametrize("v6", [False, True])
def test_a_clean_link_delivers_both_ways_and_closes(v6):
    sim = Simulation(v6=v6)
    _exchange(sim, _data(1, 1_000_000), _data(2, 700_000))
    assert sim.client.acked_bytes == 1_000_000
    assert sim.server.acked_bytes == 700_000


def test_sequence_numbers_wrap_in_both_directions():
    sim = Simulation(iss=(0xFFFFFFF0, 0xFFFFFF00))
    _exchange(sim, _data(1, 300_000), _data(2, 300_000))


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
def test_losses_are_repaired(loss):
    sim = Simulation(seed=7, loss=loss)
    _exchange(sim, _data(3, 500_000), _data(4, 500_000))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.floats(0, 0.15),
    duplicate=st.floats(0, 0.3),
    reorder=st.floats(0, 0.3),
    window=st.sampled_from([2000, 9000, 65535, 1 << 18]),
    up=st.integers(0, 120_000),
    down=st.integers(0, 120_000),
    iss=st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)),
)
def test_any_link_delivers_exactly_what_was_sent(seed, loss, duplicate, reorder, window, up, down, iss):
    sim = Simulation(seed, loss, duplicate, reorder, window=window, iss=iss)
    _exchange(sim, _data(seed, up), _data(seed + 1, down))


@pytest.mark.rfc("9293", "MAY-8")
def test_a_receiver_that_takes_nothing_closes_the_window_and_is_probed_until_it_takes():
    sim = Simulation(window=10_240, auto_grant=False)
    sim.connect()
    sim.client.send(_data(5, 50_000))
    sim.run(limit=120.0)
    assert 10_240 - 256 < len(sim.server.received_bytes) <= 10_240  # the window field counts 256s
    assert sim.client.end is None, "a closed window never ends a connection (RFC 9293 MUST-37)"
    sim.server.auto_grant = True
    sim.server.connection.grant(50_000)
    sim.run(limit=5.0)
    assert bytes(sim.server.received_bytes) == _data(5, 50_000)


def test_a_lost_window_update_is_found_out_by_probing():
    sim = Simulation(window=10_240, auto_grant=False)
    sim.connect()
    sim.client.send(_data(5, 20_000))
    sim.run(limit=3.0)
    sim.server.connection.grant(20_000)
    sim.loss = 1.0  # the update is lost …
    sim.step()
    sim.loss = 0.0
    sim.run(limit=120.0)
    assert bytes(sim.server.received_bytes) == _data(5, 20_000)


def test_simultaneous_close_ends_cleanly():
    sim = Simulation()
    sim.connect()
    sim.run(limit=1.0)
    sim.client.connection.shutdown()
    sim.server.connection.shutdown()
    sim.run(limit=10.0)
    assert sim.client.end is False
    assert sim.server.end is False


@pytest.mark.rfc("9293", "MUST-10")
def test_simultaneous_open_makes_one_connection():
    sim = Simulation()
    sim.server.connection.grant(sim.server.window)
    sim.client.connection.open_active()
    sim.server.connection.open_active()
    sim.run(limit=0.01)
    assert sim.client.connection.state is state.ESTABLISHED
    assert sim.server.connection.state is state.ESTABLISHED
    assert sim.client.frames_sent + sim.server.frames_sent < 12
    sim.client.send(b"up")
    sim.server.send(b"down")
    sim.run(limit=1.0)
    assert bytes(sim.server.received_bytes) == b"up"
    assert bytes(sim.client.received_bytes) == b"down"


@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_simultaneous_open_survives_losses(loss):
    for seed in range(30):
        sim = Simulation(seed=seed, loss=loss)
        sim.server.connection.grant(sim.server.window)
        sim.client.connection.open_active()
        sim.server.connection.open_active()
        sim.client.send(b"up")
        sim.server.send(b"down")
        sim.run(limit=100.0)
        assert bytes(sim.server.received_bytes) == b"up"
        assert bytes(sim.client.received_bytes) == b"down"


def test_abort_resets_the_other_end():
    sim = Simulation()
    sim.connect()
    sim.run(limit=1.0)
    sim.server.connection.abort(sim.now)
    sim.run(limit=1.0)
    assert sim.client.end is True
    assert sim.server.end is True


def test_a_peer_that_is_gone_is_given_up():
    sim = Simulation()
    sim.connect()
    sim.run(limit=1.0)
    sim.loss = 1.0
    sim.client.send(b"anyone?")
    sim.run(limit=1000.0)
    assert sim.client.end is True


def test_what_was_written_before_the_handshake_ends_is_sent_after_it():
    sim = Simulation()
    sim.server.send(b"a banner")
    sim.server.connection.shutdown()
    sim.connect()
    sim.run(limit=1.0)
    assert bytes(sim.client.received_bytes) == b"a banner"
    assert sim.client.got_fin
