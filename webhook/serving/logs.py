"""One line a record on stderr: text for people, JSON for machines.

A review is one line at most: at `info` where something came of it, at `debug` where nothing did.
It names the object and what was done, never what the object holds. `docs/metrics.md` lists the
keys.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

import orjson

from webhook.decision.admission import Answer
from webhook.decision.outcomes import SkipReason
from webhook.decision.printable import json_text, printable

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")
log = logging.getLogger("webhook")

_LOUD: Final = frozenset({"patched", "audited", "refused"})
_MOST_SHOWN: Final = 253  # characters of a name: as many as Kubernetes allows
_MOST_LISTED: Final = 20
_MINUTE: Final = 60.0
_A_MINUTE: Final = 20
_KINDS: Final = 1000


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "review", {}),
        }
        dropped = getattr(record, "dropped", 0)
        if dropped:
            line["dropped"] = dropped
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        try:
            return json_text(orjson.dumps(line).decode())
        except orjson.JSONEncodeError:  # half a character, as in a file's name that is no UTF-8
            return json_text(json.dumps(line))


class _Text(logging.Formatter):
    """Control characters in a stranger's text must not forge lines or move a cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as in logging
        message = super().formatMessage(record)
        review = getattr(record, "review", {})
        message += "".join(f" {key}={_word(value)}" for key, value in review.items() if value)
        dropped = getattr(record, "dropped", 0)
        if dropped:
            message += f" ({dropped} lines like this one were dropped before it)"
        return printable(message)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as in logging
        """Indent a stack: no line of it can look like a record."""
        stack = super().formatException(ei)
        return "\n".join("    " + printable(line) for line in stack.split("\n"))


def _word(value: Any) -> str:
    """Write a value so that one in a stranger's words cannot pass for several."""
    if value is True:
        return "true"
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text if text and not set(text) & set(' ="') else json.dumps(text, ensure_ascii=False)


class Bounded(logging.Filter):
    """Lets through so many lines of a kind a minute, and tells how many it did not.

    Lines of a kind share their text, values aside. A flood of them would fill a disk, hide what
    else is said, and cost more than what it tells of. Below `warning` nothing is held back.

    Args:
        a_minute: how many lines of a kind.
        clock: seconds that only grow.
    """

    def __init__(
        self, a_minute: int = _A_MINUTE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.dropped = 0
        self._a_minute = a_minute
        self._clock = clock
        # A kind to when its minute began, how many were let through, how many were not.
        self._kinds: dict[tuple[str, str], tuple[float, int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line passes; one that follows dropped ones bears their number."""
        if record.levelno < logging.WARNING:
            return True
        kind, now = (record.name, str(record.msg)), self._clock()
        if len(self._kinds) > _KINDS:
            self._kinds.clear()
        begun, passed, dropped = self._kinds.get(kind, (now, 0, 0))
        if now - begun >= _MINUTE:
            if dropped:
                record.dropped = dropped
            begun, passed, dropped = now, 0, 0
        if passed >= self._a_minute:
            self.dropped += 1
            self._kinds[kind] = (begun, passed, dropped + 1)
            return False
        self._kinds[kind] = (begun, passed + 1, dropped)
        return True


class _Stderr(logging.StreamHandler[Any]):
    """Writes to stderr, and neither waits nor fails where nobody takes a line.

    The disk behind it may be full, its reader gone or stuck. No review waits for that: the line is
    dropped, and counted.
    """

    def __init__(self, bounded: Bounded) -> None:
        super().__init__(sys.stderr)
        self._bounded = bounded
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError):  # a stream of a test is no file
            self._descriptor = sys.stderr.fileno()
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            line = self.format(record) + self.terminator
            if self._descriptor is None:
                self.stream.write(line)
            else:
                self._write(self._descriptor, line.encode(errors="backslashreplace"))
        except Exception:  # noqa: BLE001 - nobody is left to be told, but for the metric
            self._bounded.dropped += 1

    def _write(self, descriptor: int, line: bytes) -> None:
        while line:
            if not self._poll.poll(0):
                message = "nobody reads on"
                raise BlockingIOError(message)
            # A pipe that takes anything at once takes so much.
            line = line[os.write(descriptor, line[: select.PIPE_BUF]) :]


def set_up(style: str, level: str = "info") -> Bounded:
    """Send the project's log, and what its libraries warn of, to stderr in one of `FORMATS`.

    Args:
        style: one of `FORMATS`.
        level: one of `LEVELS`; of libraries, warnings at least.

    Returns:
        What holds back floods, and counts.
    """
    bounded = Bounded()
    handler = _Stderr(bounded)
    text = _Text("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_Json() if style == "json" else text)
    handler.addFilter(bounded)
    least: int = getattr(logging, level.upper())
    # Nothing of this is shown, and it would be looked up for each line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in ("webhook", "uvicorn", "asyncio", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least if name == "webhook" else max(least, logging.WARNING))
        logger.propagate = False
    return bounded


def review(answer: Answer, seconds: float) -> None:
    """Log what came of a review: a line, or none where the level leaves it out.

    An unexpected error has a line already, with the request's uid and the stack.
    """
    outcome = answer.outcome
    level = logging.INFO if outcome in _LOUD else logging.DEBUG
    if log.isEnabledFor(level):
        said = _said(answer, outcome, seconds)
        if said is not None:
            # Made by hand: the logger would look for its caller, which takes as long as the rest.
            record = logging.LogRecord(log.name, level, "", 0, "review", (), None)
            record.review = said
            log.handle(record)


def _said(answer: Answer, outcome: str, seconds: float) -> dict[str, Any] | None:
    request, decision = answer.request, answer.decision
    if request is None or decision is None or decision.skipped == SkipReason.ERROR:
        return None
    most = _MOST_SHOWN  # a stranger's words are kept short, and few
    return {
        "uid": request.uid[:most],
        "operation": request.operation[:most],
        "kind": request.kind.kind[:most],
        "namespace": (request.namespace or "")[:most],
        "name": (request.name or "")[:most],
        "dryRun": request.dry_run is True,
        "outcome": outcome,
        "reason": decision.skipped or "",
        "applied": list(decision.applied),
        "warnings": list(dict.fromkeys(alert.code for alert in decision.alerts)),
        "refused": _bounded(problem.name for problem in decision.refused),
        "milliseconds": round(seconds * 1000, 3),
    }


def _bounded(names: Iterable[str]) -> list[str]:
    return [name[:_MOST_SHOWN] for name in islice(dict.fromkeys(names), _MOST_LISTED)]
