"""Every example, through the command line and through HTTP: both must give what is expected.

`UPDATE_EXAMPLES=1 make test` writes the expectations anew; the diff is then to be read.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import jsonpatch
import orjson
import pytest
from fastapi.testclient import TestClient

from webhook import cli
from webhook.cli.manifests import read
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.serving.app import State, webhook_app
from webhook.serving.metrics import Metrics

FOLDERS = sorted(path.parent for path in Path("examples").glob("*/given.yaml"))
CLI_WARNING = "  warning: "


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    """One example after the other."""
    path: Path = request.param
    return path


def test_the_command_line_gives_the_expected_manifests_and_warnings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`seamless plan` prints what is expected, as YAML and as text."""
    given = str(folder / "given.yaml")
    assert cli.main(["plan", "-o", "yaml", given]) == 0
    manifests = capsys.readouterr().out
    assert cli.main(["plan", given]) == 0
    lines = capsys.readouterr().out.splitlines()
    warnings = [line.removeprefix(CLI_WARNING) for line in lines if line.startswith(CLI_WARNING)]
    if os.environ.get("UPDATE_EXAMPLES"):
        (folder / "expected.yaml").write_text(manifests)
        (folder / "warnings.txt").write_text("".join(f"{line}\n" for line in warnings))
    assert manifests == (folder / "expected.yaml").read_text()
    assert warnings == (folder / "warnings.txt").read_text().splitlines()


def test_http_gives_the_same_manifests_and_warnings(folder: Path) -> None:
    """The patch in the answer turns what was given into what is expected."""
    given = _contents(folder / "given.yaml")
    old = _contents(folder / "old.yaml") if (folder / "old.yaml").exists() else []
    admission = Admission(Configuration())
    client = TestClient(webhook_app(admission.answer, Metrics(), State()))
    warnings = []
    results = []
    for content in given:
        before = next((each for each in old if each["kind"] == content["kind"]), None)
        answer = client.post("/mutate", json=_review(content, before))
        assert answer.status_code == 200
        response = answer.json()["response"]
        assert response["allowed"]
        warnings += response.get("warnings", [])
        patch = orjson.loads(base64.b64decode(response.get("patch", "W10=")))
        results.append(jsonpatch.apply_patch(content, patch))
    assert results == _contents(folder / "expected.yaml")
    assert warnings == (folder / "warnings.txt").read_text().splitlines()


def test_what_is_expected_is_left_as_it_is(folder: Path) -> None:
    """Sent again, as client and server do, an admitted manifest needs no further change."""
    client = TestClient(webhook_app(Admission(Configuration()).answer, Metrics(), State()))
    for content in _contents(folder / "expected.yaml"):
        for old in (None, content):
            response = client.post("/mutate", json=_review(content, old)).json()["response"]
            assert "patch" not in response


def test_documents_that_are_not_workloads_stay_as_they_were_written() -> None:
    """The Service of the nginx example keeps its comments and its style."""
    service = Path("examples/nginx/given.yaml").read_text().partition("---\n")[0]
    assert Path("examples/nginx/expected.yaml").read_text().startswith(service)


def test_nginx_gets_the_headline_treatment() -> None:
    """The numbers that the README promises."""
    _, nginx = _contents(Path("examples/nginx/expected.yaml"))
    pod = nginx["spec"]["template"]["spec"]
    assert nginx["spec"]["minReadySeconds"] == 30
    assert pod["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 30}}}
    assert pod["terminationGracePeriodSeconds"] == 60


def test_every_example_is_listed() -> None:
    """The table of examples names each folder."""
    listed = Path("examples/README.md").read_text()
    assert [folder.name for folder in FOLDERS if f"]({folder.name})" not in listed] == []


def _contents(path: Path) -> list[dict[str, Any]]:
    return [each.content for each in read(path.read_text(), path.name) if each.content]


def _review(content: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    group, _, version = content["apiVersion"].rpartition("/")
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": group, "version": version, "kind": content["kind"]},
            "operation": "CREATE" if old is None else "UPDATE",
            "namespace": content["metadata"].get("namespace", "default"),
            "object": content,
            "oldObject": old,
        },
    }
