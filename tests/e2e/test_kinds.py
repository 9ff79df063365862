# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of upstream, rules, filters and chains, with real programs."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.bed import places
from tests.bed.tornet.network import REPOSITORY
from tests.e2e.test_truth import ZONE, _probe

PAGE = "http://www.test.example/"
EAI_NONAME = -2

# connect(2) to each of many places: a line each, the errno or 0.
MANY = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        s = socket.socket(*found[:3]); s.settimeout(10)
        s.connect(found[4]); print(0)
    except socket.gaierror as error: print("gaierror", error.errno)
    except TimeoutError: print("silence")
    except OSError as error: print(error.errno)
"""


def connects(avne, upstream, *wanted: str, options=()):
    done = avne.run("python3", "-c", MANY, *wanted, upstream=upstream, options=options, timeout=100)
    return done.stdout.split("\n")[:-1]


def with_password(bed, kind: str) -> str:
    user, password = bed.socks_credentials
    word = f"{user}:{password.replace(' ', '%20')}" if kind == "http" else user
    return getattr(bed, kind).replace("://unix:", f"://{word}@unix:") + "-auth"


@pytest.mark.parametrize("kind", ["http", "socks4a"])
def test_a_page_and_the_truth_through_each_kind(avne, bed, kind):
    upstream = getattr(bed, kind)
    for url in (PAGE, f"http://{places.V4}/"):
        done = avne.run("curl", "-sS", url, upstream=upstream)
        assert (done.stdout, done.stderr) == (places.PAGE, "")
    done = avne.run("curl", "-sS", PAGE, upstream=with_password(bed, kind))
    assert (done.stdout, done.stderr) == (places.PAGE, "")
    http = kind == "http"
    unreachable = str(errno.EHOSTUNREACH if http else errno.ECONNREFUSED)
    network = str(errno.ECONNREFUSED if http else errno.ENETUNREACH)
    assert connects(
        avne, upstream, f"{places.V4}:{places.REFUSED}", f"www.{ZONE}:{places.REFUSED}", "198.51.100.67:80",
        f"hostunreach.{ZONE}:80", f"[{places.V6}]:{places.REFUSED}", f"nx.{ZONE}:80", f"{places.V4}:80",
    ) == [
        str(errno.ECONNREFUSED), str(errno.ECONNREFUSED), unreachable, unreachable, network,
        f"gaierror {EAI_NONAME}", "0",
    ]  # fmt: skip


def test_a_proxy_that_refuses_our_password(avne, bed):
    wrong = with_password(bed, "http").replace("%20", "-")
    assert connects(avne, wrong, f"{places.V4}:80") == [str(errno.EHOSTUNREACH)]
    assert connects(avne, f"{bed.http}-auth", f"{places.V4}:80") == [str(errno.EHOSTUNREACH)]


def test_an_http_proxy_that_does_not_answer_in_time_is_silence(avne, bed):
    """504: the proxy has waited; the program waits on, as it would directly."""
    assert _probe(avne, bed.http, "198.51.100.66", 80, patience=4.0) == "silence"


def test_tor_itself_as_a_socks4a_server(avne, bed, tor):
    done = avne.run("curl", "-sS", PAGE, upstream=f"socks4a://unix:{bed.tor_path}")
    assert (done.stdout, done.stderr) == (places.PAGE, "")


def test_a_proxy_reached_over_tor(avne, bed, tor):
    """And its refusals are its own: a plain server tells the truth where Tor says 01."""
    user, password = bed.socks_credentials
    behind = f"{user}:{password.replace(' ', '%20')}@{places.V4}:{places.PROXY_AUTH}"
    done = avne.run("curl", "-sS", PAGE, upstream=f"socks5://{behind} over {tor}")
    assert (done.stdout, done.stderr) == (places.PAGE, "")
    plain = f"socks5://{places.V4}:{places.PROXY} over {tor}"
    assert connects(avne, plain, "198.51.100.67:80", f"{places.V4}:{places.REFUSED}") == [
        str(errno.EHOSTUNREACH), str(errno.ECONNREFUSED),
    ]  # fmt: skip


def test_a_chain_of_three(avne, bed):
    near, far = bed.http, f"{places.V4}:{places.PROXY}"
    done = avne.run("curl", "-sS", PAGE, upstream=f"socks5://{far} over socks5://{far} over {near}")
    assert (done.stdout, done.stderr) == (places.PAGE, "")
    lost = f"socks5://{places.V4}:{places.REFUSED} over {near}"
    assert connects(avne, lost, "198.51.100.67:80") == [str(errno.ECONNREFUSED)]


# ---- rules -----------------------------------------------------------------------------------


def test_rules_send_names_their_own_way_and_nobody_else_hears_of_them(avne, bed, tmp_path_for):
    """The world's resolver would know www.test.example: but only the HTTP proxy is asked for it."""
    receipt = tmp_path_for(avne) / "receipt"
    before = len(bed.queries())
    rules = f"www.{ZONE}={bed.http}", "*:25=block:no mail", "*.blocked=block"
    options = [*(word for rule in rules for word in ("--rule", rule)), "--receipt", str(receipt)]
    urls = PAGE, f"http://{places.V4}:25/", "http://x.blocked/", f"http://a.{ZONE}/"
    script = "; ".join(f"curl -sS {url}" for url in urls)
    done = avne.run("sh", "-c", script, upstream=bed.socks, options=options)
    assert done.stdout == places.PAGE * 2
    assert "Could not resolve host: x.blocked" in done.stderr
    assert "No route to host" in done.stderr or "port 25" in done.stderr
    asked = {row["name"] for row in bed.queries()[before:]}
    assert f"a.{ZONE}" in asked
    assert not asked & {f"www.{ZONE}", "x.blocked"}
    network = json.loads(receipt.read_text())["network"]
    assert network["reasons"] == {"0x0105 rule 2: blocked by a rule: no mail": 1}


