"""`seamless status` against a real API server: it tells what an update would make of a workload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Json, canonical, deployment, worker, workload
from tests.e2e.cluster import ENABLED, MERGE_PATCH, Shop
from tests.e2e.release import NAME, NAMESPACE, Release
from webhook import cli

WEB = deployment()


def named(given: Json, name: str) -> Json:
    """Give a workload another name, and pods of its own."""
    labels = {"app": name}
    given["metadata"]["name"] = name
    given["spec"]["selector"]["matchLabels"] = labels
    given["spec"]["template"]["metadata"]["labels"] = labels
    return given


def states(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run the command; gives each workload by its name."""
    capsys.readouterr()
    assert cli.main(["status", "-o", "json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)["workloads"]
    return {f"{each['kind'].lower()}/{each['name']}": each for each in found}


def afresh(shop: Shop, reference: str) -> Json:
    """Give what a backfill would make of a workload: a dry run of an update that says nothing."""
    return shop.cluster.api.request(
        "PATCH",
        shop.path(reference),
        query={"dryRun": "All", "fieldManager": "seamless-backfill"},
        body={"metadata": {"labels": {"looked": "at"}}},
        content_type=MERGE_PATCH,
    )


def test_it_tells_what_deciding_afresh_makes_of_each_workload(
    release: Release, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decided here as the webhook decides there, by the configuration that the chart installed."""
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    kubeconfig = f"--kubeconfig={release.cluster.folder / 'status.kubeconfig'}"
    view = release.cluster.kubectl("config", "view", "--minify", "--raw", "--flatten")
    Path(kubeconfig.partition("=")[2]).write_text(view.output, encoding="utf-8")
    shop = release.cluster.shop({})
    shop.create(named(deployment(), "old"), named(workload("StatefulSet"), "old-set"))
    shop.create(named(deployment(says={"min-ready": "soon"}), "bad"))
    shop.label_namespace(inject="enabled")
    shop.create(named(deployment(), "new"), named(workload("DaemonSet"), "new-set"))
    shop.create(named(deployment(), "stale"), named(deployment(worker()), "worker"))
    shop.create(named(deployment(says={"inject": "disabled"}), "out"))
    shop.annotate_namespace(min_ready="7s")
    shop.annotate("deployment/new", min_ready="30s")
    shop.annotate("daemonset/new-set", min_ready="30s")
    found = states(capsys, "-n", shop.name, kubeconfig)
    assert {name: each["state"] for name, each in found.items()} == {
        "deployment/bad": "refused",
        "deployment/new": "patched",
        "deployment/old": "unpatched",
        "deployment/out": "opted-out",
        "deployment/stale": "stale",
        "deployment/worker": "out-of-scope",
        "statefulset/old-set": "unpatched",
        "daemonset/new-set": "patched",
    }
    for name, each in found.items():
        stored = shop.get(name)
        made = afresh(shop, name)
        same = canonical(made["spec"]) == canonical(stored["spec"])
        template = stored["spec"]["template"], made["spec"]["template"]
        assert (canonical(template[0]) != canonical(template[1])) == each["restarts"], name
        if each["state"] != "refused":
            assert (not same) == (each["state"] in ("stale", "unpatched")), name
    assert canonical(shop.get("deployment/old")["spec"]["template"]).count(b"preStop") == 0


def test_the_cron_job_may_read_what_it_needs(
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """With the token of its own service account, and the chart's arguments."""
    release.ensure({"status": {"cronJob": {"enabled": True, "output": "json"}}})
    shop = release.cluster.shop(ENABLED)
    shop.create(WEB)
    job = release.manifest("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    config = tmp_path / "config.yaml"
    config.write_text(release.manifest("ConfigMap")["data"]["config.yaml"], encoding="utf-8")
    arguments = [
        f"--config={config}" if each.startswith("--config=") else each for each in container["args"]
    ]
    account = job["serviceAccountName"]
    assert account == f"{NAME}-status"
    kubectl = release.cluster.kubectl
    token = kubectl("--namespace", NAMESPACE, "create", "token", account).output.strip()
    arguments.append(f"--kubeconfig={release.cluster.user(token, 'status-pod')}")
    monkeypatch.setenv("POD_NAMESPACE", NAMESPACE)
    capsys.readouterr()
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert found["namespaces"][shop.name]["patched"] == 1
    assert found["namespaces"][NAMESPACE]["out-of-scope"] >= 1
