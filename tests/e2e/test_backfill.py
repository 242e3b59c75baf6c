"""Backfill and revert on a real API server; where no controllers run, a test plays their part."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import EXEC_QUIT, Json, deployment, hooked, record_of, template_of, workload
from tests.e2e.cluster import MERGE_PATCH, Cluster, KubectlError, Shop
from tests.e2e.release import NAME, NAMESPACE, Release
from webhook.cli import backfill, revert
from webhook.cluster.backfill import Clock

REFERENCES = ("deployment/web", "deployment/quit", "statefulset/db", "daemonset/agent")


class Controllers(Clock):
    """Writes, whenever the run waits, the status that controllers would have written by then.

    Each rollout takes two looks: first its pods are old, then all is done.
    """

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self.shop = shop
        self.looks = 0
        self._seen: dict[str, int] = {}

    def wait(self, seconds: float) -> None:
        """Do their work."""
        self.looks += 1
        if self.shop.cluster.server is None:
            super().wait(seconds)
            return
        for reference in REFERENCES:
            self.work(reference)

    def work(self, reference: str) -> None:
        """Write the status of one workload."""
        found = self.shop.find(reference)
        if found is None:
            return
        generation = found["metadata"]["generation"]
        done = self._seen.get(reference) == generation
        self._seen[reference] = generation
        pods = found["spec"].get("replicas", 2)
        new = pods if done else 0
        status: Json = {"observedGeneration": generation}
        if reference.startswith("daemonset/"):
            status |= {
                "desiredNumberScheduled": pods,
                "currentNumberScheduled": pods,
                "numberMisscheduled": 0,
                "numberReady": pods,
                "numberAvailable": pods,
                "updatedNumberScheduled": new,
            }
        else:
            status |= {
                "replicas": pods,
                "readyReplicas": pods,
                "availableReplicas": pods,
                "updatedReplicas": new,
            }
        if reference.startswith("statefulset/"):
            status |= {"currentRevision": "b" if done else "a", "updateRevision": "b"}
        self.shop.cluster.api.request(
            "PATCH",
            self.shop.path(reference) + "/status",
            body={"status": status},
            content_type=MERGE_PATCH,
        )

    def settle(self) -> None:
        """Have everything rolled out."""
        for _ in range(2):
            self.wait(1.0)


def fill(shop: Shop) -> Controllers:
    """Create a workload of each kind, settled."""
    named: Callable[[str], Json] = lambda name: {"name": name}  # noqa: E731 - one word
    shop.create(
        deployment(),
        deployment(hooked(EXEC_QUIT), metadata=named("quit")),
        workload("StatefulSet", metadata=named("db")),
        workload("DaemonSet", metadata=named("agent")),
    )
    controllers = Controllers(shop)
    controllers.settle()
    return controllers


def run(command: Any, shop: Shop, clock: Clock, *arguments: str) -> int:
    """Run a command in the namespace."""
    code: int = command.main(
        ["--namespace", shop.name, *arguments],
        connect=lambda _kubeconfig: shop.cluster.api,
        clock=clock,
    )
    return code


def written(shop: Shop) -> dict[str, Json]:
    """Give the workloads without what the API server counts, and controllers write."""
    found = {}
    for reference in REFERENCES:
        each = copy.deepcopy(shop.get(reference))
        each.pop("status")
        for key in ("resourceVersion", "generation", "managedFields"):
            each["metadata"].pop(key)
        for key in (
            "deployment.kubernetes.io/revision",
            "deprecated.daemonset.template.generation",
        ):
            each["metadata"].get("annotations", {}).pop(key, None)
        found[reference] = each
    return found


def have_min_ready(shop: Shop) -> bool:
    """Tell whether each has its `minReadySeconds` and the record of it; a DaemonSet gets none."""
    return all(
        (found["spec"].get("minReadySeconds"), bool(record_of(found, template=False)))
        == ((None, False) if found["kind"] == "DaemonSet" else (30, True))
        for found in written(shop).values()
    )


def test_workloads_are_brought_in_through_the_webhook_and_given_back(
    release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty patch has the webhook do its part; what it adds belongs to no field manager."""
    shop = release.cluster.shop(labels={})
    controllers = fill(shop)
    before = written(shop)
    shop.label_namespace(inject="enabled")
    assert run(backfill, shop, controllers) == 0
    assert "4 workloads would change of 4" in capsys.readouterr().out
    assert written(shop) == before

    assert run(backfill, shop, controllers, "--apply", "--no-restart") == 0
    for reference, was in before.items():
        assert template_of(shop.get(reference)) == template_of(was)
    assert have_min_ready(shop)
    controllers.settle()

    assert run(backfill, shop, controllers, "--apply") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 done"  # one has a hook of its own
    for reference in REFERENCES:
        found = shop.get(reference)
        owners = {each["manager"] for each in found["metadata"]["managedFields"]}
        assert "seamless-backfill" not in owners
        if reference != "deployment/quit":
            assert record_of(found, template=True)
    assert run(backfill, shop, controllers, "--apply") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "there was nothing to do"

    assert run(revert, shop, controllers, "--apply") == 0
    assert "still in scope" in capsys.readouterr().out
    shop.label_namespace(inject=None)
    assert run(revert, shop, controllers, "--apply") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 done"
    assert written(shop) == before
    events = shop.kubectl("get", "events.events.k8s.io", "-o", "json").json["items"]
    reasons = {event["reason"] for event in events}
    assert {"BackfillStarted", "BackfillFinished", "RevertStarted", "RevertFinished"} <= reasons


