# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: which command, its options, its help, and what every error looks like.

Options after the program's name belong to the program.  Everything that a command needs
is imported when it runs, so that ``avne run`` does not pay for ``avne doctor``.

Exit codes: those of the command; 125 where ``avne run`` or the choice of a command fails,
2 for wrong usage of another command.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from avne.config import KEYS, option
from avne.errors import EXIT_AVNE, EXIT_USAGE, AvneError

if TYPE_CHECKING:
    from avne.cli.early import Early

_RUN_EXAMPLES = """\
Examples:
  avne run wget -qO- https://check.torproject.org/api/ip
  avne run curl -v http://2gzyxa5ihm7nsggfxnu52rck2vt4rvmdlkiu3zzui5du4xyclen53wid.onion/
  avne run                        your shell, with Tor as its only network
"""


class Command(NamedTuple):
    """One command: `prepare` adds its arguments, `handle` runs it and gives the exit code."""

    synopsis: str
    help: str
    prepare: Callable[[argparse.ArgumentParser], None]
    handle: Callable[[argparse.Namespace], int]
    usage_exit: int = EXIT_USAGE
    examples: str = ""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are our errors."""

    usage_exit = EXIT_USAGE

    def error(self, message: str) -> Any:
        raise AvneError(message, f"See: {self.prog} --help", self.usage_exit)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for each option: it need not load shutil (5 ms) to find the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """As shutil.get_terminal_size finds them."""
    said = os.environ.get("COLUMNS", "")
    if said.isdigit() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class _ShortHelp(argparse.Action):
    """``-h``: the usage and the examples; ``--help`` has everything."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(parser.format_usage())
        sys.stdout.write(f"\n{parser.epilog}\n" if parser.epilog else "")
        sys.stdout.write(f"All options: {parser.prog} --help\n")
        parser.exit()


def parser_of(name: str) -> argparse.ArgumentParser:
    """The argument parser of a command."""
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"avne {name}",
        usage=f"avne {name} {command.synopsis}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=command.examples,
        formatter_class=_HelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.usage_exit = command.usage_exit
    parser.add_argument("-h", action=_ShortHelp, nargs=0, help="show a short help")
    parser.add_argument("--help", action="help", help="show this help")
    command.prepare(parser)
    return parser


def main(arguments: list[str] | None = None, early: Early | None = None) -> int:
    """The command: gives the exit code, and shows every error as its problem and cure.

    `early`: what the entry point has started already.
    """
    try:
        return _dispatch(sys.argv[1:] if arguments is None else arguments, early)
    except AvneError as error:
        from avne.cli.console import Console

        Console().error(error)
        return error.exit_code
    except KeyboardInterrupt:
        from avne.cli.signals import die_of

        die_of(signal.SIGINT)
    except Exception:
        import traceback

        traceback.print_exc()
        print("avne: this is a fault of avne itself; please report it with the lines above", file=sys.stderr)
        return EXIT_AVNE


def _dispatch(arguments: list[str], early: Early | None) -> int:
    if not arguments:
        sys.stderr.write(short_help())
        return EXIT_USAGE
    name, rest = arguments[0], arguments[1:]
    if name == "-h":
        sys.stdout.write(short_help())
        return 0
    if name == "--help":
        sys.stdout.write(full_help())
        return 0
    if name == "--version":
        from avne.cli.version import text

        sys.stdout.write(text())
        return 0
    if name not in COMMANDS:
        raise _unknown(name)
    command = COMMANDS[name]
    options = parser_of(name).parse_args(rest, argparse.Namespace(early=early))
    if name not in ("run", "attach"):  # those hand on what they inherited
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # avne config | head
    return command.handle(options)


def _unknown(name: str) -> AvneError:
    if name.startswith("-"):
        return AvneError(f"unknown option {name}", "Options come after the command; see: avne --help")
    import difflib
    import shutil

    if shutil.which(name):
        return AvneError(f"{name} is not an avne command", f"Did you mean: avne run {name} ...")
    near = difflib.get_close_matches(name, COMMANDS, 1)
    return AvneError(
        f"{name} is not an avne command", f"Did you mean: avne {near[0]}" if near else "See: avne --help"
    )


