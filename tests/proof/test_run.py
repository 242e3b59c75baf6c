"""One run: when the workload is touched, when it is not, and what an interruption leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.proof.scenes import new, old
from webhook.proof.failures import Pod, Scene
from webhook.proof.load import Job
from webhook.proof.reading import Reading
from webhook.proof.run import Plan, Progress, run
from webhook.proof.sender import LocalSender, SenderError
from webhook.proof.verdict import Answer

_PLAN = Plan("web", warm=0.05, tail=0.05, timeout=0.1, scene=Scene((), slack=0.1))
_REFUSED = {
    "at": 0.0,
    "took": 0.001,
    "kind": "refused",
    "kept": False,
    "reused": False,
    "connected": False,
    "status": None,
    "pod": None,
    "text": "",
}


class Sender:
    """A load that is answered, or not, a line each time that it is asked how it is."""

    def __init__(self, *failed: dict[str, Any], breaks: bool = False) -> None:
        self.reading = Reading(1.0)
        self.stopped = 0
        self._failed = list(failed)
        self._lines = 0
        self._breaks = breaks
        self._began = time.monotonic()

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self.problem()

    def problem(self) -> str | None:
        """Report, or break."""
        now = time.monotonic() - self._began
        line = {
            "n": self._lines,
            "now": now,
            "upTo": now,
            "due": 1,
            "sent": 1,
            "late": 0,
            "mostLate": 0.0,
            "ok": [[now, 0.001]],
            "failed": self._failed,
            "answered": {},
        }
        self.reading.take(json.dumps(line), time.monotonic())
        self._failed = []
        self._lines += 1
        return "it broke" if self._breaks else None

    def stop(self) -> None:
        """End."""
        self.stopped += 1


@dataclass
class Target:
    """A workload whose rollout is over after it was asked about some times."""

    steps: int = 2
    failed: str | None = None
    interrupts: bool = False
    restarts: list[float] = field(default_factory=list)

    def restart(self) -> None:
        """Begin."""
        self.restarts.append(time.monotonic())

    def progress(self) -> Progress:
        """Tell."""
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt
        self.steps -= 1
        now = time.monotonic()
        if self.steps:
            return Progress(f"{self.steps} to go")
        return Progress("over", None if self.failed else now, now, self.failed)

    def pods(self) -> Sequence[Pod]:
        """Give two."""
        return [old(), new()]


def test_a_run_rolls_once_and_tells_how_far_it_is() -> None:
    """Warm, roll, tail; the load is stopped."""
    sender, target, told = Sender(), Target(), list[str]()
    ran = run(sender, target, _PLAN, tell=told.append)
    assert (len(target.restarts), sender.stopped, ran.interrupted) == (1, 1, False)
    assert ran.verdict.answer is Answer.NONE_LOST
    assert told == ["sending 1 requests a second", "1 to go", "over", "waiting 0.05 s more"]
    rollout = ran.verdict.rollout
    assert rollout.began is not None
    assert rollout.done is not None
    assert 0.05 <= rollout.began <= rollout.done


@pytest.mark.parametrize(
    ("sender", "reason"),
    [(Sender(_REFUSED), "was not touched"), (Sender(breaks=True), "it broke")],
)
def test_a_workload_is_not_touched_where_the_load_fails_before(sender: Sender, reason: str) -> None:
    """Neither where it is not answered, nor where it is not sent."""
    target = Target()
    ran = run(sender, target, _PLAN)
    assert not target.restarts
    assert ran.verdict.answer is Answer.NO_VERDICT
    assert any(reason in each for each in ran.verdict.reasons)
    assert sender.stopped == 1


def test_a_rollout_that_fails_is_told() -> None:
    """There is no verdict on it."""
    ran = run(Sender(), Target(failed="deadline exceeded"), _PLAN)
    assert "the rollout did not end well: deadline exceeded" in ran.verdict.reasons


def test_an_interruption_ends_the_load_and_tells_what_was_seen() -> None:
    """And does nothing else to the workload."""
    sender, target = Sender(), Target(interrupts=True)
    ran = run(sender, target, _PLAN)
    assert ran.interrupted
    assert (len(target.restarts), sender.stopped) == (1, 1)
    assert ran.verdict.requests
    assert ran.verdict.answer is Answer.NO_VERDICT


def test_a_load_that_does_not_start_is_an_error_that_says_why() -> None:
    """And nothing was touched."""
    target = Target()
    with pytest.raises(SenderError, match="file descriptors"):
        run(LocalSender(Job("http://127.0.0.1:9/", rate=1e9)), target, _PLAN)
    assert not target.restarts
