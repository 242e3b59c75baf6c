"""Workloads, reviews and decisions in a line each, for every test.

A builder gives a fresh object on each call, with the least that an API server accepts, so that a
test shows only what it is about. `deployment()` serves traffic and has a readiness probe: by
itself it draws no warning.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jsonpatch
import orjson

from webhook.decision.admission import Admission, Answer, Decision
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import Cluster, ServerVersion
from webhook.decision.partial import decoded
from webhook.decision.review import Request
from webhook.decision.settings import Namespace

Json = dict[str, Any]

PREFIX: Final = "seamless-rollouts.dev/"
RECORD: Final = PREFIX + "injected"
NAMESPACE: Final = "shop"
KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Rollout")
API_VERSIONS: Final = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "Rollout": "argoproj.io/v1alpha1",
}
STRATEGY_KEY: Final = {
    "Deployment": "strategy",
    "StatefulSet": "updateStrategy",
    "DaemonSet": "updateStrategy",
    "Rollout": "strategy",
}
OLD_SERVER: Final = ServerVersion(1, 29)
"""An API server that has no native preStop sleep."""
NATIVE_30: Final = {"sleep": {"seconds": 30}}
EXEC_QUIT: Final = {"exec": {"command": ["sh", "-c", "sleep 10 && nginx -s quit"]}}
HTTP_HOOK: Final = {"httpGet": {"path": "/drain", "port": 8080}}
WINDOWS: Final = {"os": {"name": "windows"}}


# --- workloads -----------------------------------------------------------------------------------


def settings(values: Mapping[str, Any] | None = None, /, **more: Any) -> Json:
    """Give annotations: `settings({"min-ready": "5s"}, inject="enabled")`, under our prefix."""
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {PREFIX + name: value for name, value in {**(values or {}), **named}.items()}


def container(name: str = "app", **fields: Any) -> Json:
    """Give a container that serves and has a readiness probe; `None` leaves a field out."""
    built = {
        "name": name,
        "image": f"registry.example/{name}:1",
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        **copy.deepcopy(fields),
    }
    return {key: value for key, value in built.items() if value is not None}


def worker(name: str = "worker", **fields: Any) -> Json:
    """Give a container that serves nothing."""
    return container(name, **{"ports": None, "readinessProbe": None, **fields})


def sidecar(name: str = "proxy", **fields: Any) -> Json:
    """Give a native sidecar."""
    return worker(name, restartPolicy="Always", **fields)


def hooked(hook: Any, name: str = "app", **fields: Any) -> Json:
    """Give a container with a preStop hook."""
    return container(name, lifecycle={"preStop": hook}, **fields)


def workload(
    kind: str,
    *containers: Json,
    says: Mapping[str, Any] | None = None,
    template_says: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    template_labels: Mapping[str, Any] | None = None,
    pod: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Json:
    """Give a workload.

    Args:
        kind: Deployment, StatefulSet, DaemonSet or Rollout.
        containers: the regular containers; one that serves where none are given.
        says: settings on the workload, without the prefix.
        template_says: settings on the pod template.
        labels: labels of ours on the workload, without the prefix.
        template_labels: the same on the pod template.
        pod: fields of the pod spec.
        metadata: more of the workload's metadata.
        spec: fields of the workload's spec; the builder's own where not `None`.
    """
    head: Json = {"name": "web", "namespace": NAMESPACE, **copy.deepcopy(dict(metadata or {}))}
    if says:
        head["annotations"] = {**(head.get("annotations") or {}), **settings(says)}
    if labels:
        head["labels"] = {**(head.get("labels") or {}), **settings(labels)}
    inner: Json = {"labels": {"app": "web", **settings(template_labels)}}
    if template_says:
        inner["annotations"] = settings(template_says)
    built: Json = {"selector": {"matchLabels": {"app": "web"}}}
    if kind != "DaemonSet":
        built["replicas"] = 3
    if kind == "StatefulSet":
        built["serviceName"] = "web"
    built["template"] = {
        "metadata": inner,
        "spec": {
            "containers": list(copy.deepcopy(containers)) or [container()],
            **copy.deepcopy(dict(pod or {})),
        },
    }
    built |= copy.deepcopy(spec)
    return {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind,
        "metadata": head,
        "spec": {key: value for key, value in built.items() if value is not None},
    }


def deployment(*containers: Json, **more: Any) -> Json:
    """Give a Deployment, see `workload`."""
    return workload("Deployment", *containers, **more)


def rolling(kind: str = "Deployment", **values: Any) -> Json:
    """Give the spec fields for a rolling update with these values."""
    return {STRATEGY_KEY[kind]: {"type": "RollingUpdate", "rollingUpdate": values}}


def with_settings(given: Json, *, template: bool = False, **values: Any) -> Json:
    """Copy a workload with other settings; `None` takes one away."""
    changed = copy.deepcopy(given)
    target = changed["spec"]["template"] if template else changed
    annotations = target.setdefault("metadata", {}).setdefault("annotations", {})
    for key, value in settings(**values).items():
        if value is None:
            annotations.pop(key, None)
        else:
            annotations[key] = value
    if not annotations:
        del target["metadata"]["annotations"]
    return changed


def changed(given: Json, *path: str | int, to: Any) -> Json:
    """Copy an object with one value in another place; `...` takes it away."""
    result = copy.deepcopy(given)
    node: Any = result
    for step in path[:-1]:
        node = node.setdefault(step, {}) if isinstance(node, dict) else node[step]
    if to is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = copy.deepcopy(to)
    return result


def template_changed(given: Json, *path: str | int, to: Any) -> Json:
    """Copy a workload with one value of its pod spec in another place."""
    return changed(given, "spec", "template", "spec", *path, to=to)


# --- what is read off a workload -----------------------------------------------------------------


def template_of(given: Json) -> Json:
    """Give the pod template."""
    return given["spec"]["template"]


def pod_of(given: Json) -> Json:
    """Give the pod template's spec."""
    return template_of(given)["spec"]


