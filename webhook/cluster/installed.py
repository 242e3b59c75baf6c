"""What the chart has installed: how a command outside the webhook knows its configuration.

The MutatingWebhookConfiguration says, in the Service that it names, in which namespace the webhook
runs; the ConfigMap of the same name there is what it was started with.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kubernetes

from webhook.cluster.client import (
    BROKEN,
    NOT_FOUND,
    Api,
    ApiError,
    ClusterError,
    Json,
    connect,
    what_is_wrong,
)
from webhook.cluster.configmap import KEY
from webhook.cluster.workloads import MissingRightError, Workloads
from webhook.decision.configuration import Configuration, ConfigurationError, parse
from webhook.decision.workload import mapping

PATH: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
GROUP: Final = "admissionregistration.k8s.io"
SELECTOR: Final = "app.kubernetes.io/part-of=seamless-rollouts"
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Installed:
    """The webhook as it is installed.

    Args:
        configuration: what it was started with; none where that is not to be found.
        namespace: where it runs; none where there is none, or one outside the cluster.
        present: whether the API server calls it.
        unread: the right that is missing to tell, if one is.
    """

    configuration: Configuration | None = None
    namespace: str | None = None
    present: bool = False
    unread: MissingRightError | None = None


def reach(kubeconfig: str | None) -> Api:
    """Reach for the cluster: --kubeconfig, $KUBECONFIG, ~/.kube/config, or the one around us.

    Raises:
        ClusterError: there is none, or it cannot be used.
    """
    client = connect(_kubeconfig(kubeconfig))
    if client is None:
        message = "there is no cluster in reach: expected --kubeconfig, KUBECONFIG, or to be a pod"
        raise ClusterError(message)
    return Api(client)


def current_namespace(kubeconfig: str | None) -> str:
    """Name the namespace that `kubectl` would use: the context's, our pod's, else `default`.

    Raises:
        ClusterError: the kubeconfig cannot be used.
    """
    path = _kubeconfig(kubeconfig)
    if path is None:
        with contextlib.suppress(OSError):
            return _OWN_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
        return "default"
    load: Any = kubernetes.config
    try:
        _, context = load.list_kube_config_contexts(config_file=str(path))
    except BROKEN as error:
        message = f"cannot read {path}: {what_is_wrong(error)}"
        raise ClusterError(message) from None
    return str(mapping(mapping(context).get("context")).get("namespace") or "default")


def _kubeconfig(named: str | None) -> Path | None:
    named = named or os.environ.get("KUBECONFIG")
    usual = Path.home() / ".kube" / "config"
    return Path(named) if named else usual if usual.is_file() else None


def installed(
    workloads: Workloads, name: str | None = None, given: Configuration | None = None
) -> Installed:
    """Find the webhook and its configuration.

    Args:
        workloads: reads the cluster.
        name: its MutatingWebhookConfiguration, where there are several.
        given: the configuration, where the user has named a file: it is not read then, and what
            may not be read is no error.

    Raises:
        ClusterError: it cannot be read, or there are several webhooks.
    """
    try:
        found = _configurations(workloads, name)
    except MissingRightError as error:
        if given is None:
            raise
        return Installed(given, unread=error)
    if len(found) > 1:
        names = ", ".join(_name(each) for each in found)
        message = f"several webhooks are installed: {names}: expected --webhook-configuration NAME"
        raise ClusterError(message)
    if not found:
        return Installed(given)
    entries = [each for each in found[0].get("webhooks") or () if isinstance(each, dict)]
    services = [mapping(mapping(each.get("clientConfig")).get("service")) for each in entries]
    namespace = next((str(each["namespace"]) for each in services if each.get("namespace")), None)
    if given is None and namespace is not None:
        given = _configuration(workloads, namespace, _name(found[0]))
    return Installed(given, namespace, present=bool(entries))


def _configurations(workloads: Workloads, name: str | None) -> list[Json]:
    if name is not None:
        return [workloads.read(f"{PATH}/{name}", GROUP, "mutatingwebhookconfigurations")]
    pages = workloads.listed(PATH, GROUP, "mutatingwebhookconfigurations", SELECTOR)
    return [each for page in pages for each in page]


def _configuration(workloads: Workloads, namespace: str, name: str) -> Configuration | None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
    try:
        document = workloads.read(path, "", "configmaps")
    except ApiError as error:
        if error.status == NOT_FOUND:
            return None
        raise
    text: Any = mapping(document.get("data")).get(KEY)
    where = f"ConfigMap {namespace}/{name}, {KEY}"
    try:
        return parse(text if isinstance(text, str) else "", where)
    except ConfigurationError as error:
        raise ClusterError(str(error)) from None


def _name(configuration: Json) -> str:
    return str(mapping(configuration.get("metadata")).get("name"))
