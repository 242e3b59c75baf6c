"""What a process does beside its main work: a step in a thread, again and again."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Final, Protocol

log = logging.getLogger("webhook.background")

_AFTER_A_BUG_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 3.0


class Runnable(Protocol):
    """What starts once and stops once, such as a watch, or a certificate's source."""

    def start(self) -> None:
        """Begin; what it needs beforehand it does at once, everything else in a thread."""

    def stop(self) -> None:
        """End, within a few seconds; also where it never began."""


class Background:
    """Runs a step again and again in a daemon thread until it is stopped.

    Args:
        name: the thread's.
        step: does one round, and tells how many seconds to wait before the next. What it raises is
            logged and does not end the thread.
    """

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self.stopped = False
        self._name = name
        self._step = step
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, at once."""
        if self._thread is None and not self.stopped:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End; waits a little for a round under way, which a daemon thread may also leave."""
        self.stopped = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def wake(self) -> None:
        """Begin the next round now."""
        self._wake.set()

    def _run(self) -> None:
        while not self.stopped:
            try:
                delay = self._step()
            except Exception:  # the boundary: background work goes on, whatever goes wrong
                log.exception("%s: unexpected error, trying again", self._name)
                delay = _AFTER_A_BUG_SECONDS
            self._wake.wait(delay)
            self._wake.clear()


def jittered(seconds: float) -> float:
    """Spread replicas that started together: 80 to 120 % of it."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
