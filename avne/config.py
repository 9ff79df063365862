# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration: one table of keys, four sources, and where each value came from.

The default < ``/etc/avne/config.toml`` < ``$XDG_CONFIG_HOME/avne/config.toml`` <
``AVNE_*`` in the environment < the command line.  `KEYS` is the whole truth: the
variables' names, the man page and ``avne config`` follow from it.  A key or a variable
that is not in it is an error, never ignored: a setting that silently does nothing may
be the one that somebody's safety rests on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from avne.errors import AvneError
from avne.paths import config_files

OURS = ("AVNE_ID",)  # set by avne for the program inside (AVNE as well), so allowed around a nested avne
DEFAULT = "default"
MAX_WORKERS = 64


class Key(NamedTuple):
    """One setting.  `parse` takes text (environment, flag) or TOML's value, and raises ValueError."""

    name: str
    default: Any
    parse: Callable[[Any], Any]
    form: str  # of a value, in words
    help: str
    adds: bool = False  # a list whose sources add up, the later ones in front
    words: tuple[str, ...] = ()  # values that are text where the others are not


class Value(NamedTuple):
    value: Any
    origin: str  # "default", a file's path, a variable's name or an option


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _path(value: Any) -> str:
    path = os.path.expanduser(_text(value))
    if not path.startswith("/"):
        raise ValueError
    return path


def _bool(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    return value if isinstance(value, bool) else words[_text(value).lower()]


def _int(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _workers(value: Any) -> int | str:
    return "auto" if value == "auto" else _int(0, MAX_WORKERS)(value)


def _endpoint(value: Any) -> str:
    scheme, place = _text(value)[:6], _text(value)[6:]
    if scheme != "tcp://":
        raise ValueError
    split_resolver(place)
    return scheme + place


def _choice(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return parse


def _isolate(value: Any) -> str:
    words = _text(value)
    _, named, name = words.partition("name=")
    if named and words == f"name={name}" and 1 <= len(name) <= 64 and name.isprintable():
        return words
    return _choice("run", "program", "destination")(words)


def _resolver(value: Any) -> str:
    if value != "none":
        split_resolver(_text(value))
    return str(value)


def _names(value: Any) -> list[str]:
    words = value if isinstance(value, list) else _text(value).replace(",", " ").split()
    if not all(isinstance(word, str) and word.isascii() and word.isidentifier() for word in words):
        raise ValueError
    return list(words)


def _ports(value: Any) -> list[int]:
    words = value if isinstance(value, list) else _text(value).replace(",", " ").split()
    if any(isinstance(word, bool) for word in words):
        raise ValueError
    return [_int(1, 65535)(word) for word in words]


def _rules(value: Any) -> list[str]:
    lines = value if isinstance(value, list) else _text(value).replace(";", "\n").split("\n")
    rules = [_text(line).strip() for line in lines]
    rules = [rule for rule in rules if rule]
    if not all("=" in rule and rule.isprintable() for rule in rules):
        raise ValueError
    return rules


KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("upstream", "auto", _text, "a URL, several with commas between them, or auto",
            "the proxy that carries everything; several share it"),
        Key("rules", [], _rules, "PATTERN=UPSTREAM",
            "which destinations get an upstream of their own; the first that matches wins", adds=True),
        Key("onion_only", False, _bool, "true or false", "whether everything but onion services is refused"),
        Key("https_only", False, _bool, "true or false",
            "whether everything but port 443 and onion services is refused"),
        Key("isolate", "run", _isolate, "run, program, destination or name=X",
            "which connections may share circuits of Tor"),
        Key("optimistic", [], _ports, "PORT[,PORT…]",
            "ports to which connect() succeeds before the upstream has answered: the first bytes go with the "
            "request, and a refusal is a reset"),
        Key("workers", 1, _workers, "a number from 0 to 64, or auto", "how many upstream workers are started",
            words=("auto",)),
        Key("workers_at", "", _endpoint, "tcp://ADDRESS:PORT", "where workers on other machines may join"),
        Key("workers_key", "", _path, "an absolute path",
            "the file of the key that proves this end to them (avne keys)"),
        Key("workers_allowed", "", _path, "an absolute path", "the file of their public keys, one a line"),
        Key("dns", "truthful", _choice("truthful", "fast", "resolve", "tcp"),
            "truthful, fast, resolve or tcp", "how names are answered, and who is asked"),
        Key("resolver", "1.1.1.1:53", _resolver, "HOST:PORT or none",
            "the DNS server, asked over TCP through the upstream"),
        Key("log_names", False, _bool, "true or false", "whether host names and addresses are logged"),
        Key("helper", "auto", _choice("auto", "rootless", "setuid"), "auto, rootless or setuid",
            "which helper makes the environment"),
        Key("netstack", "", _path, "an absolute path",
            "the socket of an avne netstack, whose user the network process is then to be"),
        Key("on_failure", "restart", _choice("restart", "kill"), "restart or kill",
            "the end of the network process resets the program's connections, or ends it"),
        Key("tor.torrc", "", _path, "an absolute path",
            "a file of further torrc lines for avne's own Tor, such as bridges"),
        Key("env", [], _names, "names of variables",
            "variables of the environment that are passed on to the program, besides the usual ones"),
        Key("verbose", 0, _int(0, 2), "0, 1 or 2", "1: a line for each phase; 2: the log as well"),
    )
}  # fmt: skip


class Config:
    """The values in force, each with its origin; ``config["workers"]`` gives a value."""

    __slots__ = ("origins", "values")

    def __init__(self) -> None:
        self.origins: dict[str, list[str]] = {}  # of each item of a list that adds up
        self.values = {name: Value(key.default, DEFAULT) for name, key in KEYS.items()}

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def set(self, name: str, raw: Any, origin: str, typed: bool = False) -> None:
        """Take a value as its source gave it; `AvneError` names the source of a bad one.

        `typed`: the source has types of its own (TOML), so that text is no number.
        """
        key = KEYS[name]
        try:
            if typed and type(raw) is not type(key.default) and raw not in key.words:
                raise TypeError(raw)
            value = key.parse(raw)
        except (ValueError, KeyError, TypeError) as error:
            where = origin if origin.startswith(("--", "AVNE_")) else f"{name} in {origin}"
            shown = redacted(raw)
            raise AvneError(f"{where} cannot be {shown!r}", f"It takes {key.form}.") from error
        if key.adds:
            before = self.values[name]
            self.origins[name] = [origin] * len(value) + self.origins.get(name, [])
            value = value + before.value
            origin = origin if before.origin == DEFAULT else f"{origin}, {before.origin}"
        self.values[name] = Value(value, origin)


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
    files: tuple[str, ...] | None = None,
) -> Config:
    """All sources in their order.  `flags`: key → text, None where the option was not given."""
    config = Config()
    for path in config_files(environ) if files is None else files:
        for name, raw in _read_file(path):
            if name not in KEYS:
                raise _unknown(f"unknown key {name} in {path}", name, list(KEYS))
            config.set(name, raw, path, typed=True)
    variables = {variable(name): name for name in KEYS}
    for name, raw in environ.items():
        if name.startswith("AVNE_") and name not in OURS:
            if name not in variables:
                raise _unknown(f"unknown variable {name} in the environment", name, list(variables))
            if raw:  # an empty variable is an unset one
                config.set(variables[name], raw, name)
    for name, raw in (flags or {}).items():
        if raw is not None:
            config.set(name, raw, option(name))
    return config


