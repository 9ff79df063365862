# SPDX-License-Identifier: GPL-3.0-or-later
"""The program inside, while avne's parts die: downloads and echoes whose every byte is checked.

    python3 -c SOURCE ADDRESS FLOWS     (for as long as standard input is open)

Prints a line of JSON whenever a byte was asked for on standard input, and at the end: what happened so far.
"""

SOURCE = r"""
import hashlib, json, os, random, socket, sys, threading, time
address, flows = sys.argv[1], int(sys.argv[2])
PERIOD = 1_048_583
STREAM = hashlib.shake_128(b"avne test bed").digest(PERIOD) * 2
state = dict(verified=0, wrong=0, broken=0, opened=0, early=0)
lock = threading.Lock()
over = threading.Event()

def count(**more):
    with lock:
        for name, n in more.items():
            state[name] += n

def download(sock):
    want, at = random.randrange(1, 4 << 20), 0
    while at < want and not over.is_set():
        data = sock.recv(65536)
        if not data:
            count(early=1)  # an orderly end that the server has not made
            return
        first = at % PERIOD
        if data != STREAM[first:first + len(data)]:
            count(wrong=1)
            return
        at += len(data)
        count(verified=len(data))

def echo(sock):
    for _ in range(random.randrange(1, 40)):
        data = os.urandom(random.randrange(1, 20000))
        sock.sendall(data)
        got = b""
        while len(got) < len(data):
            piece = sock.recv(65536)
            if not piece:
                count(early=1)
                return
            got += piece
        if got != data:
            count(wrong=1)
            return
        count(verified=len(data))
        if over.is_set():
            return

def work(number):
    port, use = ((19, download), (7, echo))[number % 2]
    while not over.is_set():
        try:
            with socket.create_connection((address, port), timeout=15) as sock:
                count(opened=1)
                use(sock)
        except OSError:
            count(broken=1)
            over.wait(0.02)

threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(flows)]
for thread in threads:
    thread.start()
print("up", flush=True)
while os.read(0, 1):
    with lock:
        print(json.dumps(state), flush=True)
over.set()
for thread in threads:
    thread.join(20)
print(json.dumps(state), flush=True)
"""
