"""A playground that runs, as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest


class Running:
    """`seamless playground` on a free port, as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "webhook", "playground", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.split(" ")[0]

    def end(self, signal_number: int) -> tuple[int, str]:
        """Send a signal; gives the exit status and what stderr says."""
        self.process.send_signal(signal_number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One for all tests of a file."""
    started = Running()
    yield started
    started.close()
