"""Workloads as `status`, `backfill` and `revert` meet them: in pages, patched one at a time.

What goes wrong, and what is done:

- the connection drops, or the server says 429 or 5xx: asked again after a wait that grows with each
  failure, or as long as is asked; after eight failures in a row it is an error;
- a list's pages expire (410): it goes on by the token that the answer brings, else from the start,
  without giving an object twice;
- a right is missing (403): an error that names the rule which would grant it;
- the API server does not serve a kind (404): there are none of it;
- somebody else was first: a patch names the version that it was made for, and is refused (409)
  where that is no longer so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

from webhook.cluster.client import (
    CONFLICT,
    FORBIDDEN,
    GONE,
    INVALID,
    JSON_PATCH,
    METADATA_LIST,
    NOT_FOUND,
    TOO_MANY_REQUESTS,
    Api,
    ApiError,
    Backoff,
    Json,
)
from webhook.cluster.event_body import event_body, events_path
from webhook.cluster.version import (
    CRD_GROUP,
    CRD_RESOURCE,
    Ask,
    oldest_node,
    parse_version,
    rollout_sleep,
)
from webhook.decision.mutations.model import Cluster
from webhook.decision.settings import Namespace
from webhook.decision.workload import Kind, mapping

PAGE: Final = 250
_TRIES: Final = 8  # about a minute
_WORTH_TELLING: Final = 2
_SERVER_ERRORS: Final = 500
_CONTROLLER: Final = "seamless-rollouts.dev/"
# Several clients may be at work; each waits for a patch that passes through webhooks.
_DRY_RUN: Final = {"dryRun": "All"}
_PATCH_SECONDS: Final = 60.0

_T = TypeVar("_T")
_VERBS: Final = {"GET": "get", "PATCH": "patch", "POST": "create"}


class MissingRightError(ApiError):
    """We may not do something; the text names the RBAC rule that would grant it."""


class Workloads:
    """Reads workloads and what decides about them, and patches them.

    May be used by several threads at once.

    Args:
        api: the Kubernetes API.
        page: how many objects are asked for at a time.
        wait: waits a number of seconds; may raise to give up.
        backoff: makes the waits between failures.
        tell: told of an error that has not passed by itself, while it is tried again.
    """

    def __init__(
        self,
        api: Api,
        *,
        page: int = PAGE,
        wait: Callable[[float], object] = time.sleep,
        backoff: Callable[[], Backoff] = Backoff,
        tell: Callable[[str], object] = lambda _text: None,
    ) -> None:
        self._api = api
        self._page = page
        self._wait = wait
        self._backoff = backoff
        self._tell = tell

    def now(self) -> datetime:
        """Tell the time by the API server's clock."""
        return self._api.now()

    def cluster(self) -> Cluster:
        """Ask what the cluster can carry; what we have no right to ask counts as unknown."""
        return Cluster(
            parse_version(self._ask("GET", "/version")),
            self._unless_forbidden(oldest_node, "", "nodes"),
            self._unless_forbidden(rollout_sleep, CRD_GROUP, CRD_RESOURCE),
        )

    def _unless_forbidden(self, find: Callable[[Ask], _T], group: str, resource: str) -> _T | None:
        try:
            return find(
                lambda method, path, **rest: self._ask(method, path, group, resource, **rest)
            )
        except MissingRightError as error:
            self._tell(f"{error}; until then it counts as able to carry the native sleep")
        return None

    def pages(
        self, kind: Kind, namespace: str | None = None, selector: str | None = None
    ) -> Iterator[list[Json]]:
        """List the workloads of a kind, page by page, as the API server stores them.

        Args:
            kind: which kind; one that the API server does not serve has none.
            namespace: of one namespace alone, else of all.
            selector: a label selector, as in `kubectl -l`.

        Raises:
            ApiError: the list cannot be had.
        """
        try:
            path = _collection(kind, namespace)
            yield from self.listed(path, kind.group, kind.resource, selector)
        except MissingRightError:
            # Whoever may not list a kind is told so even where there is no such kind.
            if self._serves(kind):
                raise

    def _serves(self, kind: Kind) -> bool:
        try:
            self._ask("GET", f"/apis/{kind.group}/{kind.version}")
        except ApiError as error:
            return error.status != NOT_FOUND
        return True

    def namespaces(self) -> Iterator[list[Json]]:
        """List the namespaces, their metadata alone, page by page."""
        yield from self.listed("/api/v1/namespaces", "", "namespaces", accept=METADATA_LIST)

    def pod_disruption_budgets(self, namespace: str) -> list[Json]:
        """List the PodDisruptionBudgets of a namespace."""
        path = f"/apis/policy/v1/namespaces/{_quoted(namespace)}/poddisruptionbudgets"
        pages = self.listed(path, "policy", "poddisruptionbudgets")
        return [each for page in pages for each in page]

    def listed(
        self,
        path: str,
        group: str,
        resource: str,
        selector: str | None = None,
        *,
        accept: str = "application/json",
    ) -> Iterator[list[Json]]:
        """List a collection page by page; one that is not served is empty.

        The API server lists in the order of namespace and name, and so does its token of an
        expired page go on; so the last object that was given tells which ones need no second time.
        """
        first: dict[str, Any] = {"limit": self._page}
        if selector:
            first["labelSelector"] = selector
        query = first
        last = b""
        again = False
        while True:
            try:
                found = self._ask("GET", path, group, resource, query=query, accept=accept)
            except ApiError as error:
                if error.status == NOT_FOUND:
                    return
                if error.status != GONE or "continue" not in query:
                    raise
                query = {**first, "continue": error.token} if error.token else first
                again = True
                continue
            items = [each for each in found.get("items") or () if isinstance(each, dict)]
            if again:
                items = [each for each in items if _key(each) > last]
            if items:
                last = max(last, _key(items[-1]))
                yield items
            token = mapping(found.get("metadata")).get("continue")
            if not token:
                return
            query = {**first, "continue": token}

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """Read one workload.

        Raises:
            ApiError: it cannot be had; 404 where there is none.
        """
        path = f"{_collection(kind, namespace)}/{_quoted(name)}"
        return self._ask("GET", path, kind.group, kind.resource)

    def read(self, path: str, group: str, resource: str) -> Json:
        """Read any one object."""
        return self._ask("GET", path, group, resource)

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        resource_version: str,
        manager: str,
        *,
        warnings: list[str] | None = None,
    ) -> Json:
        """Apply a JSON Patch to the version of a workload that it was made for; gives the result.

        With `warnings` it is a dry run, which stores nothing, and they get what is warned of.

        Raises:
            ApiError: it was not applied; 409 where the workload is another by now, 404 where it
                is gone.
        """
        path = f"{_collection(kind, namespace)}/{_quoted(name)}"
        test = {"op": "test", "path": "/metadata/resourceVersion", "value": resource_version}
        try:
            return self._ask(
                "PATCH",
                path,
                kind.group,
                kind.resource,
                query={"fieldManager": manager, **({} if warnings is None else _DRY_RUN)},
                body=[test, *operations],
                content_type=JSON_PATCH,
                timeout=_PATCH_SECONDS,
                warnings=warnings,
            )
        except ApiError as error:
            if error.status != INVALID:
                raise
            # A test that fails, and a result that is invalid, are told by the same status.
            now = mapping(self.get(kind, namespace, name).get("metadata")).get("resourceVersion")
            if now == resource_version:
                raise
            message = f"PATCH {path}: {CONFLICT}: the object has been modified"
            raise ApiError(message, CONFLICT) from None

    def event(
        self,
        kind: Kind,
        workload: Json,
        *,
        manager: str,
        action: str,
        reason: str,
        note: str,
        warning: bool = False,
    ) -> None:
        """Write an Event about a workload.

        Args:
            kind: its kind.
            workload: as the API server stores it.
            manager: who tells: the field manager of the change.
            action: what was done, in CamelCase.
            reason: why it is told, in CamelCase.
            note: the text.
            warning: whether it is one.

        Raises:
            ApiError: it was not written.
        """
        metadata = mapping(workload.get("metadata"))
        namespace = str(metadata.get("namespace"))
        regarding = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "namespace": namespace,
            "name": str(metadata.get("name")),
            "uid": metadata.get("uid"),
            "resourceVersion": metadata.get("resourceVersion"),
        }
        event = event_body(
            regarding,
            self._api.now(),
            controller=_CONTROLLER + manager,
            instance=manager,
            action=action,
            reason=reason,
            note=note,
            warning=warning,
        )
        path = events_path(namespace)
        try:
            self._ask("POST", path, "events.k8s.io", "events", body=event)
        except ApiError as error:
            if error.status != CONFLICT:
                raise

    def _ask(
        self, method: str, path: str, group: str = "", resource: str = "", **rest: Any
    ) -> Json:
        """Ask, as often as it takes within bounds."""
        backoff = self._backoff()
        while True:
            try:
                return self._api.request(method, path, **rest)
            except ApiError as error:
                if error.status == FORBIDDEN:
                    verb = "list" if "limit" in (rest.get("query") or {}) else _VERBS[method]
                    raise _missing(error, verb, group, resource) from None
                seconds = backoff.failed(error)
                if not _passing(error) or backoff.failures >= _TRIES:
                    raise
                if backoff.failures == _WORTH_TELLING:
                    self._tell(f"{error}; trying again for about a minute")
            self._wait(seconds)


