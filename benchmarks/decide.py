"""Bytes in to bytes out, without HTTP: the time of one decision beside that of its parts.

Every figure of one run is taken in turn with the others, so that ratios hold on a noisy machine.
`python benchmarks/decide.py [ROUNDS]`
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jsonpatch
import orjson

from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.partial import decoded
from webhook.serving.app import tune_garbage_collector

Json = dict[str, Any]


def deployment(size: int, tag: str) -> Json:
    """Build a two-container Deployment as the API server stores it, of about `size` bytes."""

    def container(name: str, port: int, variables: int) -> Json:
        return {
            "name": name,
            "image": f"registry.example.com/team/{name}:{tag}",
            "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": port, "name": f"p{port}", "protocol": "TCP"}],
            "env": [
                {"name": f"VARIABLE_{n}", "value": f"value-{n:024d}"} for n in range(variables)
            ],
            "resources": {
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"memory": "256Mi"},
            },
            "readinessProbe": {
                "httpGet": {"path": "/ready", "port": port, "scheme": "HTTP"},
                "timeoutSeconds": 1,
                "periodSeconds": 10,
                "successThreshold": 1,
                "failureThreshold": 3,
            },
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        }

    def build(variables: int) -> Json:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "uid": "9f0d0a4c-6f0e-4f0e-8f55-0c54b9a4f2a1",
                "resourceVersion": "123456",
                "generation": 4,
                "annotations": {"deployment.kubernetes.io/revision": "4"},
                "managedFields": [
                    {
                        "manager": "kubectl",
                        "operation": "Apply",
                        "apiVersion": "apps/v1",
                        "fieldsType": "FieldsV1",
                        "fieldsV1": {f"f:field{n}": {".": {}, "f:value": {}} for n in range(25)},
                    }
                ],
            },
            "spec": {
                "replicas": 3,
                "progressDeadlineSeconds": 600,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
                },
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "containers": [
                            container("web", 8080, variables),
                            container("exporter", 9113, variables),
                        ],
                        "terminationGracePeriodSeconds": 30,
                        "restartPolicy": "Always",
                        "dnsPolicy": "ClusterFirst",
                        "schedulerName": "default-scheduler",
                        "securityContext": {},
                    },
                },
            },
            "status": {"replicas": 3, "readyReplicas": 3, "observedGeneration": 4},
        }

    empty = len(orjson.dumps(build(0)))
    step = len(orjson.dumps(build(1))) - empty
    return build(max(0, round((size - empty) / step)))


def admission_review(new: Json, old: Json | None) -> bytes:
    """Frame an object as the API server does."""
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "name": "web",
        "namespace": "shop",
        "operation": "UPDATE" if old else "CREATE",
        "userInfo": {"username": "admin", "groups": ["system:masters", "system:authenticated"]},
        "object": new,
        "oldObject": old,
        "dryRun": False,
        "options": {"kind": "UpdateOptions", "fieldManager": "kubectl-client-side-apply"},
    }
    return orjson.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    )


def admitted(admission: Admission, plain: Json) -> Json:
    """Give an object as it is after the webhook has seen it."""
    decision = admission.decide(admission.decode(admission_review(plain, None)))
    assert decision.result is not None
    written = orjson.dumps(decision.result, default=decoded)
    result: Json = orjson.loads(written)
    return result


def medians(cases: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, float]:
    """Time each case in turn, round after round; gives the median microseconds of a call."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            start = time.perf_counter()
            for _ in range(calls):
                call()
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: statistics.median(each) for name, each in times.items()}


def by_the_library(body: bytes) -> object:
    """Do the least of the job as a first draft would: a deep copy, and a whole-object diff."""
    before = orjson.loads(body)["request"]["object"]
    after = copy.deepcopy(before)
    after["spec"]["minReadySeconds"] = 30
    return jsonpatch.make_patch(before, after)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    admission = Admission(Configuration())
    tune_garbage_collector()  # as the server does
    for title, size in (("14 kB", 6_600), ("200 kB", 99_500)):
        plain, newer = deployment(size, "1.28"), deployment(size, "1.29")
        stored, changed = admitted(admission, plain), admitted(admission, newer)
        bodies = {
            "UPDATE, first contact": admission_review(newer, plain),
            "UPDATE, new image": admission_review(changed, stored),
            "UPDATE, scaled (kept)": admission_review(
                {**stored, "spec": {**stored["spec"], "replicas": 4}}, stored
            ),
            "UPDATE, PUT without our fields": admission_review(plain, stored),
            "CREATE": admission_review(newer, None),
        }
        assert all(admission.answer(body).status == 200 for body in bodies.values())
        body = bodies["UPDATE, first contact"]
        cases: dict[str, Callable[[], object]] = {
            "decode alone (orjson)": lambda body=body: orjson.loads(body),  # type: ignore[misc]
            **{
                name: lambda body=body: admission.answer(body)  # type: ignore[misc]
                for name, body in bodies.items()
            },
            "deep copy and whole diff": lambda body=body: by_the_library(body),  # type: ignore[misc]
        }
        found = medians(cases, rounds, 60 if size < 50_000 else 6)
        print(f"\n| {title} ({len(body):,} bytes) | median | of decoding |")
        print("| --- | ---: | ---: |")
        for name, microseconds in found.items():
            ratio = microseconds / found["decode alone (orjson)"]
            print(f"| {name} | {microseconds:,.0f} µs | {ratio:.1f} x |")


if __name__ == "__main__":
    main()
