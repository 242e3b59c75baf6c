"""What the API server says of pods, put on this process's clock; watches that break off; a pod."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from tests.builders import deployment
from tests.cluster.fake_api import NAMESPACES, FakeApi, Fault
from webhook.cluster.client import ApiError
from webhook.cluster.proof import RESTARTED_AT, PodLog, Workload, _Watch
from webhook.workload import DEPLOYMENT

Json = dict[str, Any]
_SECONDS = 20.0


def pod(name: str = "web-1", **given: Any) -> Json:
    """A pod as it is stored."""
    metadata: Json = {"name": name, "uid": name}
    if "deleted" in given:
        metadata |= {"deletionTimestamp": given["deleted"], "deletionGracePeriodSeconds": 30}
    container: Json = {"name": "app"}
    if given.get("probe", True):
        container["readinessProbe"] = {"tcpSocket": {"port": 80}}
    state: Json = {"running": {}}
    if "finished" in given:
        state = {"terminated": {"exitCode": given.get("code", 0), "finishedAt": given["finished"]}}
    status = {
        "conditions": [{"type": "Ready", "status": str(given.get("ready", False))}],
        "containerStatuses": [{"state": state, "restartCount": given.get("restarts", 0)}],
    }
    return {"metadata": metadata, "spec": {"containers": [container]}, "status": status}


@pytest.fixture
def log(fake: FakeApi) -> PodLog:
    """A log that watches nothing: it is told."""
    return PodLog(fake.api(), "shop", {"matchLabels": {"app": "web"}})


def test_a_pods_life_is_noted_as_it_is_told(log: PodLog) -> None:
    """Each time by this process's clock; the deletion's gives the other clock's offset."""
    log._take("ADDED", pod(), 10.0)
    log._take("MODIFIED", pod(ready=True), 12.0)
    log._take("MODIFIED", pod(ready=True, restarts=2), 13.0)
    log.mark_old()
    # Told to go at 12:00:00 by the API server's clock, at 20.0 by ours, with 30 s of grace.
    leaving: Json = {"deleted": "2026-01-01T12:00:30Z"}
    log._take("MODIFIED", pod(ready=True, **leaving), 20.0)
    assert log.old_left() == 1
    ended = leaving | {"finished": "2026-01-01T12:00:07Z", "code": 137, "restarts": 2}
    log._take("MODIFIED", pod(**ended), 29.0)
    log._take("DELETED", pod(**ended), 30.0)
    (found,) = log.pods()
    assert (found.created, found.ready, found.terminating, found.grace) == (10.0, 12.0, 20.0, 30.0)
    assert found.stopped == pytest.approx(27.5)  # not when we were told, but as the kubelet says
    assert (found.gone, found.exit_code, found.restarts, found.old) == (30.0, 137, 2, True)
    assert (log.old_left(), log.last_gone()) == (0, 30.0)


def test_a_pod_that_ends_before_it_can_have_is_put_right(log: PodLog) -> None:
    """Clocks differ: never before it was told to go, never after we knew."""
    log._take("ADDED", pod(ready=True, deleted="2026-01-01T12:00:30Z"), 20.0)
    early = pod(deleted="2026-01-01T12:00:30Z", finished="2026-01-01T11:00:00Z")
    log._take("MODIFIED", early, 25.0)
    assert log.pods()[0].stopped == 20.0
    log._take("ADDED", pod("web-2", ready=True, deleted="2026-01-01T12:00:30Z"), 20.0)
    late = pod("web-2", deleted="2026-01-01T12:00:30Z", finished="2026-01-01T13:00:00Z")
    log._take("DELETED", late, 25.0)
    assert log.pods()[1].stopped == 25.0


def test_a_pod_may_lose_its_readiness_and_get_it_back(log: PodLog) -> None:
    """Meanwhile it does not serve."""
    log._take("ADDED", pod(ready=True), 10.0)
    log._take("MODIFIED", pod(ready=False), 12.0)
    assert (log.pods()[0].ready, log.pods()[0].unready) == (10.0, 12.0)
    log._take("MODIFIED", pod(ready=True), 14.0)
    assert log.pods()[0].unready is None