class Namespaces:
    """What namespaces say: all that is read, and read anew where it matters."""

    def __init__(self, workloads: Workloads) -> None:
        self.known: dict[str, Namespace] = {}
        self.parse: Callable[..., Namespace] = lambda name, *_: Namespace(name)
        self._workloads = workloads

    def read(self, only: str | None = None) -> None:
        """Read all, or only one."""
        if only is not None:
            self.refresh(only)
            return
        for page in self._workloads.namespaces():
            for each in page:
                self._take(each)

    def refresh(self, name: str) -> None:
        """Read one anew.

        Raises:
            ApiError: it cannot be read; 404 where it is gone.
        """
        self._take(self._workloads.read(f"/api/v1/namespaces/{name}", "", "namespaces"))

    def _take(self, found: Json) -> None:
        metadata = mapping(found.get("metadata"))
        name = str(metadata.get("name"))
        self.known[name] = self.parse(name, metadata.get("labels"), metadata.get("annotations"))


def _passing(error: ApiError) -> bool:
    """Tell whether the same request may succeed a little later."""
    status = error.status
    return status is None or status == TOO_MANY_REQUESTS or status >= _SERVER_ERRORS


def _missing(error: ApiError, verb: str, group: str, resource: str) -> ApiError:
    """Name the rule that is missing; a policy's own refusal of a write is passed on as it is."""
    if verb in ("patch", "create") and f" cannot {verb} " not in str(error):
        return error
    rule = f'apiGroups ["{group}"], resources [{resource}], verbs [{verb}]'
    return MissingRightError(f"{error}; needs: {rule}", FORBIDDEN)


def _key(item: Json) -> bytes:
    """Give what the API server orders a list by."""
    metadata = mapping(item.get("metadata"))
    return f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}".encode()


def _collection(kind: Kind, namespace: str | None) -> str:
    of_namespace = f"/namespaces/{_quoted(namespace)}" if namespace else ""
    return f"/apis/{kind.group}/{kind.version}{of_namespace}/{kind.resource}"


def _quoted(name: str) -> str:
    return quote(name, safe="")
