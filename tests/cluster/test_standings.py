"""Counting workloads beside the webhook's own work, and what a survey keeps."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.builders import Json, admission, deployment, namespaces, workload
from tests.cluster.fake_api import Fault, once, until
from tests.cluster.served import Served
from tests.servers import Server
from webhook.cluster.client import Backoff
from webhook.cluster.standings import Gauges, StandingsWatch, survey
from webhook.cluster.version import CRD_PATH, NODES_PATH
from webhook.cluster.workloads import Workloads
from webhook.decision.configuration import Configuration
from webhook.rollout.state import STATES

EVERYTHING = admission({"scope": "cluster"}, namespace=namespaces({}))


def named(given: Json, name: str, namespace: str = "shop") -> Json:
    """Give a workload another name."""
    given["metadata"].update(name=name, namespace=namespace)
    return given


@pytest.fixture
def api() -> Iterator[Served]:
    """A cluster with a few workloads, of which Argo Rollouts are some."""
    server = Served(("deployments", "statefulsets", "daemonsets", "rollouts"))
    server.namespace("shop")
    for number in range(60):
        server.workload(named(deployment(), f"web-{number:02}"))
    server.workload(named(workload("Rollout"), "canary"))
    server.workload(named(deployment(says={"inject": "disabled"}), "out"))
    yield server
    server.close()


def watch(api: Served, seconds: float = 600.0, *, ready: bool = True) -> StandingsWatch:
    """Make a watch that hardly waits after a failure."""
    backoff = Backoff(first=0.01, most=0.01)
    return StandingsWatch(api.api(), lambda: EVERYTHING, lambda: ready, seconds, backoff=backoff)


def exported(gauges: Gauges) -> str:
    """Give the text that Prometheus would read."""
    registry = CollectorRegistry()
    registry.register(gauges)
    return generate_latest(registry).decode()


def test_all_workloads_are_counted_in_small_pages(api: Served) -> None:
    """No page takes long to read, and between two there is a rest."""
    found = watch(api)
    assert exported(found) == ""
    assert 480 <= found.step() <= 720
    text = exported(found)
    assert 'seamless_workloads{state="unpatched"} 61.0' in text
    assert 'seamless_workloads{state="opted-out"} 1.0' in text
    assert text.count("seamless_workloads{") == len(STATES)
    assert "seamless_namespace_workloads" not in text
    lists = [each for each in api.requests if each.path.endswith("/deployments")]
    assert len(lists) == 3
    assert {each.query["limit"] for each in lists} == {"25"}


def test_it_rests_nine_times_as_long_as_it_works(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a core at most; and never so long that a page's version expires."""
    found = watch(api)
    rests: list[float] = []
    monkeypatch.setattr(found, "_rest", rests.append)
    found._pause(0.02)
    found._pause(5.0)
    assert rests == [pytest.approx(0.18), 1.0]


def test_nothing_is_counted_before_the_namespaces_are_known(api: Served) -> None:
    """All would seem to be selected."""
    found = watch(api, ready=False)
    assert found.step() == 1.0
    assert api.requests == []
    assert exported(found) == ""


def test_a_failure_keeps_what_was_counted_last(
    api: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and says so."""
    # A command that a test has run here before has hushed it.
    monkeypatch.setattr(logging.getLogger("webhook"), "propagate", True)
    found = watch(api)
    found.step()
    before = exported(found)
    api.forbidden.add("deployments")
    with caplog.at_level(logging.WARNING):
        assert found.step() < 1.0
    assert found.errors == 1
    assert "workloads cannot be counted" in caplog.text
    assert "resources [deployments]" in caplog.text
    assert exported(found) == before
    api.forbidden.clear()
    assert found.step() > 1.0


def test_it_begins_and_ends_with_the_process(api: Served) -> None:
    """In a thread of its own; to stop does not wait for the rest of a survey."""
    found = watch(api)
    found.start()
    until(lambda: found.counted)
    found.stop()
    assert found.counted is not None
    assert found.counted.totals["unpatched"] == 61
    stopped = watch(api)
    stopped.stop()
    assert stopped.step() == 0.0
    assert stopped.counted is None


def test_the_webhook_exports_what_it_counts(api: Served, tmp_path: Path) -> None:
    """As `docs/metrics.md` lists it; the counts by namespace are those of the command alone."""
    api.namespace("shop", inject="enabled")
    server = Server(
        f"--kubeconfig={api.kubeconfig(tmp_path)}", "--status-interval=1m", "--drain-seconds=0"
    )
    try:
        wanted = 'seamless_workloads{state="unpatched"} 61.0'
        server.until(lambda: wanted in server.health("/metrics")[1])
        text = server.health("/metrics")[1]
        assert server.stop() == 0
    finally:
        server.close()
    _, _, section = Path("docs/metrics.md").read_text().partition("## Where workloads stand\n")
    listed = dict(
        re.findall(r"^\| `(seamless_\w+)` \| (\w+) \|", section.partition("\n## ")[0], re.MULTILINE)
    )
    del listed["seamless_namespace_workloads"]
    kinds = dict(re.findall(r"^# TYPE (seamless_\w+) (\w+)$", text, re.MULTILINE))
    assert len(listed) == 3
    assert listed.items() <= kinds.items()
    mine = {name for name in kinds if name.startswith(("seamless_workloads", "seamless_status"))}
    assert mine == set(listed)


def test_a_dropped_connection_is_no_failure(api: Served) -> None:
    """It is asked again."""
    found = watch(api)
    api.faults.append(once(Fault(0)))
    found.step()
    assert found.errors == 0
    assert found.counted is not None


def test_a_survey_of_one_namespace_reads_no_other(api: Served) -> None:
    """Neither its workloads nor what other namespaces say."""
    api.workload(named(deployment(), "web", "bank"))
    api.namespace("bank", inject="enabled")
    result = survey(Workloads(api.api()), Configuration(), namespace="bank")
    assert [(row.name, row.state) for row in result.rows] == [("web", "unpatched")]
    assert result.unknown == ()
    of_the_cluster = {"/version", NODES_PATH, CRD_PATH}
    paths = {each.path for each in api.requests} - of_the_cluster
    assert all("/bank" in path for path in paths)
