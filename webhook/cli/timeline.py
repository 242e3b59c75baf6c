"""A rollout as a picture: rows of pods over time, for a terminal and for a page.

`rows` gives what is to be drawn; `draw` puts it into the columns of a terminal, where each cell
stands for a moment. Two pictures that are to be compared are drawn to the same scale: `end`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from webhook.decision.estimate import duration
from webhook.rollout.risk import REASONS, Loss
from webhook.rollout.simulation import Phase, PhaseName, Pod, Rollout

PHASES: Final[tuple[PhaseName, ...]] = (
    "starting",
    "ready",
    "available",
    "sleeping",
    "stopping",
    "killed",
)
MOST_ROWS: Final = 16
"""Of more pods, a row stands for several."""

GLYPHS: Final[dict[str, str]] = {
    "starting": "░",
    "ready": "▒",
    "available": "█",
    "sleeping": "▓",
    "stopping": "╌",
    "killed": "x",
    "lost": "!",
    "may be lost": "?",
}
STYLES: Final[dict[str, str]] = {
    "starting": "bright_black",
    "ready": "cyan",
    "available": "green",
    "sleeping": "blue",
    "stopping": "yellow",
    "killed": "magenta",
    "lost": "bold red",
    "may be lost": "red",
    "": "",
}
"""How each is shown where there is colour, as `rich` names styles."""

LEGEND: Final[tuple[tuple[str, str], ...]] = tuple(
    (f"{GLYPHS[name]} {said}", name)
    for name, said in [
        *((each, each) for each in PHASES),
        ("lost", "requests lost"),
        ("may be lost", "requests that may be lost"),
    ]
)

_LEAST_WIDTH: Final = 40
_MOST_WIDTH: Final = 1000  # a terminal may say anything
_TICKS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)
_TICK_COLUMNS: Final = 10
_FEW_PERCENT: Final = 0.05

Segment = tuple[str, str]
"""A text, and a key of `STYLES`."""


class Window(NamedTuple):
    """A time in which requests are lost, or may be."""

    start: float
    end: float
    certain: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the picture.

    Args:
        label: such as `old 1`, or `new 1-84` where it stands for several pods.
        phases: what the pod does, one after the other; of several, what the middle one does.
        losses: when requests to it, or to any of several, are lost.
        pods: how many pods it stands for; 0 for the row of outages.
    """

    label: str
    phases: tuple[Phase, ...]
    losses: tuple[Window, ...]
    pods: int = 1


def rows(rollout: Rollout, most: int = MOST_ROWS) -> list[Row]:
    """Give the rows of a rollout, the old pods first; below, when no pod answers at all.

    Args:
        rollout: what to draw.
        most: how many rows at most, besides the one of outages.
    """
    old = [each for each in rollout.pods if each.old]
    new = [each for each in rollout.pods if not each.old]
    each_stands_for = _bucket(rollout, most)
    of_pods: dict[tuple[str, bool], list[Loss]] = {}
    outages = []
    for loss in rollout.losses:
        if loss.pod is None:
            outages.append(Window(loss.start, loss.end, loss.certain))
        else:
            of_pods.setdefault((loss.pod, loss.reason == "stopped"), []).append(loss)
    found = [
        _row(bucket, what, at + 1, of_pods)
        for what, pods in (("old", old), ("new", new))
        for at in range(0, len(pods), each_stands_for)
        for bucket in [pods[at : at + each_stands_for]]
    ]
    if outages:
        found.append(Row("no pod", (), _merged(outages), 0))
    return found


def _bucket(rollout: Rollout, most: int) -> int:
    """Tell how many pods a row stands for."""
    many = len(rollout.pods)
    # Either half may end with a row that is not full.
    return 1 if many <= most else math.ceil(many / max(1, most - 2))