def short_help() -> str:
    return f"Usage: avne run [OPTION...] [--] [PROGRAM [ARGUMENT...]]\n\n{_RUN_EXAMPLES}\nMore: avne --help\n"


def full_help() -> str:
    """The commands, and where the rest is told."""
    rows = "".join(f"  {name:8} {command.help}\n" for name, command in COMMANDS.items())
    return (
        "Usage: avne COMMAND [OPTION...]\n\n"
        "avne runs any program in an environment whose only network is Tor.\n\n"
        f"Commands:\n{rows}\n"
        "Options:\n  -h         show a short help\n  --help     show this help\n"
        "  --version  show the versions of avne and of what it stands on\n\n"
        f"{_RUN_EXAMPLES}\n"
        "Options of a command: avne help COMMAND.  Everything: man avne.\n"
    )


# The commands


def _prepare_run(parser: argparse.ArgumentParser) -> None:
    def setting(name: str, metavar: str, *short: str) -> None:
        key = KEYS[name]
        parser.add_argument(*short, option(name), dest=name, metavar=metavar, help=f"{key.help} ({key.form})")

    _upstream_option(parser)
    _rule_options(parser)
    switch_direct = "let rules lead past Tor and every proxy, from this machine's own address (direct)"
    parser.add_argument("--allow-direct", action="store_true", help=switch_direct)
    setting("isolate", "HOW")
    setting("optimistic", "PORT[,PORT…]")
    setting("workers", "N")
    setting("workers_at", "tcp://ADDR:PORT")
    setting("workers_key", "FILE")
    setting("workers_allowed", "FILE")
    setting("dns", "MODE")
    setting("resolver", "HOST:PORT")
    setting("helper", "KIND")
    setting("netstack", "SOCKET")
    setting("on_failure", "WHAT")
    setting("tor.torrc", "FILE")
    parser.add_argument("--name", default="", metavar="NAME",
                        help="what avne ps, attach and stop call it")  # fmt: skip

    def more(name: str, metavar: str, text: str) -> None:
        parser.add_argument(name, action="append", default=[], metavar=metavar, help=f"{text}; repeatable")

    def switch(name: str, text: str) -> None:
        parser.add_argument(name, action="store_true", help=text)

    more("--share", "PATH[:ro]", "show a file, directory or socket that is hidden inside, and open it")
    switch("--private-home", "throw away what is written to the home directory")
    parser.add_argument("--profile", default="", metavar="NAME",
                        help="keep what is written to the home directory apart, under this name")  # fmt: skip
    switch("--gui", "open the Wayland and X11 display")
    switch("--strict", "no unix sockets at all")
    switch("--proxy-env", "set ALL_PROXY and NO_PROXY to the environment's own SOCKS5 proxy")
    more("--env", "NAME", "pass a variable of the environment on")
    more("--setenv", "NAME=VALUE", "set a variable of the environment")
    parser.add_argument("--receipt", default="", metavar="FILE",
                        help="write what the program tried, and what became of it")  # fmt: skip
    parser.add_argument("--log-names", dest="log_names", action="store_const", const="true",
                        help="log the names and addresses of hosts")  # fmt: skip
    parser.add_argument("--capture", metavar="FILE",
                        help="write every packet to FILE, for Wireshark (pcapng)")  # fmt: skip
    parser.add_argument("-v", "--verbose", action="count",
                        help="a line for each phase; twice: the log as well")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="errors only")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _upstream_option(parser: argparse.ArgumentParser) -> None:
    text = f"{KEYS['upstream'].help} (a URL or auto); repeatable"
    parser.add_argument("--upstream", type=str, action=_Joined, metavar="URL", help=text)


