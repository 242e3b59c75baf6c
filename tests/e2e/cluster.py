"""An API server as `kubectl` reaches it, and what it stores.

No controllers and no kubelet run beside the one that is started here: what a controller would do to
a Deployment is played by `Shop.roll_out`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.builders import PREFIX, Json, canonical, template_of
from tests.realapi import RealApi
from webhook.cluster.client import Api, ApiError, connect

INJECT: Final = PREFIX + "inject"
ENABLED: Final = {INJECT: "enabled"}
PATIENCE_SECONDS: Final = 60.0
MERGE_PATCH: Final = "application/merge-patch+json"
_T = TypeVar("_T")
_REVISION: Final = "deployment.kubernetes.io/revision"
_NOT_COPIED: Final = ("kubectl.kubernetes.io/last-applied-configuration", _REVISION)
_PATHS: Final = {
    "deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "statefulset": "/apis/apps/v1/namespaces/{}/statefulsets",
    "daemonset": "/apis/apps/v1/namespaces/{}/daemonsets",
    "rollout": "/apis/argoproj.io/v1alpha1/namespaces/{}/rollouts",
}


def until(look: Callable[[], _T], seconds: float = PATIENCE_SECONDS) -> _T:
    """Wait until what is looked at is true, and give it."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)
    return found


class KubectlError(Exception):
    """A kubectl that failed; the text is its standard error."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a kubectl said."""

    output: str
    errors: str

    @property
    def warnings(self) -> list[str]:
        """The warnings that the API server passed on."""
        lines = self.errors.splitlines()
        return [each.removeprefix("Warning: ") for each in lines if each.startswith("Warning: ")]

    @property
    def json(self) -> Json:
        """What was printed, where that is JSON."""
        found: Json = json.loads(self.output)
        return found


class Cluster:
    """An API server.

    Args:
        kubeconfig: an administrator's.
        host: the address at which the API server reaches this machine.
        folder: where files may lie.
        server: the API server that was started here, if it was.
    """

    def __init__(self, kubeconfig: Path, host: str, folder: Path, server: RealApi | None) -> None:
        self.host = host
        self.folder = folder
        self.server = server
        self.api = Api(connect(kubeconfig))
        kept = ("PATH", "SYSTEMROOT", "HOME") if server is None else ("PATH", "SYSTEMROOT")
        self._environment = {name: os.environ[name] for name in kept if name in os.environ}
        self._environment |= {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(folder / "cache")}
        self._environment.setdefault("HOME", str(folder))
        self._namespaces: list[str] = []
        version = self.api.request("GET", "/version")
        self.version = f"{version['major']}.{version['minor'].rstrip('+')}"

    def kubectl(self, *arguments: str, given: Any = None) -> Said:
        """Run kubectl; `given` are objects for its standard input.

        Raises:
            KubectlError: it failed.
        """
        program = shutil.which("kubectl")
        assert program is not None
        if isinstance(given, list):
            given = {"apiVersion": "v1", "kind": "List", "items": given}
        done = subprocess.run(
            [program, *arguments],
            input=None if given is None else json.dumps(given),
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            check=False,
            text=True,
            env=self._environment,
            timeout=2 * PATIENCE_SECONDS,
        )
        if done.returncode:
            raise KubectlError(done.stderr)
        return Said(done.stdout, done.stderr)

    def get(self, path: str) -> Json | None:
        """Give what is stored at a path of the API, if anything is."""
        try:
            return self.api.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def shop(
        self,
        labels: Mapping[str, str] = ENABLED,
        annotations: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> Shop:
        """Make a namespace, unless it is there."""
        name = name or self.new_name()
        metadata = {"name": name, "labels": dict(labels), "annotations": dict(annotations or {})}
        if self.get(f"/api/v1/namespaces/{name}") is None:
            self.api.request("POST", "/api/v1/namespaces", body={"metadata": metadata})
        return Shop(self, name, dict(labels))

    def new_name(self) -> str:
        """Give a name for a namespace, which goes when all tests are over."""
        self._namespaces.append(f"e2e-{uuid.uuid4().hex[:10]}")
        return self._namespaces[-1]

    def clean_up(self) -> None:
        """Delete the namespaces; in an API server that ends with the tests, that is for nothing."""
        for name in self._namespaces if self.server is None else ():
            with contextlib.suppress(ApiError):
                self.api.request("DELETE", f"/api/v1/namespaces/{name}")

    def user(self, token: str, name: str) -> Path:
        """Write a kubeconfig for a bearer of a token."""
        view = self.kubectl("config", "view", "--minify", "--raw", "--flatten", "-o", "json").json
        (user,) = view["users"]
        user["user"] = {"token": token}
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(view), encoding="utf-8")
        return path


