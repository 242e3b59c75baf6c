"""Events on patched workloads: in the background, bounded, one for many, none for a dry run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from tests import builders
from webhook.cluster.client import Api, ApiError
from webhook.cluster.events import Events, notes
from webhook.decision.admission import Admission, Answer
from webhook.decision.configuration import Configuration

EVENTS = f"/apis/events.k8s.io/v1/namespaces/{builders.NAMESPACE}/events"
WEB = f"/apis/apps/v1/namespaces/{builders.NAMESPACE}/deployments/web"


class Cluster(Api):
    """Remembers what is asked; the workload `web` is there."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.uid: str | None = "1"
        self.fails: dict[str, int] = {}

    def now(self) -> datetime:
        """Tell a time that stands still."""
        return datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Answer, or fail as told."""
        self.asked.append((method, path, options.get("body")))
        if method in self.fails:
            message = f"{method} {path}: no"
            raise ApiError(message, self.fails[method] or None)
        if method == "GET" and self.uid is None:
            message = "not found"
            raise ApiError(message, 404)
        return {"metadata": {"uid": self.uid}}

    def writes(self) -> list[tuple[str, str, Any]]:
        """List what was written, and forget it."""
        found = [each for each in self.asked if each[0] != "GET"]
        self.asked.clear()
        return found


def answered(given: Any = None, mode: str = "patch", **more: Any) -> Answer:
    """Answer a review of a workload."""
    given = builders.deployment() if given is None else given
    body = orjson.dumps(builders.review(given, **more))
    return Admission(Configuration(mode=mode)).answer(body)


RECREATE = builders.changed(builders.deployment(), "spec", "strategy", to={"type": "Recreate"})


def test_a_patched_workload_gets_an_event_that_says_what_is_in_place() -> None:
    """Written by a later round, with the uid of what is stored then."""
    cluster = Cluster()
    events = Events(cluster, "webhook-0")
    events.observe(answered(), 0.001, None)
    assert cluster.asked == []
    events.step()
    assert cluster.asked[0][:2] == ("GET", WEB)
    ((method, path, event),) = cluster.writes()
    assert (method, path) == ("POST", EVENTS)
    name = event.pop("metadata")
    assert name["name"].startswith("web.")
    assert name["namespace"] == builders.NAMESPACE
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2026-01-02T03:04:05.000006Z",
        "reportingController": "seamless-rollouts.dev/webhook",
        "reportingInstance": "webhook-0",
        "action": "Admission",
        "reason": "Injected",
        "regarding": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "namespace": builders.NAMESPACE,
            "name": "web",
            "uid": "1",
        },
        "note": "in place: pre-stop-sleep, min-ready",
        "type": "Normal",
    }
    assert (events.written, events.failed, events.dropped) == (1, 0, 0)


def test_a_warning_is_an_event_too() -> None:
    """Its reason is the code of the warning."""
    found = list(notes(answered(RECREATE)))
    assert [(each.type, each.reason) for each in found] == [
        ("Normal", "Injected"),
        ("Warning", "Recreate"),
    ]


def test_taking_out_is_an_event_of_its_own() -> None:
    """Somebody opted out."""
    given = builders.after(builders.deployment())
    given = builders.with_settings(given, inject="disabled")
    (note,) = notes(answered(given))
    assert note.reason == "Restored"


@pytest.mark.parametrize(
    "answer",
    [
        answered(dryRun=True),
        answered(mode="audit"),
        answered(builders.with_settings(builders.deployment(), min_ready="soon")),
        answered(builders.with_settings(builders.deployment(), inject="disabled")),
        answered(builders.after(builders.deployment())),
        answered(name=None),
        Admission(Configuration()).answer(b"{}"),
    ],
    ids=["dry run", "audit", "refused", "disabled", "unchanged", "no name", "no review"],
)
def test_what_leaves_nothing_behind_is_no_event(answer: Answer) -> None:
    """A dry run must have no side effect; the rest changes nothing, or has no name yet."""
    assert list(notes(answer)) == []


def test_equal_events_become_one_with_a_count() -> None:
    """In one round, and over rounds."""
    cluster = Cluster()
    events = Events(cluster, "webhook-0")
    for _ in range(3):
        events.observe(answered(), 0.001, None)
    events.step()
    ((_, _, event),) = cluster.writes()
    assert event["series"] == {"count": 3, "lastObservedTime": "2026-01-02T03:04:05.000006Z"}
    events.observe(answered(), 0.001, None)
    events.step()
    ((method, path, change),) = cluster.writes()
    assert (method, path) == ("PATCH", f"{EVENTS}/{event['metadata']['name']}")
    assert change["series"]["count"] == 4


def test_an_event_that_the_cluster_has_forgotten_is_written_anew() -> None:
    """It keeps Events for an hour."""
    cluster = Cluster()
    events = Events(cluster, "webhook-0")
    for _ in range(2):
        events.observe(answered(), 0.001, None)
        events.step()
        cluster.fails = {"PATCH": 404}
    methods = [method for method, _, _ in cluster.writes()]
    assert methods == ["POST", "PATCH", "POST"]
    assert events.failed == 0


def test_a_workload_that_was_made_anew_gets_events_of_its_own() -> None:
    """Another uid is another workload."""
    cluster = Cluster()
    events = Events(cluster, "webhook-0")
    for uid in ("1", "2"):
        cluster.uid = uid
        events.observe(answered(), 0.001, None)
        events.step()
    assert [body["regarding"]["uid"] for _, _, body in cluster.writes()] == ["1", "2"]


def test_a_workload_that_is_not_there_gets_none() -> None:
    """The request was refused after our answer."""
    cluster = Cluster()
    cluster.uid = None
    events = Events(cluster, "webhook-0")
    events.observe(answered(), 0.001, None)
    events.step()
    assert cluster.writes() == []
    assert (events.written, events.failed) == (0, 0)


@pytest.mark.parametrize("fails", [{"GET": 0}, {"GET": 403}, {"POST": 500}, {"POST": 0}])
def test_what_cannot_be_written_is_counted_and_left(
    fails: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is tried all the same."""
    cluster = Cluster()
    cluster.fails = fails
    events = Events(cluster, "webhook-0")
    events.observe(answered(RECREATE), 0.001, None)
    events.step()
    assert (events.written, events.failed) == (0, 2)
    cluster.fails = {}
    cluster.writes()
    events.step()
    assert cluster.writes() == []
    assert caplog.text.count("an Event was not written") <= 2


def test_what_does_not_fit_is_dropped_and_counted_and_a_round_is_bounded() -> None:
    """A flood of patched workloads neither fills the memory nor the cluster."""
    cluster = Cluster()
    events = Events(cluster, "webhook-0", noted=120)
    for number in range(150):
        events.observe(answered(name=f"web-{number}"), 0.001, None)
    events.observe(answered(name="web-0"), 0.001, None)
    assert events.dropped == 30
    for written in (50, 50, 20, 0):
        events.step()
        assert len(cluster.writes()) == written


def test_the_api_is_asked_from_a_thread_of_its_own() -> None:
    """Starting and stopping leaves nothing behind."""
    cluster = Cluster()
    events = Events(cluster, "webhook-0")
    events.observe(answered(), 0.001, None)
    events.start()
    events.stop()
    assert events.written <= 1
    assert set(events.metrics()) == {
        "seamless_events_written_total",
        "seamless_events_failed_total",
        "seamless_events_dropped_total",
    }
