# SPDX-License-Identifier: GPL-3.0-or-later
"""SEGMENT ARRIVES (RFC 9293 §3.10.7), step by step in the order of the RFC.

A segment for a connection that does not exist is answered by the stack (§3.10.7.1), and a
SYN for no connection becomes one there (§3.10.7.2, LISTEN).
"""

from __future__ import annotations

from avne.netstack.tcp import output, seq, state
from avne.netstack.tcp.connection import ACK_MAY_WAIT, NOTHING, Connection, Timer
from avne.netstack.tcp.reassembly import Reassembly
from avne.netstack.wire import tcp as wire
from avne.netstack.wire.tcp import ACK, FIN, RST, SYN, Segment

MASK = seq.MASK
TIME_WAIT_SECONDS = 1.0  # see `_time_wait`
_MAX_ACK_AGE = 1 << 20  # bytes: the least MAX.SND.WND that RFC 5961 §5 is applied with


def is_next(c: Connection, seg: Segment) -> bool:
    """The common case of §3.10.7.4: in order, in the window, nothing special."""
    return (
        c.state is state.ESTABLISHED
        and seg.flags & (FIN | SYN | RST | ACK) == ACK
        and seg.seq == c.rcv_nxt
        and c.reassembly is None
        and len(seg.payload) <= c.rcv_wnd
    )


def is_old(c: Connection, seg: Segment) -> bool:
    """Text that has come before, as of a probe of the tail (RFC 8985 §7): answered, nothing of it kept."""
    return c.state is state.ESTABLISHED and seq.le((seg.seq + seg.length) & MASK, c.rcv_nxt)


def segment(c: Connection, seg: Segment, now: float) -> None:
    """Process `seg` for `c`."""
    if is_next(c, seg):
        next_segment(c, seg, now)
    else:
        other_segment(c, seg, now)


def other_segment(c: Connection, seg: Segment, now: float) -> None:
    """`segment`, of one that is not `is_next`."""
    if c.state is state.PARKED:
        _parked(c, seg, now)
    elif c.state is state.SYN_SENT:
        _syn_sent(c, seg, now)
    elif c.state is not state.CLOSED:
        _other_states(c, seg, now)


def next_segment(c: Connection, seg: Segment, now: float) -> None:
    """`segment`, of one that `is_next`."""
    # The ACK is sent at the end of the turn, for all segments of it (MUST-58, MUST-59), and so at
    # once (MUST-40), but for the first that is not full-sized: an answer may be about to carry it.
    if _check_ack(c, seg, now) and seg.payload:
        c.ack_now = ACK_MAY_WAIT if not c.ack_now and len(seg.payload) < c.gso_size else 1
        _deliver(c, seg.payload, now)
        c.link.wake(c)


def _parked(c: Connection, seg: Segment, now: float) -> None:
    """A SYN-RECEIVED that has not answered: nothing of ours can have been acknowledged."""
    if seg.flags & RST:
        if seg.seq == c.rcv_nxt:
            c.close(True, now)
    elif seg.flags & ACK:
        c.link.packets.append((c.template.build(seg.ack, 0, RST, 0, 0, 0),))
    # A SYN again: the guest is impatient; the answer will come when the upstream has one.


def _syn_sent(c: Connection, seg: Segment, now: float) -> None:
    """RFC 9293 §3.10.7.3."""
    acceptable = False
    # First, check the ACK bit.
    if seg.flags & ACK:
        if not (seq.lt(c.iss, seg.ack) and seq.le(seg.ack, c.snd_nxt)):
            if not seg.flags & RST:
                c.link.packets.append((c.template.build(seg.ack, 0, RST, 0, 0, 0),))
            return
        acceptable = True
    # Second, check the RST bit.
    if seg.flags & RST:
        if acceptable:
            c.close(True, now)
        return
    # Fourth, check the SYN bit.
    if not seg.flags & SYN:
        return
    c.irs = seg.seq
    edge = (c.rcv_edge - c.rcv_nxt) & MASK
    c.rcv_nxt = c.rcv_adv = seq.add(seg.seq, 1)
    c.rcv_edge = (c.rcv_nxt + edge) & MASK
    c.take_syn_options(seg)
    if acceptable:
        _acknowledge(c, seg.ack, now)
        c.ack_now = 1
        c.established(seg, now)
    else:
        # Simultaneous open: "MUST support simultaneous open attempts" (MUST-10).
        c.enter(state.SYN_RECEIVED)
        c.snd_wnd = c.max_snd_wnd = seg.wnd
        c.snd_wl1, c.snd_wl2 = seg.seq, c.iss
        c.syn_ack_sent = False
        c.link.wake(c)


