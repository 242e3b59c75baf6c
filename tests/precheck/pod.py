"""A pod's view of DNS, for `test_pod.py`: run in network and mount namespaces of its own.

It has its own `/etc/resolv.conf` with a search list, a DNS server on port 53 and nothing else.
Runs the program there in several situations, and prints how each ended as JSON.
"""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.precheck.servers import NameServer, accepting

PROGRAM = Path(__file__).parents[2] / "webhook" / "precheck" / "program.py"
LIMIT = 60  # seconds
SEARCH = "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"


def main() -> None:
    """Set the namespace up, go through the situations, print."""
    _raise_loopback()
    resolver = Path(tempfile.mkdtemp(), "resolv.conf")
    _use(resolver, "127.0.0.1")
    subprocess.run(["mount", "--bind", resolver, "/etc/resolv.conf"], check=True)  # noqa: S607 -- ours
    outcomes: dict[str, Any] = {}
    server = NameServer(port=53)
    names = server.zone.names
    names["mysql.shop.svc.cluster.local"] = ["NXDOMAIN", ["127.0.0.1"]]
    names["zk.other.svc.cluster.local"] = [["fd00::1"]]
    names["sick"] = names["sick.shop.svc.cluster.local"] = ["SERVFAIL"]
    with accepting() as mysql, ThreadPoolExecutor() as threads:
        found = threads.submit(_precheck, f"mysql:{mysql.port}", "zk.other")
        unknown = threads.submit(_precheck, "--timeout=2s", "ghost")
        failing = threads.submit(_precheck, "--timeout=2s", "sick")
    outcomes["found"], outcomes["asked"] = found.result(), server.zone.asked
    outcomes["unknown"], outcomes["failing"] = unknown.result(), failing.result()
    server.close()
    _use(resolver, "127.0.0.2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.2", 53))
        outcomes["silent"] = _precheck("--timeout=1s", "ghost")
        outcomes["ended"] = _precheck("--timeout=0", "ghost", end_when=silent)
    sys.stdout.write(json.dumps(outcomes))


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        siocsifflags, up = 0x8914, 0x1
        fcntl.ioctl(control, siocsifflags, struct.pack("16sh14x", b"lo", up))


def _use(resolver: Path, address: str) -> None:
    resolver.write_text(f"nameserver {address}\n{SEARCH}")


def _precheck(*arguments: str, end_when: socket.socket | None = None) -> dict[str, Any]:
    """Run the program; with `end_when`, send SIGTERM as soon as its query has arrived there."""
    command = [sys.executable, "-I", "-S", str(PROGRAM), "--termination-log=/nowhere", *arguments]
    if end_when:
        end_when.setblocking(False)  # noqa: FBT003 -- its only form
        while True:  # what the run before has asked
            try:
                end_when.recv(4096)
            except BlockingIOError:
                break
        end_when.settimeout(LIMIT)
    began = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if end_when:
            end_when.recv(4096)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT)
    took = time.monotonic() - began
    return {"status": process.returncode, "out": out, "err": err, "seconds": took}


if __name__ == "__main__":
    main()