def test_a_budget_that_allows_nothing_puts_off_what_restarts(
    release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    """What restarts nothing is done all the same."""
    shop = release.cluster.shop(labels={})
    controllers = fill(shop)
    shop.label_namespace(inject="enabled")
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "all", "namespace": shop.name},
        "spec": {"minAvailable": "100%", "selector": {}},
    }
    shop.kubectl("apply", "-f", "-", given=budget)
    assert run(backfill, shop, controllers, "--apply") == 0
    assert "3 deferred" in capsys.readouterr().out.splitlines()[-1]


def test_a_webhook_that_is_away_ends_a_backfill_and_stops_no_revert(
    release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under failurePolicy: Ignore nothing comes of an empty patch: not even a version."""
    shop = release.cluster.shop(labels={})
    controllers = fill(shop)
    before = written(shop)
    shop.label_namespace(inject="enabled")
    assert run(backfill, shop, controllers, "--apply") == 0
    brought_in = written(shop)
    shop.annotate_namespace(min_ready="5s")
    release.stop()
    assert run(backfill, shop, controllers, "--apply") == 1
    assert "the webhook left it as it was" in capsys.readouterr().out
    assert written(shop) == brought_in
    shop.label_namespace(inject=None)
    assert run(revert, shop, controllers, "--apply") == 0
    assert written(shop) == before


def run_job(release: Release, clock: Clock, folder: Path, **values: Any) -> int:
    """Run the chart's Job: its arguments, with the token of its own service account."""
    release.ensure({"backfill": {"job": {"enabled": True, "output": "json", **values}}})
    assert "warning" not in release.said_at_install.lower()  # of Pod Security
    pod = release.manifest("Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = folder / "config.yaml"
    config.write_text(release.manifest("ConfigMap")["data"]["config.yaml"], encoding="utf-8")
    program, *arguments = (
        f"--config={config}" if each.startswith("--config=") else each for each in container["args"]
    )
    assert program == "backfill"
    account = pod["serviceAccountName"]
    assert account == f"{NAME}-backfill"
    kubectl = release.cluster.kubectl
    token = kubectl("--namespace", NAMESPACE, "create", "token", account).output.strip()
    kubeconfig = release.cluster.user(token, "backfill-pod")
    return backfill.main([*arguments, f"--kubeconfig={kubeconfig}"], clock=clock)


def test_the_job_may_do_what_it_needs_and_change_nothing_before_it_is_told_to(
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Of all namespaces a preview; then one namespace is brought in, and Events are written."""
    monkeypatch.setenv("POD_NAMESPACE", NAMESPACE)
    shop = release.cluster.shop(labels={})
    controllers = fill(shop)
    before = written(shop)
    shop.label_namespace(inject="enabled")
    assert run_job(release, controllers, tmp_path) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    told = [json.loads(line) for line in captured.out.splitlines()]
    names = [each["name"] for each in told if each.get("namespace") == shop.name]
    assert sorted(names) == ["agent", "db", "quit", "web"]
    assert written(shop) == before
    account = f"--as=system:serviceaccount:{NAMESPACE}:{NAME}-backfill"
    with pytest.raises(KubectlError):
        shop.kubectl("auth", "can-i", "--quiet", "patch", "deployments", account)

    assert run_job(release, controllers, tmp_path, apply=True, namespace=shop.name) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    told = [json.loads(line) for line in captured.out.splitlines()]
    assert "note" not in {each["event"] for each in told}
    assert told[-1]["outcomes"]["done"] == 4
    assert have_min_ready(shop)
    events = shop.kubectl("get", "events.events.k8s.io", "-o", "json").json["items"]
    assert "BackfillFinished" in {event["reason"] for event in events}


def test_workloads_are_brought_in_and_given_back_without_a_webhook(
    fresh: Release, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole patch is sent then."""
    fresh.ensure()
    fresh.stop()
    fresh.uninstall()
    shop = cluster.shop(labels={})
    controllers = fill(shop)
    before = written(shop)
    config = tmp_path / "config.yaml"
    config.write_text("scope: cluster\n", encoding="utf-8")
    arguments = ("--apply", "--config", str(config))
    assert run(backfill, shop, controllers, *arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 done"
    assert have_min_ready(shop)
    assert run(revert, shop, controllers, "--apply") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 done"
    assert written(shop) == before
