# SPDX-License-Identifier: GPL-3.0-or-later
"""The line of text that names an upstream: its grammar, what is refused, and what the kinds say of
themselves."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avne.errors import AvneError
from avne.ipc.messages import Capability, Code
from avne.ipc.verdict import Verdict
from avne.upstream import kinds
from avne.upstream.base import COMMON, Upstream
from avne.upstream.filter import Filter
from avne.upstream.http import code_of
from avne.upstream.kinds import BUILT_IN, MAX_LAYERS, find, make, parse
from avne.upstream.proxy import Proxy
from avne.upstream.spec import UpstreamSpec

TOR = UpstreamSpec("tor")


@pytest.fixture
def blocklist(tmp_path: Path) -> str:
    path = tmp_path / "list"
    path.write_text("0.0.0.0 ads.example\n")
    return str(path)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tor", TOR),
        (" block ", UpstreamSpec("block")),
        ("block:no mail here", UpstreamSpec("block", argument="no mail here")),
        ("pages", UpstreamSpec("pages")),
        ("direct", UpstreamSpec("direct")),
        ("socks4a://me@h:1", UpstreamSpec("socks4a", ("h", 1), "me")),
        ("http://u:p@unix:/s", UpstreamSpec("http", "/s", "u", "p")),
        ("log+tor", UpstreamSpec("log", inner=TOR)),
        ("log:/a%2Bb c+tor", UpstreamSpec("log", argument="/a+b c", inner=TOR)),
        ("limit:500K+tor://h:1", UpstreamSpec("limit", argument="500K", inner=UpstreamSpec("tor", ("h", 1)))),
        # A plus in a password begins no filter.
        ("socks5://u:p+q@h:1", UpstreamSpec("socks5", ("h", 1), "u", "p+q")),
        ("socks5://h:1 over tor", UpstreamSpec("socks5", ("h", 1), inner=TOR)),
        # A filter is around everything behind it; a chain is read from the left, its last is reached first.
        ("log+socks5://h:1 over tor", UpstreamSpec("log", inner=UpstreamSpec("socks5", ("h", 1), inner=TOR))),
        ("http://a:1 over socks5://b:2 over log+tor",
         UpstreamSpec("http", ("a", 1), inner=UpstreamSpec(
             "socks5", ("b", 2), inner=UpstreamSpec("log", inner=TOR)))),
    ],
)  # fmt: skip
def test_good_forms(text: str, spec: UpstreamSpec) -> None:
    assert parse(text) == spec
    assert UpstreamSpec.from_config(msgpack.unpackb(msgpack.packb(spec.to_config()))) == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("htp://h:1", "no kind of upstream 'htp'"), ("tor+socks5://h:1", "begins with its kind"),
        ("log", "a filter, and needs"), ("log://h:1", "a filter, and needs"),
        ("log+", "begins with its kind"), ("limit+tor", "no rate"), ("limit:0+tor", "no rate"),
        ("limit:1023+tor", "no rate"),
        ("limit:٣M+tor", "no rate"), ("limit:2048G+tor", "no rate"), ("log:x+tor", "begin with /"),
        ("hosts:/no/such/file+tor", "cannot read the blocklist"), ("hosts:/+tor", "cannot read"),
        ("block over tor", "does not go over"), ("direct over tor", "does not go over"),
        ("socks5://h:1 over block", "no proxy is reached over block"),
        ("socks5://h:1 over log+direct", "no proxy is reached over direct"),
        ("socks5://unix:/s over tor", "cannot be reached over"), ("tor over socks5://h:1", "port is missing"),
        ("direct://h:1", "takes no address"), ("pages:80", "takes no address"),
        ("socks4a://u:p@h:1", "no password"), ("socks4a://%00@h:1", "1 to 255"),
        ("http://u@h:1", "no password"), ("block:\x07", "no text"), ("block:" + "x" * 101, "too long"),
        ("log+" * MAX_LAYERS + "tor", f"more than {MAX_LAYERS} layers"),
    ],
)  # fmt: skip
def test_bad_forms(text: str, problem: str) -> None:
    with pytest.raises(AvneError) as caught:
        parse(text)
    assert problem in caught.value.problem
    assert caught.value.cure


WORD = st.text("abcdefgh+:/@%. []0123456789-", max_size=12)
LINE = st.lists(
    st.one_of(
        st.sampled_from([*BUILT_IN, "://", " over ", "+", ":", "unix:/s", "h:1", "u:p@", "[::1]:2", "500K"]),
        WORD,
    ),
    max_size=8,
).map("".join)


@given(LINE)
def test_whatever_is_written_is_an_upstream_or_an_error(text: str) -> None:
    """And what is shown of it names the same one again, as far as it holds no credentials."""
    try:
        spec = parse(text)
    except AvneError:
        return
    assert spec.label()
    if all(layer.username is None and "+" not in layer.argument for layer in spec.layers()):
        assert parse(spec.redacted()) == spec


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_credentials_survive_and_are_never_shown(name: str, password: str) -> None:
    encoded = ["".join(f"%{byte:02x}" for byte in text.encode(errors="replace")) for text in (name, password)]
    try:
        spec = parse(f"http://{encoded[0]}:{encoded[1]}@h:1 over tor")
    except AvneError:
        return
    assert (spec.username, spec.password) == tuple(
        text.encode(errors="replace").decode() for text in (name, password)
    )
    assert spec.redacted() == "http://***@h:1 over tor"
    assert spec.label() == "http over tor"


# ---- what the kinds say ---------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_kind_keeps_the_contract(name: str) -> None:
    kind = find(name)
    assert kind.kind == name
    assert kind.form
    assert issubclass(kind, Filter) or kind.title, "it has a table in docs/connect-truth.md"
    for code, reply in kind.replies.items():
        assert 0 < code <= 0xFFFF
        assert isinstance(reply.verdict, Verdict)


def test_only_direct_leaves() -> None:
    assert [name for name in BUILT_IN if find(name).leaves] == ["direct"]


@pytest.mark.parametrize("name", [name for name in BUILT_IN if issubclass(find(name), Proxy)])
def test_every_code_of_ours_has_a_meaning_with_every_proxy(name: str) -> None:
    upstream = make(UpstreamSpec(name, ("h", 1)), {})
    known = {code for code in Code if code >= 0x100} - {Code.BY_NAME}
    assert known <= set(COMMON)
    for code in known:
        assert upstream.verdict(code) is COMMON[code].verdict or code in upstream.replies


ONION = [code for code in Code if 0xF0 <= code <= 0xF7]


def test_tor_has_a_row_for_every_socks_reply() -> None:
    rows = set(find("tor").replies)
    assert set(ONION) <= rows
    assert set(find("socks5").replies) == rows - set(ONION) == set(range(1, 9))


@pytest.mark.parametrize(
    ("code", "socks5", "tor"),
    [
        (Code.GENERAL_FAILURE, Verdict.REFUSED, Verdict.REFUSED),
        (Code.NOT_ALLOWED, Verdict.PROHIBITED, Verdict.NETWORK_UNREACHABLE),
        (Code.NETWORK_UNREACHABLE, Verdict.NETWORK_UNREACHABLE, Verdict.NETWORK_UNREACHABLE),
        (Code.HOST_UNREACHABLE, Verdict.HOST_UNREACHABLE, Verdict.HOST_UNREACHABLE),
        (Code.CONNECTION_REFUSED, Verdict.REFUSED, Verdict.REFUSED),
        (Code.TTL_EXPIRED, Verdict.SILENCE, Verdict.REFUSED),
        (Code.UPSTREAM_DOWN, Verdict.REFUSED, Verdict.REFUSED),
        (Code.UPSTREAM_TIMEOUT, Verdict.SILENCE, Verdict.SILENCE),
        (Code.UPSTREAM_AUTH, Verdict.PROHIBITED, Verdict.PROHIBITED),
        (Code.BAD_NAME, Verdict.HOST_UNREACHABLE, Verdict.HOST_UNREACHABLE),
        (Code.BLOCKED, Verdict.PROHIBITED, Verdict.PROHIBITED),
        (0x77, Verdict.REFUSED, Verdict.REFUSED),
        (0xFFFF, Verdict.REFUSED, Verdict.REFUSED),
        *((code, Verdict.REFUSED, Verdict.REFUSED) for code in ONION),
    ],
)
def test_what_the_program_is_told(code: int, socks5: Verdict, tor: Verdict) -> None:
    assert make(UpstreamSpec("socks5", ("h", 1)), {}).verdict(code) is socks5
    assert make(UpstreamSpec("tor", ("h", 1)), {}).verdict(code) is tor
    assert make(parse("log+limit:1M+tor://h:1"), {}).verdict(code) is tor, "a filter says what it wraps says"
    assert make(parse("socks5://h:1 over tor://h:1"), {}).verdict(code) is socks5


def test_http_says_what_the_status_means() -> None:
    http = make(UpstreamSpec("http", ("h", 1)), {})
    assert code_of(403) == 0x1403
    assert http.verdict(code_of(403)) is Verdict.PROHIBITED
    assert http.verdict(code_of(502)) is Verdict.REFUSED
    assert http.verdict(code_of(504)) is Verdict.SILENCE
    assert http.verdict(code_of(599)) is Verdict.REFUSED
    assert http.verdict(Code.UPSTREAM_AUTH) is Verdict.PROHIBITED


def test_what_a_chain_and_a_filter_can_do_is_what_they_stand_on_can() -> None:
    made: dict[UpstreamSpec, Upstream] = {}
    tor = make(parse("tor://h:1"), made)
    chain = make(parse("socks5://p:1 over tor://h:1"), made)
    filtered = make(parse("limit:2K+log+tor://h:1"), made)
    assert chain.inner is tor, "equal ones are one"
    assert chain.capabilities == Capability.PROOF, "its ends need Tor's proof, and Tor has no half-close"
    assert chain.prover is filtered.prover is tor
    assert filtered.capabilities == tor.capabilities
    assert filtered.rate == 2048
    assert make(parse("socks5://p:1 over limit:2K+tor://h:1"), made).rate == 2048
    assert make(parse("limit:4K+limit:2K+tor://h:1"), made).rate == 2048
    assert make(parse("socks5://a:1 over http://b:1"), made).capabilities == Capability.HALF_CLOSE


def test_a_kind_of_another_package_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "odd"

        def load(self) -> object:
            return loads()

    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [Point()])
    loads = lambda: int  # noqa: E731
    with pytest.raises(AvneError, match="no such kind"):
        find("odd")
    loads = lambda: 1 // 0  # noqa: E731
    with pytest.raises(AvneError, match="ZeroDivisionError"):
        find("odd")
    assert kinds.GROUP == "avne.upstreams"


def test_hosts_without_a_file_takes_the_list_beside_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(AvneError) as caught:
        parse("hosts+tor")
    assert f"{tmp_path}/avne/blocklist" in caught.value.cure
    (tmp_path / "avne").mkdir()
    (tmp_path / "avne" / "blocklist").write_text("a.example\n")
    assert parse("hosts+tor") == UpstreamSpec("hosts", argument=f"{tmp_path}/avne/blocklist", inner=TOR)
