# SPDX-License-Identifier: GPL-3.0-or-later
"""``avne attach`` on a real terminal (tmux): its keys, its size, its modes, and all of it given back."""

from __future__ import annotations

import shlex

import pytest

from tests.cli.conftest import COMMAND

AVNE = shlex.join(COMMAND)


@pytest.fixture
def attach(start, terminal):
    """Types `avne attach` for a program in an environment that runs."""
    process = start("sh", "-c", "echo up; exec sleep 60", options=("--name", "one"))
    assert process.stdout.readline() == "up\n"

    def attach(words, after=""):
        terminal.type(f"{AVNE} attach one {words}{after}")

    attach.run = process
    return attach


def test_a_shell_has_job_control(attach, terminal):
    attach("env PS1='IN''SIDE> ' bash --norc --noprofile -i")
    terminal.expect("INSIDE> ")
    assert "no job control" not in terminal.screen()
    terminal.type("sleep 50")
    terminal.press("C-z")
    terminal.expect("Stopped")
    terminal.type("jobs; echo free$((1+1))")
    terminal.expect("free2")
    terminal.type("fg")
    terminal.press("C-c")
    terminal.expect("INSIDE> ", 4)
    terminal.press("C-d")
    terminal.expect("READY> ", 2)
    terminal.type("echo status-$?")
    terminal.expect("status-130")


def test_ctrl_c_reaches_the_program_and_ends_the_shells_loop(attach, terminal):
    terminal.type(f"for i in 1 2 3; do {AVNE} attach one sh -c 'echo run$((1+5)); exec sleep 60'; done")
    terminal.expect("run6")
    terminal.press("C-c")
    terminal.expect("READY> ", 2)
    assert terminal.screen().count("run6") == 1
    terminal.type("echo status-$?")
    terminal.expect("status-130")


def test_ctrl_backslash_and_what_a_program_does_of_it(attach, terminal):
    attach("""sh -c 'trap "echo caught$((1+1))" INT; echo up$((1+1)); while :; do sleep 0.1; done'""")
    terminal.expect("up2")
    terminal.press("C-c")
    terminal.expect("caught2")
    terminal.press("C-\\")
    terminal.expect("READY> ", 2)
    terminal.type("echo status-$?")
    terminal.expect("status-131")


def test_it_is_a_terminal_of_its_own_with_the_size_and_settings_of_ours(attach, terminal):
    terminal.type("stty erase '^G' intr '^T'; stty size")
    terminal.expect("50 150")
    attach("sh -c 'test -t 0 && test -t 1 && test -t 2 && stty size; stty -a; echo done$((1+1))'")
    terminal.expect("done2")
    assert terminal.screen().count("50 150\n") == 2
    assert "erase = ^G" in terminal.screen()
    assert "intr = ^T" in terminal.screen()


def test_a_new_size_is_passed_on(attach, terminal):
    attach("""bash -c 'trap "stty size" WINCH; echo up$((1+1)); while :; do sleep 0.05; done'""")
    terminal.expect("up2")
    terminal.resize(91, 41)
    terminal.expect("41 91")


def test_our_terminal_is_given_back_as_it_was(attach, terminal):
    terminal.type("stty -a > $TMPDIR/before; echo ok$((1+1))")
    terminal.expect("ok2")
    attach("sh -c 'stty raw -echo; kill -9 $$'")
    terminal.expect("Killed")
    terminal.type("stty -a > $TMPDIR/after; cmp $TMPDIR/before $TMPDIR/after && echo same$((1+1))")
    terminal.expect("same2")


def test_all_of_the_last_words_are_shown(attach, terminal):
    attach("sh -c 'seq 30000; echo last$((1+1))'", "; echo then$((1+1))")
    terminal.expect("then2")
    assert "29999\n30000\nlast2\nthen2\n" in terminal.screen()


def test_much_input_reaches_a_program_that_takes_its_time(attach, terminal):
    attach("""sh -c 'stty -echo -icanon; echo up$((1+1)); sleep 1; head -c 6000 | wc -c'""")
    terminal.expect("up2")
    terminal.type("x" * 6000)
    terminal.expect("6000")


def test_in_a_pipe_line_the_terminal_stays_the_shells(attach, terminal):
    attach("sh -c 'test -t 0; echo in-$?; test -t 1; echo out-$?'", " | cat")
    terminal.expect("in-0")
    terminal.expect("out-1")
    attach("sh -c 'echo up$((1+1)) >&2; exec sleep 60'", " | cat")
    terminal.expect("up2")
    terminal.press("C-z")
    terminal.expect("Stopped")
    terminal.type("fg")
    terminal.expect("attach one", 3)
    terminal.press("C-c")
    terminal.expect("READY> ", 4)


def test_the_environments_end_ends_it_and_gives_the_terminal_back(attach, terminal):
    attach("sh -c 'echo up$((1+1)); exec sleep 60'")
    terminal.expect("up2")
    attach.run.terminate()
    terminal.expect("the environment has ended, and sh with it")
    terminal.expect("READY> ", 2)
    terminal.type("echo status-$?")
    terminal.expect("status-137")
