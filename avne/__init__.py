# SPDX-License-Identifier: GPL-3.0-or-later
"""avne: run any Linux program with Tor as its only network."""

__version__ = "0.1.0"
