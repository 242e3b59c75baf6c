"""`seamless serve` as a process on ports of its own, and what tests ask of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

REVIEW = Path("examples/review.json").read_bytes()
JSON = {"Content-Type": "application/json"}
PATIENCE_SECONDS = 30


def trusting() -> ssl.SSLContext:
    """Make a context for a client that trusts anything."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Server:
    """A running `seamless serve`, ready unless told otherwise.

    Args:
        arguments: of the command, beside its ports.
        stderr: a file descriptor for its log; a file of its own where none is given.
        environment: variables beside those of this process.
        preexec: run in the process before the command, such as setting its limits.
        ready: whether to wait until it is ready.
        ports: the webhook's and the health port, where they are chosen already.
        module: what runs the command.
    """

    def __init__(
        self,
        *arguments: str,
        stderr: int | None = None,
        environment: Mapping[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
        ready: bool = True,
        ports: tuple[int, int] = (0, 0),
        module: str = "webhook",
    ) -> None:
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed in `stop`
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                module,
                "serve",
                "--host=127.0.0.1",
                f"--port={ports[0]}",
                f"--health-port={ports[1]}",
                *arguments,
            ],
            stderr=self._log if stderr is None else stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            preexec_fn=preexec,  # noqa: PLW1509 - it sets limits, and nothing else
            start_new_session=True,
        )
        self.port, self.health_port = ports
        try:
            if not all(ports):
                self.until(lambda: bool(self._ports()))
                self.port, self.health_port = self._ports()
            if ready:
                self.until(lambda: self.health("/readyz")[0] == 200)
        except BaseException:
            self.close()
            raise

    def _ports(self) -> list[int]:
        """Find out what it listens on, also where its log goes elsewhere."""
        if self.process.poll() is not None:
            message = f"it ended with {self.process.returncode}: {self.log()}"
            raise AssertionError(message)
        found = re.findall(r"127\.0\.0\.1:(\d+)", self.log())
        return [int(each) for each in found[:2]] if len(found) > 1 else []

    def log(self) -> str:
        """Give what it has logged so far."""
        return os.pread(self._log.fileno(), 2**22, 0).decode()

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for something, within reason."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if done():
                    return
            except OSError:
                pass
            time.sleep(0.02)
        message = f"it did not happen in time; the log: {self.log()}"
        raise AssertionError(message)

    def health(self, path: str) -> tuple[int, str]:
        """Ask the plain port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """Give the value of a metric, 0 where there is none."""
        inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"{name}{{{inside}}} " if labels else f"{name} "
        for line in self.health("/metrics")[1].splitlines():
            if line.startswith(wanted):
                return float(line.rpartition(" ")[2])
        return 0.0

    def memory(self, name: str = "VmHWM") -> int:
        """Give the most memory that it ever had, or what it has (`VmRSS`), in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) // 1024

    def workers(self) -> list[int]:
        """List the process ids of its workers, where it has several."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(each) for each in children.read_text().split()]

    def workers_serve(self) -> bool:
        """Tell whether each worker is so far that it minds signals."""
        caught = [
            int(re.findall(r"SigCgt:\s+(\w+)", Path(f"/proc/{each}/status").read_text())[0], 16)
            for each in self.workers()
        ]
        return all(each >> (signal.SIGTERM - 1) & 1 for each in caught)

    def connect(
        self, context: ssl.SSLContext | None = None, seconds: float = 10
    ) -> http.client.HTTPSConnection:
        """Open a connection to the TLS port, trusting anything unless told otherwise."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=seconds, context=context or trusting()
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as Kubernetes does; gives its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.close()

    def close(self) -> None:
        """End it however it is, its workers too, and let go of everything."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def ask(connection: http.client.HTTPSConnection) -> tuple[http.client.HTTPResponse, Any]:
    """Send a review; gives the answer and its content."""
    connection.request("POST", "/mutate", REVIEW, JSON)
    answer = connection.getresponse()
    return answer, json.loads(answer.read())
