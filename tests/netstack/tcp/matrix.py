# SPDX-License-Identifier: GPL-3.0-or-later
"""Every state × every event, and what follows: RFC 9293 §3.10 read line by line.

How to read it.  An event's rows name states and what happens in them, in this order:

* what is sent: ``ACK`` is <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>, ``ACK+3`` acknowledges 3 more than before;
  ``DATA`` and ``FIN`` begin at SND.NXT, with ``-again`` at SND.UNA; ``PROBE`` is an ACK at SND.UNA−1;
  ``SYN``, ``SYN-ACK``; ``RST`` is <SEQ=SND.NXT><ACK=RCV.NXT><CTL=RST,ACK>, ``RST=0``
  <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>, ``RST=ACK`` <SEQ=SEG.ACK><CTL=RST>;
* what the app is told: ``established``, ``'text'``, ``fin``, ``acked3``, ``reset``, ``closed``;
* ``> STATE``: the next state, where it is another one;
* ``-``: nothing at all; ``no timer``: it does not run in this state; ``never``: the app must not do that.

``[n]`` is a note: where the RFC leaves it open, or where we depart from its letter, and why.

The situations: in ESTABLISHED and CLOSE-WAIT three bytes are in flight; in FIN-WAIT-1, CLOSING and LAST-ACK
the FIN is.  The guest's segments carry ACK=SND.UNA (in the first three states SND.NXT) unless the event says
otherwise.  CLOSED is no connection; a SYN for none makes one, which is the stack's part (test_stack.py).
"""

from __future__ import annotations

NOTES = {
    1: "PARKED has answered nothing: it is LISTEN to the guest (§3.10.7.2), but a repeated SYN waits on.",
    2: "§3.10.7.4, first, asks for an ACK; the SYN-ACK is one, and tells a guest that lost it all it needs.",
    3: "A passive SYN-RECEIVED returns to LISTEN, and this SYN is not looked at: the guest repeats it.",
    4: "A second FIN, beyond the first: the RFC knows none.  RCV.NXT stays, an ACK says so.",
    5: "A FIN in flight when the window opens again goes out once more: a guest without memory dropped it.",
    6: "§3.10.4 lets a FIN follow the SYN-ACK at once; ours waits for ESTABLISHED.",
    7: "§3.10.5: silently.  Our RST tells the guest that what it has not acknowledged is lost.",
    8: "§3.10.4 deletes a TCB in SYN-SENT.  Ours waits for the guest's answer, behind what came before.",
}

# States that are treated alike so often that they have a name here.
GROUPS = {
    "RECEIVING": "ESTABLISHED FIN-WAIT-1 FIN-WAIT-2",
    "ENDED": "CLOSE-WAIT CLOSING LAST-ACK TIME-WAIT",
    "SYNCHRONIZED": "ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 CLOSE-WAIT CLOSING LAST-ACK TIME-WAIT",
    "UNANSWERED": "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 CLOSE-WAIT CLOSING LAST-ACK",
}

