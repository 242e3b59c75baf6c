"""What a rollout may lose: requests that reach a pod which does not answer them.

Two races, and what is left of them:

    a pod goes    what sends requests learns late that it goes. Until then a share of all requests
                  reaches it, and is lost once it has stopped to answer
    a pod comes   it counts as ready before it answers: its share is lost until it does
    none is left  no pod answers: everything is lost

The result is an interval, in requests:

    low   as likely as not: medians; a pod answers until its process ends, and ends what it began
    high  at the worst: the slowest of everything; a pod drops what it has begun at SIGTERM

So zero is the high end only where the preStop sleep covers the slowest that there is, and the
longest request. Each moment costs `rate` times the share of receivers that do not answer. Rules on
nodes fall back on pods that are going but still serve, where no other is left (KEP-1669); load
balancers outside are not taken to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from webhook.rollout.controllers import TrackedPod
from webhook.rollout.timings import Propagation, Times

Reason = Literal["stopped", "not-answering", "nobody"]

REASONS: Final[dict[Reason, str]] = {
    "stopped": "it no longer answers, and is still sent requests",
    "not-answering": "it counts as ready, and does not answer yet",
    "nobody": "no pod answers",
}


@dataclass(frozen=True, slots=True)
class Loss:
    """A time in which requests are lost.

    Args:
        pod: whose; none where no pod answers.
        start: from when, in seconds after the change.
        end: until when.
        reason: why; `REASONS` has it in words.
        certain: whether it is there even in the low case.
    """

    pod: str | None
    start: float
    end: float
    reason: Reason
    certain: bool


class Risk(NamedTuple):
    """Requests at risk, at the least and at the most, and when."""

    low: float
    high: float
    losses: tuple[Loss, ...]


class _Case(NamedTuple):
    """One end of the interval."""

    add: float
    remove: float
    request: float
    worst: bool


def requests_at_risk(pods: Sequence[TrackedPod], times: Times, end: float) -> Risk:
    """Tell how many requests a rollout may lose.

    Args:
        pods: all of its pods.
        times: what things take.
        end: until when to count at the least: what is not over then never ends.
    """
    if not pods:
        return Risk(0.0, 0.0, ())
    slow = _slowest(times)
    low = _Case(slow.add.p50, slow.remove.p50, 0.0, worst=False)
    high = _Case(slow.add.max, slow.remove.max, times.application.request.max, worst=True)
    falls_back = times.balancer is None
    lost_low, nobody_low = _sweep(pods, low, end, falls_back=falls_back)
    lost_high, nobody_high = _sweep(pods, high, end, falls_back=falls_back)
    losses = [
        *_losses(pods, low, high),
        *(Loss(None, *each, "nobody", _meets(each, nobody_low)) for each in nobody_high),
    ]
    losses.sort(key=lambda each: (each.start, each.end))
    at_least, at_most = times.rate * lost_low, times.rate * lost_high
    return Risk(at_least, max(at_least, at_most), tuple(losses))


def _slowest(times: Times) -> Propagation:
    """Give what the last one takes to learn: the rules on the nodes, or a balancer before them."""
    balancer = times.balancer
    if balancer is None:
        return times.service
    service = times.service
    return Propagation(
        max(service.add, balancer.add, key=lambda each: each.max),
        max(service.remove, balancer.remove, key=lambda each: each.max),
    )


def _silent_from(pod: TrackedPod, case: _Case) -> float:
    """Give from when on a request that is sent to a pod is lost; infinite where it never is."""
    if pod.stopped is None:
        return math.inf
    return pod.stopped.signalled - case.request if case.worst else pod.stopped.stopped


def _answers(pod: TrackedPod) -> float:
    return pod.started.answers if pod.started else -math.inf


def _sweep(
    pods: Sequence[TrackedPod], case: _Case, end: float, *, falls_back: bool
) -> tuple[float, list[tuple[float, float]]]:
    """Integrate the share that is lost over time, and note when no pod answers.

    Returns:
        seconds of full traffic that are lost, and the times in which everything is.
    """
    receiving = serving = sum(1 for pod in pods if pod.old)
    silent = 0
    lost = 0.0
    nobody: list[tuple[float, float]] = []
    before = -math.inf
    changes = _changes(pods, case)
    changes.append((max(end, changes[-1][0] if changes else end), 0, 0, 0))
    for now, received, fell_silent, served in changes:
        if now > before:
            none_left = 0.0 if falls_back and serving else 1.0
            share = silent / receiving if receiving else none_left
            if share:
                lost += share * (now - before)
            if share == 1.0:
                _extend(nobody, before, now)
            before = now
        receiving += received
        silent += fell_silent
        serving += served
    return lost, nobody


def _changes(pods: Sequence[TrackedPod], case: _Case) -> list[tuple[float, int, int, int]]:
    """Give what changes when: pods that are sent requests, those of them silent, those serving."""
    changes: list[tuple[float, int, int, int]] = []
    for pod in pods:
        if pod.enters == math.inf:
            continue
        until = pod.leaves + case.remove
        silent_from = _silent_from(pod, case)
        if not pod.old:
            answers = _answers(pod)
            begins = pod.enters + case.add
            early = pod.enters if case.worst else begins
            if early < answers:
                changes.append((early, 1, 1, 0))
                changes.append((answers, -1, -1, 0))
            changes.append((max(begins, answers), 1, 0, 0))
            changes.append((max(pod.enters, answers), 0, 0, 1))
        if silent_from < math.inf:
            changes.append((silent_from, 0, 0, -1))
            if silent_from < until:
                changes.append((silent_from, 0, 1, 0))
                changes.append((until, 0, -1, 0))
        if until < math.inf:
            changes.append((until, -1, 0, 0))
    changes.sort()
    return changes


def _extend(times: list[tuple[float, float]], start: float, end: float) -> None:
    if times and times[-1][1] == start:
        times[-1] = (times[-1][0], end)
    else:
        times.append((start, end))


def _losses(pods: Sequence[TrackedPod], low: _Case, high: _Case) -> Iterable[Loss]:
    for pod in pods:
        start, end = _silent_from(pod, high), pod.leaves + high.remove
        if start < end and start < math.inf:
            certain = _silent_from(pod, low) < pod.leaves + low.remove
            yield Loss(pod.name, start, end, "stopped", certain)
        answers = _answers(pod)
        if pod.enters < answers:
            yield Loss(
                pod.name, pod.enters, answers, "not-answering", pod.enters + low.add < answers
            )


def _meets(time: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    return any(start < time[1] and time[0] < end for start, end in others)
