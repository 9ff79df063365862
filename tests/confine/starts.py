# SPDX-License-Identifier: GPL-3.0-or-later
"""How many starts of ``avne run true`` does our own filter kill?  None may.

``python -m tests.confine.starts 1000``.  Several run at once, so that they meet the filter at all moments.
Needs root, or a tun for everybody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_ONCE = 4


def starts(count: int) -> Counter[str]:
    """How they ended: "good", "killed by a filter", or what was said."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="avne-starts-") as directory:
        os.chmod(directory, 0o700)
        proxy = f"{directory}/proxy"
        argv = [sys.executable, "-m", "tests.upstream.socks_server", proxy]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as server:
            assert server.stdout
            assert server.stdout.readline() == b"ready\n"
            try:
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    return Counter(pool.map(lambda n: _start(directory, proxy, n), range(count)))
            finally:
                server.kill()


def _start(directory: str, proxy: str, number: int) -> str:
    state = f"{directory}/{number}"
    environ = {
        **os.environ, "XDG_STATE_HOME": state, "XDG_RUNTIME_DIR": directory,
        "XDG_CONFIG_HOME": "/nonexistent", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    words = [sys.executable, "-m", "avne", "run", "--upstream", f"socks5://unix:{proxy}", "true"]
    done = subprocess.run(
        words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    logs = list(Path(state, "avne").glob("*.log"))
    log = "".join(path.read_text() for path in logs)
    for path in logs:
        path.unlink()
    if "code=-31" in log:
        return "killed by a filter"
    if log.count(" confined ") != 2:
        return f"not confined: {log}"
    return "good" if done.returncode == 0 else done.stderr


def main() -> None:
    found = starts(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    for how, count in found.most_common():
        print(f"{count:6} {how}")
    sys.exit(set(found) != {"good"})


if __name__ == "__main__":
    main()
