from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fake_api import CONFIGURATIONS, NAMESPACES, until
from tests.realapi import RealApi, real_api
from webhook.cli import serve
from webhook.cli.startup import Parts, read
from webhook.cluster.authority import Lifetimes, SelfManagedCertificates, put_right
from webhook.cluster.client import JSON_PATCH, Api, ApiError, Backoff, connect
from webhook.cluster.namespaces import NamespaceWatch
from webhook.cluster.trust import entries, read_configuration
from webhook.decision.mutations import MUTATIONS
from webhook.decision.settings import Table
from webhook.tls.certificates import LiveContext

__all__ = ["real_api"]  # the fixture

TABLE = Table(setting for each in MUTATIONS for setting in each.settings)


@pytest.fixture
def api(real_api: RealApi) -> Api:
    """An administrator's client."""
    return Api(connect(real_api.kubeconfig))


def make(api: Api, path: str, name: str, **content: Any) -> dict[str, Any]:
    """Create an object, unless it is there."""
    metadata = {"name": name, **content.pop("metadata", {})}
    with contextlib.suppress(ApiError):
        return api.request("POST", path, body={"metadata": metadata, **content})
    return api.request("GET", f"{path}/{name}")


def configuration(api: Api, name: str, url: str, **entry: Any) -> None:
    """Create a webhook configuration of two entries that nothing matches, unless told."""
    hooks = [
        {
            "name": f"{letter}.seamless-rollouts.dev",
            "clientConfig": {"url": url},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "rules": [],
            **(entry if letter == "a" else {}),
        }
        for letter in "ab"
    ]
    make(api, CONFIGURATIONS, name, webhooks=hooks)


def test_namespaces_are_watched_through_a_restart_of_the_api_server(
    real_api: RealApi, api: Api
) -> None:
    """What is known stays known meanwhile; what changes afterwards arrives."""
    label = {"labels": {"seamless-rollouts.dev/inject": "enabled"}}
    make(api, NAMESPACES, "before", metadata=label)
    watch = NamespaceWatch(api, TABLE.namespace, backoff=Backoff(0.1, 1.0))
    watch.start()
    try:
        until(lambda: watch.synced)
        found = watch.lookup("before")
        assert found is not None
        assert found.layer.inject is True
        make(api, NAMESPACES, "during", metadata=label)
        until(lambda: watch.lookup("during"))
        real_api.stop_server()
        until(lambda: watch.errors)
        assert watch.lookup("before") is found
        assert watch.fetch("missing", 0.5) is None
        begun = watch.restarts
        real_api.start()
        until(lambda: watch.restarts > begun, 30)
        make(api, NAMESPACES, "after", metadata=label)
        until(lambda: watch.lookup("after"), 30)
        off = [{"op": "remove", "path": "/metadata/labels/seamless-rollouts.dev~1inject"}]
        api.request("PATCH", f"{NAMESPACES}/before", body=off, content_type=JSON_PATCH)
        until(lambda: watch.lookup("before").layer.inject is None)
    finally:
        watch.stop()


def test_a_namespace_is_fetched_by_name(api: Api) -> None:
    """One that is there and one that is not."""
    make(
        api,
        NAMESPACES,
        "fetched",
        metadata={"annotations": {"seamless-rollouts.dev/min-ready": "4"}},
    )
    watch = NamespaceWatch(api, TABLE.namespace)
    found = watch.fetch("fetched", 2.0)
    assert found is not None
    assert found.layer.values == {"min-ready": 4}
    assert watch.fetch("never-made", 2.0) is None


def test_three_replicas_that_race_for_the_ca_agree(api: Api, real_api: RealApi) -> None:
    """On the real server: one CA, every leaf of it, both entries trust it, two writes in all."""
    make(api, NAMESPACES, "race")
    configuration(api, "race", "https://127.0.0.1:9443/mutate")
    for _ in range(5):
        with contextlib.suppress(ApiError):
            api.request("DELETE", f"{NAMESPACES}/race/secrets/ca")
        bare = [{"op": "remove", "path": f"/webhooks/{n}/clientConfig/caBundle"} for n in (0, 1)]
        with contextlib.suppress(ApiError):
            api.request("PATCH", f"{CONFIGURATIONS}/race", body=bare, content_type=JSON_PATCH)
        sources = [
            SelfManagedCertificates(
                Api(connect(real_api.kubeconfig)),
                "race",
                "ca",
                configuration="race",
                names=["webhook.race.svc"],
            )
            for _ in range(3)
        ]
        barrier = threading.Barrier(3)

        def run(source: SelfManagedCertificates, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            source.step()

        threads = [threading.Thread(target=run, args=(each,)) for each in sources]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        for source in sources:
            source.step()
        assert [each.problem() for each in sources] == [None] * 3
        found = read_configuration(api, "race")
        assert found is not None
        trusted = [each.trusted for each in entries(found)]
        assert [len(each) for each in trusted] == [1, 1]
        leaves = [each._leaf for each in sources]
        assert {each.issuer for each in leaves if each} == {trusted[0][0].subject}
        assert sum(each.writes for each in sources) == 2


def test_a_patch_of_a_version_that_is_gone_changes_nothing(api: Api) -> None:
    """The server refuses it, with a status that counts as a lost race."""
    make(api, NAMESPACES, "stale")
    configuration(api, "stale", "https://127.0.0.1:9443/mutate")
    source = SelfManagedCertificates(api, "stale", "ca", configuration=None, names=["a"])
    source.step()
    assert source._authority is not None
    old = read_configuration(api, "stale")
    assert old is not None
    newer = [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]
    api.request("PATCH", f"{CONFIGURATIONS}/stale", body=newer, content_type=JSON_PATCH)
    operations = put_right(old, [source._authority.certificate], api.now())
    with pytest.raises(ApiError) as caught:
        api.request("PATCH", f"{CONFIGURATIONS}/stale", body=operations, content_type=JSON_PATCH)
    assert caught.value.status == 422
    found = read_configuration(api, "stale")
    assert found is not None
    assert not any(each.trusted for each in entries(found))


@contextlib.contextmanager
def webhook(context: LiveContext) -> Iterator[tuple[int, list[ssl.SSLObject]]]:
    """Serve reviews, each over a connection of its own: the port, and the connections so far."""
    calls: list[ssl.SSLObject] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer.get_extra_info("ssl_object"))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        review = json.loads(await reader.readexactly(length))
        review["response"] = {"uid": review.pop("request")["uid"], "allowed": True}
        body = json.dumps(review).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(handle, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], calls
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