def test_onion_only_and_https_only(avne, bed):
    places_ = f"{places.V4}:80", f"{places.V4}:443", f"www.{ZONE}:443", f"www.{ZONE}:80"
    refused, blocked = str(errno.ECONNREFUSED), str(errno.EHOSTUNREACH)  # nothing listens at 443
    assert connects(avne, bed.socks, *places_) == ["0", refused, refused, "0"]
    found = connects(avne, bed.socks, *places_, options=["--https-only"])
    assert found == [blocked, refused, refused, str(errno.EACCES)], "the last one has tried IPv6"
    nothing = f"gaierror {EAI_NONAME}"
    found = connects(avne, bed.socks, *places_, options=["--onion-only"])
    assert found == [blocked, blocked, nothing, nothing]


def test_an_onion_service_by_a_rule(avne, bed, tor):
    """The upstream of the settings is a plain proxy, which is not to see such a name."""
    url = f"http://{bed.onion}/"
    assert avne.run("curl", "-sS", url, upstream=bed.socks).returncode == 6
    done = avne.run("curl", "-sS", url, upstream=bed.socks, options=["--rule", f"*.onion={tor}"])
    assert (done.stdout, done.stderr) == (places.PAGE, "")
    done = avne.run("curl", "-sS", url, upstream=tor, options=["--onion-only"])
    assert (done.stdout, done.stderr) == (places.PAGE, "")


# ---- filters, pages, direct ------------------------------------------------------------------


def test_a_blocklist_and_a_log(avne, bed, tmp_path_for):
    home = tmp_path_for(avne)
    names, log = home / "names", home / "log"
    names.write_text(f"0.0.0.0 www.{ZONE}\n")
    names.chmod(0o644)
    upstream = f"log:{log}+hosts:{names}+{bed.socks}"
    done = avne.run("sh", "-c", f"curl -sS {PAGE}; curl -sS http://a.{ZONE}/", upstream=upstream,
                    options=["--log-names"])  # fmt: skip
    assert done.stdout == places.PAGE
    assert f"Could not resolve host: www.{ZONE}" in done.stderr
    (line,) = (row for row in log.read_text().splitlines() if not row.endswith(" 53 opened"))
    assert line.endswith(f" a.{ZONE} 80 opened")