TEXT = """
== SYN repeated                                  the guest's own SYN once more
PARKED                                           - [1]
SYN-SENT                                         SYN-ACK > SYN-RECEIVED
SYN-RECEIVED                                     SYN-ACK [2]
SYNCHRONIZED                                     ACK
CLOSED                                           RST=0
== SYN in the window                             SEG.SEQ=RCV.NXT+5
PARKED                                           - [1]
SYN-SENT                                         SYN-ACK > SYN-RECEIVED
SYN-RECEIVED                                     reset > CLOSED [3]
SYNCHRONIZED                                     ACK
CLOSED                                           RST=0
== SYN beyond the window
PARKED                                           - [1]
SYN-SENT                                         SYN-ACK > SYN-RECEIVED
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=0
== SYN-ACK                                       SEG.SEQ=IRS, SEG.ACK=SND.NXT
PARKED                                           RST=ACK
SYN-SENT                                         ACK established > ESTABLISHED
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=ACK
== SYN-ACK of nothing                            SEG.SEQ=IRS, SEG.ACK=SND.NXT+1
PARKED SYN-SENT                                  RST=ACK
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=ACK
== ACK of all                                    SEG.ACK=SND.NXT
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     established > ESTABLISHED
ESTABLISHED CLOSE-WAIT                           acked3
FIN-WAIT-1                                       > FIN-WAIT-2
FIN-WAIT-2 TIME-WAIT                             -
CLOSING                                          closed > TIME-WAIT
LAST-ACK                                         closed > CLOSED
CLOSED                                           RST=ACK
== ACK duplicate                                 SEG.ACK=SND.UNA
PARKED SYN-SENT SYN-RECEIVED                     RST=ACK
SYNCHRONIZED                                     -
CLOSED                                           RST=ACK
== ACK old                                       SEG.ACK=SND.UNA−1
PARKED SYN-SENT SYN-RECEIVED                     RST=ACK
SYNCHRONIZED                                     -
CLOSED                                           RST=ACK
== ACK ancient                                   SEG.ACK=SND.UNA−2²⁴: RFC 5961 §5
PARKED SYN-SENT SYN-RECEIVED                     RST=ACK
SYNCHRONIZED                                     ACK
CLOSED                                           RST=ACK
== ACK of unsent                                 SEG.ACK=SND.NXT+1
PARKED SYN-SENT SYN-RECEIVED                     RST=ACK
SYNCHRONIZED                                     ACK
CLOSED                                           RST=ACK
== keep-alive                                    empty, SEG.SEQ=RCV.NXT−1
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=ACK
== data in order                                 'abc' at RCV.NXT
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK+3 established 'abc' > ESTABLISHED
RECEIVING                                        ACK+3 'abc'
ENDED                                            -
CLOSED                                           RST=ACK
== data urgent                                   the same with URG: RFC 6093 §4
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK+3 established 'abc' > ESTABLISHED
RECEIVING                                        ACK+3 'abc'
ENDED                                            -
CLOSED                                           RST=ACK
== data out of order                             'abc' at RCV.NXT+10
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK established > ESTABLISHED
RECEIVING                                        ACK
ENDED                                            -
CLOSED                                           RST=ACK
== data overlapping                              '--abc' at RCV.NXT−2
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK+3 established 'abc' > ESTABLISHED
RECEIVING                                        ACK+3 'abc'
ENDED                                            -
CLOSED                                           RST=ACK
== data old                                      'abc' at RCV.NXT−3
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=ACK
== data over the right edge                      'abc' at RCV.NXT+RCV.WND−1
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK established > ESTABLISHED
RECEIVING                                        ACK
ENDED                                            -
CLOSED                                           RST=ACK
== data beyond the window                        'abc' at RCV.NXT+RCV.WND
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=ACK
== data wrapped                                  'abc' at RCV.NXT+2³¹
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=ACK
== data without ACK                              no flag at all
PARKED SYN-SENT SYN-RECEIVED SYNCHRONIZED        -
CLOSED                                           RST=0
== FIN in order                                  SEG.SEQ=RCV.NXT
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK+1 established fin > CLOSE-WAIT
ESTABLISHED                                      ACK+1 fin > CLOSE-WAIT
FIN-WAIT-1                                       ACK+1 fin > CLOSING
FIN-WAIT-2                                       ACK+1 fin closed > TIME-WAIT
ENDED                                            ACK [4]
CLOSED                                           RST=ACK
== FIN and ACK of all                            the same with SEG.ACK=SND.NXT
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK+1 established fin > CLOSE-WAIT
ESTABLISHED                                      ACK+1 acked3 fin > CLOSE-WAIT
FIN-WAIT-1 FIN-WAIT-2                            ACK+1 fin closed > TIME-WAIT
CLOSE-WAIT                                       ACK acked3 [4]
CLOSING                                          ACK closed > TIME-WAIT [4]
LAST-ACK                                         closed > CLOSED
TIME-WAIT                                        ACK [4]
CLOSED                                           RST=ACK
== FIN with data                                 'abc' and FIN at RCV.NXT
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK+4 established 'abc' fin > CLOSE-WAIT
ESTABLISHED                                      ACK+4 'abc' fin > CLOSE-WAIT
FIN-WAIT-1                                       ACK+4 'abc' fin > CLOSING
FIN-WAIT-2                                       ACK+4 'abc' fin closed > TIME-WAIT
ENDED                                            ACK [4]
CLOSED                                           RST=ACK
== FIN out of order                              SEG.SEQ=RCV.NXT+10
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     ACK established > ESTABLISHED
RECEIVING                                        ACK
ENDED                                            ACK [4]
CLOSED                                           RST=ACK
== FIN repeated                                  SEG.SEQ=RCV.NXT−1
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           RST=ACK
== RST exact                                     SEG.SEQ=RCV.NXT, no ACK
PARKED                                           reset > CLOSED
SYN-SENT                                         -
UNANSWERED                                       reset > CLOSED
TIME-WAIT                                        > CLOSED
CLOSED                                           -
== RST-ACK exact                                 SEG.SEQ=RCV.NXT, SEG.ACK=SND.NXT
PARKED SYN-SENT                                  reset > CLOSED
UNANSWERED                                       reset > CLOSED
TIME-WAIT                                        > CLOSED
CLOSED                                           -
== RST in the window                             SEG.SEQ=RCV.NXT+5: RFC 5961 §3
PARKED SYN-SENT                                  -
SYN-RECEIVED SYNCHRONIZED                        ACK
CLOSED                                           -
== RST before the window                         SEG.SEQ=RCV.NXT−1
PARKED SYN-SENT SYN-RECEIVED SYNCHRONIZED CLOSED -
== RST beyond the window                         SEG.SEQ=RCV.NXT+RCV.WND
PARKED SYN-SENT SYN-RECEIVED SYNCHRONIZED CLOSED -
== window closes                                 SEG.WND=0, and the app writes
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     established > ESTABLISHED
SYNCHRONIZED                                     -
CLOSED                                           RST=ACK
== window opens                                  it was 0, all data was acknowledged, the app wrote
PARKED                                           RST=ACK
SYN-SENT                                         -
SYN-RECEIVED                                     established > ESTABLISHED
ESTABLISHED CLOSE-WAIT                           DATA
FIN-WAIT-1 CLOSING LAST-ACK                      FIN-again [5]
FIN-WAIT-2 TIME-WAIT                             -
CLOSED                                           RST=ACK
== write
PARKED SYN-SENT SYN-RECEIVED                     -
ESTABLISHED CLOSE-WAIT                           DATA
FIN-WAIT-1 FIN-WAIT-2 CLOSING LAST-ACK TIME-WAIT never
CLOSED                                           -
== shutdown
PARKED                                           -
SYN-SENT                                         - [8]
SYN-RECEIVED                                     - [6]
ESTABLISHED                                      FIN > FIN-WAIT-1
CLOSE-WAIT                                       FIN > LAST-ACK
FIN-WAIT-1 FIN-WAIT-2 CLOSING LAST-ACK TIME-WAIT -
CLOSED                                           -
== abort
PARKED                                           RST=0 reset > CLOSED
SYN-SENT                                         reset > CLOSED
SYN-RECEIVED RECEIVING CLOSE-WAIT                RST reset > CLOSED
CLOSING LAST-ACK                                 RST reset > CLOSED [7]
TIME-WAIT                                        > CLOSED
CLOSED                                           -
== grant                                         64 KiB more
PARKED SYN-SENT SYN-RECEIVED                     -
RECEIVING                                        ACK
ENDED CLOSED                                     -
== retransmission timeout
PARKED FIN-WAIT-2 TIME-WAIT CLOSED               no timer
SYN-SENT                                         SYN
SYN-RECEIVED                                     SYN-ACK
ESTABLISHED CLOSE-WAIT                           DATA-again
FIN-WAIT-1 CLOSING LAST-ACK                      FIN-again
== retransmission timeout, the last              R2 (§3.8.3)
PARKED FIN-WAIT-2 TIME-WAIT CLOSED               no timer
SYN-SENT                                         reset > CLOSED
SYN-RECEIVED ESTABLISHED FIN-WAIT-1 CLOSE-WAIT   RST reset > CLOSED
CLOSING LAST-ACK                                 RST reset > CLOSED [7]
== persist timeout                               the window is 0, the app has written
ESTABLISHED CLOSE-WAIT                           PROBE
PARKED SYN-SENT SYN-RECEIVED                     no timer
FIN-WAIT-1 FIN-WAIT-2 CLOSING LAST-ACK TIME-WAIT no timer
CLOSED                                           no timer
== TIME-WAIT timeout
TIME-WAIT                                        > CLOSED
PARKED UNANSWERED SYN-SENT CLOSED                no timer
"""

_COLUMN = 49  # where the outcomes begin


def table() -> list[tuple[str, str, str, int]]:
    """The cells: event, state, what happens, and the note's number (0: none)."""
    cells = []
    event = ""
    for line in TEXT.strip().splitlines():
        left, right = line[:_COLUMN].strip(), line[_COLUMN:].strip()
        if left.startswith("=="):
            event = left[2:].strip()
            continue
        outcome, _, note = right.partition("[")
        states = " ".join(GROUPS.get(group, group) for group in left.split()).split()
        number = int(note[:-1]) if note else 0
        cells += [(event, state, outcome.strip(), number) for state in states]
    return cells
