# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection's deadline has passed (RFC 9293 §3.10.8)."""

from __future__ import annotations

from avne.netstack.tcp import output, rto, seq, state
from avne.netstack.tcp.connection import RESET_GRACE, Connection, Timer
from avne.netstack.wire.tcp import ACK

# R2 (RFC 9293 §3.8.3, MUST-20, SHLD-11): RTO doubles from 200 ms, so this is about 100 s.
MAX_BACKOFFS = 10
# A SYN or SYN-ACK: 1 s doubled up to 60 s makes 183 s, and 3 minutes are the least (MUST-23).
MAX_SYN_BACKOFFS = 7
# Probes of a zero window that nothing answers; Linux has as many (tcp_retries2).  Some 7 minutes.
MAX_PROBES = 15


def expire(c: Connection, now: float) -> None:
    """Do what the timer stands for, and start it again where that goes on."""
    which = c.timer
    c.stop_timer()
    if c.rst_by is not None and _reset_is_due(c, now):
        c.abort(now)
    elif which == Timer.RETRANSMIT:
        _retransmission(c, now)
    elif which == Timer.PERSIST:
        _probe(c, now)
    elif which == Timer.TIME_WAIT:
        c.close(False, now)


def _reset_is_due(c: Connection, now: float) -> bool:
    """Whether the guest has taken nothing of what comes before the RST for `RESET_GRACE`."""
    assert c.rst_by is not None
    c.link.wake(c)  # whichever timer goes on, `rst_by` bounds it
    if c.snd_una != c.rst_una:
        c.rst_una = c.snd_una
        c.rst_by = now + RESET_GRACE
    return now >= c.rst_by


def _retransmission(c: Connection, now: float) -> None:
    """RFC 6298 §5.4, §5.5, §5.6; for SYNs as for data (MUST-22).

    RFC 6675 §5.1: it ends a recovery, and none begins before all that was sent has been acknowledged;
    what SACK reports from now on counts.
    """
    if not c.inflight:
        return
    c.backoffs += 1
    limit = MAX_SYN_BACKOFFS if c.state in (state.SYN_RECEIVED, state.SYN_SENT) else MAX_BACKOFFS
    if c.backoffs > limit:
        c.abort(now)
        return
    c.rto.back_off()
    for sent in c.inflight:
        sent.sacked = False  # RFC 2018 §5.1: the guest may have thrown away what it had reported
    c.recover = c.snd_nxt
    c.dupacks = 0
    output.retransmit_first(c)
    c.start_timer(Timer.RETRANSMIT, now + c.rto.value)
    c.link.wake(c)


def _probe(c: Connection, now: float) -> None:
    """A zero window has lasted: ask for it again, for as long as that is answered (§3.8.6.1, MUST-37).

    Like Linux we send no new byte but an empty segment just before the window: the guest must
    answer it with an ACK (§3.10.7.4, first), and that carries the window.
    """
    if not c.unsent:
        return
    usable = c.snd_wnd - ((c.snd_nxt - c.snd_una) & seq.MASK)
    if usable > 0:
        # Not closed, only silly: the override timeout of §3.8.6.2.1 (3) sends what fits.
        output.send_segment(c, min(usable, c.unsent_bytes, c.gso_size), now)
        return
    c.probes += 1
    if c.probes > MAX_PROBES:
        c.abort(
            now
        )  # MUST-37 holds only "as long as the receiving TCP peer continues to send acknowledgments"
        return
    # The interval doubles (SHLD-30), but not the RTO: nothing has been lost.
    c.backoffs += 1
    c.emit(ACK, seq.add(c.snd_una, -1))
    c.start_timer(Timer.PERSIST, now + min(rto.MAXIMUM, c.rto.value * (1 << min(c.backoffs, 16))))