def _other_states(c: Connection, seg: Segment, now: float) -> None:
    """RFC 9293 §3.10.7.4."""
    # First, check sequence number.
    if not _acceptable(c, seg):
        if c.state is state.SYN_RECEIVED and seg.flags & (SYN | ACK) == SYN and seg.seq == c.irs:
            c.syn_ack_sent = False  # our SYN-ACK was lost, or is late: once more
            c.link.wake(c)
        elif not seg.flags & RST:
            # Keep-alives and window probes are answered here too (§3.8.4, §3.8.6.1), and the
            # SYN-ACK of a simultaneous open.
            if c.state is state.TIME_WAIT and seg.flags & FIN:
                c.start_timer(Timer.TIME_WAIT, now + TIME_WAIT_SECONDS)
            c.ack_now = 1
            c.link.wake(c)
        return
    # Second, check the RST bit, whatever the window (MUST-66) and the text (SHLD-2).
    if seg.flags & RST:
        # RFC 5961 §3.2: only the exact sequence number resets; others in the window are challenged.
        if seg.seq == c.rcv_nxt:
            c.close(True, now)
        elif c.link.challenge(now):
            c.emit_ack()
        return
    # Fourth, check the SYN bit.
    if seg.flags & SYN:
        if c.state is state.SYN_RECEIVED and c.passive:
            c.close(True, now)  # "return this connection to the LISTEN state" (MUST-11)
        elif c.link.challenge(now):
            c.emit_ack()  # RFC 5961 §4.2: a challenge ACK, whatever its sequence number
        return
    # Fifth, check the ACK field.  "If the ACK bit is off, drop the segment."
    if not seg.flags & ACK:
        return
    seg = _trim(c, seg)
    if c.state is state.SYN_RECEIVED:
        if not (seq.lt(c.snd_una, seg.ack) and seq.le(seg.ack, c.snd_nxt)):
            c.link.packets.append((c.template.build(seg.ack, 0, RST, 0, 0, 0),))
            return
        _acknowledge(c, seg.ack, now)
        c.established(seg, now)
    elif not _check_ack(c, seg, now):
        return
    if c.state is state.CLOSED:
        return
    # Sixth, check the URG bit: urgent data, of any length, is delivered in line (MUST-31).
    # Seventh, process the segment text.
    if seg.payload:
        _text(c, seg, now)
    # Eighth, check the FIN bit.
    if seg.flags & FIN:
        _fin(c, seq.add(seg.seq, len(seg.payload)), now)
    elif c.reassembly is not None and c.reassembly.fin == c.rcv_nxt:
        _fin(c, c.rcv_nxt, now)


def _acceptable(c: Connection, seg: Segment) -> bool:
    """The table of RFC 9293 §3.10.7.4, "first, check sequence number"."""
    wnd = c.rcv_wnd
    length = seg.length
    if length == 0:
        return seg.seq == c.rcv_nxt if wnd == 0 else seq.within(seg.seq, c.rcv_nxt, wnd)
    if wnd == 0:
        # "If the RCV.WND is zero, no segments will be acceptable, but special allowance should
        # be made to accept valid ACKs, URGs, and RSTs": those without text are dealt with above.
        return bool(seg.flags & RST) and seg.seq == c.rcv_nxt
    last = seq.add(seg.seq, length - 1)
    return seq.within(seg.seq, c.rcv_nxt, wnd) or seq.within(last, c.rcv_nxt, wnd)


def _trim(c: Connection, seg: Segment) -> Segment:
    """ "Tailor the segment to begin at RCV.NXT and not exceed the window" (§3.10.7.4)."""
    payload, flags, start = seg.payload, seg.flags, seg.seq
    old = seq.diff(c.rcv_nxt, start)
    if old > 0:
        payload = payload[old:]
        start = c.rcv_nxt
    room = (c.rcv_adv - start) & MASK
    if old <= 0 and len(payload) <= room:
        return seg
    if len(payload) > room:
        payload = payload[:room]
        flags &= ~FIN
    return seg._replace(seq=start, payload=payload, flags=flags)


