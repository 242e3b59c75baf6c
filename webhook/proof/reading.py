"""Reads what the load generator reports, line by line, and puts it on this process's clock.

The generator may run on another machine, so its clock says nothing here. Each line says when, in
seconds since the load began, it was written; it arrives a little later. The smallest difference
seen is the best guess at when the load began.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from webhook.proof.failures import Failure, Kind
from webhook.proof.verdict import Load

MOST_LINE: Final = 16 * 1024 * 1024


class ReportError(Exception):
    """A line that is no report."""


class Reading:
    """What has been reported so far.

    Args:
        rate: how many requests a second were asked for.
    """

    def __init__(self, rate: float) -> None:
        self.load = Load(rate)
        self.up_to = 0.0
        self.began: float | None = None
        self._next = 0

    def take(self, line: str | bytes, received: float) -> None:
        """Take a line that came in at `received`; one that was taken before changes nothing.

        Raises:
            ReportError: it is no line of a report.
        """
        try:
            found = json.loads(line)
            number = int(found["n"])
            if number < self._next:
                return
            if number > self._next:
                lost = number - self._next
                self.load.gaps.append(f"{lost} lines of the load generator's report were lost")
            self._take(found)
            self._next = number + 1
            began = received - float(found["now"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ReportError("the load generator wrote a line that is no report") from None
        self.began = began if self.began is None else min(self.began, began)

    def _take(self, found: dict[str, Any]) -> None:
        load = self.load
        fine = [(float(at), float(took)) for at, took in found["ok"]]
        failed = [_failure(each) for each in found["failed"]]
        load.at += [at for at, _ in fine]
        load.took += [took for _, took in fine]
        load.failures += failed
        for pod, (first, last) in found["answered"].items():
            known = load.answered.get(pod)
            load.answered[pod] = (known[0] if known else float(first), float(last))
        load.due, load.sent = int(found["due"]), int(found["sent"])
        load.late, load.most_late = int(found["late"]), float(found["mostLate"])
        load.seconds = float(found["now"])
        self.up_to = max(self.up_to, float(found["upTo"]))

    def until(self, moment: float) -> Load:
        """Give what was due up to a moment, on the load's own clock."""
        load = self.load
        kept = [(at, took) for at, took in zip(load.at, load.took, strict=True) if at <= moment]
        return replace(
            load,
            at=[at for at, _ in kept],
            took=[took for _, took in kept],
            failures=[each for each in load.failures if each.at <= moment],
        )


def _failure(found: dict[str, Any]) -> Failure:
    status = found["status"]
    return Failure(
        at=float(found["at"]),
        took=float(found["took"]),
        kind=Kind(found["kind"]),
        kept=bool(found["kept"]),
        reused=bool(found["reused"]),
        connected=bool(found["connected"]),
        status=None if status is None else int(status),
        pod=None if found["pod"] is None else str(found["pod"]),
        text=str(found["text"])[:200],
    )
