"""Events on workloads that were patched, for those who read neither warnings nor logs.

An answer is a wish: the request may be refused after it. So nothing is written at once, and never
for a dry run. What was answered is noted in memory, within bounds; a thread of its own looks a
little later whether the workload is there, and writes what was noted. Notes of one text about one
workload become one Event with a count. What does not fit is dropped and counted: no admission
ever waits for an Event.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from webhook.background import Background
from webhook.cluster.client import METADATA, NOT_FOUND, Api, ApiError, Json
from webhook.cluster.event_body import event_body, events_path, micro_time
from webhook.decision.admission import Answer
from webhook.decision.workload import KINDS, Kind

log = logging.getLogger("webhook")

CONTROLLER: Final = "seamless-rollouts.dev/webhook"
_MERGE_PATCH: Final = "application/merge-patch+json"
_ROUND_SECONDS: Final = 5.0
_A_ROUND: Final = 50
_NOTED: Final = 1000
_REMEMBERED: Final = 1000
_LONGEST_INSTANCE: Final = 128
_REQUEST_SECONDS: Final = 5.0


class Note(NamedTuple):
    """What there is to tell of a workload; equal ones become one Event."""

    kind: Kind
    namespace: str
    name: str
    type: str
    reason: str
    text: str


@dataclass(slots=True)
class _Written:
    """An Event that is in the cluster."""

    name: str
    uid: object
    count: int


class Events:
    """Writes Events in the background.

    Args:
        api: where they go.
        instance: which process tells: the pod's name.
        noted: how many notes may wait.
    """

    def __init__(self, api: Api, instance: str, *, noted: int = _NOTED) -> None:
        self.written = self.failed = self.dropped = 0
        self._api = api
        self._instance = instance[:_LONGEST_INSTANCE]
        self._most = noted
        self._lock = threading.Lock()
        self._noted: dict[Note, int] = {}
        self._remembered: OrderedDict[Note, _Written] = OrderedDict()
        self._background = Background("events", self.step)

    def start(self) -> None:
        """Write from now on."""
        self._background.start()

    def stop(self) -> None:
        """Write no longer; what waits is dropped."""
        self._background.stop()

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Give numbers to export, each with its help text."""
        return {
            "seamless_events_written_total": ("Events written or counted up.", self.written),
            "seamless_events_failed_total": ("Events that could not be written.", self.failed),
            "seamless_events_dropped_total": (
                "Events that were dropped because too many waited.",
                self.dropped,
            ),
        }

    def observe(self, answer: Answer, _seconds: float, _scope: Any) -> None:
        """Note what there is to tell of an answer; never waits for the cluster."""
        for note in notes(answer):
            with self._lock:
                if note in self._noted or len(self._noted) < self._most:
                    self._noted[note] = self._noted.get(note, 0) + 1
                else:
                    self.dropped += 1

    def step(self) -> float:
        """Write some of what was noted, and tell when to go on."""
        with self._lock:
            some = list(self._noted.items())[:_A_ROUND]
            for note, _ in some:
                del self._noted[note]
        for note, count in some:
            try:
                if self._write(note, count):
                    self.written += 1
            except ApiError as error:
                self.failed += 1
                log.warning("an Event was not written: %s", error)
        return _ROUND_SECONDS

    def _write(self, note: Note, count: int) -> bool:
        """Write an Event, or count up the one that is there, if its workload is there."""
        regarding = self._regarding(note)
        if regarding is None:
            return False  # refused after our answer, or gone again
        now = self._api.now()
        known = self._remembered.pop(note, None)
        if known is not None and known.uid == regarding["uid"]:
            known.count += count
            if self._count_up(note, known, now):
                self._remember(note, known)
                return True
            count = known.count
        self._remember(note, self._create(note, count, regarding, now))
        return True

    def _regarding(self, note: Note) -> Json | None:
        group, namespace = note.kind.api_version, quote(note.namespace, safe="")
        path = f"/apis/{group}/namespaces/{namespace}/{note.kind.resource}/"
        try:
            found = self._api.request(
                "GET", path + quote(note.name, safe=""), accept=METADATA, timeout=_REQUEST_SECONDS
            )
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return {
            "apiVersion": note.kind.api_version,
            "kind": note.kind.name,
            "namespace": note.namespace,
            "name": note.name,
            "uid": found.get("metadata", {}).get("uid"),
        }

    def _create(self, note: Note, count: int, regarding: Json, now: datetime) -> _Written:
        event = event_body(
            regarding,
            now,
            controller=CONTROLLER,
            instance=self._instance,
            action="Admission",
            reason=note.reason,
            note=note.text,
            warning=note.type == "Warning",
        )
        if count > 1:
            event["series"] = _series(count, now)
        path = events_path(note.namespace)
        self._api.request("POST", path, body=event, timeout=_REQUEST_SECONDS)
        return _Written(event["metadata"]["name"], regarding["uid"], count)

    def _count_up(self, note: Note, known: _Written, now: datetime) -> bool:
        path = f"{events_path(note.namespace)}/{quote(known.name, safe='')}"
        body = {"series": _series(known.count, now)}
        try:
            self._api.request(
                "PATCH", path, body=body, content_type=_MERGE_PATCH, timeout=_REQUEST_SECONDS
            )
        except ApiError as error:
            if error.status == NOT_FOUND:
                return False  # the API server forgets Events after an hour or so
            raise
        return True

    def _remember(self, note: Note, written: _Written) -> None:
        self._remembered[note] = written
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)


def notes(answer: Answer) -> Iterator[Note]:
    """Give what an answer has to tell: of a workload that was patched, and no dry run."""
    request, decision = answer.request, answer.decision
    if request is None or decision is None or request.dry_run or answer.outcome != "patched":
        return
    kind = KINDS.get(request.kind.kind)
    if kind is None or not request.name or not request.namespace:
        return
    applied = ", ".join(decision.applied)
    reason, text = (
        ("Injected", f"in place: {applied}")
        if applied
        else ("Restored", "what had been injected is taken out")
    )
    yield Note(kind, request.namespace, request.name, "Normal", reason, text)
    for alert in decision.alerts:
        yield Note(
            kind, request.namespace, request.name, "Warning", _camel_case(alert.code), alert.text
        )


def _camel_case(code: str) -> str:
    return "".join(word.capitalize() for word in code.split("-"))


def _series(count: int, now: datetime) -> Json:
    return {"count": count, "lastObservedTime": micro_time(now)}