def _check_ack(c: Connection, seg: Segment, now: float) -> bool:
    """ "Fifth, check the ACK field" in the synchronized states; False: drop the segment."""
    ack = seg.ack
    advance = (ack - c.snd_una) & MASK
    if advance > (c.snd_nxt - c.snd_una) & MASK:
        if seq.lt(c.snd_una, ack):
            # "If the ACK acks something not yet sent, then send an ACK, drop the segment" (MAY-12).
            c.ack_now = 1
            c.link.wake(c)
            return False
        # RFC 5961 §5.2: an ACK older than MAX.SND.WND is a blind injection.
        if seq.diff(c.snd_una, ack) > max(c.max_snd_wnd, _MAX_ACK_AGE):
            if c.link.challenge(now):
                c.emit_ack()
            return False
        return True  # an old duplicate: its ACK says nothing, its text may still count
    if seg.options.sack:
        output.note_sack(c, seg.options.sack, now)
    wnd = seg.wnd << c.snd_wscale  # RFC 7323 §2.3
    if advance:
        _acknowledge(c, ack, now)
        _ended_by_ack(c, now)
        if c.state is state.CLOSED:
            return False
    elif c.inflight and not seg.length and wnd == c.snd_wnd:
        if (c.inflight[0].end - c.snd_una) & MASK > wnd:
            c.backoffs = 0  # the window has closed over it, but the guest is there (MUST-37, SHLD-17)
        if wnd:
            output.duplicate_ack(c, now)
    elif not c.inflight:
        c.probes = 0  # the window is closed, but the guest is there (MUST-37)
    # "The send window should be updated": only from a segment that is newer than the last one used.
    if seq.lt(c.snd_wl1, seg.seq) or (c.snd_wl1 == seg.seq and seq.le(c.snd_wl2, ack)):
        reopened = not c.snd_wnd and wnd
        c.snd_wnd, c.snd_wl1, c.snd_wl2 = wnd, seg.seq, ack
        if wnd > c.max_snd_wnd:
            c.max_snd_wnd = wnd
        if reopened:
            _window_reopened(c, now)
    if c.unsent or c.fin_queued:
        c.link.wake(c)
    return True


def _window_reopened(c: Connection, now: float) -> None:
    """After a zero window: what the guest dropped for want of memory does not wait for the timer."""
    if c.timer == Timer.PERSIST:
        c.stop_timer()
        c.backoffs = 0
    elif c.inflight:
        output.retransmit_first(c)
        c.start_timer(Timer.RETRANSMIT, now + c.rto.value)


def _acknowledge(c: Connection, ack: int, now: float) -> None:
    """SND.UNA moves to `ack`: what is acknowledged leaves the retransmission queue."""
    c.snd_una = ack
    freed = 0
    sample: float | None = None
    ambiguous = False
    inflight = c.inflight
    while inflight:
        sent = inflight[0]
        if seq.le(sent.end, ack):
            inflight.popleft()
            freed += (sent.end - sent.start) & MASK
            freed -= sent.fin
            sample = sent.at
            ambiguous = ambiguous or sent.retransmitted or sent.timed
        elif seq.lt(sent.start, ack):
            freed += (ack - sent.start) & MASK
            output.trim(sent, ack)
            break
        else:
            break
    # RFC 6298 §3 (Karn).  What waited behind a lost segment tells of our timer, not of the path.
    if sample is not None and not ambiguous:
        c.rto.sample(now - sample)
    c.backoffs = c.dupacks = 0
    if c.recover is not None:
        output.partial_ack(c, ack)
    # RFC 6298 §5.2, §5.3
    if inflight:
        c.start_timer(Timer.RETRANSMIT, now + c.rto.value)
    else:
        c.inflight = NOTHING
        if c.timer == Timer.RETRANSMIT:
            c.stop_timer()
    if freed:
        c.app.acked(freed, now)


