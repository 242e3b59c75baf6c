"""One run: warm up, roll, wait until the last old pod is gone and a tail after it, and judge.

The workload is touched once, by `Target.restart`, and only where the load is answered before. An
interruption ends the run at once, leaves the workload alone, and still tells what was seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from webhook.proof.failures import Kind, Pod, Scene
from webhook.proof.sender import Sender
from webhook.proof.verdict import Rollout, Verdict, judge

_POLL_SECONDS: Final = 0.1
_SPARE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rollout is.

    Args:
        text: the same in words.
        done: when it was over, by this process's monotonic clock; none before.
        gone: when the last old pod was gone.
        failed: why it ended otherwise.
    """

    text: str
    done: float | None = None
    gone: float | None = None
    failed: str | None = None


class Target(Protocol):
    """A workload that is rolled."""

    def restart(self) -> None:
        """Begin the rollout."""

    def progress(self) -> Progress:
        """Tell how far it is."""

    def pods(self) -> Sequence[Pod]:
        """Tell what became of its pods, by this process's monotonic clock."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is to be; times in seconds.

    Args:
        workload: its name, to be shown.
        warm: how long the load runs before the rollout.
        tail: how long after the last old pod is gone.
        timeout: that of a request: the last ones are waited for.
        scene: what is known beforehand of how the pods are reached.
    """

    workload: str
    warm: float
    tail: float
    timeout: float
    scene: Scene


@dataclass(slots=True)
class Ran:
    """What a run came to.

    Args:
        verdict: the verdict.
        interrupted: whether Ctrl-C ended it.
    """

    verdict: Verdict
    interrupted: bool = False


def run(
    sender: Sender,
    target: Target,
    plan: Plan,
    *,
    tell: Callable[[str], object] = lambda _text: None,
    wait: Callable[[float], object] = time.sleep,
) -> Ran:
    """Roll a workload under load.

    Args:
        sender: sends the load; it is stopped in any case.
        target: the workload.
        plan: how.
        tell: told how far it is, now and then.
        wait: waits a number of seconds.

    Raises:
        SenderError: no load can be sent. The workload is as it was.
    """
    began: float | None = None
    state = Progress("not begun")
    problem: str | None = None
    interrupted = False
    try:
        sender.start()
        tell(f"sending {sender.reading.load.rate:g} requests a second")
        problem = _sleep(sender, plan.warm, wait)
        if problem is None and not _answered(sender):
            problem = "the load was not answered as it should be, so the workload was not touched"
        if problem is None:
            began = time.monotonic()
            target.restart()
            state, problem = _roll(sender, target, tell, wait)
        if problem is None:
            tell(f"waiting {plan.tail:g} s more")
            problem = _sleep(sender, plan.tail, wait)
        _settle(sender, plan.timeout, wait)
    except KeyboardInterrupt:
        interrupted = True
        if began is not None:
            state = target.progress()
    finally:
        sender.stop()
    rollout = Rollout(began, state.done, state.gone, state.failed)
    return Ran(_judged(sender, target, plan, rollout, problem), interrupted)


def _sleep(sender: Sender, seconds: float, wait: Callable[[float], object]) -> str | None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        problem = sender.problem()
        if problem is not None:
            return problem
        wait(min(left, _POLL_SECONDS))
    return sender.problem()


def _answered(sender: Sender) -> bool:
    load = sender.reading.load
    theirs = sum(each.kind is not Kind.OWN for each in load.failures)
    return bool(load.at) and not theirs and not load.faults()


def _roll(
    sender: Sender,
    target: Target,
    tell: Callable[[str], object],
    wait: Callable[[float], object],
) -> tuple[Progress, str | None]:
    told = ""
    while True:
        state = target.progress()
        if state.text != told:
            told = state.text
            tell(told)
        if state.failed is not None or (state.done is not None and state.gone is not None):
            return state, None
        problem = sender.problem()
        if problem is not None:
            return state, problem
        wait(_POLL_SECONDS)


def _settle(sender: Sender, timeout: float, wait: Callable[[float], object]) -> None:
    """Wait until what was due by now has ended, and was told."""
    reading = sender.reading
    if reading.began is None:
        return
    now = time.monotonic()
    due = now - reading.began
    end = now + timeout + _SPARE_SECONDS
    while reading.up_to < due and time.monotonic() < end and sender.problem() is None:
        wait(_POLL_SECONDS)


def _judged(
    sender: Sender, target: Target, plan: Plan, rollout: Rollout, problem: str | None
) -> Verdict:
    reading = sender.reading
    start = reading.began if reading.began is not None else time.monotonic()
    load = reading.until(reading.up_to)
    if problem is not None:
        load.gaps = [*load.gaps, problem]
    scene = replace(plan.scene, pods=[shifted(each, start) for each in target.pods()])
    moved = Rollout(
        _minus(rollout.began, start),
        _minus(rollout.done, start),
        _minus(rollout.gone, start),
        rollout.failed,
    )
    return judge(plan.workload, load, scene, moved)


def shifted(pod: Pod, start: float) -> Pod:
    """Give a pod with its times counted from `start`."""
    return replace(
        pod,
        created=_minus(pod.created, start),
        ready=_minus(pod.ready, start),
        unready=_minus(pod.unready, start),
        available=_minus(pod.available, start),
        terminating=_minus(pod.terminating, start),
        stopped=_minus(pod.stopped, start),
        gone=_minus(pod.gone, start),
    )


def _minus(moment: float | None, start: float) -> float | None:
    return None if moment is None else moment - start
