"""The program of `helm test`, run against the webhook's own decision instead of a cluster."""

from __future__ import annotations

import base64
import runpy
import sys
import types
from collections.abc import Callable
from typing import Any

import jsonpatch
import orjson
import pytest

from tests.chart.rendering import CHART, NAMESPACE, Manifest, of_kind, only, render, render_files
from webhook.decision.admission import Admission
from webhook.decision.configuration import parse

PROGRAM = CHART / "files" / "check_injection.py"
Api = Callable[[Manifest], Manifest]


class RefusedError(Exception):
    """What the client raises for an answer above 399."""

    status = 403
    body = "forbidden"


def patched(deployment: Manifest) -> Manifest:
    """Answer as the API server does with the webhook in its path."""
    request = {
        "uid": "1",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "operation": "CREATE",
        "namespace": "default",
        "object": deployment,
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    answer = Admission(parse("", "built in")).answer(orjson.dumps(review))
    response = orjson.loads(answer.body)["response"]
    assert response["allowed"]
    operations = orjson.loads(base64.b64decode(response["patch"]))
    result: Manifest = jsonpatch.apply_patch(deployment, operations)
    return result


def refused(_deployment: Manifest) -> Manifest:
    """Answer as the API server does where the right is missing."""
    raise RefusedError


def run(monkeypatch: pytest.MonkeyPatch, api: Api) -> int:
    """Run the program with a client whose API server is a function; gives its exit status."""

    def create(_self: Any, namespace: str, body: Manifest, *, dry_run: str) -> Any:
        assert (namespace, dry_run) == ("default", "All")
        answer = api(body)
        metadata = types.SimpleNamespace(annotations=answer["metadata"].get("annotations"))
        spec = types.SimpleNamespace(min_ready_seconds=answer["spec"].get("minReadySeconds"))
        return types.SimpleNamespace(metadata=metadata, spec=spec)

    apps = type("AppsV1Api", (), {"create_namespaced_deployment": create})
    package = types.ModuleType("kubernetes")
    package.client = types.SimpleNamespace(AppsV1Api=apps, ApiException=RefusedError)  # type: ignore[attr-defined]
    package.config = types.SimpleNamespace(load_incluster_config=lambda: None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kubernetes", package)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setenv("TEST_NAMESPACE", "default")
    monkeypatch.setenv("TEST_IMAGE", "r.example/x:1")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROGRAM), run_name="__main__")
    return int(ended.value.code or 0)


def test_it_passes_where_the_webhook_patches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the webhook's real answer."""
    assert run(monkeypatch, patched) == 0
    assert "patched" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("api", "said"), [(lambda each: each, "not patched"), (refused, "403 forbidden")]
)
def test_it_fails_and_says_why_where_nothing_is_patched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], api: Api, said: str
) -> None:
    """The webhook is not called, or the Deployment is refused."""
    assert run(monkeypatch, api) == 1
    assert said in capsys.readouterr().out


def test_it_waits_for_a_webhook_that_is_not_called_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server takes a moment to notice a new configuration."""
    answers: list[Api] = [lambda each: each, refused, patched]

    def server(deployment: Manifest) -> Manifest:
        return answers.pop(0)(deployment)

    assert run(monkeypatch, server) == 0
    assert not answers


def test_its_pod_runs_the_program_as_it_stands() -> None:
    """Python takes it from the arguments: the image has no shell."""
    pod = only(render(), "Pod")
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["/usr/bin/python3", "-I", "-c"]
    (program,) = container["args"]
    assert program.strip() == PROGRAM.read_text(encoding="utf-8").strip()


def test_its_rights_are_to_create_deployments_in_one_namespace_and_go_with_it() -> None:
    """All four objects are hooks that Helm deletes afterwards."""
    manifests = render({"tests": {"namespace": "elsewhere"}})
    hooks = [each for each in manifests if each["metadata"]["name"].endswith("-test")]
    assert sorted(each["kind"] for each in hooks) == [
        "Pod",
        "Role",
        "RoleBinding",
        "ServiceAccount",
    ]
    for each in hooks:
        annotations = each["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "test"
        assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"]
    role = only(hooks, "Role")
    assert role["metadata"]["namespace"] == "elsewhere"
    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}
    ]
    assert only(hooks, "RoleBinding")["subjects"][0]["namespace"] == NAMESPACE


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "audit"},
        {"webhook": {"enabled": False}},
        {"kinds": ["DaemonSet"]},
        {"tests": {"namespace": NAMESPACE}},
        {"tests": {"namespace": "shop"}, "excludedNamespaces": ["shop"]},
    ],
    ids=str,
)
def test_there_is_nothing_to_test_where_nothing_is_patched(values: Manifest) -> None:
    """Audit mode, the emergency switch, no Deployments, or a namespace that is excluded."""
    files = render_files(values)
    assert of_kind(render(values), "Pod") == []
    assert "helm test" not in files["seamless-rollouts/templates/NOTES.txt"]