def hooks(given: Json) -> list[Any]:
    """Give the preStop hook of each regular container, `None` where there is none."""
    found = pod_of(given)["containers"]
    return [(each.get("lifecycle") or {}).get("preStop") for each in found]


def grace(given: Json) -> Any:
    """Give the grace period, `None` where there is none."""
    return pod_of(given).get("terminationGracePeriodSeconds")


def init_names(given: Json) -> list[str]:
    """Name the init containers."""
    return [each["name"] for each in pod_of(given).get("initContainers") or []]


def record_of(given: Json, *, template: bool) -> Json | None:
    """Give the record on the pod template or on the workload, decoded."""
    target = template_of(given) if template else given
    text = ((target.get("metadata") or {}).get("annotations") or {}).get(RECORD)
    return None if text is None else orjson.loads(text)


def forged(fields: Mapping[str, Any], **more: Any) -> str:
    """Write a record as the webhook does, naming whatever is wanted."""
    return orjson.dumps({"fields": fields, "v": 1, **more}, option=orjson.OPT_SORT_KEYS).decode()


def canonical(value: Any) -> bytes:
    """Give JSON that is equal for equal values, and tells `1` from `true` and `1.0`."""
    if value is ...:
        return b""
    return written(value, sort=True)


def written(value: Any, *, sort: bool = False) -> bytes:
    """Write JSON, of which a part may be undecoded."""
    try:
        return orjson.dumps(value, default=undecoded, option=orjson.OPT_SORT_KEYS if sort else None)
    except TypeError:  # a number that has more than 64 bits
        return json.dumps(value, default=undecoded, sort_keys=sort).encode()


def undecoded(raw: Any) -> Any:
    """Decode what a decision leaves as it came: nobody asks for it."""
    return decoded(raw)


