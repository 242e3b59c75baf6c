"""What is made in a cluster for a proof, as objects: a copy of a workload, its Service, and a pod.

Everything bears the label `app.kubernetes.io/managed-by: seamless-prove`, by which it is found and
removed again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from webhook.rollouts import selects
from webhook.workload import (
    DEPLOYMENT,
    STATEFUL_SET,
    Json,
    Kind,
    mapping,
    pod_spec,
    takes_host_ports,
    template,
)

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "seamless-prove"
SELECTOR: Final = f"{MANAGED_BY}={MANAGER}"
_INSTANCE: Final = "app.kubernetes.io/instance"
_INJECT: Final = "seamless-rollouts.dev/inject"
RECORD: Final = "seamless-rollouts.dev/injected"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_REVISION: Final = "deployment.kubernetes.io/revision"
_LONGEST_NAME: Final = 52  # leaves room for what controllers add, within a label value's 63
_USER: Final = 65532


class CopyError(Exception):
    """A workload that cannot be copied without harm; the text says why."""


def copied_name(name: str, suffix: str) -> str:
    """Name the copy: within bounds, and its own."""
    return f"{name[: _LONGEST_NAME - len(suffix) - 1].rstrip('-.')}-{suffix}"


def copied(kind: Kind, workload: Json, services: Sequence[Json], name: str) -> Json:
    """Copy a workload under another name, with `inject: disabled`.

    What the record says was injected leaves the copy as the webhook admits it. No Service selects
    its pods, so no user's request reaches them.

    Args:
        kind: its kind.
        workload: as the API server stores it.
        services: those of its namespace.
        name: the copy's.

    Raises:
        CopyError: two of it cannot run side by side.
    """
    problem = _problem(kind, workload)
    if problem is not None:
        message = f"--compare: {problem}"
        raise CopyError(message)
    metadata = mapping(workload.get("metadata"))
    spec = copy.deepcopy(mapping(workload.get("spec")))
    labels = _labels(workload, services, name)
    spec["selector"] = {"matchLabels": {_INSTANCE: name, MANAGED_BY: MANAGER}}
    spec["template"].setdefault("metadata", {})["labels"] = labels
    if kind is STATEFUL_SET:
        spec["serviceName"] = name
    annotations = {
        key: value
        for key, value in mapping(metadata.get("annotations")).items()
        if key not in (_LAST_APPLIED, _REVISION)
    }
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": name,
            "namespace": metadata.get("namespace"),
            "labels": {MANAGED_BY: MANAGER, _INSTANCE: name, _INJECT: "disabled"},
            "annotations": annotations,
        },
        "spec": spec,
    }


def _problem(kind: Kind, workload: Json) -> str | None:
    if kind.group != DEPLOYMENT.group:
        return f"a {kind.name} is not copied: expected a Deployment, StatefulSet or DaemonSet"
    if takes_host_ports(workload):
        return "its pods take ports of their node, so a copy could not run beside it"
    if mapping(workload.get("spec")).get("volumeClaimTemplates"):
        return "it claims volumes, and a copy would claim as many again"
    volumes = pod_spec(workload).get("volumes") or ()
    if any(mapping(each).get("persistentVolumeClaim") for each in volumes):
        return "its pods share a persistent volume, which a copy would write to"
    return None


def _labels(workload: Json, services: Sequence[Json], name: str) -> dict[str, str]:
    """Give the copy's pod labels: the workload's, but for those that any Service selects by."""
    labels = dict(mapping(mapping(template(workload).get("metadata")).get("labels")))
    selector = mapping(mapping(workload.get("spec")).get("selector"))
    for key in mapping(selector.get("matchLabels")):
        labels.pop(key, None)
    own = {_INSTANCE: name, MANAGED_BY: MANAGER}
    labels |= own
    for service in services:
        wanted = mapping(mapping(service.get("spec")).get("selector"))
        if wanted and selects({"matchLabels": wanted}, labels):
            for key in wanted:
                if key not in own:
                    labels.pop(key, None)
    return labels


def copied_service(service: Json, name: str) -> Json:
    """Make the copy's Service: the ports of the original's, for the copy's pods."""
    metadata, spec = mapping(service.get("metadata")), mapping(service.get("spec"))
    kept = ("name", "port", "targetPort", "protocol", "appProtocol")
    ports = [{key: each[key] for key in kept if key in each} for each in spec.get("ports") or ()]
    made: Json = {"selector": {_INSTANCE: name, MANAGED_BY: MANAGER}, "ports": ports}
    if spec.get("clusterIP") == "None":
        made["clusterIP"] = "None"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": metadata.get("namespace"),
            "labels": {MANAGED_BY: MANAGER},
        },
        "spec": made,
    }


def load_pod(name: str, namespace: str, image: str, seconds: int) -> Json:
    """Make the pod that sends the load: `restricted`, without a token, and ended by itself."""
    container = {
        "name": "load",
        "image": image,
        "args": ["load", "--job", "/job/job.json"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "200m", "memory": "128Mi"},
            # No less: a load that is throttled is late, and gives no verdict.
            "limits": {"cpu": "2", "memory": "512Mi"},
        },
        "volumeMounts": [{"name": "job", "mountPath": "/job", "readOnly": True}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": seconds,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "job", "secret": {"secretName": name}}],
        },
    }


def job_secret(pod: Json, job: str) -> Json:
    """Make the Secret that holds the job, for headers may be secrets; it goes with its pod."""
    metadata = mapping(pod.get("metadata"))
    owner: Mapping[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": metadata.get("name"),
        "uid": metadata.get("uid"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata.get("name"),
            "namespace": metadata.get("namespace"),
            "labels": {MANAGED_BY: MANAGER},
            "ownerReferences": [owner],
        },
        "stringData": {"job.json": job},
    }


def label_selector(selector: Any) -> str:
    """Write a workload's selector as a query parameter."""
    found = mapping(selector)
    parts = [f"{key}={value}" for key, value in mapping(found.get("matchLabels")).items()]
    for each in found.get("matchExpressions") or ():
        key, operator = each.get("key"), each.get("operator")
        values = ",".join(map(str, each.get("values") or ()))
        if operator in ("In", "NotIn"):
            parts.append(f"{key} {operator.lower()} ({values})")
        else:
            parts.append(str(key) if operator == "Exists" else f"!{key}")
    return ",".join(parts)
