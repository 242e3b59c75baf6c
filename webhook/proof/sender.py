"""The load generator as a process beside this one, and what it reports, read as it comes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import IO, Final, Protocol

from webhook.proof.load import Job
from webhook.proof.reading import MOST_LINE, Reading, ReportError

_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0
_MOST_NOTES: Final = 4096


class SenderError(Exception):
    """The load cannot be sent; the text says why."""


class Sender(Protocol):
    """Something that sends a job's requests, and is read."""

    reading: Reading

    def start(self) -> None:
        """Begin; returns when requests are being sent. Raises `SenderError` where none can be."""

    def problem(self) -> str | None:
        """Say why no more is reported, if that is so."""

    def stop(self) -> None:
        """End it, and leave nothing behind."""


class LocalSender:
    """A load generator on this machine.

    Args:
        job: what it is to send.
    """

    def __init__(self, job: Job) -> None:
        self.reading = Reading(job.rate)
        self._job = job
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._first = threading.Event()
        self._notes = b""
        self._problem: str | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin.

        Raises:
            SenderError: it does not start.
        """
        # -P: the current folder cannot slip code in.
        command = [sys.executable, "-P", "-m", "webhook", "load"]
        self._process = subprocess.Popen(  # noqa: S603 - our own program, and no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to take: what it has seen is still told
        )
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        if stdin is None or stdout is None or stderr is None:
            raise SenderError("the load generator has no pipes")
        try:
            # A header may be a secret: neither arguments nor the environment show it.
            stdin.write(self._job.dump().encode())
            stdin.close()
        except BrokenPipeError:
            pass  # it says why by itself
        for read, pipe in ((self._read, stdout), (self._read_notes, stderr)):
            thread = threading.Thread(target=read, args=(pipe,), daemon=True)
            thread.start()
            self._threads.append(thread)
        end = time.monotonic() + _START_SECONDS
        while not self._first.wait(0.02):
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise SenderError(self._said() or "the load generator did not start")

    def problem(self) -> str | None:
        """Say why no more is reported, if that is so."""
        if self._problem is None and self._process is not None and not self._stopping:
            status = self._process.poll()
            if status is not None:
                return f"the load generator ended by itself, with status {status}: {self._said()}"
        return self._problem

    def stop(self) -> None:
        """End it."""
        self._stopping = True
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(_END_SECONDS)
        for thread in self._threads:
            thread.join(_END_SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _said(self) -> str:
        return " ".join(self._notes.decode(errors="replace").split()).removeprefix(
            "seamless load: "
        )

    def _read(self, pipe: IO[bytes]) -> None:
        while line := pipe.readline(MOST_LINE):
            try:
                self.reading.take(line, time.monotonic())
            except ReportError as error:
                if not self._stopping:  # a line that was cut by our own stop is no fault
                    self._problem = str(error)
                return
            self._first.set()

    def _read_notes(self, pipe: IO[bytes]) -> None:
        while piece := pipe.read1(_MOST_NOTES):  # type: ignore[attr-defined]  # a buffered pipe
            self._notes = (self._notes + piece)[-_MOST_NOTES:]