def variable(name: str) -> str:
    """The key's name in the environment: tor.torrc → AVNE_TOR_TORRC."""
    return "AVNE_" + name.upper().replace(".", "_")


def option(name: str) -> str:
    """The key's name on the command line: log_names → --log-names, tor.torrc → --torrc, rules → --rule."""
    if name == "rules":  # one with each option
        return "--rule"
    return "--" + name.rpartition(".")[2].replace("_", "-")


def split_resolver(text: str) -> tuple[str, int]:
    """``HOST:PORT`` (an IPv6 address in brackets) → (host, port); ValueError if it is not that."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(text)
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(text)
    return host, int(port)


def redacted(value: Any) -> Any:
    """A setting's value without passwords."""
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def split_upstreams(text: str) -> list[str]:
    """The URLs of the setting `upstream`: a comma and KIND:// begin the next one."""
    return [url.strip() for url in re.split(r",(?=\s*[a-z][a-z0-9-]*://)", text)]


def redact(text: str) -> str:
    """URLs without the passwords that they may hold."""
    return ",".join(_redact(url) for url in split_upstreams(text))


def _redact(text: str) -> str:
    head, at, rest = text.rpartition("@")
    scheme, slashes, user = head.rpartition("://")
    if not at or ":" not in user:
        return text
    return f"{scheme}{slashes}{user.partition(':')[0]}:***@{rest}"


def _read_file(path: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, TOML value) of one file; nothing if there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise AvneError(
            f"cannot read {path}: {error.strerror}", "Make it readable for you, or move it away."
        ) from error
    import tomllib

    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AvneError(f"{path} is not TOML: {error}", "Correct that line; see https://toml.io.") from error
    yield from _flatten("", table)


def _flatten(prefix: str, table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _unknown(problem: str, name: str, known: list[str]) -> AvneError:
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    cure = f"Did you mean {near[0]}?" if near else f"The known ones: {', '.join(known)}."
    return AvneError(problem, cure)
