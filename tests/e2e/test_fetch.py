# SPDX-License-Identifier: GPL-3.0-or-later
"""Unmodified programs fetch and send through avne: by name, by address, through Tor and plain SOCKS5."""

from __future__ import annotations

import hashlib
import subprocess

import pytest

from tests.bed import places

MB200 = 200 << 20

# An HTTP client without libc's resolver or a shared library: nothing of it can be preloaded.
STATIC_CLIENT = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)};
    char buffer[4096];
    const char *request = "GET / HTTP/1.0\r\nHost: static\r\n\r\n";
    ssize_t n;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, "198.51.100.80", &a.sin_addr);
    if (connect(s, (struct sockaddr *)&a, sizeof a)) { perror("connect"); return 1; }
    if (write(s, request, strlen(request)) < 0) return 2;
    while ((n = read(s, buffer, sizeof buffer)) > 0) fwrite(buffer, 1, (size_t)n, stdout);
    return n < 0;
}
"""


@pytest.fixture(params=["tor", "socks"])
def upstream(request, bed):
    return request.getfixturevalue("tor") if request.param == "tor" else bed.socks


@pytest.mark.parametrize(
    "url",
    ["http://www.test.example/", f"http://{places.V4}/", f"http://[{places.V6}]/"],
    ids=["name", "ipv4", "ipv6"],
)
def test_wget_and_curl_fetch_a_page(avne, upstream, url):
    for client in (["wget", "-qO-"], ["curl", "-sS"]):
        done = avne.run(*client, url, upstream=upstream)
        assert (done.stdout, done.stderr, done.returncode) == (places.PAGE, "", 0)


def test_names_of_one_family_only(avne, upstream):
    for name in ("v4.test.example", "v6.test.example"):
        done = avne.run("curl", "-sS", f"http://{name}/", upstream=upstream)
        assert (done.stdout, done.stderr) == (places.PAGE, "")


def test_an_onion_service(avne, bed, tor):
    done = avne.run("wget", "-qO-", f"http://{bed.onion}/", upstream=tor)
    assert (done.stdout, done.stderr) == (places.PAGE, "")


def test_git_clones_over_http(avne, upstream, tmp_path_for):
    there = tmp_path_for(avne)
    done = avne.run(
        "git", "clone", "-q", "http://www.test.example/git/hello.git", "clone", upstream=upstream, cwd=there
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert (there / "clone" / "README").read_text() == "hello from the test bed\n"
    assert (there / "clone" / "large.bin").read_bytes() == places.stream(3 << 20)


def test_a_static_client(avne, upstream, tmp_path_for):
    there = tmp_path_for(avne)
    (there / "client.c").write_text(STATIC_CLIENT)
    subprocess.run(["cc", "-static", "-o", there / "client", there / "client.c"], check=True)
    done = avne.run(str(there / "client"), upstream=upstream)
    assert done.stderr == ""
    assert done.stdout.endswith(places.PAGE)


def test_a_hundred_connections_at_once(avne, upstream):
    """Each fetches a part of its own length, so that no two can be mixed up unseen."""
    one = "curl -sS http://www.test.example/bytes/$((i*1000)) | sha256sum"
    script = f"for i in $(seq 1 100); do {one} & done; wait"
    done = avne.run("sh", "-c", script, upstream=upstream, timeout=110)
    assert done.stderr == ""
    wanted = {places.stream_sha256(i * 1000) for i in range(1, 101)}
    assert {line.split()[0] for line in done.stdout.splitlines()} == wanted


def test_200_megabytes_down(avne, upstream):
    done = avne.run(
        "sh",
        "-c",
        f"wget -qO- http://www.test.example/bytes/{MB200} | sha256sum",
        upstream=upstream,
        timeout=110,
    )
    assert done.stderr == ""
    assert done.stdout.split()[0] == places.stream_sha256(MB200)


def test_200_megabytes_up(avne, upstream, tmp_path_for):
    there = tmp_path_for(avne) / "up"
    with there.open("wb") as file:
        for _ in range(MB200 // (10 << 20)):
            file.write(places.stream(10 << 20))
    with there.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    done = avne.run(
        "curl", "-sS", "-T", str(there), "http://www.test.example/upload", upstream=upstream, timeout=110
    )
    there.unlink()
    assert (done.stdout, done.stderr) == (f"{MB200} {digest}\n", "")


def test_a_plain_socks_server_with_a_password(avne, bed):
    user, password = bed.socks_credentials
    upstream = f"socks5://{user}:{password.replace(' ', '%20')}@unix:{bed.socks_auth_path}"
    done = avne.run("wget", "-qO-", "http://www.test.example/", upstream=upstream)
    assert (done.stdout, done.stderr) == (places.PAGE, "")


def test_the_server_sees_the_exit_and_never_this_machine(avne, tor):
    done = avne.run("wget", "-qO-", "http://www.test.example/headers", upstream=tor)
    assert done.stdout.splitlines()[0] == places.V4, "an exit of the private network has no other address"


def test_what_a_program_sent_before_it_ended_arrives(avne, upstream):
    """nc ends as soon as it has written; the environment waits until that has been handed on."""
    script = f"head -c 3000000 /dev/zero | nc -q0 {places.V4} {places.DISCARD}; echo $?"
    done = avne.run("sh", "-c", script, upstream=upstream)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_half_close_still_gets_the_whole_answer(avne, upstream):
    """The server answers after our end of file where that exists, and Tor's answer is not lost."""
    done = avne.run("sh", "-c", f"printf hello | nc -N {places.V4} {places.ECHO}", upstream=upstream)
    assert (done.stdout, done.stderr) == ("hello", "")


def test_half_close_reaches_a_server_that_waits_for_it(avne, bed):
    done = avne.run("sh", "-c", f"printf hello | nc -N {places.V4} {places.DIGEST}", upstream=bed.socks)
    assert done.stdout == f"5 {hashlib.sha256(b'hello').hexdigest()}\n"