def _row(
    pods: Sequence[Pod], what: str, first: int, of_pods: dict[tuple[str, bool], list[Loss]]
) -> Row:
    if len(pods) == 1:
        label = f"{what} {pods[0].name.rpartition('-')[2]}"
    else:
        label = f"{what} {first}-{first + len(pods) - 1}"
    losses = []
    for pod in pods:
        # An old and a new pod may have the same name: which of them goes, and which comes?
        keys = [(pod.name, True)] if pod.terminating is not None else []
        if not pod.old:
            keys.append((pod.name, False))
        for key in keys:
            losses += [Window(each.start, each.end, each.certain) for each in of_pods.get(key, ())]
    return Row(label, pods[len(pods) // 2].phases, _merged(losses), len(pods))


def _merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Join windows that overlap and are as certain as each other."""
    found: list[Window] = []
    for each in sorted(windows, key=lambda one: (one.certain, one.start, one.end)):
        last = found[-1] if found else None
        if last and last.certain == each.certain and each.start <= last.end:
            found[-1] = Window(last.start, max(last.end, each.end), last.certain)
        else:
            found.append(each)
    return tuple(sorted(found))


def summarised(rollout: Rollout, most: int = MOST_ROWS) -> str:
    """Say how many pods a row stands for; empty where it is one."""
    pods = _bucket(rollout, most)
    return f"a row stands for {pods} pods: the middle one is shown" if pods > 1 else ""


# --- in words ------------------------------------------------------------------------------------


def totals(rollout: Rollout) -> str:
    """Say in one line how long it takes, how many pods there are, and what may be lost."""
    if rollout.rolled_out is None:
        took = f"not rolled out: {rollout.unfinished}"
    else:
        took = f"rolled out after {clock(rollout.rolled_out)}"
        if rollout.old_pods_gone is not None and rollout.old_pods_gone > rollout.rolled_out:
            took += f", old pods gone after {clock(rollout.old_pods_gone)}"
    extra = max(0, rollout.most_pods - rollout.shape.pods)
    extra_pods = "no extra pod" if not extra else f"{extra} extra pod{'s' * (extra > 1)}"
    return (
        f"{took}; at least {rollout.least_serving} of {rollout.shape.pods} serving; {extra_pods}; "
        f"{at_risk(rollout)}"
    )


def at_risk(rollout: Rollout) -> str:
    """Say how many requests are at risk."""
    low, high = rollout.at_risk
    if not high:
        return "no request at risk"
    if low == high:
        return f"{high:,} request{'s' * (high > 1)} at risk"
    return f"{low:,} to {high:,} requests at risk"


def waits(rollout: Rollout) -> str:
    """Say what the time is spent on: the longest wait as a sentence, others that count after it."""
    total = rollout.rolled_out
    if not rollout.longest_wait or total is None:
        return ""
    rest = [
        f"{each.seconds:.0f} s {each.what}"
        for each in rollout.path[1:]
        if each.seconds >= max(0.5, total * _FEW_PERCENT)
    ]
    return rollout.longest_wait + (f"; {', '.join(rest)}" if rest else "")


def clock(seconds: float) -> str:
    """Write seconds as settings are written."""
    return duration(round(seconds))


def reasons(rollout: Rollout) -> list[str]:
    """Say why requests are lost, the most certain first."""
    found = {each.reason: False for each in rollout.losses}
    for each in rollout.losses:
        found[each.reason] |= each.certain
    return [
        f"{'lost' if certain else 'may be lost'} while {REASONS[reason]}"
        for reason, certain in sorted(found.items(), key=lambda item: not item[1])
    ]


# --- in a terminal -------------------------------------------------------------------------------


def ticks(end: float, most: int) -> list[int]:
    """Give the seconds to mark on an axis, at most so many of them."""
    step = next((each for each in _TICKS if end / each <= max(1, most)), _TICKS[-1])
    return list(range(0, math.ceil(end), step))[: max(1, most) + 1] or [0]


def draw(
    rollout: Rollout, width: int, end: float | None = None, most: int = MOST_ROWS
) -> Iterator[list[Segment]]:
    """Draw a rollout into lines of at most `width` columns, an axis of seconds first.

    Args:
        rollout: what to draw.
        width: how many columns there are.
        end: the seconds at the right end; none: when nothing more happens.
        most: how many rows at most.
    """
    end = max(end or rollout.end, 1.0)
    drawn = rows(rollout, most)
    if not drawn:
        return
    margin = max(len(each.label) for each in drawn) + 1
    cells = max(10, min(max(width, _LEAST_WIDTH), _MOST_WIDTH) - margin)
    yield [(" " * margin + _axis(end, cells), "")]
    for row in drawn:
        yield [(row.label.ljust(margin), ""), *_runs(_cells(row, end, cells))]


def _axis(end: float, cells: int) -> str:
    axis = ""
    for tick in ticks(end, cells // _TICK_COLUMNS):
        at = round(tick / end * cells)
        label = duration(tick)
        if at >= len(axis) and at + len(label) <= cells:
            axis = axis.ljust(at) + label + " "
    return axis.rstrip()


def _cells(row: Row, end: float, cells: int) -> list[str]:
    """Name what is in each cell; what must not be missed has one cell at the least."""
    found = [""] * cells
    for phase in row.phases:
        until = end if phase.end is None else phase.end
        first, last = (round(min(at, end) / end * cells) for at in (phase.start, until))
        if phase.name == "killed":
            first, last = _seen(first, last, cells)
        found[first:last] = [phase.name] * (last - first)
    for window in sorted(row.losses, key=lambda each: each.certain):
        first, last = math.floor(window.start / end * cells), math.ceil(window.end / end * cells)
        first, last = _seen(max(0, first), min(last, cells), cells)
        found[first:last] = ["lost" if window.certain else "may be lost"] * (last - first)
    return found


def _seen(first: int, last: int, cells: int) -> tuple[int, int]:
    first = min(first, cells - 1)
    return first, max(last, first + 1)


def _runs(cells: Sequence[str]) -> Iterator[Segment]:
    """Join cells of a kind; nothing is drawn behind the last."""
    end = len(cells)
    while end and not cells[end - 1]:
        end -= 1
    start = 0
    while start < end:
        stop = start
        while stop < end and cells[stop] == cells[start]:
            stop += 1
        yield GLYPHS.get(cells[start], " ") * (stop - start), cells[start]
        start = stop