def test_a_ca_is_rotated_under_the_api_servers_own_traffic(
    api: Api, real_api: RealApi, tmp_path: Path
) -> None:
    """With failurePolicy Fail, each handshake that failed would refuse a request: none is."""
    assert tmp_path
    make(api, NAMESPACES, "rotation")
    source = SelfManagedCertificates(
        api,
        "rotation",
        "ca",
        configuration="rotation",
        names=[],
        lifetimes=Lifetimes(settle_seconds=1),
    )
    path = f"{NAMESPACES}/rotation/configmaps"
    done = threading.Event()
    failures: list[str] = []
    created = [0]

    def traffic() -> None:
        client = Api(connect(real_api.kubeconfig))
        while not done.is_set():
            body = {"metadata": {"generateName": "x"}}
            try:
                client.request("POST", path, query={"dryRun": "All"}, body=body)
            except ApiError as error:
                failures.append(str(error))
            created[0] += 1

    with webhook(source.context) as (port, calls):
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
        configuration(
            api,
            "rotation",
            f"https://127.0.0.1:{port}/mutate",
            failurePolicy="Fail",
            namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "rotation"}},
            rules=[{**rule, "resources": ["configmaps"]}],
        )
        source.step()
        assert source.problem() is None
        first = source._authority
        time.sleep(1)  # until the API server has heard of the configuration
        threads = [threading.Thread(target=traffic) for _ in range(2)]
        for each in threads:
            each.start()
        leaves = set()
        for _ in range(3):
            api.request("DELETE", f"{NAMESPACES}/rotation/secrets/ca")
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                source.step()
                leaves.add(source._leaf)
                time.sleep(0.1)
        done.set()
        for each in threads:
            each.join()
        assert not failures, failures[:3]
        assert source._authority is not None
        assert first is not None
        assert source._authority.certificate != first.certificate
        assert len(leaves) == 4
        assert len(calls) > 50
        assert created[0] > 50
    api.request("DELETE", f"{CONFIGURATIONS}/rotation")


RULES = [
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
    {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": ["least"],
        "verbs": ["get", "patch"],
    },
]
OWN_RULES = [
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    {
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": ["ca"],
        "verbs": ["get", "update"],
    },
]
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def test_a_session_is_ready_with_the_least_rights(
    api: Api, real_api: RealApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Namespaces to read, one Secret, one configuration: what `docs/certificates.md` lists."""
    make(api, NAMESPACES, "least")
    configuration(api, "least", "https://127.0.0.1:9443/mutate")
    make(api, f"{NAMESPACES}/least/serviceaccounts", "webhook")
    make(api, f"{RBAC}/clusterroles", "least", rules=RULES)
    make(api, f"{RBAC}/namespaces/least/roles", "least", rules=OWN_RULES)
    subjects = [{"kind": "ServiceAccount", "name": "webhook", "namespace": "least"}]
    for path, kind in (
        (f"{RBAC}/clusterrolebindings", "ClusterRole"),
        (f"{RBAC}/namespaces/least/rolebindings", "Role"),
    ):
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "least"}
        make(api, path, "least", roleRef=reference, subjects=subjects)
    token = api.request(
        "POST", f"{NAMESPACES}/least/serviceaccounts/webhook/token", body={"spec": {}}
    )
    kubeconfig = real_api.write_kubeconfig("least", {"token": token["status"]["token"]})
    monkeypatch.setenv("POD_NAMESPACE", "least")
    given = serve._parser().parse_args(
        [
            f"--kubeconfig={kubeconfig}",
            "--ca-secret=ca",
            "--webhook-configuration=least",
            "--service=webhook",
        ]
    )
    parts = Parts(read(given))
    known = parts.known
    assert parts.problems()
    parts.start()
    try:
        until(lambda: not parts.problems() and known.cluster().server)
        assert known.lookup("least") is not None
        assert known.fetch("default", 2.0) is not None
        assert (known.cluster().server or (0, 0)) >= (1, 28)
        names = set(parts.metrics())
        assert "seamless_namespaces_age_seconds" in names
        assert "seamless_ca_expiry_timestamp_seconds" in names
    finally:
        parts.stop()