def _ended_by_ack(c: Connection, now: float) -> None:
    """The states that wait for the acknowledgement of our FIN (§3.10.7.4, fifth)."""
    if not c.fin_sent or c.snd_una != c.snd_nxt:
        return
    if c.state is state.FIN_WAIT_1:
        c.enter(state.FIN_WAIT_2)
    elif c.state is state.CLOSING:
        _time_wait(c, now)
    elif c.state is state.LAST_ACK:
        c.close(False, now)


def _deliver(c: Connection, payload: memoryview, now: float) -> None:
    c.rcv_nxt = (c.rcv_nxt + len(payload)) & MASK
    c.app.received(payload, now)


def _text(c: Connection, seg: Segment, now: float) -> None:
    """ "Seventh, process the segment text"; only in the states that receive."""
    if c.state not in state.RECEIVING:
        return
    c.ack_now = 1
    c.link.wake(c)
    if seg.seq != c.rcv_nxt:
        if c.reassembly is None:
            c.reassembly = Reassembly()
        c.reassembly.insert(seg.seq, seg.payload, c.rcv_nxt)
        # RFC 5681 §4.2: a duplicate ACK at once, so that the guest's fast retransmit sees each (MAY-13).
        c.emit_ack()
        return
    _deliver(c, seg.payload, now)
    reassembly = c.reassembly
    while reassembly is not None and c.state is not state.CLOSED:
        block = reassembly.take(c.rcv_nxt)
        if block is None:
            break
        _deliver(c, block, now)
    if reassembly is not None and not reassembly:
        c.reassembly = None


def _fin(c: Connection, at: int, now: float) -> None:
    """ "Eighth, check the FIN bit": `at` is the FIN's sequence number."""
    c.ack_now = c.ack_now or (ACK_MAY_WAIT if at == c.rcv_nxt else 1)  # for the FIN of the other side
    c.link.wake(c)
    if at != c.rcv_nxt:
        if c.state in state.RECEIVING:
            if c.reassembly is None:
                c.reassembly = Reassembly()
            c.reassembly.fin = at
        return
    if c.state not in state.RECEIVING:
        return
    c.reassembly = None
    c.rcv_nxt = seq.add(c.rcv_nxt, 1)
    c.rcv_edge = seq.add(c.rcv_edge, 1)
    if seq.lt(c.rcv_adv, c.rcv_nxt):
        c.rcv_adv = c.rcv_nxt
    c.fin_received = True
    was = c.state
    if was is state.ESTABLISHED:
        c.enter(state.CLOSE_WAIT)
    elif was is state.FIN_WAIT_1:
        c.enter(state.CLOSING)  # had our FIN been acknowledged, this would be FIN-WAIT-2
    c.app.received_fin(now)
    if was is state.FIN_WAIT_2:
        _time_wait(c, now)


def _time_wait(c: Connection, now: float) -> None:
    """Both directions have ended.  The app is done; the tombstone only answers a lost last ACK.

    1 s instead of 2 MSL (RFC 9293 §3.6.1): the path is one hop that neither delays nor
    duplicates, so there are no old segments to wait for.
    """
    c.enter(state.TIME_WAIT)
    c.start_timer(Timer.TIME_WAIT, now + TIME_WAIT_SECONDS)
    c.app.closed(False, now)


def icmp_error(c: Connection, number: int, hard: bool, now: float) -> bool:
    """The guest's network says that our segment at `number` did not get through (RFC 9293 §3.9.2.2).

    A soft error aborts nothing (MUST-56): it is only counted.  A hard one aborts an attempt to connect,
    but no connection that exists, as RFC 5461 §2.2 finds it elsewhere (SHLD-26); and only one about what
    is in flight is believed (RFC 5927 §4.1).  False: it is not about this connection as it is now.
    """
    if not seq.within(number, c.snd_una, (c.snd_nxt - c.snd_una) & MASK):
        return False
    if hard and c.state in (state.SYN_SENT, state.SYN_RECEIVED):
        c.close(True, now)
    return True


def answer_unknown(template: wire.HeaderTemplate, seg: Segment) -> bytes | None:
    """The reset for a segment that belongs to no connection (§3.10.7.1), or None for a RST."""
    if seg.flags & RST:
        return None
    if seg.flags & ACK:
        return template.build(seg.ack, 0, RST, 0, 0, 0)
    return template.build(0, seq.add(seg.seq, seg.length), RST | ACK, 0, 0, 0)