def test_a_rate(avne, bed):
    """3 MB at 1 MiB/s: not in less than 2.5 s; the account is whole, so nothing is lost by waiting."""
    url = f"http://{places.V4}/bytes/{3 << 20}"
    begin = time.monotonic()
    done = avne.run("sh", "-c", f"curl -sS {url} | wc -c", upstream=f"limit:1M+{bed.socks}")
    took = time.monotonic() - begin
    assert (done.stdout.strip(), done.stderr) == (str(3 << 20), "")
    assert 2.5 < took < 20


def test_the_environment_s_own_pages(avne, bed):
    done = avne.run("curl", "-sS", "http://avne.internal/status.json", upstream=f"log+{bed.socks}")
    status = json.loads(done.stdout)
    assert status["upstream"] == "log+socks5"
    assert status["open"] == []
    done = avne.run("sh", "-c", "wget -qO- http://avne.internal/; echo $AVNE_ID", upstream=bed.socks,
                    options=["--onion-only"])  # fmt: skip
    assert f"Environment: {done.stdout.split()[-1]}" in done.stdout


def test_direct_is_loud_and_never_by_itself(in_mode, bed):
    """As root, from the world's own network namespace, where the world is the host's network."""
    avne = in_mode("root")
    rule = ["--rule", f"{places.V4}:80=direct"]
    done = avne.run("true", upstream=bed.socks, options=rule)
    assert done.returncode == 125
    assert "--allow-direct" in done.stderr
    inside = ["nsenter", "-t", str(bed.pid), "-n", "--"]
    words = avne.argv(["curl", "-sS", f"http://{places.V4}/"], bed.socks, [*rule, "--allow-direct"])
    done = subprocess.run([*inside, *avne.as_person(words)], capture_output=True, text=True, timeout=60)
    said = f"avne: open: {places.V4}:80 leaves without Tor, from this machine's own address (direct)"
    assert said in done.stderr.splitlines()
    assert "No route to host" in done.stderr or done.returncode == 7, "it is that machine's own address there"


