"""What a rollout's time is spent on: the chain of waits that ends when it is rolled out.

From the last thing that it waited for, back to the change: each pod was created, or deleted,
because something else had happened before. What does not lie on this chain costs no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from webhook.rollout.controllers import Cause, Event, TrackedPod
from webhook.rollout.timings import Times

CONTROLLERS: Final = "controllers"
MIN_READY: Final = "minReadySeconds"
_LEAST_SECONDS: Final = 0.005

_NUMBERS: Final = (
    "no", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wait:
    """What a rollout waits for.

    Args:
        what: such as `minReadySeconds`.
        seconds: how long, in all.
        steps: how many times.
    """

    what: str
    seconds: float
    steps: int

    def of(self, total: float) -> str:
        """Say it in words: `28 of 41 s is minReadySeconds: three steps`."""
        number = _NUMBERS[self.steps] if self.steps < len(_NUMBERS) else str(self.steps)
        steps = "step" if self.steps == 1 else "steps"
        return f"{self.seconds:.0f} of {total:.0f} s is {self.what}: {number} {steps}"


def critical_path(last: Cause | None, end: float, times: Times) -> tuple[Wait, ...]:
    """Give what a rollout waited for, the longest first.

    Args:
        last: what it had waited for when it was rolled out.
        end: when that was, in seconds after the change.
        times: what things take.
    """
    seconds: dict[str, float] = {}
    steps: dict[str, int] = {}
    for what, took in _back(last, end, times):
        if took > _LEAST_SECONDS:
            seconds[what] = seconds.get(what, 0.0) + took
            steps[what] = steps.get(what, 0) + 1
    return tuple(
        Wait(what, took, steps[what])
        for what, took in sorted(seconds.items(), key=lambda item: -item[1])
    )


def _back(cause: Cause | None, until: float, times: Times) -> Iterator[tuple[str, float]]:
    while cause is not None:
        yield CONTROLLERS, until - cause.at
        pod = cause.pod
        if pod is None:
            before = cause.before
            if before is not None:
                yield cause.what, cause.at - before.at
                until, cause = before.at, before
            else:
                until, cause = cause.at, None
        elif cause.event in (Event.READY, Event.AVAILABLE):
            yield from _started(pod, cause.event, times)
            until, cause = pod.created, pod.born
        else:
            yield from _stopped(pod, cause.event)
            until, cause = pod.terminating or 0.0, pod.died


def _started(pod: TrackedPod, event: Event, times: Times) -> Iterator[tuple[str, float]]:
    started = pod.started
    if started is None:
        return
    image = times.pod.image_pull.p50
    yield "image pull", image
    yield "start of the pod", started.pulled - pod.created - image
    yield "init containers", started.running - started.pulled
    answered = min(started.answers, started.probed)
    yield "start of the application", answered - started.running
    yield "probes", started.probed - answered
    yield "readiness gates", started.ready - started.probed
    if event is Event.AVAILABLE:
        yield MIN_READY, pod.available - started.ready


def _stopped(pod: TrackedPod, event: Event) -> Iterator[tuple[str, float]]:
    stopped, terminating = pod.stopped, pod.terminating
    if stopped is None or terminating is None:
        return
    yield "preStop hook", stopped.signalled - terminating
    yield "shutdown", stopped.stopped - stopped.signalled
    end = stopped.gone if event is Event.GONE else stopped.reported
    yield "removal of the pod", end - stopped.stopped
