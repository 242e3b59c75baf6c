"""The program of `helm test`: is a Deployment that asks for it patched on its way in?

It sends one through the real API server as a dry run, so nothing is stored and no pod starts, and
looks at what comes back.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Final

from kubernetes import client, config

PREFIX: Final = "seamless-rollouts.dev/"
MIN_READY: Final = 7
ATTEMPTS: Final = 15
PAUSE_SECONDS: Final = 2


def deployment(image: str) -> dict[str, Any]:
    """Give a Deployment that asks for a value which nothing else would set."""
    labels = {"app.kubernetes.io/name": "seamless-rollouts-test"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "generateName": "seamless-rollouts-test-",
            "labels": {**labels, f"{PREFIX}inject": "enabled"},
            "annotations": {f"{PREFIX}min-ready": f"{MIN_READY}s"},
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "test",
                            "image": image,
                            "resources": {
                                "requests": {"cpu": "10m", "memory": "32Mi"},
                                "limits": {"cpu": "10m", "memory": "32Mi"},
                            },
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                                "readOnlyRootFilesystem": True,
                            },
                        }
                    ],
                },
            },
        },
    }


def main() -> int:
    """Send it until it comes back patched; gives the exit status."""
    namespace, image = os.environ["TEST_NAMESPACE"], os.environ["TEST_IMAGE"]
    config.load_incluster_config()  # type: ignore[no-untyped-call]
    api: Any = client.AppsV1Api()
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            answer = api.create_namespaced_deployment(namespace, deployment(image), dry_run="All")
        except client.ApiException as error:
            print(f"the API server refused the Deployment: {error.status} {error.body}")
            continue
        recorded = f"{PREFIX}injected" in (answer.metadata.annotations or {})
        if recorded and answer.spec.min_ready_seconds == MIN_READY:
            print(f"patched: minReadySeconds is {MIN_READY}, and recorded as injected")
            return 0
        print(f"not patched: minReadySeconds is {answer.spec.min_ready_seconds or 0}")
    print("The API server did not call the webhook. Look at the webhook's pods and their log.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
