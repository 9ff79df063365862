# SPDX-License-Identifier: GPL-3.0-or-later
"""What a connection sends: data, FIN, acknowledgements and retransmissions.

There is no congestion control: the path is a single virtual hop whose only queue is the
guest's receive buffer, which the window describes.  A segment is lost only where the guest
drops it for want of memory; then the first one is sent again, and the rest follows the
acknowledgements (RFC 6582's partial ACKs), skipping what SACK says has arrived.
"""

from __future__ import annotations

from avne.limits import MAX_BURST
from avne.netstack.tcp import seq, state
from avne.netstack.tcp.connection import ACK_MAY_WAIT, NOTHING, WINDOW_SCALE, Connection, Packet, Sent, Timer
from avne.netstack.wire import tcp as wire
from avne.netstack.wire.tcp import ACK, FIN, PSH, SYN

DUPLICATE_ACKS = 3  # RFC 5681 §3.2
# A window update is sent when the window has opened by this much: RFC 9293 §3.8.6.2.2 asks for
# the lesser of half the buffer and one segment; our segments are 64 KiB.
_WINDOW_STEP = 64 << 10
# A segment in flight costs 500 bytes, whatever is in it: while so many are, more waits and is gathered.
MAX_IN_FLIGHT = 64
_MAX_PIECES = 64  # of one segment's payload: writev(2) takes no more than 1024


def flush(c: Connection, now: float, hold: bool = False) -> bool:
    """Send what this turn has made possible; the connection's one output per turn of the loop.

    At most one ACK for all that the turn has brought (SHLD-18).  One that may wait (`ACK_MAY_WAIT`) does so
    with `hold`, and true is given: the caller flushes it again soon, without `hold` (SHLD-19).
    """
    st = c.state
    if st is state.SYN_RECEIVED:
        if not c.syn_ack_sent:
            _send_syn(c, SYN | ACK, now)
        elif c.ack_now:
            c.emit_ack()
        return False
    if st is state.SYN_SENT:
        if not c.syn_ack_sent:
            _send_syn(c, SYN, now)
        return False
    if st is state.PARKED or st is state.CLOSED:
        return False
    if c.unsent:
        _send_data(c, now)
    if c.fin_queued and not c.fin_sent and not c.unsent:
        _send_fin(c, now)
    if c.rst_by is not None:
        if not c.unsent:
            c.abort(now)
            return False
        c.start_timer(c.timer, min(c.deadline, c.rst_by))
    if c.ack_now or _window_opened(c):
        if hold and c.ack_now == ACK_MAY_WAIT:
            return True
        c.emit_ack()
    return False


def _send_syn(c: Connection, flags: int, now: float) -> None:
    """Our SYN or SYN-ACK; again when the guest repeats its own."""
    first = c.snd_nxt == c.iss
    c.syn_ack_sent = True
    c.snd_nxt = seq.add(c.iss, 1)
    offered = flags == SYN  # an active opener offers; a passive one answers what was offered
    scale = WINDOW_SCALE if offered or c.rcv_wscale else None
    options = wire.syn_options(c.mss_advertised, scale, offered or c.sack_ok)
    if flags & ACK:
        c.emit(flags, c.iss, options=options)
    else:
        window = min((c.rcv_edge - c.rcv_nxt) & seq.MASK, 0xFFFF)
        c.link.packets.append((c.template.build(c.iss, 0, flags, window, 0, 0, options),))
    if first:
        c.track(Sent(c.iss, c.snd_nxt, (), True, now))
    else:
        c.inflight[0].retransmitted = True  # RFC 6298 §3: its round trip is ambiguous (MUST-18)
    if c.timer != Timer.RETRANSMIT:
        c.start_timer(Timer.RETRANSMIT, now + c.rto.value)