def plain(value: Any) -> Any:
    """Give a value of which nothing is undecoded, to be looked into."""
    return json.loads(canonical(value))


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Say where two JSON values differ, for a message that can be read."""
    if canonical(one) == canonical(other):
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            found
            for key in sorted({*one, *other})
            for found in differences(one.get(key, ...), other.get(key, ...), f"{path}/{key}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for at, (a, b) in pairs for found in differences(a, b, f"{path}/{at}")]
    return [f"{path}: {one!r}, not {other!r}"]


# --- reviews and decisions -----------------------------------------------------------------------


def review(given: Any, old: Any = None, **more: Any) -> Json:
    """Give an AdmissionReview: an UPDATE where there is an old object, else a CREATE.

    Args:
        given: the object.
        old: the object that it replaces.
        more: fields of the request; `...` leaves one out.
    """
    kind = given.get("kind") if isinstance(given, dict) else None
    kind = kind if isinstance(kind, str) else "Deployment"
    group, _, version = API_VERSIONS.get(kind, "apps/v1").rpartition("/")
    metadata = given.get("metadata") if isinstance(given, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": group, "version": version, "kind": kind},
        "resource": {"group": group, "version": version, "resource": "deployments"},
        "name": metadata.get("name"),
        "namespace": metadata.get("namespace"),
        "operation": "CREATE" if old is None else "UPDATE",
        "userInfo": {"username": "jane"},
        "object": given,
        "oldObject": old,
        "dryRun": False,
        "options": {"fieldManager": "kubectl", "kind": "UpdateOptions"},
        **more,
    }
    request = {key: value for key, value in request.items() if value is not ...}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def namespaces(
    labels: Mapping[str, Any] | None = None, **annotations: Any
) -> Callable[[Admission], Callable[[str], Namespace | None]]:
    """Make a look-up that knows every namespace, each with these settings.

    `labels` is `{"inject": "enabled"}` where not given.
    """
    said = settings({"inject": "enabled"} if labels is None else labels)

    def make(admission: Admission) -> Callable[[str], Namespace | None]:
        known = settings(annotations)
        return lambda name: admission.table.namespace(name, said, known)

    return make


def admission(
    configuration: Mapping[str, Any] | None = None,
    *,
    namespace: Callable[[Admission], Callable[[str], Namespace | None]] | None = None,
    server: ServerVersion | None = None,
    oldest_node: ServerVersion | None = None,
    rollout_sleep: bool | None = None,
    **more: Any,
) -> Admission:
    """Give an admission under a configuration as its file would say it."""
    cluster = Cluster(server, oldest_node, rollout_sleep)
    made = Admission(
        Configuration.model_validate(dict(configuration or {})), cluster=lambda: cluster, **more
    )
    if namespace is not None:
        made.namespaces = namespace(made)
    return made


DEFAULT: Final = admission()


def request_of(content: Json, by: Admission = DEFAULT) -> Request:
    """Decode a review, the way that bytes go."""
    return by.decode(written(content))


def decide(given: Json, old: Json | None = None, by: Admission = DEFAULT, **more: Any) -> Decision:
    """Decide about a workload, and see that what must always hold does hold."""
    decision = by.decide(request_of(review(given, old, **more), by))
    if decision.result is None:
        return decision
    result = canonical(decision.result)
    patched = apply(copy.deepcopy(given), decision.operations)
    assert canonical(patched) == result, "the patch gives another object"
    # Tests look at what nobody reads, too.
    return decision._replace(result=json.loads(result))


def apply(given: Json, operations: Sequence[Json]) -> Json:
    """Apply a JSON Patch as the API server does, on what travels as JSON."""
    sent = orjson.dumps(list(operations), default=undecoded)
    return jsonpatch.apply_patch(given, orjson.loads(sent))


def after(given: Json, old: Json | None = None, by: Admission = DEFAULT, **more: Any) -> Json:
    """Give what a workload is after the decision; the decision must be to allow it."""
    decision = decide(given, old, by, **more)
    assert not decision.refused, decision.refused
    return apply(copy.deepcopy(given), decision.operations)


def codes(decision: Decision) -> set[str]:
    """Name the warnings of a decision."""
    return {alert.code for alert in decision.alerts}


def answer(given: Any, old: Any = None, by: Admission = DEFAULT, **more: Any) -> Answer:
    """Answer a review, bytes to bytes."""
    return by.answer(written(review(given, old, **more)))


def response(given: Any, old: Any = None, by: Admission = DEFAULT, **more: Any) -> Json:
    """Give the response of the AdmissionReview that answers, and see that it is one."""
    found = answer(given, old, by, **more)
    assert found.status == 200
    content = orjson.loads(found.body)
    assert content["apiVersion"] == "admission.k8s.io/v1"
    assert content["kind"] == "AdmissionReview"
    return content["response"]


def operations_of(answered: Json) -> list[Json]:
    """Decode the patch of a response."""
    patch = answered.get("patch")
    return [] if patch is None else orjson.loads(base64.b64decode(patch))
