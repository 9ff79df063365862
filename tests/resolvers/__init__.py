# SPDX-License-Identifier: GPL-3.0-or-later
"""What real resolvers make of avne's answers: docs/resolvers.md.

clients.py    the resolvers, and how each is asked
questions.py  what they are asked
matrix.py     asks all of it, in real environments, and makes the page
libc.c, cares.c, main.go   small programs around a resolver
resolved.sh   systemd's, as a process of the environment

`python -m tests.resolvers` writes the page; tests/e2e/test_resolvers.py compares it with what they say.
"""
