# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C, Ctrl-Z, fg and bg in an interactive bash, typed into a real terminal (tmux)."""

from __future__ import annotations

import shlex

from tests.cli.conftest import COMMAND

AVNE = f"{shlex.join(COMMAND)} run"


def test_ctrl_c_ends_the_program_and_the_shells_loop(terminal):
    terminal.type(f"for i in 1 2 3; do {AVNE} sh -c 'echo run$((1+5)); exec sleep 60'; done")
    terminal.expect("run6")
    terminal.press("C-c")
    terminal.expect("READY> ", 2)
    assert terminal.screen().count("run6") == 1  # bash ends a loop only where the program died of SIGINT
    terminal.type("echo status-$?")
    terminal.expect("status-130")


def test_a_program_that_handles_ctrl_c_goes_on(terminal):
    terminal.type(
        f"{AVNE} sh -c 'trap \"echo caught$((1+1))\" INT; echo up$((1+1)); while :; do sleep 1; done'"
    )
    terminal.expect("up2")
    terminal.press("C-c")
    terminal.expect("caught2")
    terminal.press("C-\\")
    terminal.expect("READY> ", 2)
    terminal.type("echo status-$?")
    terminal.expect("status-131")


# What is typed before the shell has handed over the terminal may be lost: the program says when it has it.
GOES_ON = 'trap "echo again$((1+1)); {then}" CONT; echo up$((1+1)); while :; do sleep 0.2; done'


def test_ctrl_z_stops_and_fg_continues(terminal):
    then = "read x; echo got-\\$x; exit 7"
    terminal.type(f"{AVNE} sh -c '{GOES_ON.format(then=then)}'")
    terminal.expect("up2")
    terminal.press("C-z")
    terminal.expect("Stopped")
    terminal.type("jobs; echo free$((1+1))")
    terminal.expect("free2")
    terminal.type("fg")
    terminal.expect("again2")
    terminal.type("word")
    terminal.expect("got-word")
    terminal.type("echo status-$?")
    terminal.expect("status-7")


def test_bg_lets_it_run_on(terminal):
    terminal.type(f"{AVNE} sh -c 'echo up$((1+1)); sleep 2; echo done$((1+1))'")
    terminal.expect("up2")
    terminal.press("C-z")
    terminal.expect("Stopped")
    terminal.type("bg")
    terminal.expect("done2")
    terminal.type("wait; echo status-$?")
    terminal.expect("status-0")


def test_a_shell_inside_has_job_control_and_gives_the_terminal_back(terminal):
    """Inside a script: there nobody but avne could take the terminal back."""
    inner = "env PS1='IN''SIDE> ' bash --norc --noprofile -i"
    terminal.type(f'sh -c "{AVNE} {inner}; read x; echo script-\\$x"')
    terminal.expect("INSIDE> ")
    terminal.type(f"sh -c '{GOES_ON.format(then='')}'")
    terminal.expect("up2")
    terminal.press("C-z")
    terminal.expect("Stopped")
    terminal.type("fg")
    terminal.expect("again2")
    terminal.press("C-c")
    terminal.expect("INSIDE> ", 3)
    terminal.type("exit 3")
    terminal.expect("\nexit\n")
    terminal.type("word")
    terminal.expect("script-word")
