"""What the cluster can carry: it decides between the native sleep action and exec.

Three questions are asked, at start and every few minutes: the API server's version, the version of
the oldest kubelet, and whether the CRD of Argo Rollouts keeps a native sleep. The nodes are listed
as the table that `kubectl get nodes` prints, a few hundred bytes of each, page by page. The CRD
is read again only when its generation is another. What we have no right to ask counts as unknown.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from webhook.background import Background, jittered
from webhook.cluster.client import FORBIDDEN, METADATA, NOT_FOUND, Api, ApiError, Backoff, Json
from webhook.decision.mutations.model import UNKNOWN_CLUSTER, Cluster, ServerVersion
from webhook.decision.workload import ROLLOUT, mapping

log = logging.getLogger("webhook.cluster.version")

CRD_GROUP: Final = "apiextensions.k8s.io"
CRD_RESOURCE: Final = "customresourcedefinitions"
CRD_PATH: Final = f"/apis/{CRD_GROUP}/v1/{CRD_RESOURCE}/{ROLLOUT.resource}.{ROLLOUT.group}"
NODES_PATH: Final = "/api/v1/nodes"

_REFRESH_SECONDS: Final = 300.0
_PAGE: Final = 500
_MOST_PAGES: Final = 100
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_GIT_VERSION: Final = re.compile(r"v?([0-9]{1,9})\.([0-9]{1,9})")
_TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
_SLEEP: Final = (
    *("spec", "template", "spec", "containers", "items"),
    *("lifecycle", "preStop", "sleep", "seconds"),
)

_T = TypeVar("_T")
Ask = Callable[..., Json]
"""Asks the API server as `Api.request` does, or `Workloads` with its retries."""


def parse_version(document: Mapping[str, Any]) -> ServerVersion | None:
    """Read the answer of `/version`; none where it tells no version.

    Providers write `30+`, and some leave it to `gitVersion`. A server that emulates an older
    version validates as that one does.
    """
    pairs = [("major", "minor"), ("emulationMajor", "emulationMinor")]
    found = []
    for names in pairs:
        numbers = [_NUMBER.match(str(document.get(name, ""))) for name in names]
        if all(numbers):
            found.append(ServerVersion(*(int(number[0]) for number in numbers if number)))
    if not found and (text := parse_git_version(document.get("gitVersion"))):
        found.append(text)
    return min(found, default=None)


def parse_git_version(text: Any) -> ServerVersion | None:
    """Read a version such as `v1.30.2-eks-1`; none where it is no such text."""
    found = _GIT_VERSION.match(text) if isinstance(text, str) else None
    return ServerVersion(int(found[1]), int(found[2])) if found else None


def oldest_node(ask: Ask) -> ServerVersion | None:
    """Find the version of the oldest kubelet; none where no node tells one.

    Virtual kubelets are left out: what runs there has no hooks, and their versions are their own.

    Args:
        ask: lists the nodes.

    Raises:
        ApiError: the nodes cannot be listed.
    """
    first = {"limit": _PAGE, "includeObject": "None", "labelSelector": "type!=virtual-kubelet"}
    query: dict[str, Any] = first
    oldest: ServerVersion | None = None
    for _ in range(_MOST_PAGES):
        page = ask("GET", NODES_PATH, query=query, accept=_TABLE)
        for version in _kubelets(page):
            oldest = version if oldest is None else min(oldest, version)
        token = mapping(page.get("metadata")).get("continue")
        if not token:
            break
        query = {**first, "continue": token}
    return oldest


def _kubelets(page: Json) -> list[ServerVersion]:
    """Read the column `Version` of a table; a node that has just come has none yet."""
    columns = [mapping(each).get("name") for each in page.get("columnDefinitions") or ()]
    if "Version" not in columns:
        return []
    at = columns.index("Version")
    rows = [mapping(row).get("cells") for row in page.get("rows") or ()]
    cells = [row[at] for row in rows if isinstance(row, list) and len(row) > at]
    return [version for version in map(parse_git_version, cells) if version]


def keeps_sleep(crd: Json) -> bool | None:
    """Tell whether a CRD keeps `preStop.sleep` in the pod template, or prunes it.

    A property that the schema does not name is kept only where the schema around it says
    `x-kubernetes-preserve-unknown-fields`, or takes any key; below a property that it names,
    pruning begins again. None where the version that we patch is not there.
    """
    spec = mapping(crd.get("spec"))
    if spec.get("preserveUnknownFields") is True:
        return True
    versions = spec.get("versions")
    for version in versions if isinstance(versions, list) else ():
        if mapping(version).get("name") == ROLLOUT.version:
            return _keeps(mapping(mapping(mapping(version).get("schema")).get("openAPIV3Schema")))
    return None


def _keeps(schema: Json) -> bool:
    for key in _SLEEP:
        below = (
            schema.get("items") if key == "items" else mapping(schema.get("properties")).get(key)
        )
        if below is None:
            below = schema.get("additionalProperties")
        if not isinstance(below, dict):
            return below is True or schema.get("x-kubernetes-preserve-unknown-fields") is True
        schema = below
    return True


def rollout_sleep(ask: Ask) -> bool | None:
    """Tell whether the CRD of Argo Rollouts keeps a native sleep; none where there is no CRD.

    Raises:
        ApiError: the CRD cannot be read.
    """
    try:
        return keeps_sleep(ask("GET", CRD_PATH))
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
    return None


class ClusterWatch:
    """Knows what the cluster can carry: learned at start, and asked for again every five minutes.

    Args:
        api: the Kubernetes API.
        backoff: how long to wait after failures.
    """

    def __init__(self, api: Api, *, backoff: Backoff | None = None) -> None:
        self._api = api
        self._backoff = backoff or Backoff()
        self._cluster = UNKNOWN_CLUSTER
        self._crd: tuple[Any, Any] | None = None
        self._told: set[str] = set()
        self._background = Background("cluster-version", self.step)

    def start(self) -> None:
        """Learn it, and keep it up to date."""
        self._background.start()

    def stop(self) -> None:
        """Keep it up to date no longer."""
        self._background.stop()

    def refresh(self) -> None:
        """Ask again now: the server that answers may be another one."""
        self._background.wake()

    def cluster(self) -> Cluster:
        """Give what was last heard of, without waiting."""
        return self._cluster

    def step(self) -> float:
        """Ask once, and tell when to ask again."""
        before = self._cluster
        try:
            server = parse_version(self._api.request("GET", "/version"))
            if server is None:
                log.warning("the API server tells no version: %s", "expected major and minor")
            self._cluster = self._cluster._replace(server=server or before.server)
            node = self._allowed("nodes", "list nodes", lambda: oldest_node(self._api.request))
            self._cluster = self._cluster._replace(oldest_node=node)
            self._cluster = self._cluster._replace(rollout_sleep=self._rollout_sleep())
        except ApiError as error:
            log.log(
                logging.INFO if self._backoff.failures else logging.WARNING,
                "what the cluster can carry cannot be learned: %s",
                error,
            )
            return self._backoff.failed(error)
        finally:
            if self._cluster != before:
                log.info("the cluster: %s", summary(self._cluster))
        self._backoff.succeeded()
        return jittered(_REFRESH_SECONDS)

    def _rollout_sleep(self) -> bool | None:
        """Read the CRD, unless it is the one that was read before."""
        what = f"get {CRD_RESOURCE} {ROLLOUT.resource}.{ROLLOUT.group}"
        metadata = self._allowed("the Rollout CRD", what, self._crd_metadata)
        if metadata is None:
            self._crd = None
            return None
        now = metadata.get("uid"), metadata.get("generation")
        if self._crd == now:
            return self._cluster.rollout_sleep
        found = self._allowed("the Rollout CRD", what, lambda: rollout_sleep(self._api.request))
        self._crd = now
        return found

    def _crd_metadata(self) -> Json | None:
        try:
            found = self._api.request("GET", CRD_PATH, accept=METADATA)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return None
        return mapping(found.get("metadata"))

    def _allowed(self, what: str, rule: str, ask: Callable[[], _T]) -> _T | None:
        """Ask what needs a right that we may lack; that is told once, and then it is unknown."""
        try:
            found = ask()
        except ApiError as error:
            if error.status != FORBIDDEN:
                raise
            if what not in self._told:
                self._told.add(what)
                log.info("%s: not known, as we may not %s: the native sleep is used", what, rule)
            return None
        self._told.discard(what)
        return found


def summary(cluster: Cluster) -> str:
    """Say what is known of a cluster, in one line."""
    server, node = (_text(each) for each in (cluster.server, cluster.oldest_node))
    sleep = {None: "unknown", True: "kept", False: "not kept"}[cluster.rollout_sleep]
    return f"API server {server}, oldest node {node}, native sleep of Rollouts {sleep}"


def _text(version: ServerVersion | None) -> str:
    return "unknown" if version is None else f"{version.major}.{version.minor}"