class _Joined(argparse.Action):
    """Repeated options are one value, with commas."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def _rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rule", dest="rules", action="append", metavar="PATTERN=UPSTREAM",
                        help="give some destinations another upstream; repeatable, the first that "
                        "matches wins")  # fmt: skip
    parser.add_argument("--onion-only", dest="onion_only", action="store_const", const="true",
                        help="refuse everything but onion services")  # fmt: skip
    parser.add_argument("--https-only", dest="https_only", action="store_const", const="true",
                        help="refuse everything but port 443 and onion services")  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    from avne.cli.early import Early
    from avne.cli.openings import Options
    from avne.cli.run import More, run

    early = options.early or Early()
    program = options.program
    if program[:1] == ["--"]:
        program = program[1:]
    flags = {name: getattr(options, name) for name in KEYS if name != "env"}
    if options.verbose is not None:
        flags["verbose"] = min(options.verbose, 2)
    openings = Options(
        tuple(options.share), options.private_home, options.profile, options.gui, options.strict,
        tuple(options.env), tuple(options.setenv),
    )  # fmt: skip
    more = More(
        options.quiet, openings, options.capture, options.name, options.receipt, options.proxy_env,
        options.allow_direct,
    )  # fmt: skip
    return run(program, flags, more, early)


def _prepare_attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--raw", action="store_true",
                        help="let the program capture the environment's packets")  # fmt: skip
    parser.add_argument("target", metavar="NAME|ID|PID", help="the environment, or a process in it")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _attach(options: argparse.Namespace) -> int:
    from avne.cli.attach import attach

    program = options.program
    return attach(options.target, program[1:] if program[:1] == ["--"] else program, options.raw)


def _ps(options: argparse.Namespace) -> int:
    from avne.cli.ps import ps

    return ps(options.json)


def _prepare_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="NAME|ID", help="the environment")


def _stop(options: argparse.Namespace) -> int:
    from avne.cli.stop import stop

    return stop(options.target)


def _prepare_workers(parser: argparse.ArgumentParser) -> None:
    _prepare_stop(parser)
    _json_option(parser)
    parser.add_argument("change", nargs="?", default="", metavar="+N|-N",
                        help="start so many, or let them go when no connection needs them")  # fmt: skip


def _workers(options: argparse.Namespace) -> int:
    from avne.cli.crew import workers

    return workers(options.target, options.change, options.json)


def _prepare_worker(parser: argparse.ArgumentParser) -> None:
    def needed(name: str, metavar: str, text: str) -> None:
        parser.add_argument(name, required=True, metavar=metavar, help=text)

    needed("--connect", "tcp://HOST:PORT", "where avne run --workers-at listens")
    needed("--key", "FILE", "the key of this worker (avne keys), which is allowed there")
    needed("--server-key", "KEY", "the public key of the run")
    _upstream_option(parser)


def _worker(options: argparse.Namespace) -> int:
    from avne.cli.remote import worker

    return worker(options.connect, options.key, options.server_key, {"upstream": options.upstream})


def _prepare_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="where the secret is, or is to be")


def _keys(options: argparse.Namespace) -> int:
    from avne.cli.keys import keys

    return keys(options.file)


def _reload(options: argparse.Namespace) -> int:
    from avne.cli.stop import reload

    return reload(options.target)


def _newnym(options: argparse.Namespace) -> int:
    from avne.cli.stop import newnym

    return newnym(options.target)


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(options: argparse.Namespace) -> int:
    if options.sandbox:
        from avne.cli.sandbox import show

        return show(options.json)
    from avne.cli.doctor import doctor

    return doctor(options.json, options.resolve)


def _prepare_doctor(parser: argparse.ArgumentParser) -> None:
    _json_option(parser)
    parser.add_argument(
        "--sandbox", action="store_true", help="show what avne's own processes may do, and prove it"
    )
    parser.add_argument("--resolve", default="", metavar="NAME",
                        help="also ask for the address of NAME, through Tor")  # fmt: skip


def _config(options: argparse.Namespace) -> int:
    from avne.cli.show import show_config

    return show_config(options.json)


def _prepare_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["test"], metavar="test", help="which rule a connection gets")
    parser.add_argument("host", metavar="NAME", help="a name or an address")
    parser.add_argument("port", metavar="PORT", help="a number")
    parser.add_argument("--upstream", metavar="URL", help="as of avne run")
    _rule_options(parser)


def _rules(options: argparse.Namespace) -> int:
    from avne.cli.rules import test

    names = ("upstream", "rules", "onion_only", "https_only")
    return test(options.host, options.port, {name: getattr(options, name) for name in names})


def _prepare_setup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--setuid", action="append_const", dest="wanted", const="setuid",
                        help="install the setuid helper (what is done without a flag)")  # fmt: skip
    parser.add_argument("--apparmor", action="append_const", dest="wanted", const="apparmor",
                        help="install an AppArmor profile instead: Ubuntu 23.10 and later")  # fmt: skip
    parser.add_argument("--remove", action="store_true", help="undo it; without a flag, both")
    parser.add_argument("--dry-run", action="store_true", help="print the commands instead")


def _setup(options: argparse.Namespace) -> int:
    from avne.cli.setup import setup

    return setup(options.remove, options.dry_run, options.wanted or ())


def _verify(options: argparse.Namespace) -> int:
    from avne.cli.verify import verify

    switches = {"--strict": options.strict, "--private-home": options.private_home}
    return verify(options.json, [name for name, given in switches.items() if given], options.session)


def _prepare_verify(parser: argparse.ArgumentParser) -> None:
    _json_option(parser)
    parser.add_argument(
        "--strict", action="store_true", help="of an environment that avne run --strict makes"
    )
    parser.add_argument("--private-home", action="store_true", help="the same of --private-home")
    parser.add_argument("--session", default="", metavar="NAME|ID|PID",
                        help="of one that runs, by avne attach")  # fmt: skip


def _prepare_netstack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", metavar="SOCKET", required=True, help="where to be asked for them")


def _netstack(options: argparse.Namespace) -> int:
    from avne.cli.netstack import serve

    serve(options.listen)


def _prepare_help(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", nargs="?", choices=[*COMMANDS], metavar="COMMAND", help="one of avne's")


def _help(options: argparse.Namespace) -> int:
    sys.stdout.write(parser_of(options.command).format_help() if options.command else full_help())
    return 0


COMMANDS = {
    "run": Command(
        "[OPTION...] [--] [PROGRAM [ARGUMENT...]]",
        "run a program, or your shell, with Tor as its only network",
        _prepare_run,
        _run,
        EXIT_AVNE,
        _RUN_EXAMPLES,
    ),
    "attach": Command(
        "[--raw] NAME|ID|PID [--] [PROGRAM [ARGUMENT...]]",
        "run a second program, or your shell, in an environment that runs",
        _prepare_attach,
        _attach,
        EXIT_AVNE,
    ),
    "ps": Command("[--json]", "list your environments", _json_option, _ps),
    "stop": Command("NAME|ID", "end an environment's program", _prepare_stop, _stop),
    "workers": Command(
        "[--json] NAME|ID [+N|-N]",
        "list an environment's upstream workers, or change their number",
        _prepare_workers,
        _workers,
    ),
    "worker": Command(
        "--connect tcp://HOST:PORT --key FILE --server-key KEY [--upstream URL]",
        "be an upstream worker of an environment on another machine",
        _prepare_worker,
        _worker,
    ),
    "keys": Command(
        "FILE", "make a key for workers on other machines, and show its public half", _prepare_keys, _keys
    ),
    "reload": Command(
        "NAME|ID", "replace an environment's network, by a newer one for example", _prepare_stop, _reload
    ),
    "newnym": Command(
        "NAME|ID", "give an environment's next connections new circuits of Tor", _prepare_stop, _newnym
    ),
    "doctor": Command(
        "[--json] [--sandbox] [--resolve NAME]",
        "check what this machine has and what is missing",
        _prepare_doctor,
        _doctor,
    ),
    "verify": Command(
        "[--json] [--strict] [--private-home | --session NAME|ID|PID]",
        "try every known way out of an environment, and show what stops it",
        _prepare_verify,
        _verify,
    ),
    "setup": Command(
        "[--setuid] [--apparmor] [--remove] [--dry-run]",
        "let ordinary users make environments where the machine forbids it",
        _prepare_setup,
        _setup,
    ),
    "netstack": Command(
        "--listen SOCKET",
        "run the network processes of other users' environments, as a user of its own",
        _prepare_netstack,
        _netstack,
    ),
    "config": Command(
        "[--json]",
        "show the settings in force and where they come from",
        _json_option,
        _config,
    ),
    "rules": Command(
        "test [OPTION...] NAME PORT",
        "show which rule a connection would get, and why",
        _prepare_rules,
        _rules,
    ),
    "help": Command("[COMMAND]", "show the help of a command", _prepare_help, _help),
}
