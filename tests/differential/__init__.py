# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program observes through avne and a plain SOCKS5 server, next to what it observes directly.

A case is a short script of one client and one server (`cases/`), every step of which gives a line
of text: what the call returned, the errno, the events of poll(2).  The client's process runs all
cases twice, once in a network namespace with a wire to the server, once inside `avne run`; the
server is the same puppet in the bed's world, led by the client's script.  The two transcripts of a
case are equal, or `docs/fidelity.md` lists the difference and its reason.

words.py     how results, errnos, flags and events are written down
endpoint.py  a socket whose every operation gives such a line
script.py    what a case is given: a client, a server, and the transcript of both
client.py    the process of the client: runs the cases
puppet.py    the process of the server: does what the client's script says
rig.py       the two worlds: runs client and puppet, and collects the transcripts
table.py     the differences that docs/fidelity.md lists
"""