@dataclass(slots=True)
class Change:
    """What became of an object meanwhile; `now` is as it is stored in the end."""

    before: Json
    now: Json

    @property
    def generations(self) -> int:
        """By how many the generation moved; a Deployment's does with its annotations, too."""
        moved: int = self.now["metadata"]["generation"] - self.before["metadata"]["generation"]
        assert moved or canonical(self.before["spec"]) == canonical(self.now["spec"])
        return moved

    @property
    def restarts(self) -> bool:
        """Whether pods restart: the pod template is another."""
        return canonical(template_of(self.before)) != canonical(template_of(self.now))

    @property
    def nothing(self) -> bool:
        """Whether not even the version of the object moved."""
        return self.before["metadata"]["resourceVersion"] == self.now["metadata"]["resourceVersion"]


class Shop:
    """A namespace, and what its owner does in it."""

    def __init__(self, cluster: Cluster, name: str, labels: dict[str, str]) -> None:
        self.cluster = cluster
        self.name = name
        self.labels = labels
        self._revisions = 0
        self._looks = 0

    def kubectl(self, *arguments: str, given: Any = None) -> Said:
        """Run kubectl in this namespace."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, given=given)

    def own(self, given: Json) -> Json:
        """Copy a manifest into this namespace."""
        moved = copy.deepcopy(given)
        moved["metadata"]["namespace"] = self.name
        return moved

    def create(self, *given: Json) -> Said:
        """Say `kubectl create`."""
        return self.kubectl("create", "-f", "-", given=[self.own(each) for each in given])

    def try_out(self, given: Json) -> Json:
        """Say `kubectl create --dry-run=server`: what would be stored."""
        said = self.kubectl(
            "create", "--dry-run=server", "-o", "json", "-f", "-", given=[self.own(given)]
        )
        return said.json

    def apply(self, *given: Json, way: str = "--server-side=false") -> Said:
        """Say `kubectl apply`, client-side unless told otherwise."""
        return self.kubectl("apply", way, "-f", "-", given=[self.own(each) for each in given])

    def replace(self, *given: Json) -> Said:
        """Say `kubectl replace`."""
        return self.kubectl("replace", "-f", "-", given=[self._again(each) for each in given])

    def _again(self, given: Json) -> Json:
        """Copy a manifest, with the annotation of a controller that runs: a PUT would drop it."""
        moved = self.own(given)
        if self.cluster.server is None and given["kind"] == "Deployment":
            revision = until(lambda: self._revision(given["metadata"]["name"]))
            moved["metadata"].setdefault("annotations", {})[_REVISION] = str(revision)
        return moved

    def annotate(self, reference: str, **values: str | None) -> Said:
        """Set and unset settings on a workload, with `kubectl annotate`."""
        return self._mark("annotate", reference, values)

    def label(self, reference: str, **values: str | None) -> Said:
        """Set and unset labels of ours on a workload, with `kubectl label`."""
        return self._mark("label", reference, values)

    def label_namespace(self, **values: str | None) -> Said:
        """Set and unset labels of ours on the namespace."""
        return self._mark("label", f"namespace/{self.name}", values)

    def annotate_namespace(self, **values: str | None) -> Said:
        """Set and unset settings on the namespace."""
        return self._mark("annotate", f"namespace/{self.name}", values)

    def _mark(self, verb: str, reference: str, values: Mapping[str, str | None]) -> Said:
        words = [
            PREFIX + name.replace("_", "-") + ("-" if value is None else f"={value}")
            for name, value in values.items()
        ]
        return self.kubectl(verb, "--overwrite", reference, *words)

    def path(self, reference: str) -> str:
        """Give the path of `deployment/web` in the API."""
        kind, _, name = reference.partition("/")
        return _PATHS[kind].format(self.name) + f"/{name}"

    def find(self, reference: str) -> Json | None:
        """Give a workload as it is stored, if it is."""
        return self.cluster.get(self.path(reference))

    def get(self, reference: str = "deployment/web") -> Json:
        """Give a workload as it is stored."""
        found = self.find(reference)
        assert found is not None
        return found

    @contextlib.contextmanager
    def watch(self, reference: str = "deployment/web") -> Iterator[Change]:
        """See what becomes of a workload."""
        before = self.get(reference)
        change = Change(before, before)
        yield change
        change.now = self.get(reference)

    def touched(self, reference: str = "deployment/web") -> Json:
        """Give what a workload would become with the next update: a dry run of a new label."""
        self._looks += 1
        body = {"metadata": {"labels": {"touched": str(self._looks)}}}
        return self.cluster.api.request(
            "PATCH",
            self.path(reference),
            query={"dryRun": "All"},
            body=body,
            content_type=MERGE_PATCH,
        )

    def touch(self, reference: str = "deployment/web") -> Said:
        """Update a workload with a label that says nothing to anybody."""
        self._looks += 1
        return self.kubectl("label", "--overwrite", reference, f"touched={self._looks}")

    def roll_out(self, name: str = "web") -> None:
        """Have a Deployment's ReplicaSet made for the pod template that it has now.

        That is the deployment controller's work. Where none runs, this does the part of it that
        `kubectl rollout undo` reads: the ReplicaSet of each revision, with the Deployment's
        annotations, and the revision, by the status subresource.
        """
        self._revisions += 1
        if self.cluster.server is None:
            until(lambda: self._revision(name) == self._revisions)
            return
        found = self.get(f"deployment/{name}")
        annotations = found["metadata"].get("annotations") or {}
        owner = self._owner(found)
        kept = {key: value for key, value in annotations.items() if key not in _NOT_COPIED}
        revision = {_REVISION: str(self._revisions)}
        pod_template = copy.deepcopy(template_of(found))
        labels = {**pod_template["metadata"]["labels"], "pod-template-hash": f"r{self._revisions}"}
        pod_template["metadata"]["labels"] = labels
        replica_set = {
            "metadata": {
                "name": f"{name}-r{self._revisions}",
                "labels": labels,
                "annotations": kept | revision,
                "ownerReferences": [owner],
            },
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": pod_template,
            },
        }
        path = f"/apis/apps/v1/namespaces/{self.name}"
        self.cluster.api.request("POST", f"{path}/replicasets", body=replica_set)
        self.cluster.api.request(
            "PATCH",
            f"{path}/deployments/{name}/status",
            body={"metadata": {"annotations": revision}},
            content_type=MERGE_PATCH,
        )

    def record_revision(self, reference: str) -> None:
        """Have the ControllerRevision of a StatefulSet or DaemonSet made, like its controller."""
        self._revisions += 1
        if self.cluster.server is None:
            return
        found = self.get(reference)
        data = {"spec": {"template": {**template_of(found), "$patch": "replace"}}}
        revision = {
            "metadata": {
                "name": f"{found['metadata']['name']}-r{self._revisions}",
                "labels": template_of(found)["metadata"]["labels"],
                "ownerReferences": [self._owner(found)],
            },
            "data": data,
            "revision": self._revisions,
        }
        path = f"/apis/apps/v1/namespaces/{self.name}/controllerrevisions"
        self.cluster.api.request("POST", path, body=revision)

    @staticmethod
    def _owner(found: Json) -> Json:
        return {
            "apiVersion": found["apiVersion"],
            "kind": found["kind"],
            "name": found["metadata"]["name"],
            "uid": found["metadata"]["uid"],
            "controller": True,
        }

    def _revision(self, name: str) -> int:
        annotations = self.get(f"deployment/{name}")["metadata"].get("annotations") or {}
        return int(annotations.get(_REVISION, 0))
