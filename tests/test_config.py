# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources override each other in their order, and every mistake is named with its place."""

from __future__ import annotations

import json

import pytest

from avne import config
from avne.errors import AvneError


def load(tmp_path, text=None, flags=None, environ=None, second=None):
    files = []
    for number, content in enumerate((text, second)):
        path = tmp_path / f"config{number}.toml"
        if content is not None:
            path.write_text(content)
        files.append(str(path))
    return config.load(flags, environ or {}, tuple(files))


def test_defaults_without_any_source(tmp_path):
    loaded = load(tmp_path)
    assert loaded["upstream"] == "auto"
    assert loaded["workers"] == 1
    assert all(value.origin == "default" for value in loaded.values.values())


def test_each_source_overrides_the_one_before(tmp_path):
    loaded = load(
        tmp_path,
        "workers = 2\nverbose = 1\nresolver = '9.9.9.9:53'\nlog_names = true\n[tor]\ntorrc = '/a'",
        {"upstream": "tor://f:1", "workers": None},
        {"AVNE_VERBOSE": "2", "AVNE_UPSTREAM": "tor://e:1", "AVNE_ID": "abc", "AVNE": "1", "HOME": "/x"},
        second="resolver = 'none'\nenv = ['A', 'B']\n[tor]\ntorrc = '/b'",
    )
    first, second = str(tmp_path / "config0.toml"), str(tmp_path / "config1.toml")
    assert loaded.values == {
        "upstream": config.Value("tor://f:1", "--upstream"),
        "workers": config.Value(2, first),
        "dns": config.Value("truthful", "default"),
        "resolver": config.Value("none", second),
        "log_names": config.Value(True, first),
        "helper": config.Value("auto", "default"),
        "netstack": config.Value("", "default"),
        "isolate": config.Value("run", "default"),
        "optimistic": config.Value([], "default"),
        "on_failure": config.Value("restart", "default"),
        "tor.torrc": config.Value("/b", second),
        "env": config.Value(["A", "B"], second),
        "verbose": config.Value(2, "AVNE_VERBOSE"),
        "workers_at": config.Value("", "default"),
        "workers_key": config.Value("", "default"),
        "workers_allowed": config.Value("", "default"),
        "rules": config.Value([], "default"),
        "onion_only": config.Value(False, "default"),
        "https_only": config.Value(False, "default"),
    }


@pytest.mark.parametrize("name", list(config.KEYS))
def test_every_key_can_come_from_the_environment(tmp_path, name):
    text = {"workers": "4", "verbose": "1", "dns": "fast", "resolver": "[::1]:5353", "helper": "setuid",
            "log_names": "yes", "tor.torrc": "/etc/x", "upstream": "auto", "env": "A,B",
            "on_failure": "kill", "isolate": "name=x", "optimistic": "80,443",
            "rules": "*:25=block; *.i2p=http://h:1", "onion_only": "1",
            "https_only": "true", "netstack": "/run/s", "workers_at": "tcp://[::1]:7400",
            "workers_key": "/k", "workers_allowed": "/a"}[name]  # fmt: skip
    loaded = load(tmp_path, environ={config.variable(name): text})
    assert loaded.values[name].origin == config.variable(name)


def test_rules_of_all_sources_add_up_the_later_ones_in_front(tmp_path):
    loaded = load(
        tmp_path,
        "rules = ['a=block']",
        {"rules": ["d=block", "e=block"]},
        {"AVNE_RULES": "b=block\nc=block"},
    )
    assert loaded["rules"] == ["d=block", "e=block", "b=block", "c=block", "a=block"]
    first = str(tmp_path / "config0.toml")
    assert loaded.origins["rules"] == ["--rule", "--rule", "AVNE_RULES", "AVNE_RULES", first]
    assert loaded.values["rules"].origin == f"--rule, AVNE_RULES, {first}"


@pytest.mark.parametrize("rules", [["no equals sign"], ["a\tb=c"], [7], "a=b"])
def test_what_are_no_rules(tmp_path, rules):
    with pytest.raises(AvneError) as caught:
        load(tmp_path, f"rules = {json.dumps(rules)}")
    assert "rules" in caught.value.problem


