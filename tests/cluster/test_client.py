from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.fake_api import FakeApi, Fault, once
from webhook.cluster import client
from webhook.cluster.client import Api, ApiError, ClusterError, connect
from webhook.cluster.installed import current_namespace
from webhook.cluster.version import ClusterWatch, parse_version
from webhook.decision.mutations.model import ServerVersion


def kubeconfig(path: Path, url: str, user: dict[str, str]) -> Path:
    """Write a kubeconfig."""
    path.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return path


def test_without_a_cluster_there_is_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a kubeconfig nor a pod around us."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert connect(None) is None


def test_a_kubeconfig_that_is_named_counts_even_in_a_pod(
    fake: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names one means it; its token is sent."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    fake.token = "t0ken"  # noqa: S105 - the fake's
    found = connect(kubeconfig(tmp_path / "config", fake.url, {"token": "t0ken"}))
    assert Api(found).request("GET", "/version")["major"] == "1"


@pytest.mark.parametrize(
    "content",
    [
        *("", "[", "a: b", "clusters: 3", "\x00", "- 1", "text"),
        "current-context: a\ncontexts: [{name: a, context: 3}]\nclusters: []\nusers: []",
    ],
)
@pytest.mark.parametrize("use", [connect, lambda path: current_namespace(str(path))])
def test_a_broken_kubeconfig_is_one_clear_error(
    tmp_path: Path, content: str, use: Callable[[Path], object]
) -> None:
    """It names the file, and is one line in words of this field."""
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ClusterError) as caught:
        use(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "object" not in str(caught.value).replace("Expected object with name", "")


def test_what_a_broken_kubeconfig_holds_is_not_told(tmp_path: Path) -> None:
    """There are tokens and keys in it."""
    path = tmp_path / "config"
    content = kubeconfig(path, "https://127.0.0.1:1", {"token": "t0ken"}).read_text()
    path.write_text(content.replace('"name": "u"', '"name": null'))
    with pytest.raises(ClusterError, match="Expected key name") as caught:
        connect(path)
    assert "t0ken" not in str(caught.value)


def test_a_pod_without_a_token_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with automountServiceAccountToken: false."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ClusterError, match=r"by this pod's service account: .*token"):
        connect(None)


def test_the_token_is_read_for_each_request(
    fake: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the kubelet has replaced counts at once, whatever the clock says."""
    token = tmp_path / "token"
    monkeypatch.setattr(client, "SERVICE_TOKEN_FILENAME", str(token))
    api = Api(connect(kubeconfig(tmp_path / "config", fake.url, {"token": "old"})))
    api._client.configuration.refresh_api_key_hook = client._read_token
    for fake.token in ("one", "two"):
        token.write_text(fake.token + "\n")
        api.request("GET", "/version")
    token.unlink()
    api.request("GET", "/version")


def test_an_error_tells_what_was_asked_and_what_came_of_it(fake: FakeApi) -> None:
    """The method, the path, the status, the server's words, cut to a bound."""
    body = json.dumps({"message": "no " * 500}).encode()
    fake.faults.append(once(Fault(429, {"Retry-After": "3"}, body)))
    with pytest.raises(ApiError, match="GET /version: 429: no no") as caught:
        fake.api().request("GET", "/version")
    assert (caught.value.status, caught.value.retry_after) == (429, 3.0)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>"])
def test_an_answer_that_is_no_object_is_an_error(fake: FakeApi, body: bytes) -> None:
    """As from a proxy on the way."""
    fake.faults.append(once(Fault(200, body=body)))
    with pytest.raises(ApiError, match="no JSON object"):
        fake.api().request("GET", "/version")


def test_nobody_there_is_an_error(fake: FakeApi) -> None:
    """A closed port, and a connection that is dropped."""
    api = fake.api()
    fake.faults.append(once(Fault(0)))
    with pytest.raises(ApiError, match="no answer from the API server"):
        api.request("GET", "/version")
    api._client.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(ApiError, match="no answer from the API server"):
        api.request("GET", "/version")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"major": "1", "minor": "30"}, (1, 30)),
        ({"major": "1", "minor": "28+"}, (1, 28)),
        ({"major": "", "minor": "", "gitVersion": "v1.29.3-eks-1"}, (1, 29)),
        (
            {"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "29"},
            (1, 29),
        ),
        ({"major": "one", "minor": None}, None),
        ({}, None),
    ],
)
def test_a_version_is_read_however_it_is_written(
    document: dict[str, str], expected: tuple[int, int] | None
) -> None:
    """An emulated version counts: the server validates as that one does."""
    assert parse_version(document) == expected


def test_the_version_is_learned_and_refreshed_and_outlives_errors(fake: FakeApi) -> None:
    """None at first, then what was last heard of."""
    watch = ClusterWatch(fake.api())
    fake.faults.append(once(Fault(503)))
    assert watch.step() < 1
    assert watch.cluster().server is None
    assert 200 < watch.step() < 400
    assert watch.cluster().server == ServerVersion(1, 30)
    fake.version = {"major": "1", "minor": "31"}
    watch.step()
    assert watch.cluster().server == ServerVersion(1, 31)
    fake.version = {}
    watch.step()
    fake.faults.append(once(Fault(0)))
    watch.step()
    assert watch.cluster().server == ServerVersion(1, 31)
