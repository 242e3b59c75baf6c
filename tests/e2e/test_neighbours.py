"""Another mutating webhook, called after ours, that changes what it finds; ours is called again."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.builders import (
    NATIVE_30,
    Json,
    canonical,
    deployment,
    grace,
    hooks,
    pod_of,
    with_settings,
)
from tests.e2e.cluster import ENABLED, Cluster, until
from tests.e2e.release import Release
from webhook.cluster.authority import make_authority, sign

WEB = deployment()
MARK = {"neighbour": "yes"}
NAME = "zz-neighbour"
Change = Callable[[Json], list[Json]]


def add_container(found: Json) -> list[Json]:
    """Add a container, as a service mesh does."""
    if any(each["name"] == "mesh" for each in pod_of(found)["containers"]):
        return []
    mesh = {"name": "mesh", "image": "mesh.example/proxy:1"}
    return [{"op": "add", "path": "/spec/template/spec/containers/-", "value": mesh}]


def rewrite_images(found: Json) -> list[Json]:
    """Have every image come from another registry."""
    return [
        {
            "op": "replace",
            "path": f"/spec/template/spec/{key}/{number}/image",
            "value": "mirror.example/" + each["image"].rpartition("/")[2],
        }
        for key in ("initContainers", "containers")
        for number, each in enumerate(pod_of(found).get(key) or ())
        if not each["image"].startswith("mirror.example/")
    ]


@contextlib.contextmanager
def neighbour(cluster: Cluster, change: Change) -> Iterator[None]:
    """Serve a webhook for Deployments in marked namespaces, and have the API server know it."""
    now, day = datetime.now(UTC), timedelta(days=1)
    authority = make_authority(now, day)
    pair = sign(authority, [cluster.host], now, day)
    (cluster.folder / "neighbour.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cluster.folder / "neighbour.pem")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = review.pop("request")
            answer: Json = {"uid": asked["uid"], "allowed": True}
            operations = change(asked["object"])
            if operations:
                patch = base64.b64encode(json.dumps(operations).encode()).decode()
                answer |= {"patchType": "JSONPatch", "patch": patch}
            body = json.dumps(review | {"response": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer((cluster.host, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    pem = authority.certificate.public_bytes(Encoding.PEM)
    entry = {
        "name": "neighbour.example.com",
        "clientConfig": {
            "url": f"https://{cluster.host}:{server.server_port}/",
            "caBundle": base64.b64encode(pem).decode(),
        },
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "reinvocationPolicy": "IfNeeded",
        "failurePolicy": "Ignore",
        "namespaceSelector": {"matchLabels": MARK},
        "rules": [
            {
                "apiGroups": ["apps"],
                "apiVersions": ["v1"],
                "resources": ["deployments"],
                "operations": ["CREATE", "UPDATE"],
            }
        ],
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [entry],
    }
    try:
        cluster.kubectl("apply", "--server-side", "-f", "-", given=configuration)
        probe = cluster.shop(MARK)
        until(lambda: canonical(pod_of(probe.try_out(WEB))) != canonical(pod_of(plain(cluster))))
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "mutatingwebhookconfiguration", NAME)
        server.shutdown()
        thread.join()
        server.server_close()


def plain(cluster: Cluster) -> Json:
    """Give a Deployment as it is stored where nobody changes it."""
    return cluster.shop({}).try_out(WEB)


def test_a_container_that_comes_from_another_webhook_is_treated_too(release: Release) -> None:
    """We are called again for it; sending the plain manifest again changes nothing."""
    cluster = release.cluster
    with neighbour(cluster, add_container):
        shop = cluster.shop(ENABLED | MARK)
        before = release.count()
        shop.create(WEB)
        assert release.count() - before == 2
        assert hooks(shop.get()) == [NATIVE_30, NATIVE_30]
        assert grace(shop.get()) == 60
        for send in (lambda: shop.replace(WEB), shop.touch):
            with shop.watch() as change:
                send()
            assert not change.generations


@pytest.mark.parametrize("meddle", [add_container, rewrite_images])
def test_a_changed_setting_restarts_nothing_where_another_webhook_changes_what_is_sent(
    release: Release, meddle: Change
) -> None:
    """The plain manifest differs from what is stored, until both webhooks have been called."""
    cluster = release.cluster
    with neighbour(cluster, meddle):
        shop = cluster.shop(ENABLED | MARK)
        shop.create(WEB)
        shop.annotate_namespace(pre_stop_sleep="11s", min_ready="12s")
        until(lambda: shop.touched()["spec"]["minReadySeconds"] == 12)
        with shop.watch() as change:
            shop.replace(WEB)
        assert change.now["spec"]["minReadySeconds"] == 12
        assert not change.restarts


@pytest.mark.parametrize("meddle", [add_container, rewrite_images])
def test_opting_out_leaves_what_another_webhook_does(release: Release, meddle: Change) -> None:
    """Whatever it has changed in what is ours: a precheck with a rewritten image goes, too."""
    cluster = release.cluster
    with neighbour(cluster, meddle):
        shop, without = cluster.shop(ENABLED | MARK), cluster.shop(MARK)
        treated = with_settings(WEB, precheck="mysql:3306")
        out = with_settings(WEB, inject="disabled")
        without.create(out)
        shop.create(treated)
        assert "initContainers" in pod_of(shop.get())
        with shop.watch() as change:
            shop.replace(treated)
        assert not change.generations
        with shop.watch() as change:
            shop.kubectl("rollout", "restart", "deployment/web")
        assert len(pod_of(change.now)["initContainers"]) == 1
        shop.replace(out)
        assert canonical(shop.get()["spec"]) == canonical(without.get()["spec"])