def test_an_empty_variable_is_unset(tmp_path):
    assert load(tmp_path, environ={"AVNE_WORKERS": ""})["workers"] == 1


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("upsteam = 'x'", "upsteam", "Did you mean upstream?"),
        ("[tor]\ntorcc = '/x'", "tor.torcc", "Did you mean tor.torrc?"),
        ("qqqqqqqq = 1", "qqqqqqqq", "The known ones: upstream,"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, text, key, near):
    with pytest.raises(AvneError) as error:
        load(tmp_path, text)
    assert error.value.problem == f"unknown key {key} in {tmp_path}/config0.toml"
    assert error.value.cure.startswith(near)
    assert error.value.exit_code == 125


def test_an_unknown_variable_names_the_nearest(tmp_path):
    with pytest.raises(AvneError, match="unknown variable AVNE_WORKER in the environment") as error:
        load(tmp_path, environ={"AVNE_WORKER": "2"})
    assert error.value.cure == "Did you mean AVNE_WORKERS?"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("workers = '3'", "workers in {} cannot be '3'"),
        ("workers = true", "workers in {} cannot be True"),
        ("workers = 2.0", "workers in {} cannot be 2.0"),
        ("workers = 65", "workers in {} cannot be 65"),
        ("log_names = 1", "log_names in {} cannot be 1"),
        ("upstream = ['a']", "upstream in {} cannot be ['a']"),
        ("tor = 'x'", "unknown key tor in {}"),
        ("env = 'A'", "env in {} cannot be 'A'"),
        ("env = ['A=b']", "env in {} cannot be ['A=b']"),
        ("env = [1]", "env in {} cannot be [1]"),
        ("helper = 'root'", "helper in {} cannot be 'root'"),
        ("[tor]\ntorrc = 'relative'", "tor.torrc in {} cannot be 'relative'"),
        ('upstream = "a\\u0000b"', "upstream in {} cannot be 'a\\x00b'"),
    ],
)
def test_wrong_values_are_named_with_file_and_key(tmp_path, text, problem):
    with pytest.raises(AvneError) as error:
        load(tmp_path, text)
    assert error.value.problem == problem.format(f"{tmp_path}/config0.toml")


@pytest.mark.parametrize("value", ["65", "-1", "x", "1.5"])
def test_wrong_numbers_of_a_flag_name_the_flag(tmp_path, value):
    with pytest.raises(AvneError, match=f"--workers cannot be '{value}'") as error:
        load(tmp_path, flags={"workers": value})
    assert error.value.cure == "It takes a number from 0 to 64, or auto."


def test_a_refused_url_is_shown_without_its_password(tmp_path):
    with pytest.raises(AvneError) as error:
        load(tmp_path, environ={"AVNE_UPSTREAM": "socks5://u:secret@h:1\0"})
    assert "secret" not in error.value.problem


@pytest.mark.parametrize("data", [b"workers = ", b"a = '\xff'"])
def test_broken_toml_names_the_file(tmp_path, data):
    path = tmp_path / "config.toml"
    path.write_bytes(data)
    with pytest.raises(AvneError, match=f"{path} is not TOML"):
        config.load({}, {}, (str(path),))


def test_an_unreadable_file_is_an_error_with_a_cure(tmp_path):
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(AvneError, match=r"cannot read .*config\.toml: Is a directory") as error:
        config.load({}, {}, (str(tmp_path / "config.toml"),))
    assert error.value.cure


def test_the_files_are_found_by_xdg(tmp_path):
    (tmp_path / "avne").mkdir()
    (tmp_path / "avne/config.toml").write_text("workers = 5")
    loaded = config.load({}, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert loaded["workers"] == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.1.1.1:53", ("1.1.1.1", 53)),
        ("[2606::1]:53", ("2606::1", 53)),
        ("dns.example:5", ("dns.example", 5)),
    ],
)
def test_resolver_forms(text, expected):
    assert config.split_resolver(text) == expected


@pytest.mark.parametrize("text", ["1.1.1.1", ":53", "a:", "a:0", "a:65536", "a:5x", "a:٣", "2606::1:53", ""])
def test_bad_resolver_forms(tmp_path, text):
    with pytest.raises(ValueError):
        config.split_resolver(text)
    with pytest.raises(AvneError, match="--resolver"):
        load(tmp_path, flags={"resolver": text})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("socks5://user:pa@ss@host:1", "socks5://user:***@host:1"),
        ("socks5://user@host:1", "socks5://user@host:1"),
        ("tor://127.0.0.1:9050", "tor://127.0.0.1:9050"),
        ("user:pass@host", "user:***@host"),
    ],
)
def test_redaction(text, shown):
    assert config.redact(text) == shown
