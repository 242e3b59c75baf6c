"""An API server that serves workloads, on top of the one that fails on command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.builders import Json
from tests.cluster.fake_api import CONFIGURATIONS, FakeApi, Request
from webhook.decision.workload import KINDS

_COLLECTION = re.compile(r"/apis/([^/]+/[^/]+)(?:/namespaces/([^/]+))?/([a-z]+)")
_GROUP = re.compile(r"/apis/([^/]+/[^/]+)")
SERVED = ("deployments", "statefulsets", "daemonsets")


class Served(FakeApi):
    """Serves workloads of the kinds in `served`, in the API server's order; fills nothing in.

    A client may not `list` what is in `forbidden`; the rest of RBAC is not played.
    """

    def __init__(self, served: Iterable[str] = SERVED) -> None:
        self.served = {kind for kind in KINDS.values() if kind.resource in served}
        self.forbidden: set[str] = set()
        super().__init__()

    def workload(self, given: Json) -> None:
        """Store a workload."""
        kind, metadata = KINDS[given["kind"]], given["metadata"]
        path = f"/apis/{kind.api_version}/namespaces/{metadata['namespace']}/{kind.resource}"
        self.put(path, metadata["name"], given)

    def webhook(self, configuration: Json, namespace: str = "seamless") -> None:
        """Store what the chart would have installed."""
        service = {"name": "webhook", "namespace": namespace}
        head = {"name": "webhook", "labels": {"app.kubernetes.io/part-of": "seamless-rollouts"}}
        content = {"metadata": head, "webhooks": [{"clientConfig": {"service": service}}]}
        self.put(CONFIGURATIONS, "webhook", content)
        data = {"data": {"config.yaml": yaml.safe_dump(configuration)}}
        self.put(f"/api/v1/namespaces/{namespace}/configmaps", "webhook", data)

    def kubeconfig(self, folder: Path, namespace: str | None = None) -> Path:
        """Write a kubeconfig for it; its context may name a namespace."""
        context: Json = {"cluster": "fake", "user": "fake"}
        if namespace:
            context["namespace"] = namespace
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": context}],
        }
        path = folder / f"kubeconfig-{namespace}"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def answer(self, request: Request, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answer a request that is no watch."""
        group = _GROUP.fullmatch(request.path)
        if group:
            known = any(kind.api_version == group[1] for kind in self.served)
            return (200, {"resources": []}) if known else _status(404, "not found")
        if request.path.rpartition("/")[2] in self.forbidden:
            return _status(403, f'cannot list resource "{request.path}"')
        found = _COLLECTION.fullmatch(request.path)
        kinds = {kind.resource: kind for kind in KINDS.values()}
        if request.method != "GET" or not found or found[3] not in kinds:
            return super().answer(request, body)
        kind = kinds[found[3]]
        if kind not in self.served:
            return _status(404, "not found")
        # Listed as any other collection is, with its pages.
        start, end = f"/apis/{kind.api_version}/namespaces/{found[2] or ''}", f"/{kind.resource}"
        listed = request._replace(path=f"{request.path}?{request.query.get('labelSelector')}")
        self.objects[listed.path] = {
            f"{thing['metadata']['namespace']}/{name}": thing
            for path, things in self.objects.items()
            if path.startswith(start) and path.endswith(end)
            for name, thing in things.items()
            if _selected(thing, request.query.get("labelSelector"))
        }
        return self._list(listed)


def _selected(thing: Json, selector: str | None) -> bool:
    labels = thing["metadata"].get("labels") or {}
    pairs = [each.split("=") for each in (selector or "").split(",") if each]
    return all(labels.get(key) == value for key, value in pairs)


def _status(code: int, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "message": message, "code": code}
