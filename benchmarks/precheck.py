"""What a precheck costs whose targets are up: the whole process, beside one that does nothing.

`python benchmarks/precheck.py [ROUNDS]` prints one table. In each round every command runs once, in
turn, and a ratio is the median over the rounds: so it holds where the machine's speed drifts.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUNDS = 40
ALLOWED = {"ratio": 2.5, "milliseconds": 150.0, "megabytes": 20.0}
BARE = [sys.executable, "-I", "-S", "-c"]
# As an installed package runs: from its compiled files.
RUN = "import sys; sys.path.insert(0, sys.argv[1]); from webhook.precheck.program import main; "
PLAIN = RUN + "sys.exit(main(sys.argv[2:]))"
PEAK = RUN + "main(sys.argv[2:]); print('peak', open('/proc/self/status').read())"


def main() -> int:
    """Measure and print; the status is 1 where a figure is over what is allowed."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    port = _serve()
    cases = {
        "TCP, by address": [f"127.0.0.1:{port}"],
        "DNS and TCP, by name": ["localhost", f"localhost:{port}"],
        "HTTP, by name": [f"http://localhost:{port}/ready"],
        "all three, JSON": ["--log-format=json", "localhost", f"http://localhost:{port}"],
        "200 targets (HTTP)": [f"http://127.0.0.1:{port}/{number}" for number in range(200)],
    }
    commands = {"python -I -S -c pass": [*BARE, "pass"]}
    for name, targets in cases.items():
        commands[name] = [*BARE, PLAIN, str(ROOT), *targets]
    program = str(ROOT / "webhook" / "precheck.py")
    commands["TCP, run as a file"] = [*BARE[:-1], program, f"127.0.0.1:{port}"]
    if installed := shutil.which("seamless", path=str(Path(sys.executable).parent)):
        commands["TCP, seamless precheck"] = [installed, "precheck", f"127.0.0.1:{port}"]

    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            taken = _time(command)
            if number:  # the first round warms up
                seconds[name].append(taken)

    print(f"Python {sys.version.split()[0]}, {rounds} rounds, {os.cpu_count()} processors")
    print(f"{'':24} {'median ms':>10} {'ratio':>7} {'peak MB':>8}")
    over = False
    nothing = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, nothing, strict=True))
        median = statistics.median(times) * 1000
        peak = _peak(cases[name]) if name in cases else None
        print(f"{name:24} {median:10.1f} {ratio:7.2f} {peak or '':>8}")
        if name in list(cases)[:4]:
            over |= ratio > ALLOWED["ratio"] or median > ALLOWED["milliseconds"]
        over |= (peak or 0) > ALLOWED["megabytes"]
    limits = ", ".join(f"{limit:g} {what}" for what, limit in ALLOWED.items())
    print(f"allowed: {limits}{': NOT MET' if over else ''}")
    return int(over)


def _time(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 -- ours
    return time.perf_counter() - began


def _peak(targets: list[str]) -> float:
    """Give the peak of resident memory, in megabytes."""
    command = [*BARE, PEAK, str(ROOT), *targets]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 -- ours
    return round(int(ended.stdout.split("VmHWM:")[1].split()[0]) / 1000, 1)


def _serve() -> int:
    """Answer every connection as an HTTP server would; give the port."""
    server = socket.create_server(("127.0.0.1", 0), backlog=512)

    def answer() -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                try:
                    if connection.recv(4096):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                except OSError:
                    pass

    threading.Thread(target=answer, daemon=True).start()
    return int(server.getsockname()[1])


if __name__ == "__main__":
    raise SystemExit(main())
