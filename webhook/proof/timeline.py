"""Pods over time, drawn in characters: when each served, and when requests failed.

web-7d4-abcde   ████████████▒▒▒▒▒▒▒▒·····
web-59b-fghij               ░░░░████████████
failed                        ▂█▃
0         10        20        30 s
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from webhook.proof.failures import Pod

STARTING: Final = "░"
SERVING: Final = "█"
LEAVING: Final = "▒"
STOPPED: Final = "·"
LEGEND: Final = f"{STARTING} starting  {SERVING} ready  {LEAVING} terminating  {STOPPED} stopped"
_LEVELS: Final = " ▁▂▃▄▅▆▇█"
_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
_TICK_COLUMNS: Final = 10
_LONGEST_NAME: Final = 40


def draw(
    pods: Sequence[Pod], failures: Sequence[float], seconds: float, width: int = 100
) -> list[str]:
    """Draw pods, the oldest first, a line each; then failures, if any; then seconds.

    Args:
        pods: what became of each.
        failures: when requests failed.
        seconds: how long the whole took.
        width: how many columns there are.
    """
    ordered = sorted(pods, key=lambda pod: (not pod.old, pod.created or 0.0, pod.name))
    names = [_short(pod.name) for pod in ordered]
    margin = max((len(each) for each in (*names, "failed")), default=0) + 2
    columns = max(20, width - margin)
    step = max(seconds, 0.001) / columns
    lines = [
        (name.ljust(margin) + "".join(_cells(pod, step, columns))).rstrip()
        for name, pod in zip(names, ordered, strict=True)
    ]
    if failures:
        lines.append("failed".ljust(margin) + _histogram(failures, step, columns))
    lines.append(" " * margin + _axis(seconds, columns))
    return lines


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


def _cells(pod: Pod, step: float, columns: int) -> Iterator[str]:
    for column in range(columns):
        yield state(pod, (column + 0.5) * step)


def state(pod: Pod, at: float) -> str:
    """Give the character for what a pod was doing at a time; blank where it was not there."""
    if pod.created is not None and at < pod.created and not pod.old:
        return " "
    if pod.gone is not None and at >= pod.gone:
        return " "
    if pod.stopped is not None and at >= pod.stopped:
        return STOPPED
    if pod.terminating is not None and at >= pod.terminating:
        return LEAVING
    return SERVING if pod.serving(at) else STARTING


def _histogram(failures: Sequence[float], step: float, columns: int) -> str:
    counts = [0] * columns
    for at in failures:
        counts[min(columns - 1, max(0, int(at / step)))] += 1
    most = max(counts)
    levels = len(_LEVELS) - 1
    return "".join(_LEVELS[math.ceil(levels * each / most)] for each in counts).rstrip()


def _axis(seconds: float, columns: int) -> str:
    step = max(seconds, 0.001) / columns
    tick = next((each for each in _STEPS if each / step >= _TICK_COLUMNS), _STEPS[-1])
    line = [" "] * columns
    at = 0
    while at < seconds:
        text = str(at)
        start = int(at / step)
        if start + len(text) <= columns:
            line[start : start + len(text)] = text
        at += tick
    return "".join(line).rstrip() + " s"