@pytest.mark.parametrize("probe", [True, False])
def test_whether_a_pod_has_a_readiness_probe_is_known(
    log: PodLog,
    probe: bool,  # noqa: FBT001
) -> None:
    """It decides who is blamed."""
    log._take("ADDED", pod(probe=probe), 1.0)
    assert log.pods()[0].probed is probe


@pytest.mark.parametrize(
    "strange",
    [
        {},
        {"metadata": None, "spec": None, "status": None},
        {"metadata": {"deletionTimestamp": "soon"}, "status": {"containerStatuses": [{}]}},
        {"status": {"containerStatuses": [{"state": {"terminated": {"finishedAt": 5}}}]}},
        {"status": {"conditions": [None], "containerStatuses": [None]}},
    ],
)
def test_a_pod_of_a_strange_shape_is_no_error(log: PodLog, strange: Json) -> None:
    """It is told as far as it is understood."""
    log._take("ADDED", strange, 1.0)
    assert len(log.pods()) == 1


def until(true: Any) -> None:
    """Wait until it is so."""
    end = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class Seen:
    """What a watch told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def __call__(self, event: str, thing: Json, _now: float) -> None:
        """Note it."""
        with self._lock:
            self.events.append((event, thing["metadata"]["name"]))


def named(fake: FakeApi, name: str) -> None:
    """Store an object with a uid."""
    fake.put(NAMESPACES, name, {"metadata": {"uid": name}})


def test_a_watch_goes_on_after_it_was_broken_off(fake: FakeApi) -> None:
    """From where it was, or where that is too old, from a list; what vanished was deleted."""
    named(fake, "a")
    named(fake, "b")
    seen = Seen()
    watch = _Watch(fake.api(), NAMESPACES, "", seen)
    watch.start()
    assert sorted(seen.events) == [("MODIFIED", "a"), ("MODIFIED", "b")]
    until(lambda: len(fake.asked("GET", watches=True)) == 1)
    named(fake, "c")
    until(lambda: ("ADDED", "c") in seen.events)
    fake.drop_streams()
    until(lambda: len(fake.asked("GET", watches=True)) == 2)
    named(fake, "d")
    until(lambda: ("ADDED", "d") in seen.events)
    assert seen.events.count(("ADDED", "c")) == 1
    with fake._changed:
        del fake.objects[NAMESPACES]["a"]
        fake.compact()
        fake.drop_streams()
    until(lambda: ("DELETED", "a") in seen.events)
    watch.stop()
    assert not watch._thread.is_alive()


def test_a_right_that_is_missing_is_named_at_once(fake: FakeApi) -> None:
    """Waiting would not help."""
    body = b'{"message": "User \\"x\\" cannot list resource"}'
    fake.faults.append(lambda _: Fault(403, {}, body))
    watch = _Watch(fake.api(), "/api/v1/namespaces/shop/pods", "", Seen())
    with pytest.raises(ApiError, match="needs: list and watch pods"):
        watch.start()
    watch.stop()


def test_a_restart_writes_what_kubectl_writes_and_nothing_else(fake: FakeApi) -> None:
    """One annotation of the pod template, as one merge patch with our field manager."""
    stored = deployment(metadata={"name": "web", "namespace": "shop"})
    collection = "/apis/apps/v1/namespaces/shop/deployments"
    fake.put(collection, "web", stored)
    bodies: list[bytes] = []
    answer = fake.answer

    def noting(request: Any, body: bytes) -> Any:
        if request.method == "PATCH":
            bodies.append(body)
            return 200, {}
        return answer(request, body)

    fake.answer = noting  # type: ignore[method-assign]
    workload = Workload(fake.api(), DEPLOYMENT, stored)
    workload.restart()
    (request,) = fake.asked("PATCH")
    assert request.path == f"{collection}/web"
    assert request.query == {"fieldManager": "seamless-prove"}
    assert request.headers["Content-Type"] == "application/merge-patch+json"
    patch = json.loads(bodies[0])
    annotations = patch["spec"]["template"]["metadata"].pop("annotations")
    assert patch == {"spec": {"template": {"metadata": {}}}}
    assert list(annotations) == [RESTARTED_AT]
    assert len(annotations[RESTARTED_AT]) == len("2026-01-01T12:00:00Z")