@pytest.fixture
def beside_the_world(bed):
    """A network namespace with a way to the world: the argument vector that enters it."""
    argv = ["unshare", "-n", "--", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.read(1)
        here, there = (
            ["nsenter", "-t", str(holder.pid), "-n", "--"],
            ["nsenter", "-t", str(bed.pid), "-n", "--"],
        )
        for words in (
            [*here, "ip", "link", "add", "beside", "type", "veth", "peer", "world", "netns", str(bed.pid)],
            [*here, "ip", "address", "add", "192.168.77.1/24", "dev", "beside"],
            [*there, "ip", "address", "add", "192.168.77.2/24", "dev", "world"],
            [*here, "ip", "link", "set", "beside", "up"],
            [*there, "ip", "link", "set", "world", "up"],
            [*here, "ip", "route", "add", "198.51.100.0/24", "via", "192.168.77.2"],
        ):
            subprocess.run(words, check=True)
        yield here
        # Both ends, now: that of a namespace that ends goes some time later.
        subprocess.run([*here, "ip", "link", "del", "beside"], check=True)
        holder.stdin.close()


@pytest.mark.parametrize("upstream", ["direct", "log:{log}+direct"])
def test_direct_opens_refuses_and_looks_names_up_locked_in(in_mode, beside_the_world, tmp_path_for, upstream):
    """Its worker lives through all of it: a call that its filter does not know would be its end."""
    avne = in_mode("root")
    log = tmp_path_for(avne) / "log"
    hosts = f"echo '{places.V4} beside.example' >>/etc/hosts"
    subprocess.run([*avne.place.prefix, "sh", "-c", hosts], check=True)
    asked = [
        f"{places.V4}:80", f"{places.V4}:{places.REFUSED}", "203.0.113.9:80", "192.168.77.1:80",
        "beside.example:80", "nx.beside.example:80", f"{places.V4}:80",
    ]  # fmt: skip
    options = ["--allow-direct", "--dns", "fast", "--workers", "1"]
    words = avne.argv(["python3", "-c", MANY, *asked], upstream.format(log=log), options)
    argv = [*beside_the_world, *avne.as_person(words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    found = done.stdout.split("\n")[:-1]
    assert found == [
        "0", str(errno.ECONNREFUSED), str(errno.ENETUNREACH), str(errno.EHOSTUNREACH),
        "0", str(errno.EHOSTUNREACH), "0",
    ], done.stderr  # fmt: skip
    said = "avne: open: everything else leaves without Tor, from this machine's own address (direct)"
    assert done.stderr.splitlines() == [said]
    if log.exists():
        results = [row.split(" ", 3)[3].split()[0] for row in log.read_text().splitlines()]
        assert results.count("opened") == 3
        assert results.count("refused") >= 4


def test_a_log_file_of_every_result_in_each_mode(any_avne, bed, tmp_path_for):
    """The worker that writes it is locked in: opened, refused, and refused by the filter inside."""
    home = tmp_path_for(any_avne)
    log = home / "log"
    names = home / "names"
    names.write_text(f"0.0.0.0 www.{ZONE}\n")
    names.chmod(0o644)
    upstream = f"log:{log}+hosts:{names}+{bed.socks}"
    asked = f"a.{ZONE}:80", f"{places.V4}:{places.REFUSED}", f"hostunreach.{ZONE}:80", f"www.{ZONE}:80"
    options = ["--log-names", "--dns", "fast"]
    found = connects(any_avne, upstream, *asked, options=options)
    assert found[0] == "0"
    assert "0" not in found[1:]
    rows = [row.split(" ", 3)[1:] for row in log.read_text().splitlines()]
    assert [f"a.{ZONE}", "80", "opened"] in rows
    assert any(row[0] == places.V4 and row[2].startswith("refused 0x0005") for row in rows)
    assert any(row[0] == f"hostunreach.{ZONE}" and row[2].startswith("refused 0x0004") for row in rows)
    assert log.stat().st_mode & 0o777 == 0o600


# ---- another package's kind ------------------------------------------------------------------


@pytest.fixture
def contributed(installed, tmp_path):
    """contrib's example, built and installed offline beside avne."""
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY / "contrib" / "avne-upstream-fixed", source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quiet = ["--quiet", "--no-index", "--no-deps"]
    build = [*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    there = [*pip, "--python", installed.python]
    subprocess.run(
        [*there, "install", *quiet, "--root-user-action=ignore", str(wheel)], check=True, umask=0o022
    )
    yield
    for path in installed.dir.glob("lib/python3*/site-packages/avne_upstream_fixed*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_kind_of_another_package(avne, bed, contributed):
    fixed = f"fixed://{places.V4}:80 over {bed.socks}"
    done = avne.run(
        "curl", "-sS", "http://no.such.name:8080/", upstream=bed.socks, options=["--rule", f"*.name={fixed}"]
    )
    assert (done.stdout, done.stderr) == (places.PAGE, "")


def test_a_kind_of_another_package_locked_in(in_mode, beside_the_world, contributed):
    """As the upstream of everything: its one worker opens each connection by itself, and lives."""
    words = ["sh", "-c", "for n in 1 2 3; do curl -sS http://name$n.example:$n/; done"]
    options = ["--dns", "fast", "--workers", "1"]
    avne = in_mode("root")

    def run(port: int):
        argv = avne.as_person(avne.argv(words, f"fixed://{places.V4}:{port}", options))
        return subprocess.run(
            [*beside_the_world, *argv], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )

    done = run(places.WEB)
    assert (done.stdout, done.stderr) == (places.PAGE * 3, "")
    done = run(places.REFUSED)
    assert done.returncode == 125
    assert "cannot reach the proxy" in done.stderr


def test_a_kind_of_a_package_that_is_not_there(avne, bed):
    done = avne.run("true", upstream="fixed://h:1")
    assert done.returncode == 125
    assert "no kind of upstream 'fixed'" in done.stderr
