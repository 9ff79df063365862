# SPDX-License-Identifier: GPL-3.0-or-later
"""Leak probes: small programs that try to get out of an environment, and their controls.

    outside (stage.py, ears.py, runner.py)       inside (inside.py, and a file for each kind of way)
    ---------------------------------------      ---------------------------------------------------
    opens listeners, a victim process, shared    gets the plan: where everything is
    memory, files and descriptors; notes the     tries each way in a process of its own
    host's names and addresses                   says what it believes: leaked, stopped, sent …
    hears what arrives

`probe.py` says what a probe is.  A probe is tried twice with the same code by the same user: outside,
where it has to leak (its positive control), and inside, where it must not.  One whose control shows no
leak proves nothing and is reported as that.  Where a listener can hear the leak, only the listener
decides.

Nothing here speaks to strangers: what is reached outside are listeners that the stage opened itself.
Packets to addresses of the documentation prefixes (RFC 5737, RFC 3849) are tried inside, and as a
control in a network namespace of their own with an uplink that leads nowhere (model.py).
"""