def _send_data(c: Connection, now: float) -> None:
    """New data as far as the window goes, in super-segments.

    As far as the window that was told last (RFC 7323 §2.4): one that has shrunk below what is in flight
    gives no room (MUST-34, SHLD-15).
    """
    while c.unsent and len(c.inflight) < MAX_IN_FLIGHT:
        usable = c.snd_wnd - ((c.snd_nxt - c.snd_una) & seq.MASK)
        length = min(c.unsent_bytes, usable, MAX_BURST // c.gso_size * c.gso_size)
        if length <= 0:
            break
        # Sender's silly window avoidance (RFC 9293 §3.8.6.2.1, MUST-38): a full segment, or all
        # there is, or half of the largest window seen.  Small writes are not held back (Nagle is
        # the sending program's choice, and that one is behind the upstream).
        if length < c.unsent_bytes:
            if length >= c.gso_size:
                length -= length % c.gso_size
            elif length * 2 < c.max_snd_wnd:
                break
        send_segment(c, length, now)
    if c.unsent and not c.inflight and c.timer != Timer.PERSIST:
        c.start_timer(Timer.PERSIST, now + c.rto.value)  # §3.8.6.1 (MUST-35, MUST-36, SHLD-29)


def send_segment(c: Connection, length: int, now: float) -> None:
    """The next `length` bytes, with the FIN if they are the last."""
    payload = _take(c, length)
    start = c.snd_nxt
    end = c.snd_nxt = (start + length) & seq.MASK
    last = not c.unsent
    flags = ACK | PSH if last else ACK  # SHLD-28, MUST-61
    fin = last and c.fin_queued
    if fin:
        flags |= FIN
        end = c.snd_nxt = (end + 1) & seq.MASK
        _enter_fin_sent(c)
    c.emit(flags, start, payload, length)
    c.track(Sent(start, end, payload, fin, now))  # RFC 6298 §5.1
    if c.timer != Timer.RETRANSMIT:
        c.start_timer(Timer.RETRANSMIT, now + c.rto.value)


def _take(c: Connection, length: int) -> Packet:
    """`length` bytes from the head of the unsent queue, as pieces."""
    c.unsent_bytes -= length
    unsent = c.unsent
    head = unsent[0]
    if len(head) > length:
        unsent[0] = head[length:]
        return (head[:length],)
    pieces: list[memoryview] = []
    while length:
        head = unsent.popleft()
        if len(head) > length:
            unsent.appendleft(head[length:])
            head = head[:length]
        pieces.append(head)
        length -= len(head)
    if not unsent:
        c.unsent = NOTHING
    if len(pieces) > _MAX_PIECES:
        return (memoryview(b"".join(pieces)),)
    return tuple(pieces)


def _send_fin(c: Connection, now: float) -> None:
    start = c.snd_nxt
    c.snd_nxt = seq.add(start, 1)
    _enter_fin_sent(c)
    c.emit(FIN | ACK, start)
    c.track(Sent(start, c.snd_nxt, (), True, now))
    if c.timer != Timer.RETRANSMIT:
        c.start_timer(Timer.RETRANSMIT, now + c.rto.value)


def _enter_fin_sent(c: Connection) -> None:
    c.fin_sent = True
    c.enter(state.LAST_ACK if c.state is state.CLOSE_WAIT else state.FIN_WAIT_1)


def _window_opened(c: Connection) -> bool:
    """Whether the guest should hear that it may send more (RFC 9293 §3.8.6.2.2, MUST-39)."""
    if c.state not in state.RECEIVING:
        return False
    opened = (c.rcv_edge - c.rcv_adv) & seq.MASK
    # Less than a unit of the scaled window field cannot be told.
    return opened >= min(_WINDOW_STEP, max(c.rcv_wnd, 1 << c.rcv_wscale))


# ---- losses --------------------------------------------------------------------


def trim(sent: Sent, ack: int) -> None:
    """The first bytes of `sent` are acknowledged: keep the rest."""
    drop = (ack - sent.start) & seq.MASK
    sent.start = ack
    pieces = list(sent.payload)
    while drop:
        if len(pieces[0]) <= drop:
            drop -= len(pieces.pop(0))
        else:
            pieces[0] = pieces[0][drop:]
            drop = 0
    sent.payload = tuple(pieces)


def retransmit(c: Connection, sent: Sent) -> None:
    """`sent` again, exactly as it was but for what has been acknowledged.

    Whole, whatever the window has become since (SHLD-16, MAY-7; RFC 7323 §2.4).
    """
    sent.retransmitted = True
    if c.state is state.SYN_RECEIVED or c.state is state.SYN_SENT:  # it is the SYN
        c.syn_ack_sent = False
        return
    length = (sent.end - sent.start - sent.fin) & seq.MASK
    c.emit(ACK | PSH | (FIN if sent.fin else 0), sent.start, sent.payload, length)


def retransmit_first(c: Connection) -> None:
    """The first segment in flight that SACK does not report."""
    for sent in c.inflight:
        if not sent.sacked:
            retransmit(c, sent)
            return


def duplicate_ack(c: Connection, now: float) -> None:
    """RFC 5681 §3.2: the third one in a row means that the first segment in flight is lost.

    So does an earlier one where SACK reports enough beyond it (RFC 6675 §5), or that nothing else is
    missing: no third may come (RFC 5827 §3.1).
    """
    c.dupacks += 1
    if c.recover is None and (c.dupacks >= DUPLICATE_ACKS or _is_lost(c)):
        c.recover = c.snd_nxt
        retransmit_first(c)
        c.start_timer(Timer.RETRANSMIT, now + c.rto.value)


def _is_lost(c: Connection) -> bool:
    """IsLost() of RFC 6675 §4 for SND.UNA: more than two segments beyond it have arrived.

    Or all of one or two (RFC 5827 §3.2: fewer than four segments are outstanding).
    """
    first, *rest = c.inflight
    arrived = sum((sent.end - sent.start) & seq.MASK for sent in rest if sent.sacked)
    early = 0 < len(rest) < DUPLICATE_ACKS and all(sent.sacked for sent in rest)
    return not first.sacked and (early or arrived > (DUPLICATE_ACKS - 1) * c.gso_size)


def partial_ack(c: Connection, ack: int) -> None:
    """RFC 6582 §3.2: an ACK short of the recovery point uncovers the next loss (RFC 6675 §5)."""
    assert c.recover is not None
    if seq.le(c.recover, ack):
        c.recover = None
        for sent in c.inflight:
            sent.sacked = False
    else:
        retransmit_first(c)


def note_sack(c: Connection, blocks: tuple[tuple[int, int], ...], now: float) -> None:
    """Update() of RFC 6675 §4: mark what the guest holds (RFC 2018 §5).

    It is kept all the same (RFC 2018 §8): the guest may throw it away, and then the timer clears the mark.
    It tells the round trip, too: behind a loss nothing else does, and the RTO stays backed off.
    """
    sample: float | None = None
    for sent in c.inflight:
        if not sent.sacked and any(
            seq.le(left, sent.start) and seq.le(sent.end, right) for left, right in blocks
        ):
            sent.sacked = True
            if not (sent.retransmitted or sent.timed):
                sent.timed = True
                sample = sent.at
    if sample is not None:
        c.rto.sample(now - sample)
